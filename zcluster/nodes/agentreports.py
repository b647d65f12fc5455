"""What programs report of agents at this node: ``agents.report``, and with it the bulk import.

Rules kept here:
- a report is what a program says, not a session: it never takes an agent that a live session holds (``foreign``);
- a bad row is told by its place and its reason, and the good ones are kept;
- a row that says nothing new changes nothing, so that reporting the same again costs no byte on the wire;
- at most MAX_ROWS rows a call; a caller with more makes several;
- a report says nothing of groups: what the book has of them stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from zcluster.config import Loaded
from zcluster.core.agents.ownership import LIVE, Holding, Verdict, decide
from zcluster.core.agents.row import Row, check_row
from zcluster.core.peers import Event
from zcluster.dapi.function import Function, function
from zcluster.errors import TooLarge, UsageError, ZClusterError
from zcluster.nodes.desk import Desk
from zcluster.store.book import RowText
from zcluster.wire.agents import AgentOrder

MAX_ROWS = 10_000
INLINE_ROWS = 100
"""More are looked at by a thread."""
WHY = {
    "foreign": "a live session of the agent holds it",
    "late": "another node's report of it is newer, or it was removed since",
}
MAX_TOLD = 1_000
"""How many refused rows one answer lists; the others are counted."""

Refused = dict[str, Any]


class AgentReports:
    """The part of a node that takes reports.

    Args:
        alive: the nodes that have a session, as far as this node knows: on a worker nobody but itself.
        here: whether an agent has a session at this node now: its row may not be in the book yet.
        order: on a master, tells the nodes whose agents a report took. Its book has everybody's rows, so that what a report
            claims is decided where it is written: a worker's chunk may have come since the rows were looked at.
    """

    def __init__(
        self, desk: Desk, alive: Callable[[], frozenset[str]], here: Callable[[str], bool] = lambda _id: False,
        order: Callable[[str, list[AgentOrder]], None] | None = None,
    ) -> None:  # fmt: skip
        self._desk, self._alive, self._here, self._order = desk, alive, here, order

    def functions(self) -> dict[str, Function]:
        @function("agents.report", idempotent=True)
        async def report(rows: list[dict[str, Any]]) -> dict[str, Any]:
            """Say what is known of agents at this node: rows with id, name, address, version, os, status, labels, metrics.

            The answer counts what was taken, and lists the rows that were not: index, id, code, message.
            """
            return await self._report(rows)

        return {"agents.report": Function(report, own_errors=True)}

    async def start(self) -> None:
        """Nothing to do before somebody reports."""

    def apply(self, loaded: Loaded) -> None:
        """Nothing of the configuration concerns it."""

    async def close(self) -> None:
        """Nothing is open."""

    async def _report(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        if len(rows) > MAX_ROWS:
            raise TooLarge(f"{len(rows)} rows in one report, at most {MAX_ROWS} are taken", hint="report them in several calls")
        refused: list[Refused] = []
        many = len(rows) > INLINE_ROWS
        checked = await asyncio.to_thread(self._checked, rows, refused) if many else self._checked(rows, refused)
        known = await self._desk.book.get_many([row.id for _, row in checked])
        now_s = self._desk.wall_s()
        alive = self._alive()
        wanted: dict[int, Row] = {}
        for index, row in checked:
            mine = known.get(row.id)
            row = self._settled(row, mine, now_s)
            verdict = self._verdict(mine, row, alive)
            if verdict == "accepted":
                row.groups = []  # as the book knows them when it writes the row, not when it was looked at
                wanted[index] = row
            else:
                refused.append(_refusal(index, row.id, verdict, WHY[verdict]))
        if wanted and self._order is None:
            await self._desk.book.put([*wanted.values()])
        elif wanted:
            refused += await self._claim(wanted, alive)
        if refused:
            self._desk.note(Event("agent_report_refused", {"rows": len(rows), "refused": len(refused)}, "warning"))
        refused.sort(key=lambda each: each["index"])
        taken = len(rows) - len(refused)
        return {"taken": taken, "refused": refused[:MAX_TOLD], "refused_count": len(refused)}

    async def _claim(self, wanted: dict[int, Row], alive: frozenset[str]) -> list[Refused]:
        """Write the rows by the rules of whose an agent is; returns those that were not taken."""
        assert self._order is not None
        rows = [_text(row) for row in wanted.values()]
        took = await self._desk.book.take(self._desk.name, "", 0, 0, rows, alive)
        epochs = {row.id: row.epoch for row in wanted.values()}
        for id_, before, node in took.moved:
            self._order(before, [AgentOrder(op="drop", id=id_, epoch=epochs[id_], held="report", node=node)])
        late = dict(took.refused)
        return [
            _refusal(index, row.id, late[row.id], WHY.get(late[row.id], "it is no row"))
            for index, row in wanted.items()
            if row.id in late
        ]

    def _checked(self, rows: list[dict[str, Any]], refused: list[Refused]) -> list[tuple[int, Row]]:
        """The rows that are rows; of an id that comes twice the last."""
        found: dict[str, tuple[int, Row]] = {}
        for index, fields in enumerate(rows):
            try:
                row = check_row(fields)
                if row.status == "removed":
                    raise UsageError("status: a report does not remove an agent", hint="`zcluster agents rm` does")
            except ZClusterError as error:
                refused.append(_refusal(index, str(fields.get("id", ""))[:128], error.code, str(error)))
                continue
            found[row.id] = (index, row)
        return list(found.values())

    def _settled(self, row: Row, mine: Row | None, now_s: float) -> Row:
        """The row as this node's book is to have it."""
        row.node, row.held = self._desk.name, "report"
        ours = mine is not None and mine.node == self._desk.name and mine.held == "report" and mine.status != "removed"
        if mine is not None:
            row.first_seen, row.groups = mine.first_seen or row.first_seen, mine.groups
        row.epoch = mine.epoch if mine is not None and ours else int(now_s * 1000)
        given_s = row.last_seen
        if mine is not None and not given_s:
            row.last_seen = mine.last_seen
        if row.status == "never" or (ours and row == mine):
            return row  # nobody heard it; or nothing new was said
        row.last_seen = given_s or now_s
        row.first_seen = row.first_seen or now_s
        return row

    def _verdict(self, mine: Row | None, row: Row, alive: frozenset[str]) -> Verdict:
        if self._here(row.id):
            return "foreign"
        if mine is None:
            return "accepted"
        if mine.held == "session" and mine.status in LIVE and mine.node == row.node:
            return "foreign"
        return decide(_holding(mine), _holding(row), alive)


def _holding(row: Row) -> Holding:
    return Holding(row.node, row.epoch, row.held, row.status)


def _text(row: Row) -> RowText:
    fields = msgspec.structs.asdict(row)
    for name in ("id", "node", "groups", "epoch", "held"):
        del fields[name]
    return [row.id, "put", row.epoch, row.held, fields]


def _refusal(index: int, id_: str, code: str, message: str) -> Refused:
    return {"index": index, "id": id_, "code": code, "message": message}
