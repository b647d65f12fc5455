"""The places of this node's trees, and the actions of the machines on them.

Rules kept here:
- where a tree may be on a worker is this node's own decision: beneath the places that its configuration names, nowhere else;
- no two trees of a node overlap, wherever they were put and whatever links lead there;
- an action on a place that is not open is an error, never a new directory.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from zcluster.config import Home, home_conflict
from zcluster.config.sync import EXTRA
from zcluster.core.sync.classify import differences
from zcluster.core.sync.effects import (
    Action,
    Begin,
    Close,
    Coarse,
    Command,
    Commit,
    Compare,
    Differ,
    Fine,
    FinishLarge,
    HashBlocks,
    Look,
    Number,
    Open,
    PlanChanges,
    PlanWalk,
    Put,
    Read,
    Record,
    Restore,
    Settle,
    Undo,
)  # fmt: skip
from zcluster.core.sync.effects import Place as PlaceKey
from zcluster.core.sync.paths import name_fault
from zcluster.core.sync.rules import Rules
from zcluster.errors import NotAllowed, PeerError, UsageError, ZClusterError
from zcluster.files.beneath import CONTROL_NAME
from zcluster.files.command import run_command
from zcluster.files.extraplace import ExtraPlace
from zcluster.files.history import History
from zcluster.files.merged import WORKERS_NAME
from zcluster.files.mergedplace import MergedPlace, MergedRoot
from zcluster.files.places import Place
from zcluster.files.sinkplace import SinkPlace
from zcluster.files.sourceplace import SourcePlace
from zcluster.wire.trees import TreeInfo


@dataclass(frozen=True)
class Layout:
    """Where things are on this node.

    Attributes:
        data: the directory for what is remembered of trees.
        home: relative paths are below it.
        default_root: on a worker, where trees are that name no place of their own.
        allowed: on a worker, the directories beneath which the master may put trees; on a master None: all.
        merged: on a master, the trees whose workers' files are merged into one directory.
    """

    data: Path
    home: Path
    default_root: Path
    allowed: tuple[Path, ...] | None
    merged: frozenset[str] = frozenset()

    def locate(self, place: PlaceKey, info: TreeInfo) -> Path:
        """The directory of a place.

        Raises:
            NotAllowed: this node does not let trees be there, or its own keys and data are there.
            PeerError: the tree's name is no name of a file, and files here have names that begin with it.
        """
        tree, worker = place
        if fault := name_fault(tree):
            raise PeerError(f"a tree cannot be called {tree!r}: {fault}")
        if self.allowed is not None:
            # A worker has its own files of a copy where the copy is.
            tree = tree.removesuffix(EXTRA)
        path = self.home / info.path if info.path else self.default_root / tree
        if worker:
            path = path / CONTROL_NAME / WORKERS_NAME / worker if tree in self.merged else path / worker
        if self.allowed is not None and not any(_beneath(path, root) for root in self.allowed):
            roots = ", ".join(map(str, self.allowed))
            raise NotAllowed(f"the tree {tree} is to be at {path}, this worker lets trees be beneath {roots} only", hint=(
                "add the directory to worker.tree_roots in this worker's zcluster.toml"
            ))  # fmt: skip
        if self.allowed is not None and (own := home_conflict(str(path), Home(self.home))):
            raise NotAllowed(f"the tree {tree} is to be at {path}, which overlaps {own}", hint="give it another worker_path")
        return path


class Disks:
    """All places of this node.

    Args:
        history: numbers of versions, and on a master what they held.
        keep: whether versions are kept for rollback.
        hint: called from other threads with the place where something may have changed.
    """

    def __init__(
        self, layout: Layout, history: History, *, keep: bool, hint: Callable[[PlaceKey], None]
    ) -> None:
        self._layout, self._history, self._keep, self._hint = layout, history, keep, hint
        self._places: dict[PlaceKey, Place] = {}
        self._lock = threading.Lock()
        self._taken: dict[PlaceKey, Path] = {}
        """The directories of the places that are open or being opened."""
        self._merged: dict[str, MergedRoot] = {}

    def do(self, action: Action) -> object:
        """Do ``action`` and return its result.

        Raises:
            ZClusterError: why it could not be done.
        """
        if isinstance(action, Open):
            return self._open(action)
        place = self._places.get(action.place)
        match action, place:
            case Close(), _:
                self._close(action.place)
                return None
            case Differ(), _:
                return differences(action.before, action.after)
            case Command(), Place():
                return run_command(action, place.root)
            case Look(), Place():
                return place.look(action.dirty)
            case _, SinkPlace():
                return _sink(place, action)
            case _, SourcePlace():
                return _source(place, action)
        raise ZClusterError(f"the tree {action.place[0]} is not open here", hint="its reason is in `zcluster sync status`")

    def place(self, key: PlaceKey) -> Place:
        """An open place.

        Raises:
            UsageError: it is not open.
        """
        place = self._places.get(key)
        if place is None:
            raise UsageError(f"the tree {key[0]} is not open here", hint="its reason is in `zcluster sync status`")
        return place

    def open_places(self) -> list[PlaceKey]:
        """The places that are open."""
        return list(self._places)

    def save(self, key: PlaceKey) -> None:
        """Remember what was looked at in a place."""
        place = self._places.get(key)
        if place is not None:
            place.save()

    def _open(self, action: Open) -> object:
        key, info = action.place, action.info
        self._close(key)
        root = self._layout.locate(key, info)
        self._take(key, root.parents[2] if self._is_merged(key) else root)
        try:
            cache = self._layout.data / f"{f'{key[0]}@{key[1]}' if key[1] else key[0]}.cache"
            cache.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            place = self._source_at(key, info, root, cache) if action.source else self._sink_at(key, info, root, cache)
        except BaseException:
            self._release(key)
            raise
        self._places[key] = place
        return place.opened()

    def _source_at(self, key: PlaceKey, info: TreeInfo, root: Path, cache: Path) -> SourcePlace:
        create = self._layout.allowed is not None
        hint = partial(self._hint, key)
        rules = Rules.of(info).for_source()
        place = ExtraPlace if self._is_extra(key) else SourcePlace
        return place(root, key[0], rules, cache, hint, self._history, keep=self._keep, create=create)

    def _sink_at(self, key: PlaceKey, info: TreeInfo, root: Path, cache: Path) -> SinkPlace:
        tree, worker = key
        hint, rules = partial(self._hint, key), Rules.of(info)
        if not self._is_merged(key):
            return SinkPlace(root, tree, rules, cache, hint, info.owner)
        with self._lock:
            shared = self._merged.get(tree)
            if shared is None:
                shared = self._merged[tree] = MergedRoot(root.parents[2], tree)
            shared.join(worker, hint)
        try:
            return MergedPlace(shared, worker, root, tree, rules, cache, hint, info.owner, partial(self._leave, tree, worker))
        except BaseException:
            self._leave(tree, worker)
            raise

    def _leave(self, tree: str, worker: str) -> None:
        with self._lock:
            shared = self._merged.get(tree)
            if shared is not None and shared.leave(worker):
                del self._merged[tree]

    def _close(self, key: PlaceKey) -> None:
        place = self._places.pop(key, None)
        if place is not None:
            place.save()
            place.close()
        self._release(key)

    def _release(self, key: PlaceKey) -> None:
        with self._lock:
            self._taken.pop(key, None)

    def _is_extra(self, key: PlaceKey) -> bool:
        return key[0].endswith(EXTRA) and self._layout.allowed is not None

    def _together(self, one: PlaceKey, other: PlaceKey) -> bool:
        """Whether two places may have directories that overlap."""
        if one[0] == other[0]:
            return self._is_merged(one) and self._is_merged(other)
        pair = one[0].removesuffix(EXTRA) == other[0].removesuffix(EXTRA)
        return pair and (self._is_extra(one) or self._is_extra(other))

    def _is_merged(self, key: PlaceKey) -> bool:
        return bool(key[1]) and key[0] in self._layout.merged

    def _take(self, key: PlaceKey, root: Path) -> None:
        """Note where a place is going to be, if nothing is in the way."""
        with self._lock:
            for other, taken in self._taken.items():
                overlaps = _beneath(root, taken) or _beneath(taken, root)
                if other != key and overlaps and not (self._together(key, other) and root == taken):
                    raise UsageError(
                        f"the tree {key[0]} at {root} overlaps the tree {other[0]} at {taken}",
                        hint="give one of them another path",
                    )
            self._taken[key] = root

    def collect(self, key: PlaceKey) -> frozenset[str] | None:
        """The directories of a place that were hinted at; None: everything."""
        place = self._places.get(key)
        return place.collect() if place is not None else frozenset()


def _sink(place: SinkPlace, action: Action) -> object:
    match action:
        case PlanWalk():
            return place.plan_walk(action.theirs, action.mine)
        case PlanChanges():
            return place.plan_changes(action.changes)
        case Compare():
            return place.compare(action.theirs, action.mine)
        case Put():
            return place.put(action)
        case Begin():
            return place.begin(action)
        case Coarse():
            return place.coarse(action)
        case Fine():
            return place.fine(action)
        case FinishLarge():
            place.finish_large(action.path)
            return None
        case Commit():
            return place.commit(action)
        case Undo():
            return place.undo(action.version, action.epoch, action.root)
        case Settle():
            place.settle()
            return None
    raise UsageError(f"a sink does no {type(action).__name__}")


def _source(place: SourcePlace, action: Action) -> object:
    match action:
        case Number():
            return place.number(action)
        case Record():
            return place.record(action)
        case Read():
            return place.read(action)
        case HashBlocks():
            return place.hash_blocks(action)
        case Restore():
            place.restore(action.version)
            return None
    raise UsageError(f"a source does no {type(action).__name__}")


def _beneath(path: Path, root: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))
