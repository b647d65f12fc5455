"""The sink of a tree: the copy, and how it comes to hold what the source has.

States::

    opening -> idle -> asked (PULL) -> walking (GO) -> planning -> fetching -> committing -> [commanding] -> idle
                 ^                                                                  |
                 +------------------------- failed (tried again later) <------------+ from everywhere

Rules kept here:
- a version is held when its commit has ended: staged, checked, durable and in its place; nothing is reported before;
- ``clean`` means that what is here now is what the held version left; a change made here makes it unclean, and the copy is
  compared and mended;
- whatever goes wrong ends in ``failed`` with its reason, and is tried again with growing pauses, or at once when the source
  has something newer or someone says so;
- a lost session loses nothing: what is staged stays, and the next session goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zcluster.core.sync import bodies
from zcluster.core.sync.effects import (
    Command,
    Commit,
    Committed,
    Effects,
    Look,
    Looked,
    Open,
    Opened,
    Place,
    PlanChanges,
    Planned,
    PlanWalk,
    Undo,
    failed,
)  # fmt: skip
from zcluster.core.sync.entry import Change, Manifest
from zcluster.core.sync.fetching import Fetching
from zcluster.core.sync.intake import Intake
from zcluster.core.sync.plan import Plan
from zcluster.core.sync.rules import Rules
from zcluster.core.sync.walking import Walk
from zcluster.errors import PeerError, ZClusterError, one_line
from zcluster.wire.trees import (
    Finish,
    Go,
    Hashes,
    List,
    Listing,
    Parcel,
    Pull,
    Report,
    State,
    TreeInfo,
    TreeMessage,
)

RECHECK_S = 0.03
FIRST_RETRY_S = 1.0
MAX_RETRY_S = 60.0
ANSWER_S = 60.0
"""How long the source may leave a question unanswered before the pull begins anew."""
MAX_CHANGES = 200_000
REPORT_EVERY_S = 0.5
BUSY = ("asked", "walking", "planning", "fetching", "committing", "commanding")


@dataclass(frozen=True)
class SinkLimits:
    """Bounds and times of a sink."""

    window_bytes: int
    chunk_bytes: int
    scan_s: float


class Sink:
    """One copy of a tree.

    Args:
        place, info: which copy, and its rules.
        report: called with each Report and the time: on a worker it is sent, on the master it is kept.
        permit: asked before a pull begins, where this side gives permits; it calls :meth:`permitted`. None: the source does.
        release: the pull for which ``permit`` was asked is over.
    """

    def __init__(
        self, place: Place, info: TreeInfo, effects: Effects, limits: SinkLimits, now: float, *,
        report: Callable[[Report, float], None], permit: Callable[[Place, float], None] | None = None,
        release: Callable[[Place, float], None] | None = None,
    ) -> None:  # fmt: skip
        self.place, self.info, self.limits = place, info, limits
        self.rules = Rules.of(info)
        self.state = "opening"
        self.version, self.epoch, self.root = 0, 0, b""
        self.clean = False
        self.reason = "opening"
        self.error = ""
        self.target: State | None = None
        self.opened: Opened | None = None
        self.looked: Looked | None = None
        self._effects, self._report, self._permit, self._release = effects, report, permit, release
        self._lane = f"{place[0]}/{place[1]}"
        self._session: int | None = None
        self._paused = info.paused
        self._mine: Manifest = {}
        self._mine_root = b""
        self._go: Go | None = None
        self._walk: Walk | None = None
        self._changes: list[Change] | None = None
        self._intake = Intake(self.rules)
        self._plan: Plan | None = None
        self._fetching: Fetching | None = None
        self._turn = 0
        """Grows when a pull ends: what belongs to an older one is ignored."""
        self._last_list = 0
        self._dirty: set[str] = set()
        self._everything = False
        self._looking = False
        self._recheck: frozenset[str] = frozenset()
        self._recheck_s = 0.0
        self._pass_due_s = now + limits.scan_s
        self._retry_s: float | None = None
        self._retries = 0
        self._refused = 0
        """A version whose command failed and was undone: it is not tried again by itself."""
        self._answer_due_s = 0.0
        self._began_s = now
        self._reported_s = 0.0
        self._applied_at_s = 0.0
        self._open(now)

    # -- what happens to it ---------------------------------------------------------------------------------------------

    def session_up(self, session: int, now: float) -> None:
        """The source can be reached."""
        self._session = session
        self._tell(now, always=True)
        self._start(now)

    def session_down(self, now: float) -> None:
        """The source is gone; what is staged stays."""
        self._session = None
        if self.state in ("asked", "walking", "planning", "fetching"):
            self._end_pull(now)
            self._become("idle", "its source cannot be reached", now)

    def heard(self, state: State, now: float) -> None:
        """STATE: what the source has."""
        newer = self.target is None or (state.version, state.root) != (self.target.version, self.target.root)
        self.target = state
        if newer and self.state == "failed":
            self._retries = 0
            self._become("idle", "", now)
        self._start(now)

    def hint(self, dirty: frozenset[str] | None, now: float) -> None:
        """These directories of the copy may have changed; None: any may."""
        if dirty is None:
            self._everything = True
        else:
            self._dirty |= dirty
        self._look(now)

    def order(self, now: float) -> None:
        """Someone says: now. Look at everything, and try again whatever failed."""
        self._refused, self._retries, self._retry_s = 0, 0, None
        if self.opened is None and self.state == "failed":
            self._open(now)
            return
        if self.state == "failed":
            self._become("idle", "", now)
        self.hint(None, now)
        self._start(now)

    def set_paused(self, paused: bool, now: float) -> None:
        """Begin no pull until it is set back. One that runs goes on."""
        if paused != self._paused:
            self._paused = paused
            self._start(now)

    def ask_again(self, now: float) -> None:
        """The source may have forgotten that this copy asked for its turn."""
        if self.state == "asked" and self._permit is None:
            self._say_pull(now)

    def permitted(self, now: float) -> None:
        """The permit that was asked for is there."""
        if self.state == "asked" and self._session is not None and self.target is not None:
            self._say_pull(now)
        elif self._release is not None:
            self._release(self.place, now)

    def close(self, now: float) -> None:
        """The copy is not kept up any more."""
        self._end_pull(now)
        self.state = "closed"

    # -- answers of the source ------------------------------------------------------------------------------------------

    def go(self, message: Go, now: float) -> None:
        """GO: the pull may begin."""
        if self.state != "asked":
            return
        try:
            root = bytes.fromhex(message.root)
        except ValueError:
            raise PeerError("a root that is not hexadecimal") from None
        self._go, self._began_s = message, now
        self._become("walking", f"comparing with version {message.version}", now)
        self._answer_due_s = now + ANSWER_S
        if message.changes:
            self._changes, self._intake = [], Intake(self.rules)
            return
        self._walk = Walk(root, self._mine, self._mine_root, self.rules)
        self._walk_on(now)

    def listing(self, message: Listing, body: bytes | memoryview, now: float) -> None:
        """LISTING: directories, or changes.

        Raises:
            PeerError, TooLarge: it is not what a source may send.
        """
        go = self._go
        if self.state != "walking" or go is None or message.version != go.version:
            return
        self._answer_due_s = now + ANSWER_S
        if message.failed:
            self._again(now)
        elif self._changes is not None and message.id == 0:
            changes = bodies.read_changes(body)
            for change in changes:
                self._intake.change(change)
            self._changes += changes
            if len(self._changes) > MAX_CHANGES:
                raise PeerError(f"more than {MAX_CHANGES} changes")
            if message.last:
                self._become("planning", f"planning version {go.version}", now)
                self._do_plan(PlanChanges(self.place, self._changes))
        elif self._walk is not None and message.id == self._last_list:
            self._walk.add(bodies.read_listings(body), message.last)
            if message.last:
                self._walk_on(now)

    def parcel(self, message: Parcel, body: bytes | memoryview, now: float) -> None:
        """PARCEL: contents."""
        if self.state == "fetching" and self._fetching is not None:
            self._answer_due_s = now + ANSWER_S
            self._fetching.parcel(message, body, now)

    def hashes(self, message: Hashes, body: bytes | memoryview, now: float) -> None:
        """HASHES: of blocks."""
        if self.state == "fetching" and self._fetching is not None:
            self._answer_due_s = now + ANSWER_S
            self._fetching.hashes(message, body, now)

    def fail(self, error: ZClusterError, now: float) -> None:
        """The pull cannot go on."""
        if self.state in ("closed", "opening"):
            return
        self._say_finish(error.code, error.message)
        self._end_pull(now)
        self.error = one_line(str(error))[:1000]
        self._retry_s = now + min(MAX_RETRY_S, FIRST_RETRY_S * 2 ** min(self._retries, 10))
        self._retries += 1
        self._effects.tell("tree_failed", "warning", tree=self.place[0], worker=self.place[1], reason=self.error)
        self._become("failed", self.error, now)

    # -- time -----------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """When :meth:`handle_deadline` has to be called."""
        due = self._pass_due_s
        if self._retry_s is not None:
            due = min(due, self._retry_s)
        if self._recheck:
            due = min(due, self._recheck_s)
        if self.state in ("walking", "fetching"):
            due = min(due, self._answer_due_s, self._reported_s + REPORT_EVERY_S)
        return due

    def handle_deadline(self, now: float) -> None:
        """Look, try again, or give up waiting, whatever is due."""
        if self._retry_s is not None and now >= self._retry_s:
            self._retry_s = None
            if self.opened is None:
                self._open(now)
            elif self.state == "failed":
                self._become("idle", "", now)
                self._start(now)
        if self.state in ("walking", "fetching"):
            if now >= self._answer_due_s:
                self.fail(PeerError(f"the source has not answered for {ANSWER_S:.0f} s"), now)
            else:
                self._tell(now)
        if now >= self._pass_due_s:
            self._pass_due_s = now + self.limits.scan_s
            self._everything = True
        if self._recheck and now >= self._recheck_s:
            self._dirty |= self._recheck
            self._recheck = frozenset()
        self._look(now)

    # -- opening and looking --------------------------------------------------------------------------------------------

    def _open(self, now: float) -> None:
        self.state = "opening"
        self._looking = True
        self._effects.do(self._lane, Open(self.place, self.info, False), self._was_opened)

    def _was_opened(self, result: object, now: float) -> None:
        self._looking = False
        if self.state == "closed":
            return
        if (error := failed(result)) is not None:
            self.state = "idle"
            self.fail(error, now)
            return
        assert isinstance(result, Opened)
        self.opened, self.version, self.epoch, self.root = result, result.version, result.epoch, result.root
        self.clean = bool(result.version) and result.looked.root == result.root
        self._retries = 0
        self._saw(result.looked, now)
        self._become("idle", "", now)
        self._start(now)

    def _look(self, now: float) -> None:
        if self._looking or self.opened is None or self.state in ("closed", "committing", "commanding", "planning"):
            return
        if self._everything or self._dirty:
            dirty = None if self._everything else frozenset(self._dirty)
            self._everything, self._dirty = False, set()
            self._looking = True
            self._effects.do(self._lane, Look(self.place, dirty), self._was_looked)

    def _was_looked(self, result: object, now: float) -> None:
        self._looking = False
        if self.state == "closed":
            return
        if (error := failed(result)) is not None:
            if self.state not in BUSY:
                self.fail(error, now)
            return
        assert isinstance(result, Looked)
        if result.root != self._mine_root:
            self.clean = False
        self._saw(result, now)
        self._start(now)
        self._look(now)

    def _saw(self, looked: Looked, now: float) -> None:
        self.looked, self._mine, self._mine_root = looked, looked.mine, looked.root
        if looked.unsettled:
            self._recheck, self._recheck_s = looked.unsettled, now + RECHECK_S

    # -- a pull ---------------------------------------------------------------------------------------------------------

    def _start(self, now: float) -> None:
        """Begin a pull, if there is a reason to and nothing against it."""
        target = self.target
        if self.state != "idle" or self.opened is None:
            return
        if self._session is None:
            self._become("idle", "its source cannot be reached", now)
        elif target is None or not target.version:
            held = target.held if target is not None else ""
            self._become("idle", held or "the source has published nothing yet", now)
        elif self.clean and (self.version, self.root.hex()) == (target.version, target.root):
            self.error = ""
            self._become("idle", "", now)
        elif self._paused:
            self._become("idle", "paused", now)
        elif self._refused == target.version:
            self._become("idle", self.error, now)
        else:
            self._become("asked", "waits for its turn", now)
            if self._permit is not None:
                self._permit(self.place, now)
            else:
                self._say_pull(now)

    def _say_pull(self, now: float) -> None:
        assert self.target is not None
        self._began_s = now
        have = self.root.hex() if self.clean else ""
        self._say(Pull(tree=self.place[0], version=self.target.version, have=self.version if have else 0, have_root=have))

    def _walk_on(self, now: float) -> None:
        walk, go = self._walk, self._go
        assert walk is not None
        assert go is not None
        if walk.complete:
            self._become("planning", f"planning version {go.version}", now)
            self._do_plan(PlanWalk(self.place, walk.theirs))
            return
        paths, deep = walk.next_question()
        self._last_list += 1
        message = List(tree=self.place[0], version=go.version, id=self._last_list, deep=deep)
        self._say(message, bodies.paths_body(paths))

    def _do_plan(self, action: PlanChanges | PlanWalk) -> None:
        turn = self._turn
        self._effects.do(self._lane, action, lambda result, now: self._was_planned(turn, result, now))

    def _was_planned(self, turn: int, result: object, now: float) -> None:
        go = self._go
        if turn != self._turn or go is None:
            return
        if (error := failed(result)) is not None:
            self.fail(error, now)
            return
        if result is None:
            # The changes do not start from what is here: compare instead.
            self._changes, self.clean = None, False
            self._become("walking", f"comparing with version {go.version}", now)
            self._walk = Walk(bytes.fromhex(go.root), self._mine, self._mine_root, self.rules)
            self._walk_on(now)
            return
        assert isinstance(result, Planned)
        self._plan, self._walk, self._changes = result.plan, None, None
        self._become("fetching", f"fetching version {go.version}", now)
        self._answer_due_s = now + ANSWER_S
        limits = self.limits
        self._fetching = Fetching(
            self.place, go.version, result.wanted, limits.window_bytes, limits.chunk_bytes, self._effects, self._say,
            lambda error, now: self._was_fetched(turn, error, now),
        )  # fmt: skip
        self._fetching.start(now)

    def _was_fetched(self, turn: int, error: ZClusterError | None, now: float) -> None:
        go, plan, fetching = self._go, self._plan, self._fetching
        if turn != self._turn or go is None or plan is None or fetching is None:
            return
        if error is not None:
            self.fail(error, now)
        elif fetching.changed:
            self._again(now)
        else:
            self._become("committing", f"applying version {go.version}", now)
            undo = self.info.rollback and bool(self.info.on_change)
            commit = Commit(self.place, plan, go.version, go.epoch, bytes.fromhex(go.root), undo)
            self._effects.do(self._lane, commit, self._was_committed)

    def _again(self, now: float) -> None:
        """The version went on while it was fetched: begin anew with the newest; what is staged is used."""
        self._say_finish("cancelled", "the version has changed")
        self._end_pull(now)
        self._become("idle", "", now)
        self._start(now)

    def _was_committed(self, result: object, now: float) -> None:
        go, plan = self._go, self._plan
        if self.state == "closed" or go is None or plan is None:
            return
        if (error := failed(result)) is not None:
            self.clean = False
            self._everything = True
            self.fail(error, now)
            return
        assert isinstance(result, Committed)
        self._saw(result.looked, now)
        if result.errors:
            self.clean = False
            path, reason = result.errors[0]
            more = f" (and {len(result.errors) - 1} more)" if len(result.errors) > 1 else ""
            self.fail(ZClusterError(f"{path}: {reason}{more}", hint="what could be applied is applied"), now)
            return
        before = (self.version, self.epoch, self.root)
        self.version, self.epoch, self.root = go.version, go.epoch, bytes.fromhex(go.root)
        # Where nothing may be here that the source does not have, the digests say whether it is all right.
        exact = self.rules.delete and not result.kept and not self.rules.extra_valid and not plan.kept
        self.clean = not exact or result.looked.root == self.root
        if self.info.on_change and not plan.empty:
            self._command(before, go, plan, now)
        else:
            self._finished(now)

    def _command(self, before: tuple[int, int, bytes], go: Go, plan: Plan, now: float) -> None:
        self._become("commanding", "running its command", now)
        environment = {"ZCLUSTER_TREE": self.place[0], "ZCLUSTER_VERSION": str(go.version)}
        command = Command(self.place, tuple(self.info.on_change), self.info.on_change_timeout_s, environment)

        def then(result: object, now: float) -> None:
            error = failed(result)
            trouble = str(error) if error is not None else str(result)
            if not trouble:
                self._finished(now)
            elif self.info.rollback:
                self._undo(before, trouble, now)
            else:
                self._finished(now, f"its command failed: {trouble}")

        self._effects.do(self._lane, command, then)

    def _undo(self, before: tuple[int, int, bytes], trouble: str, now: float) -> None:
        refused = self.version

        def then(result: object, now: float) -> None:
            if (error := failed(result)) is not None:
                self.clean = False
                self.fail(error, now)
                return
            assert isinstance(result, Committed)
            self.version, self.epoch, self.root = before
            self._saw(result.looked, now)
            self.clean, self._refused = True, refused
            self._finished(now, f"its command failed, version {refused} was rolled back: {trouble}", "function_failed")

        self._effects.do(self._lane, Undo(self.place, *before), then)

    def _finished(self, now: float, trouble: str = "", code: str = "") -> None:
        self.error = one_line(trouble)[:1000]
        if trouble:
            self._effects.tell("tree_command_failed", "warning", tree=self.place[0], worker=self.place[1], reason=self.error)
        self._applied_at_s = now
        self._retries = 0
        self._say_finish(code, self.error)
        self._end_pull(now)
        self._effects.tell("tree_applied", tree=self.place[0], worker=self.place[1], version=self.version)
        self._become("idle", self.error, now)
        self._look(now)
        self._start(now)

    def _end_pull(self, now: float) -> None:
        self._turn += 1
        if self._fetching is not None:
            self._fetching.stop()
        self._go = self._walk = self._changes = self._plan = self._fetching = None
        if self._release is not None:
            self._release(self.place, now)

    # -- saying ---------------------------------------------------------------------------------------------------------

    def _say(self, message: TreeMessage, body: bytes = b"") -> None:
        if self._session is not None:
            self._effects.say(self._session, message, body)

    def _say_finish(self, code: str, message: str) -> None:
        if self.state in BUSY:
            version = self._go.version if self._go is not None else 0
            self._say(Finish(tree=self.place[0], version=version, code=code, message=message[:1000]))

    def _become(self, state: str, reason: str, now: float) -> None:
        changed = (state, reason) != (self.state, self.reason)
        self.state, self.reason = state, reason
        if changed:
            self._tell(now, always=True)

    def _tell(self, now: float, *, always: bool = False) -> None:
        if not always and now < self._reported_s + REPORT_EVERY_S:
            return
        self._reported_s = now
        self._report(self.report(now), now)

    def report(self, now: float) -> Report:
        """How this copy is."""
        target, fetching = self.target, self._fetching
        current = target is not None and self.clean and (self.version, self.root.hex()) == (target.version, target.root)
        files, behind = (fetching.files_left, fetching.bytes_left) if fetching is not None else (0, 0)
        if fetching is None and not current and target is not None and not self.version:
            files, behind = target.files, target.bytes
        done = fetching.bytes_done if fetching is not None else 0
        return Report(
            tree=self.place[0], state=self._word(current), version=self.version, root=self.root.hex(),
            target=target.version if target is not None else 0, files_behind=max(0, files), bytes_behind=max(0, behind),
            bytes_done=done, bytes_per_s=done / max(0.001, now - self._began_s) if done else 0.0, reason=self.reason[:1000],
            error=self.error, age_s=round(now - self._applied_at_s, 3) if self._applied_at_s else 0.0, clean=self.clean,
        )  # fmt: skip

    def _word(self, current: bool) -> str:
        if self.state == "idle":
            if current and not self.error:
                return "current"
            return "paused" if self._paused else "failed" if self.error else "waiting"
        words = {"opening": "waiting", "asked": "waiting", "walking": "pulling", "planning": "pulling", "fetching": "pulling"}
        return words.get(self.state, "applying" if self.state in BUSY else self.state)
