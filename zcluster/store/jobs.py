"""The store of jobs: what a master's queue asks of a database. One contract for each backend (tests/store/jobs_contract.py).

Rules kept here:
- a batch is committed whole or not at all, and what ``commit`` has returned is on disk;
- a job's unchanging part is written once, by its insertion; an update writes what may change (see MUTABLE), and nothing else;
- a batch does its inserts, its updates, ``delete``, ``purge``, and then reads; what it tells is how things are after its writes,
  all of them together, in the same turn (of a sequence whose first ended and whose oldest came back, the oldest is the first);
- RUNNING is kept as LEASED, and a query for it finds both: that a node has a job is not known after a restart;
- of the jobs of one asker with the same function and idempotency key one exists; a second is not inserted but told
  (``known``). Keys of parts are not looked at: they are their fan-out's;
- of the live jobs of a sequence (of one asker) exactly one is not ``blocked``: it stays that one until it is final; then it is
  the oldest (a final one is not blocked);
- ``parts_left`` of a fan-out counts its parts that are not final; a fan-out that has none left is told (``complete``);
- a fan-out is never among ``ready``, ``due`` and ``expired``, nor in the times of these: its parts are;
- a job whose file cannot be read does not stop the others: it is given with that part empty, and is told of (``unreadable``);
- arguments and results above ``file_bytes`` are in files beside the database, each written and synced before the row that names
  it, and removed after the row is gone; a file that no row names is removed when the store is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from zcluster.core.queue.batch import MAX_BATCH_JOBS as MAX_BATCH_JOBS
from zcluster.core.queue.batch import Batch as Batch
from zcluster.core.queue.batch import Done as Done
from zcluster.core.queue.batch import Opened as Opened
from zcluster.core.queue.job import Job, State

FILE_BYTES = 262_144
MAX_ASKED = 4096
MAX_PURGED = 4096
"""Jobs that a batch purges at most, and that it deletes, parts among them; or one fan-out with all its parts."""
READY_BYTES = 1_048_576
"""The ready jobs of a lane that are read together end with the one whose arguments make them this large."""
MAX_PAGE = 1000
PARTS_BYTES = 16 * 1024 * 1024
"""Whatever else is read together ends with the job that makes it this large."""
MAX_META_BYTES = 1024 * 1024
SCAN_JOBS = 100_000
"""A page of a listing looks at so many jobs at most; then it is given as it is, with ``next``."""

MUTABLE = (
    "state", "due", "at_s", "expires", "blocked", "attempt", "failures", "deaths", "node", "steps", "result", "ended",
    "parts_left",
)  # fmt: skip
"""Fields of a Job that an update writes; of these the store itself keeps ``blocked`` and ``parts_left``."""


@dataclass(frozen=True, slots=True)
class Query:
    """Which jobs a listing shows, newest first; parts only with ``parent``."""

    states: tuple[State, ...] = ()
    target: str = ""
    """As it was asked for, exactly."""
    function: str = ""
    key: str = ""
    """Public key of who asked."""
    parent: int = 0
    before: int = 0
    """Numbers below this one; 0: from the newest. With ``parent``: numbers above it, oldest first."""
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Page:
    """Some jobs, without arguments and results (body and result empty), and where to go on: the last number that was looked at
    (0: there are no more)."""

    jobs: list[Job]
    next: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found."""

    ok: bool
    jobs: int
    """Readable ones, parts among them."""
    findings: list[str]
    """What is wrong, one line each, at most 100."""
    details: dict[str, Any] = field(default_factory=dict)


class JobStore(Protocol):
    """A store of jobs. All methods may be called from the one event loop that opened it."""

    id: str
    """Eight hexadecimal digits: the first half of each job's id. A store that was lost and begun again has others."""

    async def opened(self) -> Opened:
        """What is there; called once, before the first batch."""

    async def commit(self, batch: Batch) -> Done:
        """Commit and read. Batches are done one after the other; the caller waits for each.

        Raises:
            StoreFailed: the disk is full or broken; nothing was changed.
            UsageError: beyond a limit.
        """

    async def get(self, number: int) -> Job | None:
        """One job, whole. Raises StoreFailed: its file cannot be read."""

    async def list(self, query: Query) -> Page:
        """Some jobs. Raises UsageError: a page of none, or of more than MAX_PAGE."""

    async def parts(self, parent: int, *, after: int = 0, limit: int = 100) -> Sequence[Job]:
        """Parts of a fan-out by number, whole: at most ``limit`` (1 to MAX_PAGE), ending with the one that makes them
        PARTS_BYTES of arguments and results. Raises StoreFailed: a file cannot be read."""

    async def check(self) -> Report:
        """Whether everything is as it should be: the database's pages, rows that can be read, files, counters."""

    async def close(self) -> None:
        """End. Everything acknowledged is on disk already."""
