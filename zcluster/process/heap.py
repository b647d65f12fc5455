"""A daemon's memory: glibc's heap told to keep what it has, Python's collector told to look less often.

A daemon allocates and frees a batch of results each turn at the top of the heap. With the default M_TRIM_THRESHOLD of
128 KiB glibc gives that memory back to the kernel and takes it again every turn: measured at a worker under echo load,
50,000 page faults a second and a third of its CPU (mallopt(3)).

Python's cyclic collector runs after every 700 allocations by default; requests come in bursts of thousands and make no
cycles, so nearly all of its work finds nothing.
"""

from __future__ import annotations

import ctypes
import gc
import logging

M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_THRESHOLD = -3

GC_THRESHOLDS = (20_000, 20, 50)
KEEP_BYTES = 32 * 1024 * 1024
PAD_BYTES = 1024 * 1024
MMAP_BYTES = 4 * 1024 * 1024
"""Bodies up to this size come from the heap, whose pages stay; larger ones from mmap, so that they go back at once."""


def steady_heap() -> None:
    """Keep up to KEEP_BYTES of free heap (without glibc the heap stays as it is), and collect cycles less often."""
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        logging.getLogger("zcluster").debug("this C library has no mallopt: its heap stays as it is")
        return
    for option, value in ((M_TRIM_THRESHOLD, KEEP_BYTES), (M_TOP_PAD, PAD_BYTES), (M_MMAP_THRESHOLD, MMAP_BYTES)):
        mallopt(option, value)
