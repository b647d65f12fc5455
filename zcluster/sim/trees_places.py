"""The actions of file sync on simulated directories, by the same pure functions as on real ones.

Rules kept here:
- what is staged is a process's own, and gone with it; a failing disk takes it as well (as zcluster.files.sinkplace does);
- a source reads only what is still what its manifest recorded;
- what the machines must never ask for fails the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zcluster.core.sync.blocks import (
    BLOCK_BYTES,
    BLOCK_HASH_BYTES,
    CHUNK_BLOCKS,
    CHUNK_BYTES,
    block_count,
    block_range,
    check_runs,
)
from zcluster.core.sync.classify import classify, plan_of_changes
from zcluster.core.sync.effects import (
    Begin,
    Begun,
    Coarse,
    Commit,
    Committed,
    Compare,
    Fine,
    FinishLarge,
    HashBlocks,
    Looked,
    Number,
    Opened,
    Piece,
    Place,
    PlanChanges,
    Planned,
    PlanWalk,
    Put,
    Read,
)  # fmt: skip
from zcluster.core.sync.entry import DIRECTORY, FILE, Entry, Manifest, content_digest, parent
from zcluster.core.sync.plan import Classes, Plan, make_plan
from zcluster.core.sync.rules import Rules
from zcluster.errors import PeerError, ZClusterError
from zcluster.sim.trees_disk import Journal, Node, Nodes, Seen, SimTree, digest_of, node_of, ops_of, seen
from zcluster.wire.trees import Parcel

YOUNG_S = 0.02


@dataclass(frozen=True)
class Published:
    """A version that has its number."""

    number: int
    epoch: int
    root: bytes
    files: int
    nodes: Nodes


class SimPlace:
    """An open place: a process's view of a directory."""

    def __init__(self, place: Place, tree: SimTree, rules: Rules, clock: Callable[[], float]) -> None:
        self.place, self.tree, self.rules, self.clock = place, tree, rules, clock
        self.seen = Seen({})
        self.started = False
        self.looked_edits = -1
        """How many edits there had been at the last look."""
        tree.recover(clock())

    def look(self, dirty: frozenset[str] | None) -> Looked:
        """List and compare."""
        covers = self.rules.covers
        now = {path: node for path, node in self.tree.nodes.items() if covers(path, node.kind == DIRECTORY)}
        if dirty is not None and self.started:
            now = _refreshed(self.seen.nodes, now, dirty)
        young = frozenset(parent(path) for path, node in now.items() if self.clock() - node.at_s < YOUNG_S)
        self.started = True
        unseen = any(self.tree.nodes.get(path) != now.get(path) for path in {*self.tree.nodes, *now} if self._covers(path, now))
        self.looked_edits = -1 if unseen else self.tree.edits
        if now != self.seen.nodes or not self.seen.listings:
            self.seen = seen(now, self.rules.hash)
        return self._looked(young)

    def _covers(self, path: str, now: Nodes) -> bool:
        node = now.get(path) or self.tree.nodes[path]
        return self.rules.covers(path, node.kind == DIRECTORY)

    def _looked(self, young: frozenset[str] = frozenset()) -> Looked:
        held = self.seen
        return Looked(held.listings, held.root, held.files, held.bytes, True, self.tree.marked, young)


def _refreshed(before: Nodes, now: Nodes, dirty: frozenset[str]) -> Nodes:
    """``before``, where the directories ``dirty`` are as they are now, and what appeared in them with all beneath."""
    after = {path: node for path, node in before.items() if parent(path) not in dirty}
    fresh: set[str] = set()
    for path in sorted(now, key=lambda path: path.split("/")):
        above = parent(path)
        if above in fresh or above in dirty:
            if now[path].kind == DIRECTORY and (path not in before or before[path].kind != DIRECTORY):
                fresh.add(path)
            after[path] = now[path]
    # What lost its directory is gone as well.
    whole: Nodes = {}
    for path in sorted(after, key=lambda path: path.split("/")):
        above = parent(path)
        if not above or (above in whole and whole[above].kind == DIRECTORY):
            whole[path] = after[path]
    return whole


