"""Room on the disk kept for the time when it is full: then even deleting needs some, for the database's log.

Rules kept here:
- the reserve is freed when a write finds the disk full, and made again as soon as there is room for it;
- while it is gone, the disk counts as full: nothing but deleting may use what it gave.
"""

from __future__ import annotations

import os
from pathlib import Path

RESERVE_BYTES = 4 * 1024 * 1024


class Reserve:
    """The reserve of the database at ``path``: a file beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_suffix(".reserve")
        self.gone = True

    def make(self) -> bool:
        """Make it if there is room; returns whether it is there."""
        try:
            fd = os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:
            return False
        try:
            os.posix_fallocate(fd, 0, RESERVE_BYTES)
        except OSError:
            self.free()
        else:
            self.gone = False
        finally:
            os.close(fd)
        return not self.gone

    def free(self) -> None:
        """Give its room back."""
        self.gone = True
        self.path.unlink(missing_ok=True)
