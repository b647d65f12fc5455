"""``zcluster keys rotate``: another key in place of one, while its owner goes on.

Rules kept here:
- with a NAME the owner of that key is told to make the next one, where it is; without one it is the key that the command itself
  uses, and it is made here: a secret never travels;
- what is not done yet is said: who is away, and who has not heard of the master's next key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zcluster.cli.connect import ask, connection
from zcluster.cli.options import DURATION, State, completes, shared_options
from zcluster.cli.output import counted, emit_object, pairs, say
from zcluster.errors import UsageError

if TYPE_CHECKING:
    from zcluster.clients import AsyncClient

OVERLAP_S = 600.0


@click.command()
@click.argument("name", required=False, shell_complete=completes("key_names"))
@click.option(
    "--overlap", type=DURATION, default=OVERLAP_S, metavar="DURATION",
    help="How long the older key is admitted besides, 1s to 30d. [default: 10m]",
)  # fmt: skip
@click.option("--master-key", is_flag=True, help="The master's own key, whatever the master is called.")
@click.option("--now", is_flag=True, help="The master's own key: do not wait until everybody has heard of the next one.")
@shared_options
@click.pass_obj
def rotate(
    state: State, name: str | None, overlap: float, master_key: bool, now: bool, timeout: float | None, key: Path | None,
    master: tuple[str, ...],
) -> None:  # fmt: skip
    """Have the owner of the key NAME make another one, and admit that in its place; what is under way goes on.

    Without NAME it is the key that this command uses (see --key): it is made here and written into its file. The older key is
    admitted until the overlap is over, for processes that have not heard of it. A node that is away does it when it comes back.

    With the master's name (or --master-key) everybody is told the master's next key first; it is the key when the overlap is
    over, when all have heard of it, or --now.
    """
    if name == "":  # such as "$NAME" of a script: not the key that this command uses
        raise UsageError("NAME is empty", hint="leave it out to rotate the key that this command uses")
    if name and master_key:
        raise UsageError("NAME and --master-key both name a key", hint="give one of the two")
    if now and not (name or master_key):
        raise UsageError("--now is for the master's own key", hint="add --master-key")
    question = _of_another(name or "", overlap, now) if name or master_key else _own(overlap)
    row = ask(state, connection(key, master, timeout), question)
    emit_object(row, state.output, lines=pairs([(field, _text(value)) for field, value in row.items() if value != ""]))
    _say_what_is_left(row)


def _of_another(name: str, overlap_s: float, now: bool) -> Callable[[AsyncClient], Awaitable[dict[str, Any]]]:
    async def question(c: AsyncClient) -> dict[str, Any]:
        whose = name
        if not whose and c.link is not None:
            whose = c.link.master
        args = {"name": whose, "overlap_s": overlap_s, "now": now}
        row: dict[str, Any] = await c.call("keys.rotate", args, target="master")
        return row

    return question


def _own(overlap_s: float) -> Callable[[AsyncClient], Awaitable[dict[str, Any]]]:
    return lambda c: c.rotate_key(overlap_s)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _say_what_is_left(row: dict[str, Any]) -> None:
    if row["state"] == "wanted":
        say(f"{row['name']} is away: it makes its next key when it comes back; `zcluster keys show {row['name']}` tells")
    if row.get("away_count"):
        say(
            f"{counted(row['away_count'], 'owner')} of keys did not hear of the master's next key yet. Who is away until it holds"
            " cannot connect any more: put the new public key into [master] of its key file, or make it another file"
        )
