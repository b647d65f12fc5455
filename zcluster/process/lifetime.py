"""A daemon's life: signals in, one exit code out.

Rules kept here:
- SIGTERM and SIGINT ask for a drain once; a second one ends it at once;
- SIGHUP reads the configuration again; what is invalid is refused and the old one kept;
- one master per home: a lock on run/NAME.lock that ends with the process, however it ends.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path

from zcluster.errors import UsageError


class Lifetime:
    """Waits for the end of a daemon."""

    def __init__(self, loop: asyncio.AbstractEventLoop, reload: Callable[[], None]) -> None:
        self._loop = loop
        self._stop = asyncio.Event()
        self._now = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked)
        loop.add_signal_handler(signal.SIGHUP, reload)

    def stop(self) -> None:
        """End the daemon as SIGTERM would."""
        self._stop.set()

    async def stopped(self) -> None:
        """Wait until the daemon is asked to end."""
        await self._stop.wait()

    async def wait(self, work: asyncio.Task[object], timeout_s: float) -> None:
        """Wait for ``work`` for at most ``timeout_s``, or until a second signal."""
        hurry = asyncio.ensure_future(self._now.wait())
        await asyncio.wait([work, hurry], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        work.cancel()

    def _asked(self) -> None:
        if self._stop.is_set():
            self._now.set()
        self._stop.set()


class OneProcess:
    """Holds ``path`` locked while it lives.

    Raises:
        UsageError: another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = os.read(self._file, 32).decode("ascii", "replace").strip()
            os.close(self._file)
            raise UsageError(
                f"this home is in use by process {pid or '?'} ({path})", hint="stop it first, or use another --home"
            ) from None
        os.ftruncate(self._file, 0)
        os.write(self._file, f"{os.getpid()}\n".encode())

    def close(self) -> None:
        """Let go."""
        os.close(self._file)
