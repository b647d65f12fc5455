"""A copy of a tree, on disk: planned, staged, committed, and taken back where its command says so.

Rules kept here:
- what is staged survives a pull that did not come to its end: the next plan uses what still fits and drops the rest;
- nothing that came from the source is used before its digest has been checked;
- while a version may still be taken back, the files that it replaced or deleted keep a second name beside the tree.
"""

from __future__ import annotations

import grp
import os
import pwd
import threading
import time
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from pathlib import Path

import orjson

from zcluster.core.sync.blocks import CHUNK_BYTES
from zcluster.core.sync.classify import classify, plan_of_changes
from zcluster.core.sync.effects import Begin, Begun, Coarse, Commit, Committed, Fine, Opened, Piece, Planned, Put
from zcluster.core.sync.entry import DIRECTORY, HASHES, Change, Entry, Manifest, parent
from zcluster.core.sync.intake import check_totals
from zcluster.core.sync.plan import Classes, Plan, make_plan
from zcluster.core.sync.rules import Rules
from zcluster.errors import ConfigError, PeerError, ZClusterError
from zcluster.files.packing import unpack
from zcluster.files.patch import Patch
from zcluster.files.places import Hint, Place
from zcluster.files.staging import Staging
from zcluster.files.undo import Undoing

MAX_OLD = 64
"""Old large files that are held open until a commit is over."""


