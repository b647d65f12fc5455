"""What a node hears of its agents, on its way into the node's book.

Rules kept here:
- what waits for one agent is one set of fields: however often it speaks, what waits is bounded by the number of agents;
- one commit is under way at a time, and at most one begins each WRITE_EVERY_S;
- only a session makes a row, and only of a row of this node is anything changed otherwise: another node may have it by now;
- a session that is older than the one at another node, as far as the book knows, makes no row: only the master's book knows
  such (by core/agents/ownership.py, as for a worker's session);
- else the epoch of a session is larger than the row's. An agent that lost its number (or a second process with its key) gets the
  next one: its session is live, and the one before it is over at this node, so it is the newest;
- when the disk fails, what waits stays and is tried again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from zcluster.core.agents.ownership import Holding, decide, latest_epoch
from zcluster.core.agents.row import Row
from zcluster.core.peers import Event
from zcluster.errors import ZClusterError
from zcluster.store.book import AgentBook
from zcluster.wire.messages import MAX_ID

WRITE_EVERY_S = 0.05
RETRY_S = 1.0
BATCH = 1000


class _Waiting:
    __slots__ = ("epoch", "fields")

    def __init__(self) -> None:
        self.epoch = 0
        """Of the session that begins; 0 when none does."""
        self.fields: dict[str, Any] = {}


class AgentRows:
    """The rows of one node's agents.

    Args:
        node: its name.
        numbered: told each session that is in the book: the agent, the node that it was of until now, the session's epoch.
        late: told each session that is not: the agent, the node where it has a newer one, and the number of this one.
    """

    def __init__(
        self, book: AgentBook, node: str, wall_s: Callable[[], float], note: Callable[[Event], None],
        numbered: Callable[[str, str, int], None],
        late: Callable[[str, str, int], None] = lambda _id, _node, _epoch: None,
    ) -> None:  # fmt: skip
        self._book = book
        self._node = node
        self._wall_s = wall_s
        self._note = note
        self._numbered = numbered
        self._late = late
        self._waiting: dict[str, _Waiting] = {}
        self._under_way: dict[str, _Waiting] = {}
        self._some = asyncio.Event()
        self._failed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def joined(self, id_: str, epoch: int) -> int:
        """A session of the agent begins, with the number that it said; returns the number that counts. One that is further
        ahead than clocks may be is none: this node's clock says it then."""
        waiting, now_s = self._at(id_), self._wall_s()
        waiting.epoch = max(1, epoch) if epoch <= latest_epoch(now_s) else int(now_s * 1000)
        waiting.fields.update(node=self._node, held="session", status="active", last_seen=now_s)
        return waiting.epoch

    def set(self, id_: str, fields: dict[str, Any], *, seen: bool) -> None:
        """Set fields of the agent's row; ``seen``: it was heard just now."""
        waiting = self._at(id_)
        waiting.fields.update(fields)
        if seen:
            waiting.fields["last_seen"] = self._wall_s()

    def forget(self, id_: str) -> None:
        """The agent is not this node's any more: what waits for it is dropped."""
        self._waiting.pop(id_, None)
        self._under_way.pop(id_, None)

    async def run(self) -> None:
        """Write what waits, for ever."""
        while True:
            await self._some.wait()
            self._some.clear()
            ok = await self.flush()
            await asyncio.sleep(WRITE_EVERY_S if ok else RETRY_S)

    async def flush(self) -> bool:
        """Write what waits now; false when the disk failed (what was not written still waits)."""
        while self._waiting:
            batch = {id_: self._waiting.pop(id_) for id_ in list(self._waiting)[:BATCH]}
            self._under_way = batch
            try:
                await self._write(batch)
            except ZClusterError as error:
                self._put_back(batch)
                if not self._failed:
                    self._failed = True
                    self._note(Event("agents_not_written", {"reason": str(error), "waiting": len(self._waiting)}, "warning"))
                self._some.set()
                return False
            except Exception:
                self._put_back(batch)  # whatever it was, sessions that began are still to be written
                raise
        if self._failed:
            self._failed = False
            self._note(Event("agents_written_again", {}))
        return True

    # -- inside -----------------------------------------------------------------------------------------------------

    def _at(self, id_: str) -> _Waiting:
        waiting = self._waiting.get(id_)
        if waiting is None:
            waiting = self._waiting[id_] = _Waiting()
            self._some.set()
        return waiting

    async def _write(self, batch: dict[str, _Waiting]) -> None:
        rows = await self._book.get_many(list(batch))
        fresh: list[Row] = []
        taking: list[tuple[str, dict[str, Any]]] = []
        changes: list[tuple[str, dict[str, Any]]] = []
        numbered: list[tuple[str, str, int]] = []
        late: list[tuple[str, str, int]] = []
        for id_, waiting in batch.items():
            row = rows.get(id_)
            if waiting.epoch and row is not None and self._is_late(row, waiting.epoch):
                late.append((id_, row.node, waiting.epoch))
            elif waiting.epoch:
                known = 0 if row is None else row.epoch
                epoch = waiting.epoch if waiting.epoch > known else min(MAX_ID, max(known + 1, int(self._wall_s() * 1000)))
                fields = {**waiting.fields, "epoch": epoch}
                numbered.append((id_, "" if row is None else row.node, epoch))
                if row is None:
                    fresh.append(Row(id=id_, first_seen=self._wall_s(), **fields))
                    continue
                if not row.first_seen:
                    fields["first_seen"] = self._wall_s()
                taking.append((id_, fields))
            elif row is not None and row.node == self._node and row.status != "removed":
                changes.append((id_, waiting.fields))
        if fresh:
            await self._book.put(fresh)
        if taking:
            await self._taking(taking)
        if changes:
            await self._book.update(changes, of=self._node)
        for id_, node, epoch in numbered:
            self._numbered(id_, node, epoch)
        for id_, node, epoch in late:
            self._late(id_, node, epoch)

    async def _taking(self, taking: list[tuple[str, dict[str, Any]]]) -> None:
        """Sessions begin of agents that have a row; one that was forgotten meanwhile (an order of the master) is made anew."""
        await self._book.update(taking)
        there = await self._book.get_many([id_ for id_, _ in taking])
        lost = [Row(id=id_, **{"first_seen": self._wall_s(), **fields}) for id_, fields in taking if id_ not in there]
        if lost:
            await self._book.put(lost)

    def _is_late(self, row: Row, epoch: int) -> bool:
        if row.node in ("", self._node):
            return False
        current = Holding(row.node, row.epoch, row.held, row.status)
        return decide(current, Holding(self._node, epoch, "session", "active"), frozenset()) != "accepted"

    def _put_back(self, batch: dict[str, _Waiting]) -> None:
        """What was not written waits again, beneath what came meanwhile."""
        for id_, waiting in batch.items():
            newer = self._waiting.get(id_)
            if newer is not None:
                waiting.fields.update(newer.fields)
                waiting.epoch = newer.epoch or waiting.epoch
            self._waiting[id_] = waiting
