"""How far one gets towards a node: its name, its port, what listens there, whether the keys fit.

Rules kept here:
- each step has its own end: it is over within the time that it is given, whatever the network does;
- nothing of a session is opened: what is asked here ends at the handshake, so that it disturbs no node that has the same key;
- what is found is told as a value: nothing here is an exception to who asks.

The greeting is that of ZMTP 3.x (https://rfc.zeromq.org/spec/23/): a signature, the version, the mechanism.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from enum import StrEnum
from typing import NamedTuple, TypeVar, cast

import zmq

from zcluster.net.context import Socket, client_socket, new_context
from zcluster.net.monitor import LINK_EVENTS, read_event, watch
from zcluster.net.reader import Reader

GREETING_BYTES = 64
SIGNATURE_BYTES = 10
MECHANISM = slice(12, 32)
MECHANISM_NAME = b"CURVE"
GREETING = (b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + MECHANISM_NAME.ljust(20, b"\0") + b"\0").ljust(GREETING_BYTES, b"\0")
SHOWN_BYTES = 40
MAX_FRAME_BYTES = 65_536

T = TypeVar("T")
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Found(StrEnum):
    """What became of a step."""

    OK = "ok"
    UNKNOWN_NAME = "unknown_name"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed_out"
    SILENT = "silent"
    """It takes connections and says nothing."""
    STRANGER = "stranger"
    """It says something that is not ZeroMQ's."""
    NOT_CURVE = "not_curve"
    KEY_REFUSED = "key_refused"
    """The other side knows our key, or its name, and does not admit it."""
    WRONG_SERVER = "wrong_server"
    """The other side has another key than the expected one."""


class Step(NamedTuple):
    """One step's end."""

    found: Found
    detail: str = ""


class Resolved(NamedTuple):
    """The addresses of a host name, or why there are none."""

    step: Step
    hosts: tuple[str, ...] = ()


