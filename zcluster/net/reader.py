"""A ZeroMQ socket in the asyncio loop, through its file descriptor.

Rules kept here:
- the descriptor is edge-triggered (zmq_getsockopt(3), ZMQ_FD): after each wake-up, and after each send, the socket's
  events are looked at again, or a message would wait for the next one;
- a turn is bounded, so that no peer starves the rest of the loop;
- an error in a handler is logged and counted by the owner; it never ends the reading.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

from zcluster.net.context import Socket, readable

FLUSH_BYTES = 2048
"""After a message of this size its effects are sent before the next one is read: the next process can begin on them."""


class Reader:
    """Calls ``turn`` while the socket has something to read.

    Args:
        turn: reads a bounded number of messages; returns true when there may be more.
        writable: called at each wake-up before ``turn``, for an owner that has something it could not send.
        asks: whether the socket is asked if it has something to read, before a turn is scheduled for that.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        socket: Socket,
        turn: Callable[[], bool],
        writable: Callable[[], None] | None = None,
        asks: bool = True,
    ) -> None:
        self._loop = loop
        self._socket = socket
        self._turn = turn
        self._writable = writable
        self._asks = asks
        self._scheduled = False
        self._closed = False
        self._fd = int(socket.getsockopt(zmq.FD))
        loop.add_reader(self._fd, self._woken)
        self.look_again()

    def look_again(self) -> bool:
        """Schedule a turn if the socket has something to read: to be called after sends. Returns whether a turn is on its way."""
        if not self._scheduled and not self._closed and (not self._asks or readable(self._socket)):
            self._scheduled = True
            self._loop.call_soon(self._scheduled_turn)
        return self._scheduled

    def close(self, linger_ms: int = 0) -> None:
        """Stop reading and close the socket; what was sent may still leave for ``linger_ms``."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._fd)
            self._socket.close(linger=linger_ms)

    def _scheduled_turn(self) -> None:
        self._scheduled = False
        self._woken()

    def _woken(self) -> None:
        if self._closed:
            return
        if self._writable is not None:
            self._writable()
        try:
            more = self._turn()
        except Exception as error:
            self._loop.call_exception_handler({"message": "a turn of a socket failed", "exception": error})
            more = not self._closed and (not self._asks or readable(self._socket))
        if more and not self._scheduled and not self._closed:
            self._scheduled = True
            self._loop.call_soon(self._scheduled_turn)


class Alarm:
    """One timer of the loop that is moved about: fires at the earliest time asked for, never later."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fire: Callable[[], None]) -> None:
        self._loop = loop
        self._fire = fire
        self._handle: asyncio.Handle | None = None
        self._when_s = 0.0
        """Of the handle: uvloop gives one without a time for what is due already."""

    def set(self, when_s: float | None) -> None:
        """Fire at ``when_s`` on the loop's clock, or earlier if that was asked for; None changes nothing."""
        if when_s is None:
            return
        handle = self._handle
        if handle is not None:
            if self._when_s <= when_s:
                return
            handle.cancel()
        self._handle, self._when_s = self._loop.call_at(when_s, self._fired), when_s

    def cancel(self) -> None:
        """Never fire again, unless set again."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fired(self) -> None:
        self._handle = None
        self._fire()
