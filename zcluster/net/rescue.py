"""Gets the loop's thread out of libzmq when subscribers keep it there.

libzmq enters subscriptions into its tree within any call on the publisher's socket, and goes on as long as there is one more, of
whatever connection: a few peers that never pause keep the caller, and fill memory, for as long as they like. Nothing of ours runs
meanwhile but another thread, and that only because sending and receiving let go of the interpreter. (Asking a socket for its
events does not, so nobody asks the publisher's.)

Rules kept here:
- calls on the publisher's socket are made within ``with rescue:``; one that takes longer than STUCK_S is looked into, again and
  again until it is over. While nobody calls the thread sleeps: each time it wakes it may hold the interpreter's lock up;
- this thread touches no socket of libzmq's: it looks at descriptors, and cuts connections by them (descriptors.py). It has
  descriptors of its own for that, and what it has cut is told by the loop's thread, later;
- cut is who sends, while the loop stands still, more than an honest subscriber says in all (SAYS_BYTES), or has as much waiting;
- what libzmq has taken from the kernel it enters even so: a connection's buffer there is small (RECEIVE_BYTES in subscribers.py).
  Then it takes each connection out of its tree again, by a walk over all of it. So with very many connections at the same moment
  the loop still stands for seconds; a key has few.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType

from zcluster.net.descriptors import Descriptors, Peer

STUCK_S = 0.02
AGAIN_S = 0.005
"""Between two looks at a call that goes on."""
SAYS_BYTES = 2048
"""More than the handshake and what this version subscribes to."""


class Rescue:
    """Watches the calls that one thread makes on a publisher's socket.

    Args:
        fds: the descriptors to look at; asked while the loop's thread stands still, must not wait for it.
        port: the publisher's. What has not come to it is let be, whatever its descriptor was used for before.
    """

    def __init__(self, fds: Callable[[], Iterable[int]], port: int) -> None:
        self.cut: deque[tuple[int, Peer]] = deque()
        """Who was cut, and its descriptor; the loop's thread takes them away."""
        self._fds, self._port = fds, port
        self._descriptors = Descriptors()  # not by the thread: there may be none left when it begins
        self._since_s = 0.0
        self._called = threading.Event()
        """Since the thread looked last there has been a call."""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rescue", daemon=True)
        self._thread.start()

    def __enter__(self) -> None:
        self._since_s = time.monotonic()
        if not self._called.is_set():
            self._called.set()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._since_s = 0.0

    def close(self) -> None:
        """Watch no more."""
        self._closed.set()
        self._called.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self._called.wait()
            self._called.clear()
            if self._closed.wait(STUCK_S):
                break
            since_s, before = self._since_s, dict[int, int]()
            while since_s and since_s == self._since_s and time.monotonic() - since_s >= STUCK_S:
                self._look(before)
                if self._closed.wait(AGAIN_S):
                    break
        self._descriptors.close()

    def _look(self, before: dict[int, int]) -> None:
        """Cut who sends too much; ``before``: how much had come by each connection at the first look at this call."""
        descriptors = self._descriptors
        for fd in self._fds():
            received = descriptors.received_bytes(fd)
            if received is None:
                continue
            says = max(received - before.setdefault(fd, received), descriptors.unread_bytes(fd))
            if says > SAYS_BYTES:
                peer = descriptors.peer_at(fd, self._port)
                if peer is not None and descriptors.end(fd, peer.inode):
                    self.cut.append((fd, peer))
