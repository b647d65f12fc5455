"""A daemon's life: signals in, one exit code out.

Rules kept here:
- SIGTERM and SIGINT ask for a drain once; a second one ends it at once;
- SIGHUP reads the configuration again; what is invalid is refused and the old one kept;
- a service manager hears when the daemon is ready, reloads and stops, and from its loop that it is alive (notify.py);
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
from zcluster.process.notify import Notify

FEEDS = 2
"""How often the watchdog is fed in the time within which it wants to be."""


class Lifetime:
    """Waits for the end of a daemon."""

    def __init__(self, loop: asyncio.AbstractEventLoop, reload: Callable[[], None]) -> None:
        self._loop = loop
        self._reload = reload
        self._notify = Notify(os.environ)
        self._ready = self._reload_asked = False
        self._stop = asyncio.Event()
        self._now = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked)
        loop.add_signal_handler(signal.SIGHUP, self._reloaded)

    def ready(self, status: str) -> None:
        """The daemon serves: from now on the watchdog is fed. ``status`` says in a line how it is."""
        self._ready = True
        self._notify.say("READY=1", status=status)
        self._feed()
        if self._reload_asked:
            self._reloaded()

    def status(self, status: str) -> None:
        """How the daemon is now, in a line for people."""
        self._notify.say(status=status)

    def stop(self) -> None:
        """End the daemon as SIGTERM would."""
        if not self._stop.is_set():
            self._notify.say("STOPPING=1", status="draining")
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
        self.stop()

    def _reloaded(self) -> None:
        if not self._ready:  # what would read it again is not there yet
            self._reload_asked = True
            return
        self._notify.reloading()
        self._reload()
        self._notify.say("READY=1")

    def _feed(self) -> None:
        if self._notify.watchdog_s:
            self._notify.say("WATCHDOG=1")
            self._loop.call_later(self._notify.watchdog_s / FEEDS, self._feed)


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
