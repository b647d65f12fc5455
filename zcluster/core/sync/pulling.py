"""One pull of a sink, from GO to its end: walking, planning, fetching, committing, and the tree's command.

Rules kept here:
- it ends exactly once, with one of the ends below; after that nothing that still comes has an effect;
- until it commits it may be given up at any moment, and what is staged stays for the next one;
- a commit that has begun is waited for, whatever happens to the session meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zcluster.core.sync import bodies
from zcluster.core.sync.effects import (
    Action,
    Command,
    Commit,
    Committed,
    Compare,
    Effects,
    Looked,
    Place,
    PlanChanges,
    Planned,
    PlanWalk,
    Settle,
    Undo,
    failed,
)  # fmt: skip
from zcluster.core.sync.entry import FILE, Change, Entry, Manifest, decode_listing, parent
from zcluster.core.sync.fetching import Fetching
from zcluster.core.sync.intake import Intake
from zcluster.core.sync.outcome import unplanned
from zcluster.core.sync.pacing import Pace
from zcluster.core.sync.paths import shown
from zcluster.core.sync.plan import Plan
from zcluster.core.sync.rules import Rules
from zcluster.core.sync.walking import Walk
from zcluster.errors import PeerError, ZClusterError
from zcluster.wire.trees import Go, Hashes, List, Listing, Parcel, TreeInfo, TreeMessage

ANSWER_S = 60.0
"""How long the source may leave a question unanswered before the pull is given up."""
MAX_CHANGES = 200_000
Held = tuple[int, int, bytes]
"""Version, epoch and root that are held."""


@dataclass(frozen=True)
class Applied:
    """The version is applied and durable. ``trouble``: what its command said; ``undone``: and the version was taken back."""

    looked: Looked
    held: Held
    trouble: str = ""
    undone: int = 0


@dataclass(frozen=True)
class Again:
    """The source has gone on, or the copy is not what was thought: begin anew."""


@dataclass(frozen=True)
class Distrusted:
    """It was not carried out: someone has to confirm it."""

    reason: str


@dataclass(frozen=True)
class Compared:
    """What differs (zcluster.core.sync.plan.Classes), for someone who asked."""

    classes: object


@dataclass(frozen=True)
class Broken:
    """It went wrong; ``looked``: what is here now, where that has been looked at."""

    error: ZClusterError
    looked: Looked | None = None


End = Applied | Again | Distrusted | Compared | Broken


class Pulling:
    """A pull that has its GO.

    Args:
        looked: what is here. held: which version it is.
        dry: only compare.
        last_id: ids of questions are above it.
        say: sends a message to the source. become: called with each step's name and words. ended: called once.
        judge: says why a plan is not to be carried out, or nothing.
        clean: the copy is what the held version left: changes since then may do.
        pace: how fast contents may be asked for; None: as fast as the window lets.
    """

    def __init__(
        self, place: Place, info: TreeInfo, rules: Rules, window_bytes: int, chunk_bytes: int, effects: Effects, go: Go,
        looked: Looked, held: Held, last_id: int, now: float, *, dry: bool, say: Callable[[TreeMessage, bytes], None],
        become: Callable[[str, str, float], None], ended: Callable[[End, float], None], judge: Callable[[Plan], str],
        clean: bool, pace: Pace | None = None,
    ) -> None:  # fmt: skip
        self.go, self.dry = go, dry
        self.last_id = last_id
        self.fetching: Fetching | None = None
        self.answer_due_s = now + ANSWER_S
        self.began_s = now
        self.committing = False
        self._place, self._info, self._rules = place, info, rules
        self._window_bytes, self._chunk_bytes = window_bytes, chunk_bytes
        self._effects, self._lane = effects, f"{place[0]}/{place[1]}"
        self._looked, self._held = looked, held
        self._say, self._become, self._ended, self._judge = say, become, ended, judge
        self._clean, self._pace = clean, pace
        self._over = False
        self._local = 0
        """Actions on this node's disk that have not ended."""
        self._changes: list[Change] | None = None
        self._intake = Intake(rules)
        self._plan: Plan | None = None
        try:
            self._root = bytes.fromhex(go.root)
        except ValueError:
            raise PeerError("a root that is not hexadecimal") from None
        self._walk = Walk(self._root, looked.mine, looked.root, rules)

    def start(self, now: float) -> None:
        """Begin."""
        self._become("walking", f"comparing with version {self.go.version}", now)
        if self.go.changes and self._clean and not self.dry:
            self._changes = []
        else:
            self._walk_on(now)

    def stop(self) -> None:
        """Give it up; nobody is told."""
        self._over = True
        if self.fetching is not None:
            self.last_id = self.fetching.last_id
            self.fetching.stop()

    @property
    def waits(self) -> bool:
        """Whether it is the source that has to do something now, and not this node's disk."""
        return not self._local and (self.fetching is None or self.fetching.waits)

    def next_deadline(self) -> float:
        """When :meth:`handle_deadline` has to be called."""
        paced = self.fetching.next_deadline() if self.fetching is not None else self.answer_due_s
        return min(self.answer_due_s, paced)

    def handle_deadline(self, now: float) -> None:
        """Go on where the pace let it wait. The source is not to blame for the time in which nothing was asked of it."""
        if not self.waits:
            self.answer_due_s = now + ANSWER_S
        if self.fetching is not None and self.fetching.handle_deadline(now):
            self.answer_due_s = now + ANSWER_S

    # -- answers of the source ------------------------------------------------------------------------------------------

    def answer(self, message: Listing | Parcel | Hashes, body: bytes | memoryview, now: float) -> None:
        """LISTING: directories, or changes. PARCEL: contents. HASHES: of blocks.

        Raises:
            PeerError, TooLarge: it is not what a source may send.
        """
        if isinstance(message, Listing):
            self._listing(message, body, now)
        elif self.fetching is not None and not self._over:
            self.answer_due_s = now + ANSWER_S
            if isinstance(message, Parcel):
                self.fetching.parcel(message, body, now)
            else:
                self.fetching.hashes(message, body, now)

    def _listing(self, message: Listing, body: bytes | memoryview, now: float) -> None:
        if self._over or self._local or self._plan is not None or message.version != self.go.version:
            return
        self.answer_due_s = now + ANSWER_S
        if self._changes is not None and message.id == 0 and not message.failed:
            self._add_changes(self._changes, bodies.read_changes(body))
            if message.last:
                self._do_plan(PlanChanges(self._place, self._changes), now)
        elif self._changes is None and message.id and message.id == self.last_id:
            if message.failed:
                self._end(Again(), now)
                return
            self._walk.add(bodies.read_listings(body), message.last)
            if message.last:
                self._walk_on(now)

    # -- walking and planning -------------------------------------------------------------------------------------------

    def _add_changes(self, changes: list[Change], more: list[Change]) -> None:
        for change in more:
            self._intake.change(change)
        changes += more
        if len(changes) > MAX_CHANGES:
            raise PeerError(f"more than {MAX_CHANGES} changes")

    def _walk_on(self, now: float) -> None:
        walk = self._walk
        if not walk.complete:
            paths, deep = walk.next_question()
            self.last_id += 1
            message = List(tree=self._place[0], version=self.go.version, id=self.last_id, deep=deep)
            self._say(message, bodies.paths_body(paths))
        elif self.dry:
            self._do(Compare(self._place, walk.theirs, self._looked.root), self._was_compared)
        else:
            self._do_plan(PlanWalk(self._place, walk.theirs, self._looked.root), now)

    def _was_compared(self, result: object, now: float) -> None:
        if (error := failed(result)) is not None:
            self._end(Broken(error), now)
        else:
            self._end(Compared(result) if result is not None else Again(), now)

    def _do_plan(self, action: PlanChanges | PlanWalk, now: float) -> None:
        self._become("planning", f"planning version {self.go.version}", now)
        self._do(action, self._was_planned)

    def _was_planned(self, result: object, now: float) -> None:
        if (error := failed(result)) is not None:
            self._end(Broken(error), now)
            return
        if result is None and self._changes is None:
            # The copy was changed here while it was compared.
            self._end(Again(), now)
            return
        if result is None:
            # The changes do not start from what is here: compare instead.
            self._changes = None
            self._become("walking", f"comparing with version {self.go.version}", now)
            self._walk_on(now)
            return
        assert isinstance(result, Planned)
        if distrust := self._judge(result.plan):
            self._end(Distrusted(distrust), now)
            return
        self._plan = result.plan
        self._become("fetching", f"fetching version {self.go.version}", now)
        self.answer_due_s = now + ANSWER_S
        self.fetching = Fetching(
            self._place, self.go.version, result.wanted, self._window_bytes, self._chunk_bytes, self._effects, self.last_id,
            self._say, self._was_fetched, self._pace, _those_here(result.wanted, self._looked.mine, self._chunk_bytes),
        )  # fmt: skip
        self.fetching.start(now)

    # -- committing -----------------------------------------------------------------------------------------------------

    def _was_fetched(self, error: ZClusterError | None, now: float) -> None:
        plan, go = self._plan, self.go
        if self._over or plan is None or self.fetching is None:
            return
        if error is not None:
            self._end(Broken(error), now)
        elif self.fetching.changed:
            self._end(Again(), now)
        else:
            self.committing = True
            self._become("committing", f"applying version {go.version}", now)
            undo = self._info.rollback and bool(self._info.on_change)
            self._do(Commit(self._place, plan, go.version, go.epoch, self._root, undo), self._was_committed)

    def _was_committed(self, result: object, now: float) -> None:
        plan, version = self._plan, self.go.version
        assert plan is not None
        if (error := failed(result)) is not None:
            self._end(Broken(error), now)
            return
        assert isinstance(result, Committed)
        if result.errors:
            self._end(_not_all(result), now)
            return
        # Where nothing may be here that the source does not have, the digests say whether it is all right.
        exact = self._rules.delete and not result.kept and not self._rules.extra_valid and not plan.kept
        differs = "" if exact else unplanned(self._looked.mine, result.looked.mine, plan, self._rules, result.kept)
        if differs or (exact and result.looked.root != self._root):
            differs = f"version {version} was applied, and something here still differs{f': {shown(differs)}' if differs else ''}"
            self._end(Broken(ZClusterError(differs, hint="is something else writing there?"), result.looked), now)
        elif self._info.on_change and not plan.empty:
            self._command(result.looked, now)
        else:
            self._end(self._applied(result.looked), now)

    def _applied(self, looked: Looked, trouble: str = "") -> Applied:
        return Applied(looked, (self.go.version, self.go.epoch, self._root), trouble)

    def _command(self, looked: Looked, now: float) -> None:
        info = self._info
        self._become("commanding", "running its command", now)
        environment = {"ZCLUSTER_TREE": self._place[0], "ZCLUSTER_VERSION": str(self.go.version)}
        command = Command(self._place, tuple(info.on_change), info.on_change_timeout_s, environment)

        def then(result: object, now: float) -> None:
            error = failed(result)
            trouble = str(error) if error is not None else str(result)
            if trouble and info.rollback:
                self._undo(trouble)
                return
            if info.rollback:
                self._effects.do(self._lane, Settle(self._place), _ignore)
            self._end(self._applied(looked, f"its command failed: {trouble}" if trouble else ""), now)

        self._do(command, then)

    def _undo(self, trouble: str) -> None:
        version = self.go.version

        def then(result: object, now: float) -> None:
            if (error := failed(result)) is not None:
                self._end(Broken(error), now)
                return
            assert isinstance(result, Committed)
            if result.errors:
                # Neither version is here as a whole.
                self._end(_not_all(result), now)
                return
            words = f"its command failed, version {version} was rolled back: {trouble}"
            self._end(Applied(result.looked, self._held, words, undone=version), now)

        self._do(Undo(self._place, *self._held), then)

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _do(self, action: Action, then: Callable[[object, float], None]) -> None:
        self._local += 1

        def guarded(result: object, now: float) -> None:
            self._local -= 1
            if not self._over:
                self.answer_due_s = now + ANSWER_S
                then(result, now)

        self._effects.do(self._lane, action, guarded)

    def _end(self, end: End, now: float) -> None:
        if not self._over:
            self.stop()
            self._ended(end, now)


def _not_all(result: Committed) -> Broken:
    """Some paths could not be made what they were to be."""
    path, reason = result.errors[0]
    more = f" (and {len(result.errors) - 1} more)" if len(result.errors) > 1 else ""
    return Broken(ZClusterError(f"{path}: {reason}{more}", hint="what could be applied is applied"), result.looked)


def _those_here(wanted: list[tuple[str, Entry]], mine: Manifest, chunk_bytes: int) -> frozenset[str]:
    """The large files of ``wanted`` in whose places there are files now."""
    found: set[str] = set()
    for path, entry in wanted:
        listing = mine.get(parent(path)) if entry.size > chunk_bytes else None
        if listing is not None:
            name = path.rpartition("/")[2]
            found.update(path for one in decode_listing(listing) if one.name == name and one.kind == FILE)
    return frozenset(found)


def _ignore(result: object, now: float) -> None:
    """Nobody waits for this."""
