"""Following a part of the store: a task that hears of every change, whatever happens.

Rules kept here:
- at the start, and whenever changes are no longer known, it is told "everything" (None) and reads for itself; then each change;
- what fails is logged and begun again after a pause: a follower ends only when it is cancelled or the store is closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from zcluster.errors import Compacted, ZClusterError
from zcluster.store.interface import Change, Store

PAUSE_S = 1.0

Taking = Callable[[list[Change] | None], Awaitable[None]]


async def follow(store: Store, prefix: str, take: Taking, logger: logging.Logger, *, pause_s: float = PAUSE_S) -> None:
    """Call ``take`` with the changes under ``prefix``, in order; with None when all may be different."""
    after: int | None = None
    while True:
        try:
            if after is None:
                after = await store.revision()
                await take(None)
            async for changes, upto in store.watch(prefix, after):
                await take(changes)
                after = upto
            return
        except Compacted:
            after = None
        except ZClusterError as error:
            logger.error("following %s failed, beginning again: %s", prefix, error)
            after = None
            await asyncio.sleep(pause_s)
        except Exception:
            logger.exception("following %s failed, beginning again", prefix)
            after = None
            await asyncio.sleep(pause_s)
