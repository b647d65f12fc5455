"""A directory on a simulated disk: what is in it, and what of it outlives a crash.

Rules kept here:
- a crash keeps the files, the state, the journal and the partial files of large ones; all else that a process knew is gone;
- a commit is first a journal, then the files one after the other, then the state; recovery does all of it again, or nothing;
- a partial file may have lost what was written to it last.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

from zcluster.core.sync.entry import (
    DIRECTORY,
    FILE,
    LINK,
    Entry,
    Kind,
    content_digest,
    encode_listing,
    listing_digest,
    parent,
)  # fmt: skip
from zcluster.core.sync.plan import Plan

NS = 1_000_000_000


@dataclass(frozen=True)
class Node:
    """A file, directory or link. ``stamp`` grows with each change, as a ctime does."""

    kind: Kind
    mode: int = 0o644
    data: bytes = b""
    mtime_ns: int = 0
    stamp: int = 0
    at_s: float = 0.0
    target: str = ""


Nodes = dict[str, Node]
Op = tuple[str, str, Node | None]
"""What, where, and with what: one step of a commit, which may be done twice."""


@dataclass
class Journal:
    """A commit that is decided."""

    ops: list[Op]
    state: tuple[int, int, bytes] | None


@dataclass
class Seen:
    """A manifest, and what was there when it was made."""

    nodes: Nodes
    listings: dict[str, bytes] = field(default_factory=dict)
    root: bytes = b""
    files: int = 0
    bytes: int = 0


@lru_cache(maxsize=8192)
def digest_of(hash_name: str, data: bytes) -> bytes:
    """The digest of a content."""
    return content_digest(hash_name, data)


def entry_of(name: str, node: Node, hash_name: str, listing: bytes = b"") -> Entry:
    """The entry of a node; a directory's needs its listing."""
    if node.kind == DIRECTORY:
        return Entry(name, DIRECTORY, 0, 0, node.mode, listing_digest(listing))
    if node.kind == LINK:
        return Entry(name, LINK, 0, 0, 0, b"", node.target)
    return Entry(name, FILE, len(node.data), node.mtime_ns, node.mode, digest_of(hash_name, node.data))


def seen(nodes: Nodes, hash_name: str) -> Seen:
    """The manifest of ``nodes``."""
    inside: dict[str, list[Entry]] = {"": []}
    for path, node in nodes.items():
        if node.kind == DIRECTORY:
            inside[path] = []
    listings: dict[str, bytes] = {}
    files = size = 0
    # What is in a directory sorts behind it: from the back, its listing is there when its entry is made.
    for path in sorted(nodes, key=lambda path: path.split("/"), reverse=True):
        node = nodes[path]
        listing = b""
        if node.kind == DIRECTORY:
            listing = listings[path] = encode_listing(inside[path])
        else:
            files, size = files + 1, size + len(node.data)
        inside[parent(path)].append(entry_of(path.rpartition("/")[2], node, hash_name, listing))
    listings[""] = encode_listing(inside[""])
    return Seen(dict(nodes), listings, listing_digest(listings[""]), files, size)


class SimTree:
    """One tree's directory."""

    def __init__(self) -> None:
        self.nodes: Nodes = {}
        self.state: tuple[int, int, bytes] | None = None
        self.journal: Journal | None = None
        self.partials: dict[bytes, bytearray] = {}
        self.marked = False
        self.stamp = 0
        self.edits = 0
        """Changes that somebody else than the sync process made."""

    # -- what somebody does here ----------------------------------------------------------------------------------------

    def put(self, path: str, node: Node, now: float) -> None:
        """There is ``node`` at ``path`` now, and whatever it needs above it."""
        above = parent(path)
        if above and (above not in self.nodes or self.nodes[above].kind != DIRECTORY):
            self.put(above, Node(DIRECTORY, 0o755), now)
        here = self.nodes.get(path)
        if here is not None and (here.kind != DIRECTORY or node.kind != DIRECTORY):
            self.remove(path)
        self.nodes[path] = self._stamped(node, now)

    def remove(self, path: str) -> None:
        """``path`` and all beneath is gone."""
        for one in [path, *self.beneath(path)]:
            self.nodes.pop(one, None)

    def rename(self, path: str, to: str, now: float) -> None:
        """``path``, with all beneath, is at ``to`` now."""
        moved = {one: self.nodes.pop(one) for one in [path, *self.beneath(path)]}
        for one, node in moved.items():
            self.put(to + one[len(path) :], node, now)

    def beneath(self, path: str) -> list[str]:
        """All that is in the directory ``path``."""
        return [one for one in self.nodes if one.startswith(f"{path}/")]

    def _stamped(self, node: Node, now: float) -> Node:
        self.stamp += 1
        return replace(node, stamp=self.stamp, at_s=now)

    # -- commits --------------------------------------------------------------------------------------------------------

    def step(self, op: Op, now: float) -> str:
        """One step of a commit; returns why it cannot be done, or nothing."""
        what, path, node = op
        here = self.nodes.get(path)
        above = parent(path)
        if what in ("file", "directory") and above and (above not in self.nodes or self.nodes[above].kind != DIRECTORY):
            return "its directory is not there"
        match what:
            case "away" | "delete":
                if here is not None and here.kind == DIRECTORY and self.beneath(path):
                    return "" if what == "delete" else "it is not empty"
                if here is not None and (what == "away" or here.kind != DIRECTORY):
                    del self.nodes[path]
            case "rmdir":
                if here is not None and here.kind == DIRECTORY and not self.beneath(path):
                    del self.nodes[path]
            case _ if node is None:
                return ""
            case "directory":
                if here is not None and here.kind != DIRECTORY:
                    return "a file is in its way"
                self.nodes[path] = self._stamped(node, now)
            case "file":
                if here is not None and here.kind == DIRECTORY:
                    return "a directory is in its way"
                self.nodes[path] = self._stamped(node, now)
            case "touch":
                if here is None or here.kind != node.kind:
                    return "it is not there"
                self.nodes[path] = self._stamped(replace(here, mode=node.mode, mtime_ns=node.mtime_ns), now)
        return ""

    def recover(self, now: float) -> None:
        """Do again what a crash may have interrupted."""
        journal, self.journal = self.journal, None
        if journal is not None:
            for op in journal.ops:
                self.step(op, now)
            if journal.state is not None:
                self.state = journal.state


def ops_of(plan: Plan, staged: dict[str, Node]) -> list[Op]:
    """The steps of a plan, in their order; ``staged`` has the files and links."""
    ops: list[Op] = []
    # What a directory that makes way for a file holds goes first.
    away = set(plan.move_away)
    early = [path for path in plan.delete_files if any(path.startswith(f"{one}/") for one in away)]
    ops += [("delete", path, None) for path in early]
    ops += [("rmdir", path, None) for path in plan.delete_dirs if any(path.startswith(f"{one}/") for one in away)]
    ops += [("away", path, None) for path in plan.move_away]
    ops += [("directory", path, Node(DIRECTORY, mode)) for path, mode in plan.make_dirs]
    ops += [("file", path, staged[path]) for path, _ in (*plan.staged.fetch, *plan.link)]
    ops += [("touch", path, Node(entry.kind, entry.mode, b"", entry.mtime_ns)) for path, entry in plan.touch]
    ops += [("delete", path, None) for path in plan.delete_files if path not in early]
    ops += [("rmdir", path, None) for path in plan.delete_dirs]
    return ops


def node_of(entry: Entry, data: bytes) -> Node:
    """What is staged for an entry."""
    return Node(entry.kind, entry.mode, data, entry.mtime_ns, target=entry.target)
