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

RowText = Sequence[Any]
"""A row on the wire: ``[id, op, epoch, held, fields]`` (wire/agents.py ROWS)."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Up to where a worker's book has been taken."""

    source: str = ""
    upto: int = 0


@dataclass(frozen=True, slots=True)
class Took:
    """What became of a chunk."""

    cursor: Cursor
    taken: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)
    """Ids and reasons: ``late``, ``foreign``, ``invalid``."""
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
    """The agents of a node."""

    id: str
    """Random text of this book (``source`` of its chunks)."""

    async def put(self, rows: Sequence[Row]) -> int:
        """Write rows as they are (insert or replace); returns the last change number."""

    async def update(self, changes: Sequence[tuple[str, dict[str, Any]]]) -> int:
        """Set some fields of rows that exist; ids that do not are left out. Returns the last change number."""

    async def get(self, id_: str) -> Row | None: ...

    async def get_many(self, ids: Sequence[str]) -> dict[str, Row]: ...

    async def changed(self, after: int, limit: int) -> tuple[list[Row], int, bool]:
        """The rows whose newest change is after ``after``, in that order; the number up to which they are complete; whether
        there are more. A removed row is there with status ``removed`` until it is purged."""

    async def take(self, node: str, source: str, base: int, upto: int, rows: list[RowText], alive: frozenset[str]) -> Took:
        """The master takes a chunk of ``node``'s book, by the rules of core/agents/ownership.py; ``alive`` are the nodes that
        have a session. A chunk that does not begin at the cursor changes nothing and tells the cursor."""

    async def cursor(self, node: str) -> Cursor: ...

    async def find(
        self, where: Condition | None = None, *, select: Sequence[str] | None = None, sort: str = "id", limit: int = 100,
        cursor: str = "", count: bool = False,
    ) -> Found: ...  # fmt: skip

    async def count(self, where: Condition | None = None, *, by: str = "") -> dict[str, int]:
        """How many rows, by the values of the column ``by`` (empty: one number under the key "")."""

    async def nodes_of(self, ids: Sequence[str]) -> dict[str, str]:
        """The nodes that hold these agents."""

    async def nodes_of_group(self, group: str) -> list[str]:
        """The nodes that hold agents of the group."""

    async def set_groups(self, groups: Sequence[tuple[str, Sequence[str]]], revision: int) -> None:
        """The groups of agents, as of this revision of the store (kept beside them, see groups_revision)."""

    async def groups_revision(self) -> int: ...

    async def node_gone(self, node: str, now: float) -> int:
        """The node is dead: its active and silent agents are disconnected. Returns how many."""

    async def purge(self, ids: Sequence[str]) -> int:
        """Forget rows for good."""

    async def close(self) -> None: ...
