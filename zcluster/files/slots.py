"""Memory that a node's two processes share, in slots for large frames.

A socket pair costs 1.6 CPU seconds a GiB (measured, both ends together: the kernel copies twice, page by page); through a
slot a frame is copied once, by memcpy.

Rules kept here:
- each direction has slots of its own, and only its sender gives them out; the receiver says when it has done with one;
- a frame that finds no free slot goes by the socket: nothing waits for a slot, so nothing can stick.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence

from zcluster.core.sync.blocks import CHUNK_BYTES

COUNT = 16
"""Slots of each direction: twice a window of 8 MiB."""
SLOT_BYTES = CHUNK_BYTES + 65_536 + 4096
MIN_BYTES = 32_768
"""Smaller frames are cheaper by the socket."""
SIZE = 2 * COUNT * SLOT_BYTES

Data = bytes | bytearray | memoryview


def make_shared() -> int:
    """A descriptor of new shared memory, which ends with its last user (memfd_create(2))."""
    fd = os.memfd_create("zcluster-sync", os.MFD_CLOEXEC)
    os.ftruncate(fd, SIZE)
    return fd


class Slots:
    """One end of the shared memory ``fd``, which stays the caller's.

    Args:
        first: whether this end sends by the first half.
    """

    def __init__(self, fd: int, *, first: bool) -> None:
        memory = memoryview(mmap.mmap(fd, SIZE))
        half = COUNT * SLOT_BYTES
        self._mine, self._theirs = (memory[:half], memory[half:]) if first else (memory[half:], memory[:half])
        self._free = list(range(COUNT))

    def put(self, parts: Sequence[Data], size: int) -> int:
        """Copy a frame of ``size`` bytes into a free slot; returns the slot, -1 when there is none."""
        if not MIN_BYTES <= size <= SLOT_BYTES or not self._free:
            return -1
        slot = self._free.pop()
        start = slot * SLOT_BYTES
        for part in parts:
            end = start + len(part)
            self._mine[start:end] = part
            start = end
        return slot

    def freed(self, slot: int) -> bool:
        """The other end has done with a slot of ours; false when it is none that it could have."""
        if not 0 <= slot < COUNT or slot in self._free:
            return False
        self._free.append(slot)
        return True

    def view(self, slot: int, size: int) -> memoryview | None:
        """What the other end has put into one of its slots; None when that cannot be."""
        if not 0 <= slot < COUNT or not 0 < size <= SLOT_BYTES:
            return None
        start = slot * SLOT_BYTES
        return self._theirs[start : start + size]
