"""The book of agents: one row an agent, in order of changes, and the questions about them.

Rules kept here:
- each write gives the rows that it changes the book's next change numbers; a row that stays as it was gets none;
- what a call has returned is durable; writes that wait together are committed together;
- on the master, the rows of a chunk and the cursor of its worker are one commit: a chunk is taken once or not at all;
- questions never wait for writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from zcluster.core.agents.filter import Condition
from zcluster.core.agents.row import Row
from zcluster.core.agents.rowcodec import SaidRows

RowText = Sequence[Any]
"""A row on the wire: ``[id, op, epoch, held, fields]`` (wire/agents.py ROWS)."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Up to where a worker's book has been taken."""

    source: str = ""
    upto: int = 0


@dataclass(slots=True)
class Took:
    """What became of a chunk."""

    cursor: Cursor
    """Up to where the worker's book is taken now; as before when the chunk did not follow."""
    taken: int = 0
    """Rows that were accepted."""
    refused: list[tuple[str, str]] = field(default_factory=list)
    """Ids and reasons: ``late``, ``foreign``, ``invalid`` (an id that is none: cut). A ``gone`` of another node's agent is no
    claim, and not among them."""
    drop: list[str] = field(default_factory=list)
    """Ids that the worker is to be told to drop: they are another node's."""
    moved: list[tuple[str, str, str]] = field(default_factory=list)
    """Id, its node before, its node now."""


@dataclass(frozen=True, slots=True)
class Found:
    """An answer to a question."""

    rows: list[dict[str, Any]]
    next: str | None
    """The cursor of the next page."""
    total: int | None
    """How many there are in all, where it was asked for."""


class AgentBook(Protocol):
    """The agents of a node.

    Every call may raise StoreFailed (the disk is full or broken, or the book is closed; nothing was done) and Busy (too much
    waits). At most MAX_ROWS (book_limits.py) rows or ids in one call; rows and fields by the rules of core/agents/row.py.
    """

    id: str
    """Random text of this book (``source`` of its chunks)."""

    async def put(self, rows: Sequence[Row]) -> int:
        """Write rows as they are (insert or replace); but a row without groups keeps those that the book knows for it. Returns
        the last change number. A change of nothing but groups, first_seen and last_seen is written, and gets no number: it
        does not go up by itself."""

    async def update(self, changes: Sequence[tuple[str, dict[str, Any]]], *, of: str = "") -> int:
        """Set some fields of rows that exist; ids that do not are left out, and with ``of`` the rows of other nodes than that
        one (looked at within the commit). Returns the last change number (see put)."""

    async def get(self, id_: str) -> Row | None:
        """The row, with its groups (``["default"]`` when there are none); removed rows too."""

    async def get_many(self, ids: Sequence[str]) -> dict[str, Row]:
        """Those of the rows that there are, in the order of ``ids``."""

    async def changed(self, after: int, limit: int) -> tuple[list[Row], int, bool]:
        """The rows whose newest change is after ``after``, in that order; the number up to which they are complete; whether
        there are more. A removed row is there with status ``removed`` until it is purged."""

    async def take(
        self, node: str, source: str, base: int, upto: int, rows: Sequence[RowText] | SaidRows, alive: frozenset[str]
    ) -> Took:
        """The master takes a chunk of ``node``'s book, by the rules of core/agents/ownership.py; ``alive`` are the nodes that
        have a session. A chunk that does not begin at the cursor (or, of another source, at 0) changes nothing and tells the
        cursor. With the first chunk of another source, what was live at the node is disconnected until it is reported again.
        The earliest first_seen and the latest last_seen are kept. Without a source the rows are claims by the same rules, but
        of no book: no cursor is looked at or moved (the master's own reports)."""

    async def cursor(self, node: str) -> Cursor:
        """Up to where ``node``'s book is taken."""

    async def find(
        self, where: Condition | None = None, *, select: Sequence[str] | None = None, sort: str = "id", limit: int = 100,
        cursor: str = "", count: bool = False,
    ) -> Found:  # fmt: skip
        """A page of the rows that meet ``where`` (core/agents/filter.py; removed rows too, unless it says otherwise), as
        dictionaries of exactly the fields of ``select`` (``os.platform``, ``labels.site`` under these names; None: all fields).
        ``sort``: a field, ``-field`` for descending; the id decides between equals. ``count``: how many there are in all.

        Raises:
            UsageError: an unknown field, a limit beyond 10,000, a cursor of another order. TimedOut: beyond 20 s.
        """

    async def count(self, where: Condition | None = None, *, by: str = "") -> dict[str, int]:
        """How many rows, by the values of the field ``by`` (empty: one number under the key ""; by ``groups`` an agent counts
        for each of its groups)."""

    async def nodes_of(self, ids: Sequence[str]) -> dict[str, str]:
        """The nodes that hold these agents; without those that no node holds or that are removed."""

    async def nodes_of_group(self, group: str) -> list[str]:
        """The nodes that hold agents of the group (not removed), in order."""

    async def set_groups(self, groups: Sequence[tuple[str, Sequence[str]]], revision: int) -> None:
        """The groups of agents, as of this revision of the store (kept beside them, see groups_revision); none: default. Kept
        for agents that have no row yet, too."""

    async def groups_revision(self) -> int:
        """The revision of the last set_groups; 0 before."""

    async def node_gone(self, node: str, now: float) -> int:
        """The node is dead: its active and silent agents are disconnected; the active ones it heard until about ``now``.
        Returns how many."""

    async def node_back(self, node: str) -> int:
        """The node was not dead after all, or is there again with the same book: what node_gone has disconnected and nobody has
        reported since is as it was before. What changed there meanwhile comes in its chunks. Returns how many."""

    async def purge(self, ids: Sequence[str]) -> int:
        """Forget rows for good, without a change number; the groups of the agents stay known. Returns how many there were."""

    async def close(self) -> None:
        """End. What was acknowledged is on disk already."""
