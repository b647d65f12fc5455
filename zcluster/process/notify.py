"""What a service manager is told of a daemon: sd_notify(3), datagrams to the socket that NOTIFY_SOCKET names.

Rules kept here:
- without NOTIFY_SOCKET nothing happens; what cannot be told never disturbs the daemon: a full or closed socket is passed over;
- the variables are taken out of the environment when they are read: no child speaks for the daemon;
- the watchdog is fed by who calls ``say``, the event loop itself: a loop that is stuck is one that is not fed.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping

from zcluster.errors import one_line

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
MAX_STATUS_CHARS = 200


class Notify:
    """Tells the service manager; ``environ`` loses what is read from it.

    Attributes:
        watchdog_s: within how many seconds it wants to hear "WATCHDOG=1"; 0.0: it does not watch this process.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        path, microseconds, pid = (environ.pop(name, "") for name in VARIABLES)
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._socket: socket.socket | None = None
        if path.startswith(("@", "/")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        mine = self._socket is not None and pid in ("", str(os.getpid()))
        self.watchdog_s = int(microseconds) / 1e6 if mine and microseconds.isascii() and microseconds.isdigit() else 0.0

    def say(self, *states: str, status: str = "") -> None:
        """Tell ``states``, such as "READY=1", and ``status``, a line for people."""
        lines = [*states, *([f"STATUS={one_line(status)[:MAX_STATUS_CHARS]}"] if status else [])]
        if self._socket is None or not lines:
            return
        try:
            self._socket.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except OSError:
            return  # a manager that does not listen, or not fast enough: the next line may reach it

    def reloading(self) -> None:
        """The configuration is read again, until "READY=1" is said."""
        self.say("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
