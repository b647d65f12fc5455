"""``zcluster sync``: how the trees are on every worker, and what can be done about it.

Rules kept here:
- the exit code tells a script what it wants to know: ``status`` 3 when something is behind, ``diff`` 3 when a copy differs,
  ``verify`` 3 when a file is wrong, ``now --wait`` 3 when a guard or a pause keeps a worker back;
- ``watch`` redraws in a terminal, and prints one line per change everywhere else;
- a bar is on stderr, in a terminal only.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zcluster.cli.connect import ask, connection, deadline_s, open_client, run_async
from zcluster.cli.groups import Group
from zcluster.cli.options import (
    State,
    shared_options,
)
from zcluster.cli.output import cell, emit_list, emit_object, json_text, on_terminal, put, say
from zcluster.cli.progress import Bar
from zcluster.cli.sync_views import (
    HISTORY_COLUMNS,
    READABLE,
    TREE_COLUMNS,
    change_line,
    differences,
    emit_diff,
    emit_status,
    emit_verify,
    emit_version,
    in_order,
    is_behind,
    size,
    status_lines,
    tree_state,
    tree_troubles,
)
from zcluster.errors import EXIT_OK, EXIT_PARTIAL, MasterLost, TimedOut, Unreachable

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from zcluster.clients import AsyncClient

T = TypeVar("T")

WATCH_S = 1.0
"""How often ``watch`` looks."""
VERIFY_S = 3600.0
"""How long ``verify`` may take for one tree when no ``--timeout`` is given."""
TICK_S = 0.5
"""How often the bar of ``verify`` is drawn."""
CLEAR = "\x1b[H\x1b[2J"
VERSION = click.IntRange(1, 2**53 - 1)


def complete_tree(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of trees for the shell."""
    from zcluster.cli.completing import tree_names

    return tree_names(ctx, incomplete)


