"""Keys are rotated in a running cluster: no call fails, no node notices, and the older keys are refused afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE_S, eventually

from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient
from zcluster.config import Home
from zcluster.errors import Busy, InvalidKey, NotAllowed, Unreachable
from zcluster.keys import KeyFile, Ring, public_of

FUNCTIONS = str(Path(__file__).with_name("bus_functions.py"))
OVERLAP_S = 1.0
ROUNDS = 10
"""Answers of each kind after the last key has been rotated, before the calls end."""


class Calls:
    """Calls of every kind, one after the other, until they are told to stop."""

    def __init__(self, client: AsyncClient, names: tuple[str, ...]) -> None:
        self.client = client
        self.failed: list[object] = []
        self.done: dict[str, int] = {}
        self._kinds: dict[str, Callable[[], Awaitable[None]]] = {
            **{name: self._one(name) for name in ("any", "master", *names)}, "all": self._all, "job": self._job,
        }  # fmt: skip
        self._stop = False

    async def run(self) -> None:
        await asyncio.gather(*(self._go_on(kind) for kind in self._kinds))

    async def rounds(self, count: int) -> None:
        """Wait until each kind has had so many answers more."""
        wanted = {kind: self.done.get(kind, 0) + count for kind in self._kinds}

        def reached() -> bool:
            return all(self.done.get(kind, 0) >= number for kind, number in wanted.items()) or bool(self.failed)

        await eventually(reached, f"{count} answers more: {self.done}, {self.failed}", 2 * PATIENCE_S)

    def stop(self) -> None:
        self._stop = True

    async def _go_on(self, kind: str) -> None:
        while not self._stop:
            try:
                await self._kinds[kind]()
            except Exception as error:
                self.failed.append((kind, repr(error)))
            self.done[kind] = self.done.get(kind, 0) + 1

    def _one(self, target: str) -> Callable[[], Awaitable[None]]:
        async def call() -> None:
            # Not to be run twice: whatever is lost on the way is an error here.
            await self.client.call("node.info", target=target, idempotent=False)

        return call

    async def _all(self) -> None:
        async for result in self.client.fan_out("node.info"):
            assert result.ok, result

    async def _job(self) -> None:
        assert await (await self.client.submit("echo", {"value": 7})).result() == 7


@asynccontextmanager
async def busy(cluster: LocalCluster, client: AsyncClient, gate: Path) -> AsyncIterator[Calls]:
    """Calls of every kind, and a stream on each worker that goes on until all keys are rotated."""
    calls = Calls(client, cluster.worker_names)
    streams = [asyncio.create_task(read_stream(client, name, gate)) for name in cluster.worker_names]
    running = asyncio.create_task(calls.run())
    try:
        await calls.rounds(1)
        yield calls
        await calls.rounds(ROUNDS)
    finally:
        calls.stop()
        open_gate(gate)
        await running
    for items in await asyncio.gather(*streams):
        assert items == list(range(len(items)))


def open_gate(gate: Path) -> None:
    gate.touch()


async def read_stream(client: AsyncClient, target: str, gate: Path) -> list[int]:
    return [item async for item in client.stream("t.count_until", {"gate": str(gate)}, target=target)]


def old_copy(path: Path) -> Path:
    """A copy of a key file as it is now."""
    copy = path.with_name(f"old-{path.name}")
    KeyFile.read(path).write(copy)
    return copy


async def refused(path: Path) -> bool:
    """Whether the master refuses the key in ``path``."""
    try:
        async with AsyncClient(key=path, timeout=1.0):
            return False
    except NotAllowed:
        return True


async def sessions(client: AsyncClient) -> dict[str, int | None]:
    return {row["name"]: row["session"] for row in await client.nodes()}


async def events(client: AsyncClient) -> list[tuple[str, Any]]:
    return [(event["name"], event["fields"].get("name")) async for event in client.events(after=0, follow=False)]


def test_keys_are_rotated_under_load_and_nothing_fails(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            LocalCluster(3, functions=[FUNCTIONS]) as cluster,
            AsyncClient(key=cluster.client_key, timeout=PATIENCE_S) as client,
            AsyncClient(key=cluster.admin_key, timeout=PATIENCE_S) as admin,
        ):
            old_client, old_worker = old_copy(cluster.client_key), KeyFile.read(cluster.key_file("worker-1"))
            old_master = KeyFile.read(Home.of(cluster.home).master_key).pair.public
            before, at_first = await sessions(admin), client.session
            seen = await events(admin)
            async with busy(cluster, client, tmp_path / "gate"):
                rotated = await rotate_all(admin, client, old_client.with_name("client.key").stem)
            assert await sessions(admin) == before, "the nodes' sessions went on"
            assert client.session == at_first
            assert (await events(admin))[len(seen) :] == [("key_rotated", name) for name in rotated]
            ring = Ring(Home.of(cluster.home).ring_file)
            assert [each for each in ring.entries.values() if each.id == each.public and each.name in rotated] == []
            await eventually(lambda: refused(old_client), "the older key of the client is refused")
            await the_old_worker_key_is_gone(cluster, old_worker)
            with pytest.raises(Unreachable):
                await with_master(cluster.client_key, old_master)
            await restarted(cluster)

    asyncio.run(main())


async def rotate_all(admin: AsyncClient, client: AsyncClient, name: str) -> list[str]:
    """Rotate a worker, the client, and the master; returns the names in their order."""
    row = await admin.call("keys.rotate", {"name": "worker-1", "overlap_s": OVERLAP_S}, target="master")
    assert (row["name"], row["state"]) == ("worker-1", "rotated")
    with pytest.raises(Busy, match="admitted until"):
        await admin.call("keys.rotate", {"name": "worker-1"}, target="master")
    mine = await client.rotate_key(OVERLAP_S)
    assert (mine["name"], mine["state"]) == (name, "rotated")
    await admin.call("keys.rotate", {"name": "master", "overlap_s": 600.0}, target="master")
    with contextlib.suppress(Busy):  # all have heard of it meanwhile, and it is over already
        row = await admin.call("keys.rotate", {"name": "master", "now": True}, target="master")
        assert row["state"] == "rotated"
    return ["worker-1", name, "master"]


async def the_old_worker_key_is_gone(cluster: LocalCluster, old: KeyFile) -> None:
    now = KeyFile.read(cluster.key_file("worker-1"))
    assert now.next is None
    assert now.pair != old.pair
    assert public_of(now.pair.secret) == now.pair.public
    ring = Ring(Home.of(cluster.home).ring_file)

    def gone() -> bool:
        ring.reload_if_changed()
        entry = ring.get("worker-1")
        return ring.by_public(old.pair.public) is None and entry.public == now.pair.public and not entry.previous

    await eventually(gone, "the older key of the worker is gone")


async def with_master(path: Path, master_public: str) -> None:
    """Connect and trust this master's key only."""
    copy = path.with_name(f"trusting-{path.name}")
    replace(KeyFile.read(path), master_public=master_public, master_next="").write(copy)
    async with AsyncClient(key=copy, timeout=1.0):
        pass


