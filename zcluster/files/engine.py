"""The sync process: a machine of file sync, its disks, and the line to its node's main process.

Rules kept here:
- the machine runs on the loop, the disks in lanes of threads; nothing on the loop waits for a disk;
- after each event what was decided is done in order, and what the worker holds is told when it has changed;
- the process ends with its line, at once: everything that it acknowledged is on the disk, the rest is made whole at the
  next start.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import socket
import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

import msgspec

from zcluster.core.sync.effects import Do, Effects, Place, Say, Tell
from zcluster.errors import PeerError, UsageError, ZClusterError
from zcluster.files.channel import Channel
from zcluster.files.disks import Disks
from zcluster.files.lanes import Lanes
from zcluster.files.packing import pack, unpack
from zcluster.files.slots import Slots
from zcluster.net.reader import Alarm
from zcluster.wire import Frame, WireLimits, decode, encode
from zcluster.wire.trees import Listing, Parcel, TreeMessage

SAVE_S = 60.0
HINTS_S = 0.002
"""Hints of one place are collected this often at most: a burst of changes is not a burst of events here."""
HOLD_BYTES = 64 * 1024 * 1024
"""Nothing is read from the line while more than this waits to be written to it."""
PACK_BYTES = 1024
"""Smaller listings are sent as they are."""


class Machine(Protocol):
    """Hub or Member."""

    effects: Effects

    def session_up(self, session: int, name: str, now: float) -> None: ...
    def session_down(self, session: int, now: float, reason: str = "") -> None: ...
    def hint(self, place: Place, dirty: frozenset[str] | None, now: float) -> None: ...
    def receive(self, session: int, message: TreeMessage, body: bytes | memoryview, now: float) -> None: ...
    def next_deadline(self) -> float: ...
    def handle_deadline(self, now: float) -> None: ...
    def settle(self, now: float) -> None: ...


Operation = Callable[..., Awaitable[Any]]


class Engine:
    """One sync process in the current loop.

    Args:
        sock, slots: the line to the main process, and the memory that goes with it.
        frame_bytes: the largest frame that is read.
    """

    def __init__(self, sock: socket.socket, slots: Slots, frame_bytes: int, logger: logging.Logger) -> None:
        self.loop = asyncio.get_running_loop()
        self.logger = logger
        self.lanes = Lanes(logger)
        self.disks: Disks
        self.machine: Machine
        self.operations: dict[str, Operation] = {}
        self.held: Callable[[], str] | None = None
        self.notes: dict[str, Callable[[dict[str, Any]], None]] = {}
        self._limits = WireLimits(frame_bytes=frame_bytes)
        self._alarm = Alarm(self.loop, self._due)
        self._told_held = ""
        self._collected_s: dict[Place, float] = {}
        self._collect_soon: set[Place] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()
        self._save_handle = self.loop.call_later(SAVE_S, self._save)
        self.channel = Channel(sock, slots, self._noted, self._framed, self._ended.set, HOLD_BYTES)

    async def run(self) -> None:
        """Serve until the line ends."""
        await self._ended.wait()
        self._save_handle.cancel()
        self.lanes.close()

    def hinted(self, place: Place) -> None:
        """Called from any thread: something may have changed in a place."""
        self.loop.call_soon_threadsafe(self._hint, place)

    def event(self, handle: Callable[[], None]) -> None:
        """Let ``handle`` tell the machine something, and do what it decides."""
        handle()
        self.perform()

    async def in_lane(self, lane: str, work: Callable[[], Any]) -> Any:
        """Do ``work`` in a lane, and wait for its result.

        Raises:
            ZClusterError: what it raised.
        """
        future: asyncio.Future[Any] = self.loop.create_future()
        self.lanes.do(lane, work, lambda result: None if future.done() else future.set_result(result))
        result = await future
        if isinstance(result, ZClusterError):
            raise result
        return result

    # -- doing ----------------------------------------------------------------------------------------------------------

    def perform(self) -> None:
        """Do what the machine has decided."""
        machine, now = self.machine, self.loop.time()
        machine.settle(now)
        while effects := machine.effects.take():
            for effect in effects:
                match effect:
                    case Say():
                        self._say(effect)
                    case Do():
                        self._do(effect)
                    case Tell():
                        self.channel.note(kind="event", name=effect.name, fields=effect.fields, level=effect.level)
            machine.settle(now)
        if self.held is not None and (held := self.held()) != self._told_held:
            self._told_held = held
            self.channel.note(kind="held", digest=held)
        deadline = machine.next_deadline()
        if deadline < float("inf"):
            self._alarm.set(max(deadline, now))

    def _say(self, effect: Say) -> None:
        message: TreeMessage = effect.message
        body: Frame = effect.body
        if isinstance(message, Listing) and len(body) > PACK_BYTES:
            encoding, body = pack(body)
            message = msgspec.structs.replace(message, encoding=encoding)
        self.channel.frame(effect.session, encode(message), body)

    def _do(self, effect: Do) -> None:
        disks, effects = self.disks, self.machine.effects

        def ended(result: object) -> None:
            self.event(lambda: effects.done(effect.job, result, self.loop.time()))

        self.lanes.do(effect.lane, lambda: disks.do(effect.action), ended)

    def _due(self) -> None:
        self.event(lambda: self.machine.handle_deadline(self.loop.time()))

    def _hint(self, place: Place) -> None:
        """Collect what was hinted at: at once, or, when that was done a moment ago, after a moment."""
        if place in self._collect_soon:
            return
        if self.loop.time() < self._collected_s.get(place, 0.0) + HINTS_S:
            self._collect_soon.add(place)
            self.loop.call_later(HINTS_S, self._collect, place)
        else:
            self._collect(place)

    def _collect(self, place: Place) -> None:
        self._collect_soon.discard(place)
        self._collected_s[place] = self.loop.time()
        dirty = self.disks.collect(place)
        self.event(lambda: self.machine.hint(place, dirty, self.loop.time()))

    def _save(self) -> None:
        self._save_handle = self.loop.call_later(SAVE_S, self._save)
        for key in self.disks.open_places():
            self.lanes.do(f"{key[0]}/{key[1]}", partial(self.disks.save, key), _nothing)

    # -- the line -------------------------------------------------------------------------------------------------------

    def _framed(self, session: int, frame: memoryview) -> None:
        try:
            message, start = decode(frame, self._limits)
            body: bytes | memoryview = frame[start:]
            if isinstance(message, Parcel):
                # Its content is used where it lies: the slot is lent until the body is dropped.
                weakref.finalize(body, _let_go, frame).atexit = False
            else:
                body = bytes(body)
            if isinstance(message, Listing):
                body = memoryview(unpack(message.encoding, body, message.raw_bytes))
            if not isinstance(message, TreeMessage):
                raise PeerError(f"{type(message).__name__.upper()} is no message of file sync")
        except PeerError as error:
            self.logger.warning("a frame of file sync could not be read: %s", error)
            return
        self.event(lambda: self.machine.receive(session, message, body, self.loop.time()))

    def _noted(self, note: dict[str, Any]) -> None:
        now = self.loop.time()
        match note["kind"]:
            case "up":
                self.event(lambda: self.machine.session_up(note["session"], note["name"], now))
            case "down":
                self.event(lambda: self.machine.session_down(note["session"], now, note["reason"]))
            case "ask":
                task = self.loop.create_task(self._answer(note["number"], note["op"], note["arguments"]))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case kind if kind in self.notes:
                self.event(lambda: self.notes[kind](note))

    async def _answer(self, number: int, op: str, arguments: dict[str, Any]) -> None:
        operation = self.operations.get(op)
        try:
            if operation is None:
                raise UsageError(f"the sync process of this node does no {op!r}")
            value = await operation(**arguments)
        except ZClusterError as error:
            self.channel.note(kind="answer", number=number, error=error.to_dict())
            return
        except Exception as error:
            self.logger.exception("a question to the sync process failed unexpectedly")
            trouble = ZClusterError(f"{op}: {type(error).__name__}: {error}", hint="this is a defect: see the node's log")
            self.channel.note(kind="answer", number=number, error=trouble.to_dict())
            return
        self.channel.note(kind="answer", number=number, value=value)


def _let_go(frame: memoryview) -> None:
    """The frame was kept until now, and is dropped."""


def end_with_parent(parent: int) -> None:
    """Let the kernel end this process when its parent ends (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(0)


def _nothing(result: object) -> None:
    """Nobody waits for this."""

