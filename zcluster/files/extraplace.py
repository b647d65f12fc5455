"""A worker's own files among those of a copy (``extra_valid``), as the source of a tree ``TREE.extra`` that goes up.

Rules kept here:
- the directory is the copy's: its lock, marker, staging and journal are the business of the copy's own place
  (zcluster.files.sinkplace), which is open in the same process; here it is only looked at and read;
- two places may have one directory only as such a pair, on a worker.
"""

from __future__ import annotations

import os

from zcluster.config.sync import EXTRA
from zcluster.files import durable
from zcluster.files.beneath import CONTROL_NAME, Beneath
from zcluster.files.sourceplace import SourcePlace
from zcluster.files.treedir import MARKER_NAME, Recovered, TreeDir

_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MARKER_MAX_BYTES = 4096


class TreeView(TreeDir):
    """The directory of a tree that another place of this process has locked: read, and never written to."""

    def _open(self, create: bool) -> None:
        if create:
            self.root.mkdir(parents=True, exist_ok=True)
        self.root_fd = self._hold(os.open(self.root, _DIR_FLAGS))
        self.beneath = Beneath(self.root_fd)

    def marker(self) -> str | None:
        """The marker's content, which the copy's place wrote."""
        try:
            fd = os.open(CONTROL_NAME, _DIR_FLAGS, dir_fd=self.root_fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise durable.disk_error(f"the marker of the tree {self.tree!r} cannot be read", error) from None
        try:
            data = durable.read_file(fd, MARKER_NAME, _MARKER_MAX_BYTES)
        except OSError as error:
            raise durable.disk_error(f"the marker of the tree {self.tree!r} cannot be read", error) from None
        finally:
            os.close(fd)
        return None if data is None else data.decode("utf-8", "replace")

    def make_marker(self) -> None:
        """The marker is written by the copy's place."""

    def recover(self, now_s: float | None = None) -> Recovered:
        """What was interrupted is for the copy's place to recover."""
        return Recovered(None, 0, 0, 0)


class ExtraPlace(SourcePlace):
    """The source of a tree ``TREE.extra``."""

    def open_dir(self, *, create: bool) -> TreeDir:
        return TreeView(self.root, self.tree.removesuffix(EXTRA), create=create)
