"""What a sink knows of its copy, and what it tells of it.

Rules kept here:
- ``current`` is said of a copy that is the newest version that it has heard of, and of no other;
- a change is told at once, progress at most once in REPORT_EVERY_S.
"""

from __future__ import annotations

from collections.abc import Callable

from zcluster.core.sync.effects import Looked, Opened, Place
from zcluster.core.sync.pulling import Pulling
from zcluster.wire.trees import Report, State, TreeInfo

REPORT_EVERY_S = 0.5
BUSY = ("asked", "walking", "planning", "fetching", "committing", "commanding")
PULLING = ("walking", "planning", "fetching")
_WORDS = {"opening": "waiting", "asked": "waiting", **dict.fromkeys(PULLING, "pulling")}


class CopyState:
    """A copy, as its sink knows it.

    Args:
        place, info: which copy, and its rules.
        report: called with each Report and the time.
    """

    def __init__(self, place: Place, info: TreeInfo, report: Callable[[Report, float], None], now: float) -> None:
        self.place, self.info = place, info
        self.state = "opening"
        self.version, self.epoch, self.root = 0, 0, b""
        self.clean = False
        self.reason = "opening"
        self.error = ""
        self.trouble = ""
        """What the command of the held version said, where that does not undo it."""
        self.note = ""
        """What is to be said of it although it is current."""
        self.target: State | None = None
        self.opened: Opened | None = None
        self.looked: Looked | None = None
        self._paused = info.paused
        self._pulling: Pulling | None = None
        self._began_s = now
        self._applied_at_s: float | None = None
        self._report, self._reported_s = report, 0.0

    @property
    def holds(self) -> bool:
        """Whether what is here is what the held version left; not while another one is put in its place."""
        return self.clean and self.state not in ("committing", "commanding")

    @property
    def current(self) -> bool:
        """Whether what is here is what the source has published last."""
        target = self.target
        return target is not None and self.clean and (self.version, self.root.hex()) == (target.version, target.root)

    def report(self, now: float) -> Report:
        """How this copy is."""
        target = self.target
        fetching = self._pulling.fetching if self._pulling is not None else None
        files, behind = (fetching.files_left, fetching.bytes_left) if fetching is not None else (0, 0)
        if fetching is None and not self.current and target is not None and not self.version:
            files, behind = target.files, target.bytes
        done = fetching.bytes_done if fetching is not None else 0
        return Report(
            tree=self.place[0], state=self._word(), version=self.version, root=self.root.hex(),
            target=target.version if target is not None else 0, files_behind=max(0, files), bytes_behind=max(0, behind),
            bytes_done=done, bytes_per_s=done / max(0.001, now - self._began_s) if done else 0.0,
            reason=(self.reason or self.trouble or self.note)[:1000], error=self.error, age_s=self._age_s(now), clean=self.holds,
        )  # fmt: skip

    def _become(self, state: str, reason: str, now: float) -> None:
        changed = (state, reason) != (self.state, self.reason)
        self.state, self.reason = state, reason
        if changed:
            self._tell(now, always=True)

    def _tell(self, now: float, *, always: bool = False) -> None:
        if always or now >= self._reported_s + REPORT_EVERY_S:
            self._reported_s = now
            self._report(self.report(now), now)

    def _age_s(self, now: float) -> float | None:
        return round(max(0.0, now - self._applied_at_s), 3) if self._applied_at_s is not None else None

    def _word(self) -> str:
        if self.state == "idle":
            if self.current and not self.error:
                return "current"
            return "paused" if self._paused else "failed" if self.error else "waiting"
        return _WORDS.get(self.state, "applying" if self.state in BUSY else self.state)
