"""Actions on disks, in threads: one at a time in each lane, lanes side by side.

Rules kept here:
- an action's end comes back on the loop, in the order of its lane: its result, or the ZClusterError that it raised;
- what is not a ZClusterError is a defect: it is logged with its traceback and comes back as an error, and the lane goes on;
- the number of threads is bounded; a lane that waits for one is served in turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from zcluster.errors import ZClusterError

THREADS = 8
Work = Callable[[], object]
Ended = Callable[[object], None]


class Lanes:
    """The lanes of one process."""

    def __init__(self, logger: logging.Logger, threads: int = THREADS) -> None:
        self._loop = asyncio.get_running_loop()
        self._logger = logger
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="disk")
        self._closed = False
        self._lanes: dict[str, deque[tuple[Work, Ended]]] = {}

    def do(self, lane: str, work: Work, ended: Ended) -> None:
        """Do ``work`` when the lane's turn comes; ``ended`` gets its end on the loop."""
        waiting = self._lanes.get(lane)
        if waiting is not None:
            waiting.append((work, ended))
            return
        self._lanes[lane] = deque()
        self._begin(lane, work, ended)

    def close(self) -> None:
        """Begin nothing more, and wait for nothing."""
        self._closed = True
        self._lanes.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self, lane: str, work: Work, ended: Ended) -> None:
        future: Future[object] = self._pool.submit(self._run, work)

        def done(future: Future[object]) -> None:
            # After close nobody waits: what had not begun was cancelled, and the loop may be gone.
            if not future.cancelled() and not self._closed:
                self._loop.call_soon_threadsafe(self._was_done, lane, ended, future.result())

        future.add_done_callback(done)

    def _run(self, work: Work) -> object:
        try:
            return work()
        except ZClusterError as error:
            return error
        except Exception as error:
            self._logger.exception("an action on a tree failed unexpectedly")
            return ZClusterError(f"{type(error).__name__}: {error}", hint="this is a defect: see the traceback in the node's log")

    def _was_done(self, lane: str, ended: Ended, result: object) -> None:
        waiting = self._lanes.get(lane)
        if waiting is None:
            return
        if waiting:
            self._begin(lane, *waiting.popleft())
        else:
            del self._lanes[lane]
        ended(result)