class SinkPlace(Place):
    """One copy.

    Args:
        owner: "user" or "user:group" that its files get; empty: whoever runs this process.

    Raises:
        ConfigError: there is no such user or group here, or this process may not give files away.
    """

    def __init__(self, root: Path, tree: str, rules: Rules, cache: Path, hint: Hint, owner: str) -> None:
        self._owner = _owner(owner)
        self._old_fds: list[int] = []
        super().__init__(root, tree, rules, cache, hint, create=True)
        self._staging = Staging(self.treedir, 0, rules.hash, self._owner)
        self._staged: dict[str, bytes] = {}
        self._patches: dict[str, Patch] = {}
        self._undoing: Undoing | None = None

    def opened(self) -> Opened:
        """Look at everything, and tell which version is held."""
        state = read_state(self.treedir.state())
        looked = self.look(None)
        return Opened(
            looked=looked, version=state[0], epoch=state[1], root=state[2], watching=self.watching, location=str(self.root)
        )  # fmt: skip

    def reopen(self) -> None:
        super().reopen()
        self._staging = Staging(self.treedir, 0, self.rules.hash, self._owner)
        self._staged, self._patches = {}, {}

    # -- planning -------------------------------------------------------------------------------------------------------

    def compare(self, theirs: Manifest, mine: bytes) -> Classes | None:
        """What differs; None when the copy's root is not ``mine`` any more: ``theirs`` goes with another one."""
        return classify(theirs, self.local.listings, self.rules) if self.local.root == mine else None

    def plan_walk(self, theirs: Manifest, mine: bytes) -> Planned | None:
        """What makes this copy as ``theirs``; what is here already is staged at once. None: as :meth:`compare`.

        Raises:
            TooLarge: it would hold more than its rules allow.
        """
        classes = self.compare(theirs, mine)
        return self._planned(make_plan(classes, self.rules)) if classes is not None else None

    def plan_changes(self, changes: list[Change]) -> Planned | None:
        """The same for a list of changes; None when they do not start from what is here."""
        plan = plan_of_changes(changes, self.local.listings, self.rules)
        return self._planned(plan) if plan is not None else None

    def _planned(self, plan: Plan) -> Planned:
        check_totals(self.rules, self.local.files + plan.more_files, self.local.size_bytes + plan.more_bytes)
        self._forget_stale(plan)
        for path, entry in plan.link:
            self._staging.put_link(path, entry)
            self._staged[path] = entry.target.encode()
        wanted = [(path, entry) for path, entry in plan.fetch if self._staged.get(path) != entry.digest]
        wanted += [(path, entry) for path, entry, source in plan.copies if not self._copied(path, entry, source)]
        return Planned(plan, wanted)

    def _forget_stale(self, plan: Plan) -> None:
        """Drop what is staged and belongs to no file of the plan any more."""
        needed = {path: entry.digest for path, entry in plan.staged.fetch}
        for path in [path for path, digest in self._staged.items() if needed.get(path) != digest]:
            self._staging.forget(path)
            del self._staged[path]
        for path in [path for path, patch in self._patches.items() if needed.get(path) != patch.entry.digest]:
            self._patches.pop(path).close()

    def _copied(self, path: str, entry: Entry, source: str) -> bool:
        """Stage a file from another one here. False: that one is not what it was, so it has to be fetched."""
        if self._staged.get(path) == entry.digest:
            return True
        try:
            fd = self.treedir.beneath.open(source, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            if entry.size <= CHUNK_BYTES:
                self._staging.put(path, entry, os.pread(fd, entry.size + 1, 0))
            elif not self._copy_large(path, entry, fd):
                return False
        except (PeerError, OSError):
            return False
        finally:
            os.close(fd)
        self._staged[path] = entry.digest
        return True

    def _copy_large(self, path: str, entry: Entry, fd: int) -> bool:
        if _digest_of(fd, self.rules.hash) != entry.digest:
            return False
        patch = self._staging.begin(path, entry)
        offset = 0
        while part := os.pread(fd, CHUNK_BYTES, offset):
            patch.write(offset, part)
            offset += len(part)
        patch.finish()
        return True

    # -- staging --------------------------------------------------------------------------------------------------------

    def put(self, action: Put) -> int:
        """Stage what a parcel brought; returns how many bytes.

        Raises:
            PeerError: it is not what it should be. ZClusterError: the disk is full or failed.
        """
        message = action.parcel
        content = memoryview(unpack(message.encoding, action.body, message.raw_bytes))
        if sum(size for size in message.sizes if size > 0) != len(content):
            raise PeerError("the sizes of a PARCEL do not add up to its content")
        offset = 0
        try:
            for piece, entry, size in zip(action.pieces, action.entries, message.sizes, strict=True):
                if size < 0:
                    continue
                self._put_one(piece, entry, content[offset : offset + size], action.large)
                offset += size
        except ZClusterError as error:
            if not isinstance(error, PeerError):
                self._lost()
            raise
        return offset

    def _put_one(self, piece: Piece, entry: Entry, content: memoryview, large: str) -> None:
        if large:
            self._patches[large].write(piece.offset, content)
        else:
            self._staging.put(piece.path, entry, content)
            self._staged[piece.path] = entry.digest

    def begin(self, action: Begin) -> Begun:
        """Begin or resume a large file."""
        before = self._patches.pop(action.path, None)
        if before is not None:
            before.close()
        self._keep_old(action.path)
        patch = self._patches[action.path] = self._staging.begin(action.path, action.entry)
        return Begun(patch.needs_hashes)

    def _keep_old(self, path: str) -> None:
        """Hold the old file open until after the commit: the kernel gives its pages back when the last one lets go, a tenth
        of a second for 1 GiB, and nobody has to wait for that."""
        if len(self._old_fds) < MAX_OLD:
            with suppress(OSError, PeerError):
                self._old_fds.append(self.treedir.beneath.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))

    def _let_old_go(self) -> None:
        fds, self._old_fds = self._old_fds, []
        if fds:
            threading.Thread(target=_close_all, args=(fds,), daemon=True, name="old files").start()

    def coarse(self, action: Coarse) -> list[int]:
        """The chunks of the large file that are nowhere here."""
        return self._patches[action.path].coarse(action.hashes)

    def fine(self, action: Fine) -> list[tuple[int, int]]:
        """The ranges of the large file that are nowhere here."""
        patch = self._patches[action.path]
        ranges: list[tuple[int, int]] = []
        start = 0
        for first, count in action.runs:
            end = start + 16 * count
            ranges += patch.fine(first, action.hashes[start:end])
            start = end
        return ranges

    def finish_large(self, path: str) -> None:
        """The large file is complete.

        Raises:
            PeerError: it is not what its entry says; nothing of it is trusted the next time.
        """
        patch = self._patches.pop(path)
        patch.finish()
        self._staged[path] = patch.entry.digest

    def _lost(self) -> None:
        """The disk failed: what was staged has been swept."""
        self._staged, self._patches = {}, {}
        self._let_old_go()

    def close(self) -> None:
        super().close()
        self._let_old_go()

    # -- committing -----------------------------------------------------------------------------------------------------

    def commit(self, action: Commit) -> Committed:
        """Make what is staged the present version, durably.

        Raises:
            ZClusterError: the disk is full or failed; the tree is as it was, or recovery completes it.
        """
        if self._undoing is not None:
            self._undoing.drop()
            self._undoing = None
        if action.undo:
            self._undoing = Undoing(self.treedir, self.local.listings, action.plan)
        return self._commit(action.plan, action.version, _state(action.version, action.epoch, action.root))

    def _commit(self, plan: Plan, version: int, state: bytes) -> Committed:
        with self.watcher.held_back() if self.watcher is not None else nullcontext():
            return self._commit_unwatched(plan, version, state)

    def _commit_unwatched(self, plan: Plan, version: int, state: bytes) -> Committed:
        self._staging.version = version
        try:
            applied = self._staging.commit(plan.staged, state)
        except ZClusterError:
            self._lost()
            if not self.treedir.recovered:
                self.treedir.recover()
            raise
        self._staged, self._patches = {}, {}
        self._let_old_go()
        known = dict(plan.fetch) | {path: entry for path, entry, _ in plan.copies}
        looked = self.look(_touched(plan), known, time.time_ns())
        errors = (*applied.errors, *plan.blocked)
        return Committed(looked, tuple((path, reason) for path, reason in errors), tuple(applied.kept))

    def undo(self, version: int, epoch: int, root: bytes) -> Committed:
        """Go back to what was here before the last commit.

        Raises:
            ZClusterError: the disk is full or failed.
        """
        undoing, self._undoing = self._undoing, None
        if undoing is None:
            raise ZClusterError("nothing is kept to go back to", hint="the next version mends the copy")
        self.look(None)
        plan = make_plan(classify(undoing.before, self.local.listings, self.rules), self.rules)
        for path, entry in plan.link:
            self._staging.put_link(path, entry)
        for path, entry in plan.staged.fetch:
            undoing.stage(self._staging, path, entry)
        committed = self._commit(plan, version, _state(version, epoch, root))
        undoing.drop()
        return committed

    def settle(self) -> None:
        """The last commit stays."""
        if self._undoing is not None:
            self._undoing.drop()
            self._undoing = None


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _touched(plan: Plan) -> frozenset[str]:
    """What a plan changes: files by themselves, directories by the one that they are in."""
    files: Iterable[str] = (
        *(path for path, _ in plan.fetch), *(path for path, _, _ in plan.copies), *(path for path, _ in plan.link),
        *(path for path, entry in plan.touch if entry.kind != DIRECTORY), *plan.delete_files,
    )  # fmt: skip
    directories: Iterable[str] = (
        *(path for path, entry in plan.touch if entry.kind == DIRECTORY), *(path for path, _ in plan.make_dirs),
        *plan.move_away, *plan.delete_dirs,
    )  # fmt: skip
    return frozenset((*files, *map(parent, directories)))


