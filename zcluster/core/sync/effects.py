"""What the machines of file sync want done: messages to say, actions on disks, events; and how an action's end comes back.

Rules kept here:
- actions of one lane are done one at a time, in the order in which they were asked for; different lanes at once;
- each action ends exactly once: with its result, or with the ZClusterError that it raised;
- who asked is called with the end. A caller that has gone on meanwhile compares its own number and ignores it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zcluster.core.sync.entry import Change, Entry, Manifest
from zcluster.core.sync.ownership import Conflict
from zcluster.core.sync.plan import Plan
from zcluster.errors import ZClusterError
from zcluster.wire.trees import Parcel, TreeInfo, TreeMessage

Place = tuple[str, str]
"""One end of a tree on this node: the tree's name, and for a worker's copy on the master the worker's name, else ``""``."""

# -- actions at either end ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Open:
    """Open the directory, finish or drop what was interrupted, look at everything. Ends with Opened."""

    place: Place
    info: TreeInfo
    source: bool


@dataclass(frozen=True)
class Close:
    """Let go of the place."""

    place: Place


@dataclass(frozen=True)
class Look:
    """List the ``dirty`` directories (None: everything) and compare. Ends with Looked."""

    place: Place
    dirty: frozenset[str] | None
    note: bool = False


@dataclass(frozen=True)
class Looked:
    """What a look found, and what was there before."""

    mine: Manifest
    """The manifest as it is now; never changed afterwards."""
    root: bytes
    files: int
    bytes: int
    complete: bool
    marker_ok: bool
    unsettled: frozenset[str] = frozenset()
    errors: tuple[tuple[str, str], ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    refused_count: int = 0
    scan_s: float = 0.0
    more: bool = False
    """There are hints of changes that came while it was looked: the next look finds them by itself."""
    before: Manifest | None = None
    """The manifest before this look, where ``changes`` is what leads from it to ``mine``."""
    changes: list[Change] | None = None
    conflicts: tuple[Conflict, ...] = ()
    """Of a copy whose files are merged with others': the first that are not in their places."""
    conflict_count: int = 0


@dataclass(frozen=True)
class Opened:
    """A place that is open."""

    looked: Looked
    version: int = 0
    """Of the version that this end published last (source), or holds (sink)."""
    epoch: int = 0
    root: bytes = b""
    """The root of that version."""
    files: int = 0
    files_before: int = 0
    watching: str = ""
    """Why changes are only found by the slow clock; empty: they are watched."""
    location: str = ""


# -- actions of a source ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Differ:
    """What became of each path between two manifests. Ends with Differences."""

    place: Place
    before: Manifest
    after: Manifest


@dataclass(frozen=True)
class Number:
    """Take the next version number, durably. Ends with the number."""

    place: Place
    epoch: int
    root: bytes
    files: int
    bytes: int
    added: int
    changed: int
    removed: int
    cause: str
    of: int = 0
    floor: int = 0
    """The number is above this one, whatever the records say."""


@dataclass(frozen=True)
class Record:
    """Keep a version for rollback. Ends with "" or the reason why it is not kept."""

    place: Place
    number: int
    before: Manifest
    after: Manifest
    changes: list[Change] | None
    """What leads from ``before`` to ``after``; None: everything is new."""


@dataclass(frozen=True)
class Piece:
    """A piece of a file that a sink wants."""

    path: str
    digest: bytes
    offset: int
    size: int


@dataclass(frozen=True)
class Read:
    """Read pieces for a FETCH. Ends with a list of (Parcel, body)."""

    place: Place
    id: int
    pieces: list[Piece]


@dataclass(frozen=True)
class HashBlocks:
    """Hash runs of blocks of a file. Ends with the hashes, or None when the file has changed."""

    place: Place
    path: str
    digest: bytes
    block_bytes: int
    runs: list[tuple[int, int]]


@dataclass(frozen=True)
class Restore:
    """Make the files of an old version the present ones. Ends with None."""

    place: Place
    version: int


# -- actions of a sink --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlanWalk:
    """What has to be done so that this copy is as ``theirs``. Ends with Planned, or None when its root is not ``mine`` any more:
    then ``theirs`` may lack what is needed."""

    place: Place
    theirs: Manifest
    mine: bytes


@dataclass(frozen=True)
class PlanChanges:
    """The same from a list of changes. Ends with Planned, or None when the copy is not what they start from."""

    place: Place
    changes: list[Change]


@dataclass(frozen=True)
class Compare:
    """What differs, for people. Ends with Classes, or None as PlanWalk does."""

    place: Place
    theirs: Manifest
    mine: bytes


@dataclass(frozen=True)
class Planned:
    """The plan, and which of its files are not staged yet."""

    plan: Plan
    wanted: list[tuple[str, Entry]]


@dataclass(frozen=True)
class Put:
    """Stage what a PARCEL brought: one size a piece. Ends with the number of bytes."""

    place: Place
    pieces: list[Piece]
    entries: list[Entry]
    parcel: Parcel
    body: bytes | memoryview
    large: str = ""
    """The path of the large file whose pieces they are."""


@dataclass(frozen=True)
class Begin:
    """Begin to put a large file together. Ends with Begun."""

    place: Place
    path: str
    entry: Entry


@dataclass(frozen=True)
class Begun:
    """Whether there is something to compare with; else the ranges to fetch."""

    needs_hashes: bool


@dataclass(frozen=True)
class Coarse:
    """Compare chunks by their hashes. Ends with the list of chunks that did not match."""

    place: Place
    path: str
    hashes: bytes


@dataclass(frozen=True)
class Fine:
    """Compare blocks by their hashes. Ends with the ranges (offset, size) that have to be fetched."""

    place: Place
    path: str
    runs: list[tuple[int, int]]
    hashes: bytes


@dataclass(frozen=True)
class FinishLarge:
    """The large file is complete: check its whole digest. Ends with None."""

    place: Place
    path: str


@dataclass(frozen=True)
class Commit:
    """Make the staged version the present one, durably. Ends with Committed."""

    place: Place
    plan: Plan
    version: int
    epoch: int
    root: bytes
    undo: bool


@dataclass(frozen=True)
class Committed:
    """What became of it, and a look at the result."""

    looked: Looked
    errors: tuple[tuple[str, str], ...] = ()
    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class Undo:
    """Go back to the version before the last commit. Ends with Committed."""

    place: Place
    version: int
    epoch: int
    root: bytes


@dataclass(frozen=True)
class Settle:
    """The last commit stays: what was kept for Undo goes. Ends with None."""

    place: Place


@dataclass(frozen=True)
class Command:
    """Run the tree's command. Ends with "" or what went wrong."""

    place: Place
    argv: tuple[str, ...]
    timeout_s: float
    environment: Mapping[str, str] = field(default_factory=dict)


Action = (
    Open | Close | Look | Differ | Number | Record | Read | HashBlocks | Restore | PlanWalk | PlanChanges | Compare | Put
    | Begin | Coarse | Fine | FinishLarge | Commit | Undo | Settle | Command
)  # fmt: skip

# -- effects ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Say:
    """Send ``message`` with ``body`` to the session."""

    session: int
    message: TreeMessage
    body: bytes | memoryview = b""


@dataclass(frozen=True)
class Do:
    """Do ``action`` in ``lane``, and tell its end under ``job``."""

    job: int
    lane: str
    action: Action


@dataclass(frozen=True)
class Tell:
    """An event for the log."""

    name: str
    fields: dict[str, Any]
    level: str = "info"


Effect = Say | Do | Tell
Then = Callable[[Any, float], None]
"""Called with an action's result (or its ZClusterError) and the time."""


class Effects:
    """What has been decided and not been done yet."""

    def __init__(self) -> None:
        self._effects: list[Effect] = []
        self._then: dict[int, Then] = {}
        self._last_job = 0

    @property
    def open_jobs(self) -> int:
        """Actions that have not ended."""
        return len(self._then)

    def say(self, session: int, message: TreeMessage, body: bytes | memoryview = b"") -> None:
        """Send a message."""
        self._effects.append(Say(session, message, body))

    def do(self, lane: str, action: Action, then: Then) -> None:
        """Do ``action``; ``then`` gets its end."""
        self._last_job += 1
        self._then[self._last_job] = then
        self._effects.append(Do(self._last_job, lane, action))

    def tell(self, name: str, level: str = "info", **fields: Any) -> None:
        """Log an event."""
        self._effects.append(Tell(name, fields, level))

    def done(self, job: int, result: object, now: float) -> None:
        """An action has ended with ``result``, which may be a ZClusterError."""
        then = self._then.pop(job, None)
        if then is not None:
            then(result, now)

    def take(self) -> list[Effect]:
        """What is to be done now, in order."""
        effects, self._effects = self._effects, []
        return effects


def failed(result: object) -> ZClusterError | None:
    """The error that an action ended with, or None."""
    return result if isinstance(result, ZClusterError) else None
