"""The sink of a tree: the copy, and how it comes to hold what the source has.

States::

    opening -> idle -> asked (PULL) -> walking (GO) -> planning -> fetching -> committing -> [commanding] -> idle
                 ^                                                                  |
                 +------------------------- failed (tried again later) <------------+ from everywhere

Rules kept here:
- a version is held when its commit has ended: staged, checked, durable and in its place; nothing is reported before;
- ``clean`` means that what is here now is what the held version left; a change made here makes it unclean, and the copy is
  compared and mended;
- whatever goes wrong ends in ``failed`` with its reason, and is tried again with growing pauses, or at once for something newer;
- a lost session loses nothing: what is staged stays, and the next session goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace

from zcluster.core.sync.effects import Effects, Looked, Open, Opened, Place, failed
from zcluster.core.sync.guard import judge_first
from zcluster.core.sync.looking import Looking
from zcluster.core.sync.pacing import Pace
from zcluster.core.sync.plan import Plan
from zcluster.core.sync.pulling import ANSWER_S, Again, Applied, Broken, Compared, Distrusted, End, Pulling
from zcluster.core.sync.retrying import Tries
from zcluster.core.sync.rules import Rules
from zcluster.core.sync.sinkreport import BUSY, PULLING, REPORT_EVERY_S, CopyState
from zcluster.errors import PeerError, Unreachable, ZClusterError, one_line
from zcluster.wire.trees import Finish, Go, Hashes, Listing, Parcel, Pull, Report, State, TreeInfo, TreeMessage

DiffThen = Callable[[object, float], None]


@dataclass(frozen=True)
class SinkLimits:
    """Bounds and times of a sink."""

    window_bytes: int
    chunk_bytes: int
    scan_s: float


class Sink(CopyState):
    """One copy of a tree.

    Args:
        place, info: which copy, and its rules.
        report: called with each Report and the time: on a worker it is sent, on the master it is kept.
        permit: asked before a pull begins, where this side gives permits; it calls :meth:`permitted`. None: the source does.
        release: the pull for which ``permit`` was asked is over.
        pace: how fast it may fetch; None: as fast as it can.
    """

    def __init__(
        self, place: Place, info: TreeInfo, effects: Effects, limits: SinkLimits, now: float, *,
        report: Callable[[Report, float], None], permit: Callable[[Place, float], None] | None = None,
        release: Callable[[Place, float], None] | None = None, pace: Pace | None = None,
    ) -> None:  # fmt: skip
        super().__init__(place, info, report, now)
        self.limits = limits
        self.rules = Rules.of(info)
        self._effects, self._permit, self._release = effects, permit, release
        self._lane, self._pace = f"{place[0]}/{place[1]}", pace
        self._session: int | None = None
        self._confirmed = False
        self._diffs: list[DiffThen] = []
        self._dry = False
        """The next pull only compares, for someone who asked what differs."""
        self._last_id = 0
        self._looks = Looking(place, effects, self._lane, limits.scan_s, now, self._was_looked)
        self._tries = Tries()
        self._refused = 0
        """A version whose command failed and was undone: it is not tried again by itself."""
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
            self._end_pull("", "", now)
            self._become("idle", "its source cannot be reached", now)
            self._answer_diffs(Unreachable("the session ended before the trees were compared", hint="call again"), now)

    def heard(self, state: State, now: float) -> None:
        """STATE: what the source has."""
        newer = self.target is None or (state.version, state.root) != (self.target.version, self.target.root)
        self.target = state
        if newer:
            self._tries.newer()
            if self.opened is not None and self.state in ("failed", "held"):
                self._tries.fresh()
                self._become("idle", "", now)
        # Even when nothing is newer: a source that has just started has forgotten who asked.
        self.ask_again(now)
        self._start(now)

    def hint(self, dirty: frozenset[str] | None, now: float) -> None:
        """These directories of the copy may have changed; None: any may."""
        self._looks.hint(dirty)
        self._look()

    def order(self, confirmed: bool, now: float) -> None:
        """Someone says: now. Look at everything, and try again whatever failed; with ``confirmed``, what is held is right."""
        self._refused = 0
        self._tries.now()
        self._confirmed = self._confirmed or confirmed
        if self.opened is None:
            if not self._looks.running:
                self._open(now)
            return
        if self.state == "failed" or (self.state == "held" and confirmed):
            self._become("idle", "", now)
        self.hint(None, now)
        self._start(now)

    def diff(self, then: DiffThen, now: float) -> None:
        """Compare with the source's newest version; ``then`` gets the Classes, or the error, and the time."""
        self._diffs.append(then)
        self._start(now)
        if self.state not in (*BUSY, "opening"):
            error = Unreachable if self._session is None else ZClusterError
            self._answer_diffs(error(f"the tree cannot be compared: {self.reason or self.state}"), now)

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
        self._end_pull("cancelled", "the tree is not kept here any more", now)
        self.state = "closed"
        self._answer_diffs(Unreachable("the tree is not kept here any more"), now)

    # -- answers of the source ------------------------------------------------------------------------------------------

    def go(self, message: Go, now: float) -> None:
        """GO: the pull may begin.

        Raises:
            PeerError: its root is none.
        """
        if self.state != "asked" or self.looked is None:
            return
        if self.target is not None and message.version > self.target.version:
            # Its STATE was lost: what is applied now would be taken for too new, and pulled for ever.
            self.target = replace(self.target, version=message.version, epoch=message.epoch, root=message.root)
        self._began_s = now
        pulling = self._pulling = Pulling(
            self.place, self.info, self.rules, self.limits.window_bytes, self.limits.chunk_bytes, self._effects, message,
            self.looked, (self.version, self.epoch, self.root), self._last_id, now, dry=self._dry, say=self._say,
            become=self._become, ended=self._ended, judge=self._distrust, clean=self.clean, pace=self._pace,
        )  # fmt: skip
        pulling.start(now)

    def answer(self, message: Listing | Parcel | Hashes, body: bytes | memoryview, now: float) -> None:
        """LISTING, PARCEL or HASHES: an answer to a question of the pull.

        Raises:
            PeerError, TooLarge: it is not what a source may send.
        """
        if self._pulling is not None:
            self._pulling.answer(message, body, now)

    def fail(self, error: ZClusterError, now: float) -> None:
        """The pull cannot go on; one that commits already does."""
        if self.state not in ("closed", "opening", "committing", "commanding"):
            self._failed(error, now)

    def _failed(self, error: ZClusterError, now: float) -> None:
        self._end_pull(error.code, error.message, now)
        self._answer_diffs(error, now)
        self.error = one_line(str(error))[:1000]
        self._tries.failed(now)
        self._effects.tell("tree_failed", "warning", tree=self.place[0], worker=self.place[1], reason=self.error)
        self._become("failed", self.error, now)

    # -- time -----------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """When :meth:`handle_deadline` has to be called."""
        due = min(self._looks.next_deadline(), self._tries.next_deadline(self.state == "idle"))
        if self._pulling is not None and self.state in PULLING:
            due = min(due, self._pulling.next_deadline(), self._reported_s + REPORT_EVERY_S)
        return due

    def handle_deadline(self, now: float) -> None:
        """Look, try again, or give up waiting, whatever is due."""
        if self._tries.retry(now):
            if self.opened is None:
                self._open(now)
            elif self.state == "failed":
                self._become("idle", "", now)
                self._start(now)
        if self._pulling is not None and self.state in PULLING:
            self._pulling.handle_deadline(now)
            if self._pulling is not None and now >= self._pulling.answer_due_s:
                self.fail(PeerError(f"the source has not answered for {ANSWER_S:.0f} s"), now)
            else:
                self._tell(now)
        if self._tries.begin(now):
            self._start(now)
        self._looks.handle_deadline(now)
        self._look()

    def stalled(self, now: float) -> None:
        """Nothing has come from the source for a while."""
        if self.state == "asked" or (self._pulling is not None and self.state in PULLING and self._pulling.waits):
            self.fail(PeerError("the worker has not answered"), now)

    # -- opening and looking --------------------------------------------------------------------------------------------

    def _open(self, now: float) -> None:
        self.state = "opening"
        self._looks.running = True
        self._effects.do(self._lane, Open(self.place, self.info, False), self._was_opened)

    def _was_opened(self, result: object, now: float) -> None:
        self._looks.running = False
        if self.state == "closed":
            return
        if (error := failed(result)) is not None:
            self.state = "idle"
            self.fail(error, now)
            return
        assert isinstance(result, Opened)
        self.opened, self.version, self.epoch, self.root = result, result.version, result.epoch, result.root
        self.clean = bool(result.version) and result.looked.root == result.root
        self._tries.fresh()
        self._saw(result.looked, now)
        self._become("idle", "", now)
        self._start(now)

    def _look(self) -> None:
        if self.opened is not None and self.state not in ("closed", "planning", "committing", "commanding"):
            self._looks.start()

    def _was_looked(self, result: object, now: float) -> None:
        if self.state == "closed":
            return
        if (error := failed(result)) is not None:
            if self.state not in BUSY:
                self.fail(error, now)
            return
        assert isinstance(result, Looked)
        if self.looked is None or result.root != self.looked.root:
            self.clean = False
        self._saw(result, now)
        self._start(now)
        self._look()

    def _saw(self, looked: Looked, now: float) -> None:
        self.looked = looked
        self._looks.unsettled(looked.unsettled, now)

    # -- a pull ---------------------------------------------------------------------------------------------------------

    def _start(self, now: float) -> None:
        """Begin a pull, if there is a reason to and nothing against it."""
        target = self.target
        if self.state not in ("idle", "held") or self.opened is None:
            return
        ready = self._session is not None and target is not None and target.version > 0
        if self._diffs and ready:
            self._dry = True
            self._ask(now)
        elif self.state == "held":
            return
        elif self._session is None:
            self._become("idle", "its source cannot be reached", now)
        elif target is None or not target.version:
            self._become("idle", (target.held if target else "") or "the source has published nothing yet", now)
        elif self.current:
            failed_before, self.error = self.error, ""
            self._become("idle", "", now)
            self._tell(now, always=bool(failed_before))
        elif self._paused:
            self._become("idle", "paused", now)
        elif self._refused == target.version:
            self.error = self.trouble
            self._become("idle", self.error, now)
        elif now < self._tries.begin_s:
            self._become("idle", "its source has other files than it has published", now)
        else:
            self._ask(now)

    def _ask(self, now: float) -> None:
        self._become("asked", "waits for its turn", now)
        if self._permit is not None:
            self._permit(self.place, now)
        else:
            self._say_pull(now)

    def _say_pull(self, now: float) -> None:
        assert self.target is not None
        self._began_s = now
        have = self.root.hex() if self.clean and not self._dry else ""
        self._say(Pull(tree=self.place[0], version=self.target.version, have=self.version if have else 0, have_root=have))

    def _distrust(self, plan: Plan) -> str:
        """Why a plan is not carried out; later versions than the first have been judged at their source."""
        return judge_first(self.looked, plan, self.info.delete_share, self._confirmed) if not self.version and self.looked else ""

    def _ended(self, end: End, now: float) -> None:
        """The pull has ended."""
        match end:
            case Applied():
                self._was_applied(end, now)
                return
            case Broken():
                self.clean = False
                if end.looked is None:
                    self._looks.hint(None)
                else:
                    self._saw(end.looked, now)
                self._failed(end.error, now)
                self._look()
                return
            case Distrusted():
                self._end_pull("cancelled", end.reason, now)
                self._effects.tell("tree_held", "warning", tree=self.place[0], worker=self.place[1], reason=end.reason)
                self._become("held", end.reason, now)
                if self._diffs:
                    self._start(now)
                return
            case Compared():
                self._end_pull("cancelled", "only compared", now)
                self._answer_diffs(end.classes, now)
            case Again():
                self._end_pull("cancelled", "the version has changed", now)
                self._tries.again(now)
        self._become("idle", "", now)
        self._look()
        self._start(now)

    def _was_applied(self, end: Applied, now: float) -> None:
        self._saw(end.looked, now)
        self.version, self.epoch, self.root = end.held
        # Taken back is what was here before, which may have been changed here, or have been no version at all.
        self.clean, self._refused = not end.undone or (self.clean and bool(self.version)), end.undone
        trouble = one_line(end.trouble)[:1000]
        self.error, self.trouble = trouble if end.undone else "", trouble
        if trouble:
            self._effects.tell("tree_command_failed", "warning", tree=self.place[0], worker=self.place[1], reason=trouble)
        self._applied_at_s = now
        self._tries.fresh()
        self._confirmed = False
        self._end_pull("function_failed" if end.undone else "", self.error, now)
        self._effects.tell("tree_applied", tree=self.place[0], worker=self.place[1], version=self.version)
        self._become("idle", self.error, now)
        self._look()
        self._start(now)

    def _answer_diffs(self, result: object, now: float) -> None:
        diffs, self._diffs, self._dry = self._diffs, [], False
        for then in diffs:
            then(result, now)

    def _end_pull(self, code: str, message: str, now: float) -> None:
        """Whatever pull there was is over, or waits no more for its turn; the source is told."""
        if self.state in BUSY:
            version = self._pulling.go.version if self._pulling is not None else 0
            self._say(Finish(tree=self.place[0], version=version, code=code, message=message[:1000]))
        if self._pulling is not None:
            self._pulling.stop()
            self._last_id, self._pulling = self._pulling.last_id, None
        if self._release is not None:
            self._release(self.place, now)

    # -- saying ---------------------------------------------------------------------------------------------------------

    def _say(self, message: TreeMessage, body: bytes = b"") -> None:
        if self._session is not None:
            self._effects.say(self._session, message, body)