def _state(version: int, epoch: int, root: bytes) -> bytes:
    return orjson.dumps({"version": version, "epoch": epoch, "root": root.hex()})


def read_state(data: bytes | None) -> tuple[int, int, bytes]:
    """Version, epoch and root that are held; zeros when that is not known: the copy is then compared."""
    try:
        state = orjson.loads(data or b"{}")
        return int(state["version"]), int(state["epoch"]), bytes.fromhex(state["root"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return 0, 0, b""


def _owner(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    user, _, group = text.partition(":")
    try:
        account = pwd.getpwnam(user)
        owner = (account.pw_uid, grp.getgrnam(group).gr_gid if group else account.pw_gid)
    except KeyError:
        hint = "make the user and group, or change the tree's owner"
        raise ConfigError(f"there is no owner {text!r} on this machine", hint=hint) from None
    if os.geteuid() and owner != (os.geteuid(), os.getegid()):
        raise ConfigError(f"only root can give files to {text}", hint="run the node as root, or change the tree's owner")
    return owner


def _digest_of(fd: int, hash_name: str) -> bytes:
    hasher = HASHES[hash_name]()
    offset = 0
    while part := os.pread(fd, CHUNK_BYTES, offset):
        hasher.update(part)
        offset += len(part)
    return hasher.digest()
