"""``zcluster queue``: durable jobs, and what can be done about them.

Rules kept here:
- a client key sees and touches its own jobs, an admin key all of them: the master decides, nothing here does;
- ``watch`` goes on over lost connections, and says when it lost one: what happened meanwhile is not shown;
- ``check`` asks the master; where none answers it reads the home's database itself, and writes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zcluster.cli.connect import ask, connection, open_client, run_async, settings
from zcluster.cli.groups import Group
from zcluster.cli.options import (
    MACHINE_FORMATS,
    State,
    completes,
    shared_options,
)
from zcluster.cli.output import TablePrinter, cell, emit_object, json_text, put, say
from zcluster.cli.queue_acts import cancel, drain, drop, pause, resume, retry
from zcluster.cli.queue_views import (
    CHANGE_COLUMNS,
    JOB_COLUMNS,
    MAX_SHOWN_BYTES,
    STATES,
    PagePrinter,
    finding_lines,
    job_lines,
    stats_lines,
)
from zcluster.errors import EXIT_FAILED, EXIT_OK, MasterLost, TimedOut, Unreachable

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from zcluster.clients import AsyncClient

PAGE = 1000
"""Jobs of one request."""
LOOK_S = 1.0
"""How often ``watch`` asks again for a master that is away."""


class StateType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """The state of a job, by its word."""

    name = "state"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word itself; one that is no state is a usage error that names the nearest."""
        word = str(value)
        if word in STATES:
            return word
        import difflib

        near = difflib.get_close_matches(word, STATES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(STATES)}"
        self.fail(f"no state {word[:40]!r}; {hint}", param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The states that begin with ``incomplete``."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(word) for word in STATES if word.startswith(incomplete)]


STATE = StateType()
state_option = click.option("--state", "in_state", type=STATE, metavar="STATE", help="Only jobs in this state.")
function_option = click.option(
    "--function", default="", metavar="NAME", shell_complete=completes("function_names"), help="Only jobs of this function."
)


@click.group(cls=Group)
def queue() -> None:
    """List, show, watch, cancel, retry and drop durable jobs."""


for _command in (cancel, retry, drop, drain, pause, resume):
    queue.add_command(_command)


@queue.command("ls")
@state_option
@click.option("--target", default="", shell_complete=completes("target_names"), help="Only jobs submitted for this target.")
@function_option
@click.option("--limit", type=click.IntRange(1, PAGE), default=100, show_default=True, help="How many jobs a page has.")
@click.option("--cursor", default="", metavar="ID", help="Begin behind this job: the id that the page before told.")
@click.option("--all", "everything", is_flag=True, help="All pages, one after the other.")
@shared_options
@click.pass_obj
def list_jobs(
    state: State, in_state: str | None, target: str, function: str, limit: int, cursor: str, everything: bool,
    timeout: float | None, key: Path | None, master: tuple[str, ...],
) -> None:  # fmt: skip
    """List jobs, the newest first."""
    printer = PagePrinter(JOB_COLUMNS, state.output)

    async def question(c: AsyncClient) -> str | None:
        before: str | None = cursor
        while before is not None:
            page = await c.queue.list(in_state or "", target, function, limit=PAGE if everything else limit, before=before)
            printer.add(page["items"])
            before = page["next"]
            if not everything:
                break
        return before

    following = ask(state, connection(key, master, timeout), question)
    printer.close(following, whole=following is None and not cursor)
    if following is not None and state.output not in MACHINE_FORMATS:
        say(f"zcluster: there are more; the next page: --cursor {following}")


@queue.command()
@click.argument("id", shell_complete=completes("job_ids"))
@shared_options
@click.pass_obj
def show(state: State, id: str, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """Show all of one job.

    Its fields, what became of each attempt, and of a job for several nodes the outcome of each, as far as there is one.
    The value of a job that is done is shown when it has at most 64 KiB; `zcluster dapi call queue.result id=ID --target master`
    prints any.
    """

    async def question(c: AsyncClient) -> dict[str, Any]:
        job: dict[str, Any] = dict(await c.queue.show(id))
        if job.get("parts"):
            job["outcomes"] = await _outcomes(c, id)
        elif job.get("state") == "done" and int(job.get("result_bytes") or 0) <= MAX_SHOWN_BYTES:
            job["value"] = await c.call("queue.result", {"id": id}, target="master")
        return job

    job = ask(state, connection(key, master, timeout), question)
    emit_object(job, state.output, lines=job_lines(job, wide=state.output == "wide"), name_key="id")


async def _outcomes(c: AsyncClient, id: str) -> list[dict[str, Any]]:
    """The parts of a fan-out as they are now."""
    found: list[dict[str, Any]] = []
    after: str | None = ""
    while after is not None:
        page = await c.call("queue.outcomes", {"id": id, "after": after, "limit": PAGE}, target="master")
        found += page["items"]
        after = page["next"]
    return found


@queue.command()
@state_option
@function_option
@shared_options
@click.pass_obj
def watch(
    state: State, in_state: str | None, function: str, timeout: float | None, key: Path | None, master: tuple[str, ...]
) -> None:
    """Print a line for each change of a job's state until Ctrl-C.

    json, ndjson and yaml: one JSON object a line.
    """
    run_async(_watch(open_client(state, connection(key, master, timeout)), in_state or "", function, state.output))


async def _watch(client: AsyncClient, in_state: str, function: str, output: str | None) -> None:
    import asyncio

    printer = TablePrinter(CHANGE_COLUMNS, wide=output == "wide")
    begun = False
    async with client as c:
        await c.queue.list(state=in_state, function=function, limit=1)  # what is wrong with the question ends the command
        if output in (None, "table", "wide"):
            put(printer.header())
        while True:
            try:
                async for change in c.queue.watch(state=in_state, function=function):
                    _put_change(change, printer, output)
                return
            except (MasterLost, Unreachable, TimedOut) as error:
                if not begun:
                    say(f"zcluster: {error}; changes until the master is back are not shown")
                begun = True
            await asyncio.sleep(LOOK_S)


def _put_change(change: dict[str, Any], printer: TablePrinter, output: str | None) -> None:
    if output in MACHINE_FORMATS:  # a stream has no end to wrap a list around
        put(json_text(change))
    elif output == "name":
        put(cell(change.get("id")))
    else:
        put(printer.row(change))


@queue.command()
@shared_options
@click.pass_obj
def stats(state: State, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """Say how many jobs there are, where they wait, and what the limits are."""
    found = ask(state, connection(key, master, timeout), lambda c: c.queue.stats())
    emit_object(found, state.output, lines=stats_lines(found), name_key="live")


@queue.command()
@shared_options
@click.pass_obj
def check(state: State, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> int:
    """Check whether the database of jobs is whole.

    Each job has to fit its outcome and its parts. The master looks, and it needs an admin key; where no master answers, the
    database in this home is read.

    Exit code 1 when something is wrong; each finding is a line.
    """
    try:
        found = ask(state, connection(key, master, timeout), lambda c: c.queue.check())
    except (Unreachable, MasterLost, TimedOut) as error:
        from zcluster.config import Home

        file = Home.of(settings(state).home).data_dir / "queue" / "jobs.db"
        if not file.is_file():
            raise
        from dataclasses import asdict

        from zcluster.store.jobs_check import check_file

        say(f"zcluster: {error.message}: {file} itself is read")
        found = asdict(check_file(file))
    emit_object(found, state.output, lines=finding_lines(found), name_key="ok")
    return EXIT_OK if found["ok"] else EXIT_FAILED
