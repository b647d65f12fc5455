"""What a version replaced, kept until its command has agreed to it.

Rules kept here:
- a file that is going to be replaced or deleted gets a second name (a hard link) in zcluster's own directory before that;
- on a file system without hard links it is copied;
- after a restart nothing of it is used, and the staging directory's sweep removes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from zcluster.core.sync.blocks import CHUNK_BYTES
from zcluster.core.sync.entry import EMPTY_LISTING, FILE, Entry, Manifest, decode_listing, parent
from zcluster.core.sync.plan import Plan
from zcluster.errors import ZClusterError
from zcluster.files import durable
from zcluster.files.staging import Staging
from zcluster.files.treedir import TreeDir


class Undoing:
    """The files that ``plan`` is going to replace or delete, by their digests.

    Args:
        before: the manifest before it.

    Raises:
        ZClusterError: they could not be kept; nothing was changed.
    """

    def __init__(self, treedir: TreeDir, before: Manifest, plan: Plan) -> None:
        self.before = before
        self._treedir = treedir
        self._names: dict[bytes, str] = {}
        self._parsed: dict[str, dict[str, Entry]] = {}
        """The one directory that was looked up last: paths come directory by directory."""
        try:
            for path in _going(plan):
                self._keep(path)
        except OSError as error:
            self.drop()
            raise durable.disk_error("what this version replaces cannot be kept", error) from None

    def stage(self, staging: Staging, path: str, entry: Entry) -> None:
        """Stage the old content of ``path`` again.

        Raises:
            ZClusterError: it is not here.
        """
        name = self._names.get(entry.digest)
        if name is None:
            raise ZClusterError(f"the old content of {path} was not kept", hint="the next version mends the copy")
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._treedir.stage_fd)
        try:
            if entry.size <= CHUNK_BYTES:
                staging.put(path, entry, os.pread(fd, entry.size + 1, 0))
                return
            patch = staging.begin(path, entry)
            offset = 0
            while part := os.pread(fd, CHUNK_BYTES, offset):
                patch.write(offset, part)
                offset += len(part)
            patch.finish()
        finally:
            os.close(fd)

    def drop(self) -> None:
        """They are not needed any more."""
        names, self._names = self._names, {}
        for name in names.values():
            self._treedir.drop(name)

    def _keep(self, path: str) -> None:
        entry = self._entry(path)
        if entry is None or entry.kind != FILE or entry.digest in self._names:
            return
        treedir = self._treedir
        name = treedir.staged_name()
        directory, leaf = treedir.beneath.at(path)
        # From now on: a copy that fails half-way is to go as well.
        self._names[entry.digest] = name
        try:
            os.link(leaf, name, src_dir_fd=directory, dst_dir_fd=treedir.stage_fd, follow_symlinks=False)
        except FileNotFoundError:
            del self._names[entry.digest]
        except (PermissionError, NotImplementedError):
            self._copy(path, name)

    def _copy(self, path: str, name: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        source = self._treedir.beneath.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            target = os.open(name, flags, 0o600, dir_fd=self._treedir.stage_fd)
            try:
                offset = 0
                while part := os.pread(source, CHUNK_BYTES, offset):
                    durable.write_all(target, part)
                    offset += len(part)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _entry(self, path: str) -> Entry | None:
        directory = parent(path)
        if directory not in self._parsed:
            self._parsed = {directory: {entry.name: entry for entry in decode_listing(self.before.get(directory, EMPTY_LISTING))}}
        return self._parsed[directory].get(path.rpartition("/")[2])


def _going(plan: Plan) -> Iterable[str]:
    yield from (path for path, _ in plan.fetch)
    yield from (path for path, _, _ in plan.copies)
    yield from plan.move_away
    yield from plan.delete_files