def complete_worker(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of workers for the shell."""
    from zcluster.cli.completing import worker_names

    return worker_names(ctx, incomplete)


tree_option = click.option(
    "--tree", default="", metavar="NAME", shell_complete=complete_tree, help="Only this tree. [default: all, or the only one]"
)
worker_option = click.option(
    "--worker", default="", metavar="NAME", shell_complete=complete_worker, help="Only this worker. [default: all]"
)


@click.group(cls=Group)
def sync() -> None:
    """See how the trees are on every worker; look now, pause, confirm, roll back."""


@sync.command()
@tree_option
@worker_option
@shared_options
@click.pass_obj
def status(state: State, tree: str, worker: str, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> int:
    """Show a line for each worker and tree.

    Whatever is not current has its reason in the last column. What is wrong with a tree at the master is said on stderr.

    Exit code 3 when a worker is behind, held or failed, or a tree is held or has errors at the master.
    """

    async def both(c: AsyncClient) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        return in_order(await c.sync.status(tree, worker)), await c.sync.trees()

    rows, trees = ask(state, connection(key, master, timeout), both)
    emit_status(rows, state.output)
    if not trees:
        say("zcluster: the master's configuration declares no tree")
    concerned = [each for each in trees if tree in ("", each.get("name"))]
    for line in tree_troubles(concerned):
        say(f"zcluster: {line}")
    bad = any(map(is_behind, rows)) or any(tree_state(each) in ("held", "errors") for each in concerned)
    return EXIT_PARTIAL if bad else EXIT_OK


@sync.command("ls")
@shared_options
@click.pass_obj
def list_trees(state: State, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """List the trees as the master has them."""
    trees = ask(state, connection(key, master, timeout), lambda c: c.sync.trees())
    emit_list([{**tree, "state": tree_state(tree)} for tree in trees], TREE_COLUMNS, state.output)
    for line in tree_troubles(trees):
        say(f"zcluster: {line}")


@sync.command()
@click.argument("worker", shell_complete=complete_worker)
@tree_option
@shared_options
@click.pass_obj
def diff(state: State, worker: str, tree: str, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> int:
    """Show what WORKER has otherwise than the source.

    missing: the copy lacks it; shared: both have it, and it differs; extra: only the copy has it; extra_valid: only the copy
    has it, and the tree's rules allow that. -o name prints the paths.

    Exit code 0 when nothing differs (extra_valid is no difference), 3 otherwise.
    """
    items, left_out = differences(
        ask(state, connection(key, master, timeout), lambda c: c.sync.diff(worker, tree, timeout=deadline_s(state, timeout)))
    )
    emit_diff(items, state.output)
    if left_out:
        say(f"zcluster: and {left_out} more")
    if not items and state.output in READABLE:
        say("zcluster: nothing differs")
    return EXIT_PARTIAL if left_out or any(item["class"] != "extra_valid" for item in items) else EXIT_OK


@sync.command()
@tree_option
@click.option("--wait", is_flag=True, help="Return when every worker that can be reached is current.")
@shared_options
@click.pass_obj
def now(state: State, tree: str, wait: bool, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> int:
    """Look for changes now, without waiting for the clock.

    With --wait it prints the rows of status at the end. Exit code 3 when a worker is held, paused or away and so is not
    current; 7 when --timeout (default: client.timeout_s) ends before the others are.
    """
    options, until_s = connection(key, master, timeout), deadline_s(state, timeout)
    if wait:
        rows = run_async(_settle(open_client(state, options), tree, until_s, state.output))
        emit_status(rows, state.output)
        return EXIT_PARTIAL if any(map(is_behind, rows)) else EXIT_OK

    _emit_trees("looked", ask(state, options, lambda c: c.sync.now(tree, timeout=until_s)), state.output)
    return EXIT_OK


async def _settle(client: AsyncClient, tree: str, timeout_s: float, output: str | None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    most_bytes = 0
    async with client as c:
        with Bar(output) as bar:
            async for rows in c.sync.settling(tree, timeout=timeout_s):
                behind_bytes = sum(int(row.get("bytes_behind") or 0) for row in rows)
                most_bytes = max(most_bytes, behind_bytes)
                current = sum(row.get("state") == "current" for row in rows)
                share = 1 - behind_bytes / most_bytes if most_bytes else current / max(len(rows), 1)
                rate = size(sum(float(row.get("bytes_per_s") or 0) for row in rows))
                bar.draw(share, f"{current} of {len(rows)} current, {size(behind_bytes)} to go, {rate}/s")
    return in_order(rows)


@sync.command()
@click.argument("worker", default="", shell_complete=complete_worker)
@tree_option
@shared_options
@click.pass_obj
def pause(state: State, worker: str, tree: str, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """Let no version begin to go to WORKER, or to all, until resume.

    What is on its way arrives still. A pause lasts over restarts. It needs an admin key.
    """

    _emit_trees("paused", ask(state, connection(key, master, timeout), lambda c: c.sync.pause(tree, worker)), state.output)


@sync.command()
@click.argument("worker", default="", shell_complete=complete_worker)
@tree_option
@shared_options
@click.pass_obj
def resume(state: State, worker: str, tree: str, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """End the pause of WORKER, or of all.

    It needs an admin key.
    """

    _emit_trees("resumed", ask(state, connection(key, master, timeout), lambda c: c.sync.resume(tree, worker)), state.output)


@sync.command()
@click.argument("tree", shell_complete=complete_tree)
@worker_option
@shared_options
@click.pass_obj
def confirm(state: State, tree: str, worker: str, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """Let the held TREE go on, deletions included.

    A guard holds a tree when its root or its marker is missing, when it is suddenly empty, when too large a share of a copy
    would be deleted, or when a scan had errors. Look at the reason in `zcluster sync status` first. It needs an admin key.
    """

    _emit_trees("confirmed", ask(state, connection(key, master, timeout), lambda c: c.sync.confirm(tree, worker)), state.output)


@sync.command()
@click.argument("worker", shell_complete=complete_worker)
@tree_option
@shared_options
@click.pass_obj
def verify(state: State, worker: str, tree: str, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> int:
    """Have WORKER read every byte of its copies and compare.

    Each tree may take as long as --timeout says, an hour by default. -o name prints the paths of wrong files only.

    Exit code 3 when a file is wrong.
    """
    client = open_client(state, connection(key, master, timeout))
    trees = run_async(_verify(client, worker, tree, VERIFY_S if timeout is None else timeout, state.output))
    emit_verify(trees, state.output)
    return EXIT_PARTIAL if any(each.get("wrong") for each in trees) else EXIT_OK


async def _verify(client: AsyncClient, worker: str, tree: str, timeout_s: float, output: str | None) -> list[dict[str, Any]]:
    """The verified trees; one after the other, so that the bar can tell how far it is."""
    import asyncio

    from zcluster.clients.sync import checked_worker

    checked_worker("verify", worker)
    async with client as c:
        names = [tree] if tree else sorted(str(row["tree"]) for row in await c.sync.status("", worker)) or [""]
        trees: list[dict[str, Any]] = []
        began_s = time.monotonic()
        with Bar(output) as bar:
            for position, name in enumerate(names):
                call = asyncio.ensure_future(c.sync.verify(worker, name, timeout=timeout_s))
                try:
                    while not (await asyncio.wait({call}, timeout=TICK_S))[0]:
                        bar.draw(position / len(names), f"{cell(name)}, {position + 1} of {len(names)}, {_elapsed(began_s)}")
                    trees += call.result()["trees"]
                finally:
                    call.cancel()
        return trees


def _elapsed(began_s: float) -> str:
    return f"{time.monotonic() - began_s:.0f} s"


@sync.command()
@tree_option
@shared_options
@click.pass_obj
def history(state: State, tree: str, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """List the versions of a tree, the newest first.

    A version that is KEPT can be rolled back to; of one that is not, REASON says why.
    """
    rows = ask(state, connection(key, master, timeout), lambda c: c.sync.history(tree))
    rows = sorted(rows, key=lambda row: (str(row.get("tree")), -int(row.get("version") or 0)))
    emit_list(rows, HISTORY_COLUMNS, state.output, name_key="version")


@sync.command()
@click.argument("version", type=VERSION)
@tree_option
@shared_options
@click.pass_obj
def show(state: State, version: int, tree: str, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """Show what VERSION of a tree changed."""
    item = ask(state, connection(key, master, timeout), lambda c: c.sync.show(version, tree))
    if state.output in ("json", "yaml"):
        emit_object(item, state.output, lines=())
    else:
        emit_version(item, state.output)


@sync.command()
@click.argument("version", type=VERSION)
@tree_option
@shared_options
@click.pass_obj
def rollback(state: State, version: int, tree: str, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """Make the content of VERSION the newest version of a tree.

    The files in the master's directory become those of VERSION, and go to the workers as every change does. It needs an
    admin key.
    """
    item = ask(
        state, connection(key, master, timeout), lambda c: c.sync.rollback(version, tree, timeout=deadline_s(state, timeout))
    )
    line = f"tree {cell(item.get('tree'))}: version {cell(item.get('version'))} has the content of {cell(item.get('of'))}"
    emit_object(item, state.output, lines=[line], name_key="version")


@sync.command()
@tree_option
@worker_option
@shared_options
@click.pass_obj
def watch(state: State, tree: str, worker: str, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """Show every change of status until Ctrl-C."""
    run_async(_watch(open_client(state, connection(key, master, timeout)), tree, worker, state.output))


async def _watch(client: AsyncClient, tree: str, worker: str, output: str | None) -> None:
    import asyncio

    from zcluster.clients.sync import news

    redraw = on_terminal() and output in READABLE
    known: dict[tuple[str, str], dict[str, Any]] = {}
    told = ""
    async with client as c:
        rows = in_order(await c.sync.status(tree, worker))  # what is wrong with the question ends the command
        while True:
            if redraw:
                put(CLEAR + "\n".join([*status_lines(rows, wide=output == "wide"), "", told or "Ctrl-C ends"]))
            else:
                _print_changes(news(rows, known), output)
            await asyncio.sleep(WATCH_S)
            try:
                rows, trouble = in_order(await c.sync.status(tree, worker)), ""
            except (MasterLost, Unreachable, TimedOut) as error:
                trouble = str(error)  # a master that is away comes back, and the client with it
            if trouble and trouble != told and not redraw:
                say(f"zcluster: {trouble}")
            told = trouble


def _print_changes(rows: Sequence[Mapping[str, Any]], output: str | None) -> None:
    for row in rows:
        if output in ("json", "ndjson", "yaml"):  # a stream has no end to wrap a list around: one JSON object a line
            put(json_text({**row, "at_s": round(time.time(), 3)}))
        elif output == "name":
            put(f"{cell(row.get('worker'))}/{cell(row.get('tree'))}")
        else:
            put(change_line(row))


def _emit_trees(done: str, answer: Mapping[str, Any], output: str | None) -> None:
    """Print the trees that something was done to."""
    names = [str(name) for name in answer.get("trees") or ()]
    if output == "name":
        for name in names:
            put(cell(name))
    else:
        emit_object(answer, output, lines=[f"{done}: {cell(', '.join(names))}"])
