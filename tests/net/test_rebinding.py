"""A bound socket gets another key: who is connected stays, who comes needs the new one."""

from __future__ import annotations

import asyncio
import os
import socket as sockets
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import zmq

from zcluster.errors import Unreachable
from zcluster.keys import generate
from zcluster.net.rebinding import MAX_KEYS, Rebinding, _listens

MakeWire = Callable[..., Any]
OTHERS = 8
"""Connections that come at once: each has to meet the same key."""


def test_who_is_connected_stays_and_who_comes_needs_the_new_key(make_wire: MakeWire) -> None:
    async def main() -> None:
        wire = make_wire()
        try:
            rebinding, keys, talking = Rebinding(wire.server), [wire.server_pair], []
            for _ in range(4):
                own = generate()
                wire.admitted.add(own.public)
                talking.append(wire.client(own, keys[-1].public)[0])
                await heard(wire, 1)
                keys.append(generate())
                rebinding.rekey(keys[-1].public, keys[-1].secret)
                for socket in talking:
                    socket.send(b"still here")
                await heard(wire, len(talking))
                talking += await newcomers(wire, keys[-1].public)
                await strangers(wire, keys[-2].public)
        finally:
            wire.close()

    asyncio.run(main())


async def heard(wire: Any, count: int) -> None:
    """Wait for so many messages."""
    for _ in range(count):
        await wire.received.next()


async def newcomers(wire: Any, public: str) -> list[Any]:
    """Connections that know the new key: all of them get in."""
    pairs = [generate() for _ in range(OTHERS)]
    wire.admitted.update(pair.public for pair in pairs)
    found = [wire.client(pair, public)[0] for pair in pairs]
    await heard(wire, OTHERS)
    return found


async def strangers(wire: Any, public: str) -> None:
    """Connections that know the older key only: none of them does."""
    pair = generate()
    wire.admitted.add(pair.public)
    for _ in range(OTHERS):
        _, told = wire.client(pair, public)
        await told.until(bool)
        assert zmq.EVENT_HANDSHAKE_SUCCEEDED not in told.items
    assert wire.received.items == []


def test_nobody_else_can_listen_there_without_asking_for_it(make_wire: MakeWire) -> None:
    async def main() -> None:
        wire = make_wire()
        try:
            new = generate()
            Rebinding(wire.server).rekey(new.public, new.secret)
            port = int(wire.address.rpartition(":")[2])
            with sockets.socket() as other:
                other.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
                with pytest.raises(OSError, match="in use"):
                    other.bind(("127.0.0.1", port))
        finally:
            wire.close()

    asyncio.run(main())


def test_what_fails_leaves_the_older_key(make_wire: MakeWire, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        wire = make_wire()
        try:
            new = generate()
            with monkeypatch.context() as patched:
                patched.setattr(os, "listdir", lambda _path: [])
                with pytest.raises(Unreachable, match="its socket was not found") as raised:
                    Rebinding(wire.server).rekey(new.public, new.secret)
            assert "restart" in raised.value.hint
            own = generate()
            wire.admitted.add(own.public)
            wire.client(own)
            await wire.received.until(bool)
        finally:
            wire.close()

    asyncio.run(main())


class Refusing:
    """A socket that cannot be bound once more."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def bind(self, address: str) -> None:
        raise zmq.ZMQError(zmq.EMTHREAD)


def test_a_listener_that_is_not_taken_hears_nobody(make_wire: MakeWire) -> None:
    async def main() -> None:
        wire = make_wire()
        try:
            first, new = generate(), generate()
            rebinding = Rebinding(wire.server)
            rebinding.rekey(first.public, first.secret)
            await newcomers(wire, first.public)
            rebinding._socket = cast(Any, Refusing(wire.server))
            with pytest.raises(Unreachable):
                rebinding.rekey(new.public, new.secret)
            await newcomers(wire, first.public)
            rebinding._socket = wire.server
            rebinding.rekey(new.public, new.secret)
            await newcomers(wire, new.public)
            await strangers(wire, first.public)
        finally:
            wire.close()

    asyncio.run(main())


def test_no_descriptor_is_left(make_wire: MakeWire) -> None:
    async def main() -> None:
        wire = make_wire()
        others = [os.pipe() for _ in range(20)]
        try:
            rebinding, new = Rebinding(wire.server), generate()
            rebinding.rekey(new.public, new.secret)
            before = len(os.listdir("/proc/self/fd"))
            rebinding.rekey(new.public, new.secret)
            assert len(os.listdir("/proc/self/fd")) == before + 1, "the listener's own"
        finally:
            for fd in sum(others, ()):
                os.close(fd)
            wire.close()

    asyncio.run(main())


def test_who_comes_to_the_new_key_has_as_small_a_buffer(make_wire: MakeWire) -> None:
    async def main() -> None:
        wire = make_wire()
        try:
            wire.server.setsockopt(zmq.RCVBUF, 2048)
            address = wire.server.getsockopt_string(zmq.LAST_ENDPOINT)
            new, before = generate(), buffers(address)
            Rebinding(wire.server).rekey(new.public, new.secret)
            assert sorted(buffers(address)) == sorted([*before, 2 * 2048]), "the kernel doubles it (socket(7))"
        finally:
            wire.close()

    asyncio.run(main())


def buffers(address: str) -> list[int]:
    """The receive buffer of each of our sockets that listen there; who is accepted inherits it."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            looked_at = sockets.socket(fileno=int(name))
        except OSError:
            continue
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        if _listens(looked_at, host.strip("[]"), int(port)):
            found.append(looked_at.getsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF))
        looked_at.detach()
    return found


def test_the_number_of_keys_is_bounded(make_wire: MakeWire) -> None:
    async def main() -> None:
        wire = make_wire()
        try:
            rebinding = Rebinding(wire.server)
            for _ in range(MAX_KEYS - 1):
                new = generate()
                rebinding.rekey(new.public, new.secret)
            with pytest.raises(Unreachable, match=f"changed {MAX_KEYS} times"):
                rebinding.rekey(new.public, new.secret)
            await newcomers(wire, new.public)
        finally:
            wire.close()

    asyncio.run(main())


def test_a_path_is_taken_over(make_wire: MakeWire, tmp_path: Path) -> None:
    async def main() -> None:
        wire = make_wire()
        try:
            new, own = generate(), generate()
            wire.admitted.add(own.public)
            wire.server.bind(f"ipc://{tmp_path}/door")
            Rebinding(wire.server).rekey(new.public, new.secret)
            wire.address = f"ipc://{tmp_path}/door"
            wire.client(own, new.public)
            await wire.received.until(bool)
        finally:
            wire.close()

    asyncio.run(main())
