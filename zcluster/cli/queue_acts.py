"""``zcluster queue cancel | retry | drop | drain | pause | resume``: what can be done about durable jobs.

Rules kept here:
- what is done to several ids is told of each: exit code 3 when some were refused, the refusal's own when all were;
- ids on stdin go to the master in batches: however many there are, they need not fit into memory;
- ``drain`` only looks once it is begun: Ctrl-C ends the looking, not the drain.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zcluster.cli.answers import exit_code
from zcluster.cli.complaints import complain
from zcluster.cli.connect import ask, connection, open_client, run_async
from zcluster.cli.options import (
    DURATION,
    MACHINE_FORMATS,
    Connection,
    State,
    common_options,
    completes,
    connection_options,
    output_option,
    shared_options,
)
from zcluster.cli.output import Column, cell, counted, emit_object, put, say, seconds
from zcluster.cli.progress import Bar
from zcluster.cli.queue_views import PagePrinter, live
from zcluster.errors import EXIT_OK, MasterLost, TimedOut, Unreachable, UsageError, error_from_dict

if TYPE_CHECKING:
    from zcluster.clients import AsyncClient

BATCH = 1000
"""Ids of one request."""
MAX_ID_CHARS = 200
LOOK_S = 1.0
"""How often ``drain`` looks."""

ids_argument = click.argument("ids", nargs=-1, required=True, metavar="ID...", shell_complete=completes("job_ids"))


@click.command()
@ids_argument
@shared_options
@click.pass_obj
def cancel(state: State, ids: tuple[str, ...], timeout: float | None, key: Path | None, master: tuple[str, ...]) -> int:
    """Cancel jobs that have not ended; a running one is told to stop.

    "-" reads ids from stdin, one a line. Exit code 3 when some were refused.
    """
    return _act(state, "cancel", "cancelled", ids, connection(key, master, timeout))


@click.command()
@ids_argument
@shared_options
@click.pass_obj
def retry(state: State, ids: tuple[str, ...], timeout: float | None, key: Path | None, master: tuple[str, ...]) -> int:
    """Queue failed, dead, cancelled and expired jobs again.

    Their failures are counted anew, and they run as soon as a node is free.
    Of a job for several nodes: the nodes that are not done.

    "-" reads ids from stdin, one a line. Exit code 3 when some were refused.
    """
    return _act(state, "retry", "queued again", ids, connection(key, master, timeout))


@click.command()
@ids_argument
@shared_options
@click.pass_obj
def drop(state: State, ids: tuple[str, ...], timeout: float | None, key: Path | None, master: tuple[str, ...]) -> int:
    """Delete jobs that have ended, with their outcomes.

    "-" reads ids from stdin, one a line. Exit code 3 when some were refused.
    """
    return _act(state, "drop", "dropped", ids, connection(key, master, timeout))


def _act(state: State, verb: str, done: str, ids: tuple[str, ...], options: Connection) -> int:
    """Do ``verb`` to the jobs and tell what became of each; returns the exit code."""
    if "-" in ids and len(ids) > 1:
        raise UsageError("'-' and ids exclude each other", hint="give all ids in one place")
    printer = PagePrinter((Column("id", "ID"),), state.output)
    codes: list[int] = []

    async def question(c: AsyncClient) -> None:
        for batch in _batches(ids):
            answer = await getattr(c.queue, verb)(batch)
            _tell(answer, printer, codes, done, alone=len(ids) == 1 and ids != ("-",))

    try:
        ask(state, options, question)
    finally:
        if state.output in ("json", "yaml") and codes:
            printer.close(None, whole=True)
    if not codes:
        say(f"zcluster: stdin holds no id: nothing to {verb}")
    return exit_code(codes)


def _tell(answer: dict[str, Any], printer: PagePrinter, codes: list[int], done: str, *, alone: bool) -> None:
    """Print one answer; what was refused is an error, and of a single id the command's own."""
    errors = [(str(each["id"]), error_from_dict(each)) for each in answer["refused"]]
    if alone and errors:
        raise errors[0][1]
    codes += [EXIT_OK] * len(answer["done"]) + [error.exit_code for _, error in errors]
    if printer.output in MACHINE_FORMATS:
        printer.add([{"id": id_, "ok": True, "error": None} for id_ in answer["done"]])
        printer.add([{"id": id_, "ok": False, "error": error.to_dict()} for id_, error in errors])
        return
    for id_ in answer["done"]:
        put(cell(id_) if printer.output == "name" else f"{done}: {cell(id_)}")
    for id_, error in errors:
        error.message = error.message if id_ in error.message else f"{id_}: {error.message}"
        complain(error, printer.output)


