"""The entry point: the table of commands, and what becomes of an error.

Rules kept here:
- the help text comes from the table below; a command's module is imported only when that command runs;
- an error is one line on stderr, ``zcluster: error: MESSAGE (hint)``; with ``-o json|ndjson|yaml`` it is one JSON
  object there instead, ``{"error": {...}}``, because stdout carries data only;
- the exit code comes from the error's class; Ctrl-C is 130 and a closed pipe 141 (128 + the signal), both silent;
- ``--debug`` adds the traceback; nothing else does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from zcluster import __version__
from zcluster.cli.complaints import TOKEN, complain, masked, name_context
from zcluster.cli.groups import Entry, LazyGroup
from zcluster.cli.options import State, common_options
from zcluster.errors import EXIT_FAILED, EXIT_OK, UsageError, ZClusterError

EXIT_INTERRUPTED = 130
EXIT_CLOSED_PIPE = 141

PROGRAM = "zcluster"
COMPLETE_VARIABLE = "_ZCLUSTER_COMPLETE"

COMMANDS = {
    "Run": {
        "master": Entry("zcluster.cli.daemons:master", "Run the master of a cluster; the first start makes its home."),
        "worker": Entry("zcluster.cli.daemons:worker", "Run a worker with its key file, or let it join with a token first."),
        "agent": Entry("zcluster.cli.agent:agent", "Run the agent of a host: it is alive, it measures, it gets its groups."),
        "demo": Entry("zcluster.cli.demo:demo", "Start a small cluster on this machine and show what it does."),
    },
    "Use": {
        "dapi": Entry("zcluster.cli.dapi:dapi", "Call functions on nodes; list and describe them."),
        "queue": Entry("zcluster.cli.queue:queue", "List, show, watch, cancel, retry and drop durable jobs."),
        "sync": Entry("zcluster.cli.sync:sync", "See how the trees are on every worker; look now, pause, confirm, roll back."),
        "agents": Entry("zcluster.cli.agents:agents", "List, show, count, import, move and remove agents."),
        "groups": Entry("zcluster.cli.agent_groups:groups", "Make groups, put agents into them, share files with them."),
        "nodes": Entry("zcluster.cli.nodes:nodes", "List the nodes; describe, drain, resume and remove them."),
        "status": Entry("zcluster.cli.nodes:status", "Say in a few lines how the cluster is."),
        "wait": Entry("zcluster.cli.wait:wait", "Wait until all conditions hold: nodes, agents, queue, trees."),
        "check": Entry("zcluster.cli.check:check", "Check the cluster's health once, for people and monitoring."),
        "doctor": Entry("zcluster.cli.doctor:doctor", "Find what is wrong on the way to the master, or with a node."),
        "top": Entry("zcluster.cli.top:top", "Show the cluster live: nodes, rates, queues, syncs, agents, events."),
        "events": Entry("zcluster.cli.events:events", "Show what happened in the cluster, or follow what happens."),
        "logs": Entry("zcluster.cli.logs:logs", "Show the newest lines of nodes' logs, or follow them."),
        "msg": Entry("zcluster.cli.msg:msg", "Send messages to named clients, and listen for them."),
        "chat": Entry("zcluster.cli.msg:chat", "Talk with other clients, a command a line."),
    },
    "Manage": {
        "keys": Entry("zcluster.cli.keys:keys", "Make, admit, show and revoke keys."),
        "token": Entry("zcluster.cli.token:token", "Make, list and revoke join tokens, which let new machines in."),
        "context": Entry("zcluster.cli.contexts:context", "Name clusters, and choose the one that commands ask."),
        "rights": Entry("zcluster.cli.rights:rights", "Show what roles may do, and why a key may call a function or not."),
        "audit": Entry("zcluster.cli.audit:audit", "Show who asked for what, where it ran, how it ended."),
        "config": Entry("zcluster.cli.config:config", "Show where settings come from; change the live configuration."),
        "systemd": Entry("zcluster.cli.systemd:systemd", "Run the daemons under systemd: write their units."),
        "completion": Entry("zcluster.cli.completion:completion", "Print the completion script for a shell."),
        "version": Entry("zcluster.cli.version:version", "Print the versions of zcluster and what it runs on."),
    },
    "Measure": {
        "bench": Entry(
            "zcluster.cli.bench:bench", "Measure requests, jobs, fan-outs, file sync, agents, groups, reconnection and memory."
        ),
        "sim": Entry("zcluster.cli.sim:sim", "Replay the seeded simulation of a seed and print what happened."),
    },
}
"""Every command: its section, name, place and line of help."""


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"{PROGRAM} {__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    sections=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="Exit codes: 0 ok, 1 failed, 2 usage, 3 partial or degraded, 4 not allowed, 5 no match, 6 unreachable, 7 timed out.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version.")
@common_options
def cli() -> None:
    """A fleet of machines as one cluster over an encrypted ZeroMQ bus."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line ``argv`` (default: the process's own) and exit."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> int:
    """Run the command line ``argv``; returns the exit code and never raises for an error of the command."""
    state = State()
    try:
        code = _invoke(list(argv), state)
        sys.stdout.flush()
        return code
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _discard_stdout()
        return EXIT_CLOSED_PIPE
    except click.ClickException as error:
        return _report(_usage_error(error), error, state, argv)
    except ZClusterError as error:
        return _report(error, error, state, argv)
    except OSError as error:
        path = f": {error.filename}" if error.filename else ""
        return _report(ZClusterError(f"{error.strerror or error}{path}"), error, state, argv)
    except Exception as error:  # the last line of defence: a bug is reported as one line, --debug shows where
        bug = ZClusterError(
            f"unexpected {type(error).__name__}: {error}", hint="this is a bug in zcluster; --debug shows the traceback"
        )
        return _report(bug, error, state, argv)


