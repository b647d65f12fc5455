"""A node or the master is killed at a step of a rotation: what is on its disks fits together, and the next start goes on."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from waiting import PATIENCE_S, eventually

from zcluster.bench.cluster import MASTER, LocalCluster
from zcluster.clients import AsyncClient
from zcluster.config import Home
from zcluster.errors import ZClusterError
from zcluster.keys import KeyFile, Ring
from zcluster.keys.ringfile import Entry
from zcluster.process.failpoints import FAILPOINTS, VARIABLE

WORKER = "worker-1"
OF_MASTER = ("rotation.master.wanted", "rotation.master.made", "rotation.master.in_ring", "rotation.master.in_file")
BY_MASTER = ("rotation.in_ring",)
OF_WORKER = ("rotation.made", "rotation.admitted", "rotation.moved")
TELLING = ("rotation.master.in_ring", "rotation.admitted")
"""Of these two files have to be brought together; the others are run by make soak."""


def cases(*points: str) -> list[Any]:
    return [point if point in TELLING else pytest.param(point, marks=pytest.mark.soak) for point in points]


def test_every_point_has_a_case() -> None:
    assert {*OF_MASTER, *BY_MASTER, *OF_WORKER} == {point for point in FAILPOINTS if point.startswith("rotation.")}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(1, settings={"session.heartbeat_s": 0.5}) as running:
        yield running


async def dies(cluster: LocalCluster, name: str) -> None:
    await eventually(lambda: name not in cluster.pids, f"{name} dies")
    assert await cluster.terminate(name) == -signal.SIGKILL


def entry(cluster: LocalCluster, name: str) -> Entry:
    return Ring(Home.of(cluster.home).ring_file).get(name)


async def only_one_is_admitted(cluster: LocalCluster, name: str) -> None:
    """Wait for the end of the overlap."""
    ring = Ring(Home.of(cluster.home).ring_file)

    def over() -> bool:
        ring.reload_if_changed()
        return all(ring.by_public(each.public) is None for each in ring.get(name).previous)

    await eventually(over, "the overlap is over")


async def rotate(cluster: LocalCluster, **args: object) -> None:
    async with AsyncClient(key=cluster.admin_key, timeout=PATIENCE_S) as admin:
        await admin.call("keys.rotate", args, target="master")


@pytest.mark.parametrize("point", cases(*OF_MASTER))
def test_the_master_dies_while_its_own_key_is_rotated(cluster: LocalCluster, point: str) -> None:
    async def body() -> None:
        path, first = Home.of(cluster.home).master_key, entry(cluster, MASTER)
        await only_one_is_admitted(cluster, MASTER)
        await cluster.terminate(MASTER)
        cluster.start_master({VARIABLE: point})
        await cluster.wait_ready(MASTER, WORKER)
        asked = asyncio.ensure_future(rotate(cluster, name=MASTER, now=True))
        await dies(cluster, MASTER)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await only_one_is_admitted(cluster, MASTER)
        cluster.start_master()
        await cluster.wait_ready(MASTER, WORKER)
        if entry(cluster, MASTER).public == first.public:
            await rotate(cluster, name=MASTER, now=True)
        now = KeyFile.read(path)
        assert (now.pair.public, now.next, now.master_public) == (entry(cluster, MASTER).public, None, now.pair.public)
        assert (now.pair.public != first.public, entry(cluster, MASTER).id) == (True, first.id)
        await cluster.restart_worker(WORKER)

    asyncio.run(body())


@pytest.mark.parametrize("point", cases(*BY_MASTER, *OF_WORKER))
def test_a_worker_s_key_is_rotated_and_one_of_both_dies(cluster: LocalCluster, point: str) -> None:
    async def body() -> None:
        path, first = cluster.key_file(WORKER), entry(cluster, WORKER)
        await only_one_is_admitted(cluster, WORKER)
        who = MASTER if point in BY_MASTER else WORKER
        start = cluster.start_master if who == MASTER else partial(cluster.start_worker, WORKER)
        await cluster.terminate(who)
        start({VARIABLE: point})
        await cluster.wait_ready(MASTER, WORKER)
        asked = asyncio.ensure_future(rotate(cluster, name=WORKER, overlap_s=1.0))
        await dies(cluster, who)
        await only_one_is_admitted(cluster, WORKER)
        start(None)
        await cluster.wait_ready(MASTER, WORKER)
        (found,) = await asyncio.gather(asked, return_exceptions=True)
        assert found is None or isinstance(found, ZClusterError)

        def rotated() -> bool:
            now = KeyFile.read(path)
            return now.next is None and now.pair.public == entry(cluster, WORKER).public != first.public

        await eventually(rotated, "its key is another")
        assert entry(cluster, WORKER).id == first.id
        async with AsyncClient(key=cluster.admin_key, timeout=PATIENCE_S) as admin:
            assert await admin.call("node.info", target=WORKER)

    asyncio.run(body())