async def restarted(cluster: LocalCluster) -> None:
    """Processes that start again come back with the keys that they have now."""
    await cluster.restart_worker("worker-1")
    await cluster.restart_master()
    await cluster.wait_ready("master", *cluster.worker_names)
    async with AsyncClient(key=cluster.client_key, timeout=PATIENCE_S) as again:
        assert await again.call("node.info", target="worker-1")


def test_who_is_away_or_cannot_write() -> None:
    """A rotation waits for its owner; an owner that cannot write its file says so, and nothing changes."""

    async def main() -> None:
        async with LocalCluster(1) as cluster, AsyncClient(key=cluster.admin_key, timeout=PATIENCE_S) as admin:
            await away(cluster, admin)
            path = cluster.new_key("reader", "client")
            async with AsyncClient(key=path, timeout=PATIENCE_S) as reader, AsyncClient(key=path, timeout=PATIENCE_S) as beside:
                await shared(reader, beside, path)
            path = cluster.new_key("stuck", "client")
            async with AsyncClient(key=path, timeout=PATIENCE_S) as stuck:
                stuck_key = KeyFile.read(path)
                path.unlink()
                path.mkdir()  # root may write read-only files: this not
                with pytest.raises(InvalidKey):
                    await admin.call("keys.rotate", {"name": "stuck"}, target="master")
                assert await stuck.call("node.info", target="worker-1")
            entry = Ring(Home.of(cluster.home).ring_file).get("stuck")
            assert (entry.public, entry.rotate_s) == (stuck_key.pair.public, 0)
            assert ("key_refused", "stuck") in await events(admin)

    asyncio.run(main())


async def away(cluster: LocalCluster, admin: AsyncClient) -> None:
    await cluster.terminate("worker-1")
    old = KeyFile.read(cluster.key_file("worker-1"))
    row = await admin.call("keys.rotate", {"name": "worker-1", "overlap_s": OVERLAP_S}, target="master")
    assert (row["state"], row["new"]) == ("wanted", "")
    with pytest.raises(Busy, match="already"):
        await admin.call("keys.rotate", {"name": "worker-1"}, target="master")
    cluster.start_worker("worker-1")
    await cluster.wait_ready("worker-1")
    await eventually(lambda: rotated(cluster, old), "it is rotated when it comes")


def rotated(cluster: LocalCluster, old: KeyFile) -> bool:
    now = KeyFile.read(cluster.key_file("worker-1"))
    return now.pair != old.pair and now.next is None


async def shared(one: AsyncClient, other: AsyncClient, path: Path) -> None:
    """Two processes with one file: both move, and go on when the older key has ended."""
    sessions_before = (one.session, other.session)
    row = await one.rotate_key(OVERLAP_S)
    assert row["state"] == "rotated"

    async def neither_uses_it() -> bool:
        now = KeyFile.read(path).pair
        return all(client.own is not None and client.own.current == now for client in (one, other))

    await eventually(neither_uses_it, "both use the next key")
    assert (one.session, other.session) == sessions_before
    assert os.stat(path).st_mode & 0o777 == 0o600