class SimSource(SimPlace):
    """A source. ``history`` outlives the process: numbers and roots, the newest last."""

    def __init__(self, place: Place, tree: SimTree, rules: Rules, clock: Callable[[], float], history: list[Published]) -> None:
        super().__init__(place, tree, rules, clock)
        self.history = history

    def opened(self) -> Opened:
        """Look at everything, and tell what was published last."""
        if not self.history:
            self.tree.marked = True
        looked = self.look(None)
        if not self.history:
            return Opened(looked)
        newest = self.history[-1]
        return Opened(looked, newest.number, newest.epoch, newest.root, newest.files)

    def number(self, action: Number) -> int:
        """The next number, durably."""
        self.tree.marked = True
        number = max(self.history[-1].number if self.history else 0, action.floor) + 1
        self.history.append(Published(number, action.epoch, action.root, action.files, self.seen.nodes))
        return number

    def read(self, action: Read) -> list[tuple[Parcel, bytes]]:
        """The pieces of a FETCH, a parcel for each chunk."""
        parcels: list[tuple[Parcel, bytes]] = []
        sizes: list[int] = []
        body = b""
        first = 0
        for piece in action.pieces:
            if sizes and len(body) + piece.size > CHUNK_BYTES:
                parcels.append((self._parcel(action.id, body, first, sizes, last=False), body))
                first, sizes, body = first + len(sizes), [], b""
            data = self._piece(piece)
            sizes.append(-1 if data is None else len(data))
            body += data or b""
        parcels.append((self._parcel(action.id, body, first, sizes, last=True), body))
        return parcels

    def _parcel(self, id_: int, body: bytes, first: int, sizes: list[int], *, last: bool) -> Parcel:
        return Parcel(tree=self.place[0], id=id_, raw_bytes=len(body), first=first, sizes=sizes, last=last)

    def _piece(self, piece: Piece) -> bytes | None:
        node = self._unchanged(piece.path, piece.digest)
        if node is None or piece.offset + piece.size > len(node.data):
            return None
        return node.data[piece.offset : piece.offset + piece.size]

    def _unchanged(self, path: str, digest: bytes) -> Node | None:
        held, node = self.seen.nodes.get(path), self.tree.nodes.get(path)
        if held is None or held != node or held.kind != FILE or digest_of(self.rules.hash, held.data) != digest:
            return None
        return held

    def hash_blocks(self, action: HashBlocks) -> bytes | None:
        """Hashes of blocks."""
        node = self._unchanged(action.path, action.digest)
        if node is None:
            return None
        data, size = node.data, action.block_bytes
        check_runs(action.runs, len(data), size, 32_768)
        blocks = [block for first, count in action.runs for block in range(first, first + count)]
        return b"".join(content_digest("xxh3_128", data[block * size : (block + 1) * size]) for block in blocks)

    def restore(self, nodes: Nodes) -> None:
        """Put an old version's files back."""
        theirs = seen(nodes, self.rules.hash)
        self.look(None)
        plan = make_plan(classify(theirs.listings, self.seen.listings, self.rules), self.rules)
        for op in ops_of(plan, theirs.nodes):
            self.tree.step(op, self.clock())


class SimPatch:
    """A large file that is being put together, as zcluster.files.patch does it."""

    def __init__(self, tree: SimTree, path: str, entry: Entry) -> None:
        self.path, self.entry, self.tree = path, entry, tree
        resumed = entry.digest in tree.partials
        self.data = tree.partials.setdefault(entry.digest, bytearray(entry.size))
        here = tree.nodes.get(path)
        old = here.data if here is not None and here.kind == FILE and len(here.data) >= BLOCK_BYTES else b""
        self.sources = [(bytes(self.data), 0)] if resumed else []
        if old:
            self.sources.append((old, 0))
            if len(old) != entry.size:
                self.sources.append((old, len(old) - entry.size))

    def has(self, offset: int, size: int, digest: bytes) -> bool:
        """Take a range from what is here, if it is here."""
        for data, shift in self.sources:
            start = offset + shift
            if start >= 0 and start + size <= len(data):
                found = data[start : start + size]
                if content_digest("xxh3_128", found) == digest:
                    self.data[offset : offset + size] = found
                    return True
        return False


