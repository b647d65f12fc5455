"""Background work of a part: it never ends silently.

Rules kept here:
- what goes wrong unforeseen is logged with its traceback, and the work begins again after a pause;
- being cancelled is the only way to end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

RESTART_S = 1.0


async def keep_running(work: Callable[[], Awaitable[None]], logger: logging.Logger, what: str) -> None:
    """Run ``work`` again and again until this task is cancelled."""
    while True:
        try:
            await work()
        except Exception:
            logger.exception("%s failed and begins again", what)
            await asyncio.sleep(RESTART_S)
