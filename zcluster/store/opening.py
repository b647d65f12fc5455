"""Opening a store: the one place that knows which backend it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from zcluster.store.interface import Store
from zcluster.store.sqlite import SqliteStore


async def open_store(path: Path, *, digests: Sequence[str] = (), clock: Callable[[], float] = time.monotonic) -> Store:
    """The store at ``path``, made when there is none; ``digests`` are the prefixes whose digests it keeps.

    Raises:
        StoreFailed: it cannot be read or made.
        Busy: another process has it open.
    """
    return await SqliteStore.open(path, digests=digests, clock=clock)