class SimSink(SimPlace):
    """A copy."""

    def __init__(self, place: Place, tree: SimTree, rules: Rules, clock: Callable[[], float]) -> None:
        super().__init__(place, tree, rules, clock)
        tree.marked = True
        self.staged: Nodes = {}
        self.patches: dict[str, SimPatch] = {}
        self.before: Nodes | None = None

    def opened(self) -> Opened:
        """Look at everything, and tell what is held."""
        version, epoch, root = self.tree.state or (0, 0, b"")
        return Opened(self.look(None), version, epoch, root)

    # -- planning -------------------------------------------------------------------------------------------------------

    def compare(self, action: Compare | PlanWalk) -> Classes | None:
        """What differs."""
        return classify(action.theirs, self.seen.listings, self.rules) if self.seen.root == action.mine else None

    def plan_walk(self, action: PlanWalk) -> Planned | None:
        """What makes the copy as theirs."""
        classes = self.compare(action)
        return self._planned(make_plan(classes, self.rules)) if classes is not None else None

    def plan_changes(self, action: PlanChanges) -> Planned | None:
        """The same for changes."""
        plan = plan_of_changes(action.changes, self.seen.listings, self.rules)
        return self._planned(plan) if plan is not None else None

    def _planned(self, plan: Plan) -> Planned:
        needed = {path: entry.digest for path, entry in plan.staged.fetch}
        self.staged = {path: node for path, node in self.staged.items() if needed.get(path) == self._digest(node)}
        self.patches = {path: patch for path, patch in self.patches.items() if needed.get(path) == patch.entry.digest}
        for path, entry in plan.link:
            self.staged[path] = node_of(entry, b"")
        for path, entry, source in plan.copies:
            node = self.tree.nodes.get(source)
            if node is not None and node.kind == FILE and self._digest(node) == entry.digest:
                self.staged[path] = node_of(entry, node.data)
        for path, entry in plan.staged.fetch:
            if path in self.staged:
                self.staged[path] = node_of(entry, self.staged[path].data)
        return Planned(plan, [(path, entry) for path, entry in plan.staged.fetch if path not in self.staged])

    def _digest(self, node: Node) -> bytes:
        return digest_of(self.rules.hash, node.data)

    # -- staging --------------------------------------------------------------------------------------------------------

    def put(self, action: Put) -> int:
        """Stage what a parcel brought."""
        body, offset = bytes(action.body), 0
        for piece, entry, size in zip(action.pieces, action.entries, action.parcel.sizes, strict=True):
            if size < 0:
                continue
            content = body[offset : offset + size]
            offset += size
            if action.large:
                patch = self._patch(action.large)
                patch.data[piece.offset : piece.offset + size] = content
                continue
            if content_digest(self.rules.hash, content) != entry.digest:
                raise PeerError("the content has another digest")
            self.staged[piece.path] = node_of(entry, content)
        return offset

    def lost(self) -> None:
        """The disk failed."""
        self.staged, self.patches = {}, {}

    def _patch(self, path: str) -> SimPatch:
        patch = self.patches.get(path)
        if patch is None:
            raise ZClusterError(f"the patch of {path} is closed")
        return patch

    def begin(self, action: Begin) -> Begun:
        """Begin or resume a large file."""
        patch = self.patches[action.path] = SimPatch(self.tree, action.path, action.entry)
        return Begun(bool(patch.sources))

    def coarse(self, action: Coarse) -> list[int]:
        """The chunks that are nowhere here."""
        patch, missing = self._patch(action.path), []
        for chunk in range(block_count(patch.entry.size, CHUNK_BYTES)):
            offset, size = block_range(chunk, patch.entry.size, CHUNK_BYTES)
            if not patch.has(offset, size, _nth(action.hashes, chunk)):
                missing.append(chunk)
        return missing

    def fine(self, action: Fine) -> list[tuple[int, int]]:
        """The ranges that are nowhere here, neighbours merged."""
        patch, index = self._patch(action.path), 0
        ranges: list[tuple[int, int]] = []
        for first, count in action.runs:
            for block in range(first, first + count):
                offset, size = block_range(block, patch.entry.size)
                if not patch.has(offset, size, _nth(action.hashes, index)):
                    if ranges and sum(ranges[-1]) == offset:
                        ranges[-1] = (ranges[-1][0], ranges[-1][1] + size)
                    else:
                        ranges.append((offset, size))
                index += 1
        return ranges

    def finish_large(self, action: FinishLarge) -> None:
        """The large file is complete: check it."""
        patch = self._patch(action.path)
        del self.patches[action.path]
        data = bytes(patch.data)
        if content_digest(self.rules.hash, data) != patch.entry.digest:
            self.tree.partials.pop(patch.entry.digest, None)
            raise PeerError(f"the content of {action.path!r} does not have its digest")
        self.staged[action.path] = node_of(patch.entry, data)

    # -- committing -----------------------------------------------------------------------------------------------------

    def decide(self, action: Commit) -> None:
        """Write the journal: from here on the commit will be done."""
        self.before = dict(self.seen.nodes) if action.undo else None
        plan = action.plan
        for path, entry in plan.staged.fetch:
            if path not in self.staged or self._digest(self.staged[path]) != entry.digest:
                raise AssertionError(f"a commit of version {action.version} without the content of {path}")
        self.tree.journal = Journal(ops_of(plan, self.staged), (action.version, action.epoch, action.root))

    def carry_out(self, plan: Plan) -> Committed:
        """Do what the journal says."""
        tree, journal = self.tree, self.tree.journal
        assert journal is not None
        now = self.clock()
        found = [(op[1], tree.step(op, now)) for op in journal.ops]
        tree.state, tree.journal = journal.state, None
        self.staged, self.patches = {}, {}
        tree.partials.clear()
        errors = tuple((path, reason) for path, reason in found if reason)
        touched = frozenset(parent(op[1]) for op in journal.ops)
        return Committed(self.look(touched), (*errors, *plan.blocked), ())

    def undo(self, version: int, epoch: int, root: bytes) -> Committed:
        """Go back."""
        before, self.before = self.before, None
        if before is None:
            raise ZClusterError("nothing is kept to go back to")
        self.look(None)
        theirs: Manifest = seen(before, self.rules.hash).listings
        plan = make_plan(classify(theirs, self.seen.listings, self.rules), self.rules)
        self.tree.journal = Journal(ops_of(plan, before), (version, epoch, root))
        return self.carry_out(plan)


def _nth(hashes: bytes, index: int) -> bytes:
    return hashes[index * BLOCK_HASH_BYTES : (index + 1) * BLOCK_HASH_BYTES]


assert CHUNK_BYTES == BLOCK_BYTES * CHUNK_BLOCKS