async def aside(call: Callable[[], T], timeout_s: float) -> T:
    """What ``call`` returns or raises, in a thread that nobody waits for: a resolver or a disk without an answer may keep it for
    minutes, and the threads of an executor are joined at the end. Raises TimeoutError."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[tuple[T | None, Exception | None]] = loop.create_future()

    def settle(value: T | None, error: Exception | None) -> None:
        if not answer.done():
            answer.set_result((value, error))

    def run() -> None:
        try:
            outcome: tuple[T | None, Exception | None] = (call(), None)
        except Exception as error:  # it is raised where the answer is awaited
            outcome = (None, error)
        with suppress(RuntimeError):  # the loop has ended meanwhile: nobody waits
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="zcluster-aside", daemon=True).start()
    async with asyncio.timeout(timeout_s):
        value, error = await answer
    if error is not None:
        raise error
    return cast(T, value)


async def resolve(host: str, port: int, timeout_s: float) -> Resolved:
    """The IP addresses of ``host`` (an IPv6 address without its brackets, too)."""
    try:
        found = await aside(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), timeout_s)
    except TimeoutError:
        return Resolved(Step(Found.TIMED_OUT, f"no answer of the resolver in {timeout_s:g} s"))
    except (OSError, UnicodeError) as error:
        return Resolved(Step(Found.UNKNOWN_NAME, getattr(error, "strerror", None) or str(error)))
    return Resolved(Step(Found.OK), tuple(dict.fromkeys(str(each[4][0]) for each in found)))


def look_up(path: str) -> Resolved:
    """The Unix socket ``path``, as the one place that its address has."""
    try:
        there = stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError as error:
        return Resolved(Step(Found.UNKNOWN_NAME, error.strerror or str(error)))
    return Resolved(Step(Found.OK), (path,)) if there else Resolved(Step(Found.UNKNOWN_NAME, "it is no socket"))


async def greet(host: str, port: int, timeout_s: float) -> Step:
    """Connect by TCP to an IP address, and look whether a ZeroMQ server with CURVE answers."""
    return await _greeted_at(asyncio.open_connection(host, port, limit=MAX_FRAME_BYTES), timeout_s)


async def greet_local(path: str, timeout_s: float) -> Step:
    """As :func:`greet`, at a Unix socket."""
    return await _greeted_at(asyncio.open_unix_connection(path, limit=MAX_FRAME_BYTES), timeout_s)


async def _greeted_at(opening: Coroutine[None, None, Streams], timeout_s: float) -> Step:
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await opening
    except TimeoutError:
        return Step(Found.TIMED_OUT, f"no answer in {timeout_s:g} s")
    except ConnectionRefusedError:
        return Step(Found.REFUSED, "connection refused")
    except OSError as error:
        found = Found.REFUSED if error.errno == errno.ECONNREFUSED else Found.UNREACHABLE
        return Step(found, error.strerror or str(error))
    try:
        return await _greeted(reader, writer, timeout_s)
    finally:
        writer.transport.abort()


async def _greeted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout_s: float) -> Step:
    said, ended = b"", True
    try:
        async with asyncio.timeout(timeout_s):
            writer.write(GREETING[:SIGNATURE_BYTES])
            said = await _read(reader, said, SIGNATURE_BYTES)
            if len(said) == SIGNATURE_BYTES and said[0] == 0xFF and said[-1] & 1:
                writer.write(GREETING[SIGNATURE_BYTES:])
                said = await _read(reader, said, GREETING_BYTES)
    except TimeoutError:
        ended = False
        if not said:
            return Step(Found.SILENT, f"it takes the connection and says nothing in {timeout_s:g} s")
    except OSError as error:
        if not said:
            return Step(Found.STRANGER, f"it ended the connection: {error.strerror or error}")
    if not said:
        return Step(Found.STRANGER, "it ended the connection without a word")
    if said[0] != 0xFF:
        return Step(Found.STRANGER, f"it says {said[:SHOWN_BYTES]!r}")
    mechanism = said[MECHANISM].rstrip(b"\0")
    if len(said) >= MECHANISM.stop and mechanism != MECHANISM_NAME:
        return Step(Found.NOT_CURVE, f"its security mechanism is {mechanism[:20]!r}")
    if len(said) < MECHANISM.stop and ended:
        return Step(Found.NOT_CURVE, "it speaks ZeroMQ, and ends the connection when CURVE is asked for")
    if len(said) < MECHANISM.stop:
        return Step(Found.STRANGER, "it begins like ZeroMQ and then says nothing")
    return Step(Found.OK)


async def _read(reader: asyncio.StreamReader, said: bytes, until: int) -> bytes:
    while len(said) < until:
        more = await reader.read(until - len(said))
        if not more:
            break
        said += more
        if said[0] != 0xFF:
            break
    return said


async def shake_hands(address: str, public: str, secret: str, server: str, timeout_s: float) -> Step:
    """The CURVE handshake with the node at ``address``, expected to have the key ``server``; nothing is said after it."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[tuple[int, int]] = loop.create_future()
    context = new_context()
    readers: list[Reader] = []
    try:
        client = client_socket(
            context, zmq.DEALER, secret.encode(), public.encode(), server=server.encode(), max_bytes=MAX_FRAME_BYTES
        )
        pair = watch(context, client, LINK_EVENTS)
        readers.append(Reader(loop, client, lambda: False))
        readers.append(Reader(loop, pair, _turn(pair, ended)))
        client.connect(address)
        async with asyncio.timeout(timeout_s):
            event, value = await ended
    except TimeoutError:
        return Step(Found.TIMED_OUT, f"no end of the handshake in {timeout_s:g} s")
    except zmq.ZMQError as error:
        return Step(Found.UNREACHABLE, error.strerror or str(error))
    finally:
        for reader in readers:
            reader.close()
        context.destroy(linger=0)
    return _step(event, value)


def _turn(pair: Socket, ended: asyncio.Future[tuple[int, int]]) -> Callable[[], bool]:
    def turn() -> bool:
        found = read_event(pair)
        if found is None:
            return False
        if not ended.done():
            ended.set_result(found)
        return True

    return turn


def _step(event: int, value: int) -> Step:
    match event:
        case zmq.EVENT_HANDSHAKE_SUCCEEDED:
            return Step(Found.OK)
        case zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            return Step(Found.KEY_REFUSED, f"it answers {value}")
        case zmq.EVENT_CLOSED:
            return Step(Found.REFUSED, "connection refused")
        case _:
            return Step(Found.WRONG_SERVER, "it ends the connection during the handshake")
