"""``zcluster dapi submit``: a durable job, and with ``--wait`` its end.

Rules kept here:
- the id is on stdout as soon as the job is on the master's disk; with ``--wait``, where stdout is for the value, it is said;
- ``--key`` is the idempotency key here, as in Python; the key file is ``--key-file``;
- the exit code of ``--wait`` tells what became of the job: 0 done, 1 failed or dead, 3 a fan-out of which some parts are not
  done, 7 expired, or not yet ended when ``--timeout`` passed: then the job goes on, and the message says how to look.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zcluster.cli.answers import AnswerPrinter, put_value
from zcluster.cli.arguments import arguments, read_arguments
from zcluster.cli.complaints import complain
from zcluster.cli.connect import connection, deadline_s, open_client, run_async, settings
from zcluster.cli.moments import parse_moment_s
from zcluster.cli.options import (
    DURATION,
    MACHINE_FORMATS,
    State,
    common_options,
    completes,
    key_file_options,
    output_option,
    refuse_key_file,
)
from zcluster.cli.output import cell, emit_object, say, seconds
from zcluster.core.targets import is_single
from zcluster.errors import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_PARTIAL,
    JobExpired,
    MasterLost,
    TimedOut,
    Unreachable,
    UsageError,
    ZClusterError,
)

if TYPE_CHECKING:
    from zcluster.clients import AsyncClient
    from zcluster.clients.jobs import AsyncJob
    from zcluster.clients.result import Result

LOOK_S = 1.0
"""How often ``--wait`` asks again for a master that is away."""
DELAYS = ("expires", "attempt_timeout", "retention")
"""Durations of which nothing is no sensible one: the master would take it for its own default."""


@click.command()
@click.argument("function", shell_complete=completes("function_names"))
@click.argument("args", nargs=-1, metavar="[ARGS]...")
@click.option(
    "--target",
    default="any",
    show_default=True,
    shell_complete=completes("target_names"),
    help="any, master, NAME, A,B, a glob, all, agent:ID or group:NAME.",
)
@click.option("--priority", type=click.IntRange(0, 9), default=5, show_default=True, help="9 is served first.")
@click.option("--delay", type=DURATION, metavar="DURATION", help="Run it so long from now: 10m.")
@click.option("--at", metavar="TIME", help="Run it at a time: 2026-11-19T08:00 (local, or with an offset), 08:00, @UNIX-SECONDS.")
@click.option(
    "--expires", type=DURATION, metavar="DURATION",
    help="End it if it still waits so long from now, or from its delay. [default: the master's]",
)
@click.option("--retries", type=click.IntRange(0, 100), default=3, show_default=True, help="Further attempts after a failed one.")
@click.option("--key", "idempotency_key", metavar="K", help="Idempotency key: the same K gives the same job, and no second one.")
@click.option("--sequence", metavar="NAME", help="Jobs of one sequence run one at a time, in the order of acceptance.")
@click.option("--attempt-timeout", type=DURATION, metavar="DURATION", help="Deadline of each attempt. [default: the master's]")
@click.option("--retention", type=DURATION, metavar="DURATION", help="Keep the outcome so long. [default: the master's]")
@click.option("--wait", is_flag=True, help="Print what the job gives instead of its id.")
@click.option("--stdin", "from_stdin", is_flag=True, help="Read the arguments from stdin, as one JSON object.")
@click.option(
    "--timeout",
    type=DURATION,
    metavar="DURATION",
    help="How long to wait for the acceptance, with --wait for the end. [default: client.timeout_s; with --wait: until it ends]",
)
@key_file_options
@output_option
@common_options
@click.pass_obj
def submit(
    state: State, /, function: str, args: tuple[str, ...], target: str, wait: bool, from_stdin: bool, timeout: float | None,
    key: Path | None, master: tuple[str, ...], **words: Any,
) -> int:  # fmt: skip
    """Submit FUNCTION as a durable job, and print its id.

    The id is printed when the job is on the master's disk: it then ends in one outcome, whatever restarts. ARGS are given as
    to `zcluster dapi call`. `zcluster queue` lists, shows and cancels jobs. A target of several nodes (A,B, a glob, all,
    group:NAME) is one job with an outcome of each node; nodes that are away get theirs when they return.

    --key is the idempotency key here, not the key file: that is --key-file, or ZCLUSTER_KEY. The same key and function with
    other arguments is an error.

    With --wait the value is printed as `zcluster dapi call` prints it, and the id is said on stderr (but not with -o json,
    ndjson and yaml). Exit code: 0 done, 1 failed, cancelled or dead, 3 some nodes of several are not done, 7 expired, or not
    ended when --timeout passed; the job then goes on.
    """
    if from_stdin and args:
        raise UsageError("--stdin and ARGS exclude each other", hint="give the arguments in one place")
    options = _options(words)
    values = arguments(args) if not from_stdin else _from_stdin(state)
    client = open_client(state, connection(key, master, timeout))
    until_s = deadline_s(state, timeout)
    asked = {"args": values, "target": target, "timeout": until_s, **options}
    if wait:
        return run_async(_submit_and_wait(client, function, asked, timeout, state.output))
    return run_async(_submit(client, function, asked, state.output))


def _options(words: Mapping[str, Any]) -> dict[str, Any]:
    """What of the command line is the job's, by the names of ``AsyncClient.submit``.

    Raises:
        UsageError: two of them exclude each other, or one is empty where that cannot be meant.
    """
    if words["delay"] is not None and words["at"] is not None:
        raise UsageError("--delay and --at exclude each other", hint="give one of them")
    for name in DELAYS:
        if words[name] == 0:
            raise UsageError(f"--{name.replace('_', '-')} is 0", hint="leave it out for the master's default")
    for name, flag in (("idempotency_key", "--key"), ("sequence", "--sequence")):
        if words[name] == "":
            raise UsageError(f"{flag} is empty", hint=f"leave {flag} out, or give it a text")
    idempotency_key = words["idempotency_key"] or ""
    refuse_key_file(idempotency_key, "the idempotency key")
    return {
        "priority": words["priority"],
        "delay_s": words["delay"] or 0.0,
        "at_s": _at_s(words["at"]),
        "expires_s": words["expires"],
        "retries": words["retries"],
        "attempt_timeout_s": words["attempt_timeout"],
        "retention_s": words["retention"],
        "sequence": words["sequence"] or "",
        "idempotency_key": idempotency_key,
    }


def _at_s(text: str | None) -> float | None:
    if text is None:
        return None
    now_s = time.time()
    at_s = parse_moment_s(text, now_s)
    if at_s < now_s:
        say(f"zcluster: {cell(text)} is past: the job runs at once")
    return max(at_s, 0.0)


def _from_stdin(state: State) -> dict[str, Any]:
    return read_arguments(sys.stdin.buffer, settings(state).settings.limits.body_bytes)


async def _submit(client: AsyncClient, function: str, asked: dict[str, Any], output: str | None) -> int:
    async with client as c:
        job = await c.submit(function, **asked)
        item = {"id": job.id, "state": None, "known": job.known}
        if output in MACHINE_FORMATS:
            try:
                item["state"] = await job.state()
            except ZClusterError as error:  # the job is accepted, and its id is not to be lost
                say(f"zcluster: what has become of {job.id} is not known: {error}")
    emit_object(item, output, lines=[job.id], name_key="id")
    if job.known:
        _say_known(job.id, asked)
    return EXIT_OK


def _say_known(id: str, asked: Mapping[str, Any]) -> None:
    say(f"zcluster: job {id} was there already, with the idempotency key {cell(asked['idempotency_key'])}")


async def _submit_and_wait(
    client: AsyncClient, function: str, asked: dict[str, Any], timeout_s: float | None, output: str | None
) -> int:
    import asyncio

    async with client as c:
        began_s = time.monotonic()
        job = await c.submit(function, **asked)
        if job.known:
            _say_known(job.id, asked)
        elif output not in MACHINE_FORMATS:
            say(f"zcluster: job {job.id}")
        left_s = None if timeout_s is None else max(timeout_s - (time.monotonic() - began_s), 0.0)
        try:
            async with asyncio.timeout(left_s):
                return await (_print_end if is_single(asked["target"]) else _print_parts)(job, output)
        except TimeoutError:
            hint = f"it goes on: zcluster queue show {job.id}"
            raise TimedOut(f"job {job.id} has not ended within {seconds(timeout_s)}", hint=hint) from None


async def _print_end(job: AsyncJob, output: str | None) -> int:
    """Print the value of a job that is no fan-out, or the error with which it ended."""
    async for result in _outcomes(job):
        if result.error is not None:
            complain(result.error, output)  # its own exit code would say something of this command, not of the job
            return result.error.exit_code if isinstance(result.error, JobExpired) else EXIT_FAILED
        if output in (None, "yaml"):
            put_value(result.value, output)
        else:
            printer = AnswerPrinter(output)
            printer.add(result)
            printer.close()
    return EXIT_OK


async def _print_parts(job: AsyncJob, output: str | None) -> int:
    """Print the outcome of each part as it comes."""
    printer = AnswerPrinter(output)
    try:
        async for result in _outcomes(job):
            printer.add(result)
    finally:  # what is known is told, though the rest is not awaited
        printer.close()
    if all(code == EXIT_OK for code in printer.codes):
        return EXIT_OK
    return EXIT_PARTIAL if EXIT_OK in printer.codes else EXIT_FAILED


async def _outcomes(job: AsyncJob) -> AsyncIterator[Result]:
    """The outcomes of a job as they come, over lost connections and restarts of the master."""
    import asyncio

    told: set[str] = set()
    trouble = ""
    while True:
        try:
            async for result in job.outcomes():
                if result.node not in told:
                    told.add(result.node)
                    yield result
            return
        except (MasterLost, Unreachable, TimedOut) as error:
            if trouble != error.message:
                say(f"zcluster: {error.message}; the job goes on, and so does the waiting")
            trouble = error.message
        await asyncio.sleep(LOOK_S)
