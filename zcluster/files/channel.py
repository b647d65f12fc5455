"""The line between a node's main process and its sync process: a socket pair that carries frames and notes.

Rules kept here:
- a message is a prefix (length, type) and a payload; notes are JSON objects, frames carry the number of their session;
- a large frame goes through memory that both ends share; its slot is free again when its view is dropped here, so whoever
  is given one keeps the view itself, never a slice of it alone;
- nothing blocks: what does not fit waits, and ``backlog_bytes`` says how much, so that a sender can hold back; an end with
  ``hold_bytes`` reads nothing while more than that waits, so that questions which are cheaper than their answers cannot fill
  its memory (one end only: two that wait for each other would wait for ever);
- a line that ends, or says what no line of ours says, is closed and told once: the other process is gone or broken.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import orjson

from zcluster.files.slots import Slots

PREFIX = struct.Struct(">IB")
SESSION = struct.Struct(">Q")
IN_SLOT = struct.Struct(">QII")
SLOT = struct.Struct(">I")
NOTE = 0
FRAME = 1
LARGE = 2
FREE = 3
MAX_BYTES = 64 * 1024 * 1024 + SESSION.size
"""The largest frame that any configuration allows, and its session."""
TURN = 32
"""Messages that are read before others on the loop get their turn."""
BUFFER_BYTES = 4 * 1024 * 1024
COALESCE_BYTES = 65_536


class Channel:
    """One end. ``on_note(dict)`` and ``on_frame(session, payload)`` are called on the loop; ``on_end()`` once.

    Args:
        hold_bytes: nothing is read while more than this waits, until half of it does; 0: it is always read.
    """

    def __init__(
        self, sock: socket.socket, slots: Slots, on_note: Callable[[dict[str, Any]], None],
        on_frame: Callable[[int, memoryview], None], on_end: Callable[[], None],
        hold_bytes: int = 0,
    ) -> None:  # fmt: skip
        self._hold_bytes, self._holding = hold_bytes, False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.current_thread()
        self._sock, self._slots = sock, slots
        self._on_note, self._on_frame, self._on_end = on_note, on_frame, on_end
        self._out: deque[memoryview] = deque()
        self.backlog_bytes = 0
        self._writing = False
        self._prefix = bytearray(PREFIX.size)
        self._into = memoryview(self._prefix)
        self._have = 0
        self._type = -1
        self._closed = False
        sock.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        self._loop.add_reader(sock, self._readable)

    def note(self, **fields: Any) -> None:
        """Send a note."""
        payload = orjson.dumps(fields)
        self._send(PREFIX.pack(len(payload), NOTE) + payload)

    def frame(self, session: int, *parts: bytes | bytearray | memoryview) -> None:
        """Send a frame, given in parts, for or of ``session``."""
        length = sum(len(part) for part in parts)
        slot = self._slots.put(parts, length)
        if slot >= 0:
            self._send(PREFIX.pack(IN_SLOT.size, LARGE) + IN_SLOT.pack(session, slot, length))
            return
        size = SESSION.size + length
        head = PREFIX.pack(size, FRAME) + SESSION.pack(session)
        if size <= COALESCE_BYTES:
            self._send(b"".join((head, *parts)))
            return
        self._send(head, *parts)

    def close(self) -> None:
        """Close this end."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._sock)
            if self._writing:
                self._loop.remove_writer(self._sock)
            self._sock.close()

    def _end(self) -> None:
        if not self._closed:
            self.close()
            self._on_end()

    # -- writing --------------------------------------------------------------------------------------------------------

    def _send(self, *parts: bytes | bytearray | memoryview) -> None:
        if self._closed:
            return
        for part in parts:
            if len(part):
                self._out.append(memoryview(part))
                self.backlog_bytes += len(part)
        if not self._writing:
            self._write()

    def _write(self) -> None:
        out = self._out
        try:
            while out:
                sent = self._sock.sendmsg([out[i] for i in range(min(len(out), 16))])
                self.backlog_bytes -= sent
                while sent:
                    first = out[0]
                    if sent < len(first):
                        out[0] = first[sent:]
                        break
                    sent -= len(first)
                    out.popleft()
        except BlockingIOError:
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._sock, self._write)
            self._read_again()
            return
        except OSError:
            self._end()
            return
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock)
        self._read_again()

    def _read_again(self) -> None:
        if self._holding and self.backlog_bytes <= self._hold_bytes // 2:
            self._holding = False
            self._loop.add_reader(self._sock, self._readable)

    # -- reading --------------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        """Read up to TURN messages; level-triggered, so the rest is told again."""
        for _ in range(TURN):
            try:
                got = self._sock.recv_into(self._into[self._have :])
            except BlockingIOError:
                return
            except OSError:
                got = 0
            if not got:
                self._end()
                return
            self._have += got
            if self._have < len(self._into):
                continue
            self._whole()
            if self._closed:
                return
            if self._hold_bytes and self.backlog_bytes > self._hold_bytes:
                # A line that ends meanwhile is told to the writing, for which there is something left.
                self._holding = True
                self._loop.remove_reader(self._sock)
                return

    def _whole(self) -> None:
        """What was awaited is there in full: a prefix, or a payload."""
        if self._type < 0:
            size, self._type = PREFIX.unpack(self._prefix)
            if not 0 < size <= MAX_BYTES or self._type not in (NOTE, FRAME, LARGE, FREE):
                self._end()
                return
            self._into, self._have = memoryview(bytearray(size)), 0
            return
        payload, kind = self._into, self._type
        self._into, self._have, self._type = memoryview(self._prefix), 0, -1
        if kind == NOTE:
            try:
                note = orjson.loads(payload)
            except orjson.JSONDecodeError:
                self._end()
                return
            self._on_note(note)
        elif kind == FRAME and len(payload) > SESSION.size:
            (session,) = SESSION.unpack_from(payload)
            self._on_frame(session, payload[SESSION.size :])
        elif kind == LARGE and len(payload) == IN_SLOT.size:
            self._in_slot(*IN_SLOT.unpack(payload))
        elif kind != FREE or len(payload) != SLOT.size or not self._slots.freed(*SLOT.unpack(payload)):
            self._end()

    def _in_slot(self, session: int, slot: int, size: int) -> None:
        view = self._slots.view(slot, size)
        if view is None:
            self._end()
            return
        weakref.finalize(view, self._done_with, slot).atexit = False
        self._on_frame(session, view)

    def _done_with(self, slot: int) -> None:
        """The view of a slot was dropped, on the loop's thread or another one."""
        if threading.current_thread() is self._thread:
            self._send(PREFIX.pack(SLOT.size, FREE) + SLOT.pack(slot))
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._done_with, slot)
