"""The source of a tree: what its files are now, as numbered versions.

Rules kept here:
- a version is what a look found, has a number of its own, and is announced only after that number is durable;
- a look that a guard does not trust publishes nothing: the tree is ``held`` with its reason until it is right again or
  someone confirms it; what was published before stays available;
- a source that is closed decides nothing any more, whatever still comes back from its disk;
- looks follow hints at once, but leave the node as much time as they and their versions took (a busy tree cannot busy it).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from zcluster.core.sync.effects import Action, Differ, Effects, Look, Looked, Number, Open, Opened, Place, Record, failed
from zcluster.core.sync.entry import Change, Differences, Manifest, merged_changes
from zcluster.core.sync.guard import judge
from zcluster.core.sync.serving import Serving, Version
from zcluster.wire.trees import State, TreeInfo

RECHECK_S = 0.1
"""When directories are looked at in whole of which only some files were, or with files too young for their timestamps."""
REST = 2.0
"""After a version no look for this many times what the look and the version took."""
MIN_REST_S = 0.002
MAX_LOOKS = 2
MAX_LOOKING_S = 0.05
"""So often, and so long, a burst of changes is followed before what was seen is published."""
_UNKNOWN = (
    "not all of it can be read, and what was there before is not known, so nothing tells what is gone: make it readable, or "
    "leave it out with `exclude`"
)
GUARD_S = 60.0
"""Files that went within this time count as one deletion: who deletes a large tree is seen in many small steps."""
MAX_REST_S = 2.0
RETRY_S = 2.0
RECORD_AFTER_S = 0.3
RECORD_BY_S = 10.0
"""When a version is recorded for rollback: as soon as nobody pulls, but at last after this time."""


@dataclass(frozen=True)
class SourceLimits:
    """Bounds and times of a source."""

    epoch: int
    window_bytes: int
    chunk_bytes: int
    scan_s: float


class Source:
    """One tree at its source.

    Args:
        place, info: which tree, and its rules.
        effects: where decisions go.
        ask_permit, release_permit: see Serving.
        floor: a version number that somebody has seen: new ones are above it.
    """

    def __init__(
        self, place: Place, info: TreeInfo, effects: Effects, limits: SourceLimits, now: float, *,
        ask_permit: Callable[[Place, int, float], None], release_permit: Callable[[Place, int, float], None],
        floor: int = 0,
    ) -> None:  # fmt: skip
        self.place, self.info = place, info
        self.limits = limits
        self._effects = effects
        self.version, self.root, self.files, self.bytes = 0, b"", 0, 0
        self.mine: Manifest = {}
        self.looked: Looked | None = None
        self.opened: Opened | None = None
        self.held = ""
        self.looked_at_s: float | None = None
        self.published: deque[tuple[int, float]] = deque(maxlen=1000)
        """The newest versions, and when each was published."""
        self._counts: deque[tuple[float, int]] = deque()
        """When a version left how many files behind, fewer and fewer: the first is the most of the last GUARD_S."""
        self.floor = floor
        self.serving = Serving(
            place, effects, limits.window_bytes, limits.chunk_bytes, self._current, ask_permit, release_permit
        )
        self._listeners: dict[int, None] = {}
        self._dirty: set[str] = set()
        self._everything = False
        self._looking = True
        self._confirmed = self._confirm_next = False
        self._cause, self._of = "change", 0
        self._restoring, self._restored = False, 0
        self._closed = False
        self._looks = 0
        """How many looks have begun."""
        self._waiting: list[tuple[int, Callable[[float], None]]] = []
        self._began_s = now
        self._not_before_s = 0.0
        self._recheck: frozenset[str] = frozenset()
        self._recheck_s = 0.0
        self._pass_due_s = now + limits.scan_s
        self._retry_s: float | None = None
        self._lane = f"{place[0]}/{place[1]}"
        self._pending: list[Change] | None = []
        self._seen: Manifest = {}
        """The manifest of the last look."""
        self._since: dict[str, Change] | None = None
        """What leads from the published manifest to that one, where it is known."""
        self._more_looks = 0
        self.recorded = False
        """Whether the version before the next one is being recorded: then its changes are all that is new."""
        self._unrecorded: list[Record] = []
        self._record_due_s = self._record_by_s = 0.0
        self._do(Open(place, info, True), self._was_opened)

    # -- what happens to it ---------------------------------------------------------------------------------------------

    def hint(self, dirty: frozenset[str] | None, now: float) -> None:
        """These directories may have changed; None: any may."""
        if dirty is None:
            self._everything = True
        else:
            self._dirty |= dirty
        self._look(now)

    def look_now(self, then: Callable[[float], None], now: float) -> None:
        """Look at everything; ``then`` is called when a look that began after this has ended, and what it found is published."""
        if self._closed or self.opened is None:
            self._retry_s = now
            then(now)
            return
        self._waiting.append((self._looks + 1, then))
        self._not_before_s = now
        self.hint(None, now)

    def confirm(self, now: float) -> None:
        """Someone says that what the guard holds is right: it holds for the next look, whatever that finds, and no longer."""
        self._confirm_next = True
        self.hint(None, now)

    def restoring(self) -> None:
        """The files of an old version are going to be put back: nothing is looked at until :meth:`restored`."""
        self._restoring = True

    def restored(self, version: int, then: Callable[[float], None], now: float) -> None:
        """The files have been put back (0: they could not be): the next look's version says so; then ``then`` is called."""
        self._restoring, self._restored = False, version
        self.look_now(then, now)

    def listen(self, session: int) -> None:
        """This session is to know of every version."""
        self._listeners[session] = None
        self.announce(session)

    def session_down(self, session: int, now: float) -> None:
        """The session is gone, and its pull with it."""
        self._listeners.pop(session, None)
        self.serving.end(session, now)

    def close(self) -> None:
        """The tree is not synced any more."""
        self._closed = True
        waiting, self._waiting = self._waiting, []
        for _, then in waiting:
            then(0.0)

    def announce(self, session: int) -> None:
        """Tell the session what the tree is now."""
        if self.version or self.held:
            self._effects.say(session, self.state())

    def state(self) -> State:
        """What is announced."""
        return State(
            tree=self.place[0], version=self.version, epoch=self.limits.epoch, root=self.root.hex(), files=self.files,
            bytes=self.bytes, held=self.held[:1000],
        )  # fmt: skip

    def next_deadline(self) -> float:
        """When :meth:`handle_deadline` has to be called."""
        due = self._pass_due_s if self._retry_s is None else min(self._pass_due_s, self._retry_s)
        if self._recheck:
            due = min(due, self._recheck_s)
        if (self._dirty or self._everything) and not (self._looking or self._restoring) and self.opened is not None:
            due = min(due, self._not_before_s)
        if self._unrecorded:
            due = min(due, self._record_due_s)
        return due

    def handle_deadline(self, now: float) -> None:
        """Look, where it is time to."""
        if now >= self._pass_due_s or (self._retry_s is not None and now >= self._retry_s):
            self._pass_due_s, self._retry_s = now + self.limits.scan_s, None
            if self.opened is None and not self._looking:
                self._looking = True
                self._do(Open(self.place, self.info, True), self._was_opened)
            self._everything = True
        if self._recheck and now >= self._recheck_s:
            self._dirty |= self._recheck
            self._recheck = frozenset()
        if self._unrecorded and now >= self._record_due_s:
            self._record(now)
        self._look(now)

    def _record(self, now: float) -> None:
        """Keep versions for rollback when nobody is pulling: it is not what anyone waits for."""
        if self.serving.busy and now < self._record_by_s:
            self._record_due_s = now + RECORD_AFTER_S
            return
        for record in self._unrecorded:
            self._effects.do(f"history:{self._lane}", record, _ignore)
        self._unrecorded = []

    # -- looking and publishing -----------------------------------------------------------------------------------------

    def _do(self, action: Action, then: Callable[[object, float], None]) -> None:
        def guarded(result: object, now: float) -> None:
            if not self._closed:
                then(result, now)

        self._effects.do(self._lane, action, guarded)

    def _was_opened(self, result: object, now: float) -> None:
        self._looking = False
        if (error := failed(result)) is not None:
            self._hold(str(error), now)
            self._retry_s = now + RETRY_S
            return
        assert isinstance(result, Opened)
        self.opened = result
        self.version, self.root = result.version, result.root
        self.files = result.files_before
        if result.version and result.looked.root == result.root:
            self.mine, self.files, self.bytes = result.looked.mine, result.looked.files, result.looked.bytes
            self.published.append((self.version, now))
        self._began_s = now
        self._looking = True
        self._was_looked(result.looked, now)
        if result.version:
            self._announce_all()

    def _look(self, now: float) -> None:
        if self._looking or self._restoring or self._closed or self.opened is None or now < self._not_before_s:
            return
        if self._restored:
            # From here on, and not in a look that had begun before: that one saw something else.
            self._cause, self._of, self._confirmed, self._restored = "rollback", self._restored, True, 0
        if self._everything or self._dirty:
            self._began_s, self._more_looks = now, 0
            self._look_again(now)

    def _look_again(self, now: float) -> None:
        dirty = None if self._everything else frozenset(self._dirty)
        self._everything, self._dirty, self._looking = False, set(), True
        self._confirmed, self._confirm_next = self._confirmed or self._confirm_next, False
        self._looks += 1
        self._do(Look(self.place, dirty), self._was_looked)

    def _was_looked(self, result: object, now: float) -> None:
        if (error := failed(result)) is not None:
            self._hold(str(error), now)
            self._retry_s = now + RETRY_S
            self._rest(now)
            return
        assert isinstance(result, Looked)
        self.looked, self.looked_at_s = result, now
        if result.unsettled:
            self._recheck, self._recheck_s = self._recheck | result.unsettled, now + RECHECK_S
        self._follow(result)
        if self.version and result.root == self.root:
            self.mine, self._since = result.mine, {}
            self._release_hold()
            self._rest(now)
        elif self._more_hints(result, now) and not self._restoring and not self._restored:
            self._look_again(now)
        elif self._since is not None:
            self._was_differed(Differences.of([change for change in self._since.values() if change.old != change.new]), now)
        else:
            self._do(Differ(self.place, self.mine, result.mine), self._was_differed)

    def _follow(self, looked: Looked) -> None:
        """Keep what leads from the published manifest to what was seen now."""
        if looked.changes is None or looked.before is not self._seen:
            self._since = None
        elif self._since is not None:
            merged_changes(self._since, looked.changes)
        self._seen = looked.mine

    def _more_hints(self, looked: Looked, now: float) -> bool:
        """Whether more has changed while it was looked: a burst becomes one version, if it does not take too long."""
        self._more_looks += 1
        more = bool(self._dirty or self._everything or looked.more)
        return more and self._more_looks < MAX_LOOKS and now < self._began_s + MAX_LOOKING_S

    def _was_differed(self, result: object, now: float) -> None:
        looked = self.looked
        assert looked is not None
        if (error := failed(result)) is not None:
            self._hold(str(error), now)
            self._rest(now)
            return
        assert isinstance(result, Differences)
        if self.version and not self.mine and not looked.complete:
            self._hold(_UNKNOWN, now)
            self._rest(now)
            return
        # How many there were is known even where what they were is not: after a restart.
        before = self._most_files(now)
        held = judge(
            known_before=self.version > 0, marker_ok=looked.marker_ok, files_before=before,
            files_after=looked.files, deleted=max(result.removed, before - looked.files), share=self.info.delete_share,
            confirmed=self._confirmed,
        )  # fmt: skip
        if held:
            self._hold(held, now)
            self._rest(now)
            return
        self._pending = result.changes
        number = Number(
            self.place, self.limits.epoch, looked.root, looked.files, looked.bytes, result.added, result.changed, result.removed,
            self._cause, self._of, max(self.floor, self.version),
        )  # fmt: skip
        self._do(number, self._was_numbered)

    def _was_numbered(self, result: object, now: float) -> None:
        looked = self.looked
        assert looked is not None
        if (error := failed(result)) is not None:
            self._hold(str(error), now)
            self._retry_s = now + RETRY_S
            self._rest(now)
            return
        assert isinstance(result, int)
        self._count_files(now)
        before, self.mine, self._since = self.mine, looked.mine, {}
        # Without the manifest before, what is pending lacks all that has gone: no way from there to here.
        self.serving.remember(self.version, self.root, self._pending if self.version and before else None)
        self.version, self.root, self.files, self.bytes = result, looked.root, looked.files, looked.bytes
        self._cause, self._of, self._confirmed = "change", 0, False
        self.held = ""
        self.published.append((result, now))
        self._announce_all()
        self._effects.tell("tree_version", tree=self.place[0], version=self.version, files=self.files, root=self.root.hex()[:12])
        self._unrecorded.append(Record(self.place, self.version, before, self.mine, self._pending if self.recorded else None))
        self.recorded = True
        self._record_due_s, self._record_by_s = now + RECORD_AFTER_S, now + RECORD_BY_S
        self._rest(now)

    def _count_files(self, now: float) -> None:
        """A version follows: remember how many files there were until now."""
        if self._confirmed:
            self._counts.clear()
            return
        while self._counts and self._counts[-1][1] <= self.files:
            self._counts.pop()
        self._counts.append((now, self.files))

    def _most_files(self, now: float) -> int:
        while self._counts and self._counts[0][0] < now - GUARD_S:
            self._counts.popleft()
        return max(self.files, self._counts[0][1]) if self._counts else self.files

    def _rest(self, now: float) -> None:
        """The look is over: the next one waits a little, in proportion to what this one took."""
        self._looking = self._confirmed = False
        self._not_before_s = now + min(MAX_REST_S, max(MIN_REST_S, REST * (now - self._began_s)))
        ended = [then for look, then in self._waiting if look <= self._looks]
        self._waiting = [each for each in self._waiting if each[0] > self._looks]
        for then in ended:
            then(now)
        if self._waiting:
            self._not_before_s = now
            self._look(now)

    def _hold(self, reason: str, now: float) -> None:
        reason = reason.replace("`zcluster sync confirm`", f"`zcluster sync confirm {self.place[0]}`")
        if self.held != reason:
            self.held = reason
            self._effects.tell("tree_held", "warning", tree=self.place[0], reason=reason)
            self._announce_all()

    def _release_hold(self) -> None:
        if self.held:
            self.held = ""
            self._announce_all()

    def _current(self) -> Version | None:
        """What a pull gets. After a start with other files than were published last, there is nothing until they are."""
        known = self.version and self.mine and not self._closed
        return Version(self.version, self.limits.epoch, self.root, self.mine) if known else None

    def _announce_all(self) -> None:
        for session in self._listeners:
            self.announce(session)


def _ignore(result: object, now: float) -> None:
    """Nobody waits for this."""