def _invoke(argv: list[str], state: State) -> int:
    instruction = os.environ.get(COMPLETE_VARIABLE)
    if instruction:
        from click.shell_completion import shell_complete

        return shell_complete(cli, {"obj": state}, PROGRAM, COMPLETE_VARIABLE, instruction)
    try:
        with cli.make_context(PROGRAM, argv, obj=state) as ctx:
            result = cli.invoke(ctx)
    except click.exceptions.Exit as done:
        return done.exit_code
    return result if isinstance(result, int) else EXIT_OK


def _usage_error(error: click.ClickException) -> ZClusterError:
    """click's complaint as an error of zcluster, with the command whose ``--help`` says more."""
    ctx = getattr(error, "ctx", None)
    message = error.format_message().rstrip(".")
    if isinstance(error, click.MissingParameter):
        message = " ".join(message.split())  # click lists the choices a line each
    if isinstance(error, click.UsageError):
        if TOKEN.search(message):
            hint = "zcluster worker --join TOKEN, or zcluster keys join TOKEN for a client or an agent"
            return UsageError("a join token stands where none is taken", hint=hint)
        return UsageError(message, hint=f"see: {ctx.command_path if ctx else PROGRAM} --help")
    return ZClusterError(message)


def _report(error: ZClusterError, cause: BaseException, state: State, argv: Sequence[str]) -> int:
    """Print ``error`` to stderr in the form that was asked for; returns its exit code."""
    if state.debug or "--debug" in argv:
        import traceback

        sys.stderr.write(masked("".join(traceback.format_exception(cause))))
    name_context(error, state.used_context)
    complain(error, state.output or _format_in(argv))
    return error.exit_code or EXIT_FAILED


def _format_in(argv: Sequence[str]) -> str:
    """The format in an unparsed command line: a usage error may come before ``-o`` was read."""
    for position, word in enumerate(argv):
        if word in ("-o", "--output"):
            return argv[position + 1] if position + 1 < len(argv) else ""
        if word.startswith("--output="):
            return word.partition("=")[2]
        if word.startswith("-o"):
            return word[2:]
    return ""


def _discard_stdout() -> None:
    """Point stdout at /dev/null, so that the interpreter's last flush does not complain about the closed pipe."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())
    os.close(sink)