def _batches(ids: tuple[str, ...]) -> Iterator[Sequence[str]]:
    """The ids, at most BATCH at a time."""
    if ids != ("-",):
        for start in range(0, len(ids), BATCH):
            yield ids[start : start + BATCH]
        return
    batch: list[str] = []
    while line := sys.stdin.readline(MAX_ID_CHARS + 1):
        if len(line) > MAX_ID_CHARS:
            raise UsageError(f"stdin holds a line of more than {MAX_ID_CHARS} characters", hint="give one id a line")
        if word := line.strip():
            batch.append(word)
        if len(batch) >= BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


@click.command()
@click.option("--off", is_flag=True, help="End the drain: accept new jobs again.")
@click.option(
    "--timeout", type=DURATION, metavar="DURATION",
    help="How long to wait for the last job; 0: not at all. [default: until it ends]",
)  # fmt: skip
@connection_options
@output_option
@common_options
@click.pass_obj
def drain(state: State, off: bool, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """Accept no new jobs, and wait for the last one.

    The number that is left is shown on stderr. Ctrl-C ends the waiting only: new jobs are refused until `zcluster queue drain
    --off`. It needs an admin key.

    Exit code 7 when --timeout passed before the queue was empty.
    """
    if off and timeout is not None:
        raise UsageError("--off and --timeout exclude each other", hint="--off waits for nothing")
    client = open_client(state, connection(key, master))
    stats = run_async(_accept_again(client) if off else _drain(client, timeout, state.output))
    text = "new jobs are accepted" if off else "drained: no job is left, and no new one is accepted"
    emit_object(stats, state.output, lines=[text], name_key="draining")


async def _accept_again(client: AsyncClient) -> dict[str, Any]:
    async with client as c:
        stats: dict[str, Any] = await c.queue.drain(False)
        return stats


async def _drain(client: AsyncClient, timeout_s: float | None, output: str | None) -> dict[str, Any]:
    import asyncio

    async with client as c:
        stats: dict[str, Any] = await c.queue.drain(True)
        began_s, most, told, trouble = time.monotonic(), max(live(stats), 1), -1, ""
        with Bar(output) as bar:
            while left := live(stats):
                if timeout_s is not None and time.monotonic() - began_s >= timeout_s:
                    hint = "no new jobs are accepted until `zcluster queue drain --off`"
                    raise TimedOut(f"{counted(left, 'job')} left after {seconds(timeout_s)}", hint=hint)
                most = max(most, left)
                bar.draw(1 - left / most, f"{counted(left, 'job')} left{trouble and f', {trouble}'}")
                if left != told and not bar.shown and output not in MACHINE_FORMATS:
                    say(f"zcluster: {counted(left, 'job')} left")
                told = left
                await asyncio.sleep(LOOK_S)
                try:
                    stats, trouble = await c.queue.stats(), ""
                except (MasterLost, Unreachable, TimedOut) as error:
                    trouble = str(error)  # a master that is away comes back, and its drain with it
        return stats


def _target(command: Any) -> Any:
    return click.argument("target", shell_complete=completes("target_names"))(command)


@click.command()
@_target
@shared_options
@click.pass_obj
def pause(state: State, target: str, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """Give no job to TARGET (a node, a glob or all) until resume.

    Jobs are accepted still, and what runs there goes on. It needs an admin key.
    """
    _emit_paused(ask(state, connection(key, master, timeout), lambda c: c.queue.pause(target)), state.output)


@click.command()
@_target
@shared_options
@click.pass_obj
def resume(state: State, target: str, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """End the pause of TARGET, named as it was for the pause.

    It needs an admin key.
    """
    _emit_paused(ask(state, connection(key, master, timeout), lambda c: c.queue.resume(target)), state.output)


def _emit_paused(answer: dict[str, Any], output: str | None) -> None:
    if output == "name":
        for target in answer["paused"]:
            put(cell(target))
    else:
        emit_object(answer, output, lines=[f"paused: {', '.join(map(cell, answer['paused'])) or 'nothing'}"])
