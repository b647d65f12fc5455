"""Doors of workers in a running cluster: clients come in by a worker, and go elsewhere when it dies or their key is revoked."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE_S, eventually, node_row

from zcluster.bench.child import start_process, stop_processes
from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient
from zcluster.core.doors import KnownNode
from zcluster.errors import NotAllowed, Unreachable, UsageError, ZClusterError
from zcluster.keys import KeyFile, Ring, new_key

FUNCTIONS = str(Path(__file__).with_name("bus_functions.py"))
MIB = 1 << 20


class Doors:
    """A cluster of a master, worker-1 without a door, and two workers with one."""

    def __init__(self, cluster: LocalCluster, directory: Path) -> None:
        self.cluster = cluster
        self._directory = directory
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        if not self.cluster.key_file(name).exists():
            self.cluster.new_key(name, "worker")
        command = [
            sys.executable, "-m", "zcluster", "worker", "--home", str(self.cluster.home), "--name", name,
            "--functions", FUNCTIONS, "--door", "tcp://127.0.0.1:*",
        ]  # fmt: skip
        self._processes[name] = start_process(command, self._directory / f"{name}.log")

    def kill(self, name: str) -> None:
        self._processes[name].send_signal(signal.SIGKILL)
        self._processes[name].wait()

    def close(self) -> None:
        stop_processes(list(self._processes.values()))

    async def address(self, name: str) -> str:
        """Where the door of ``name`` is, once it is there."""
        async with AsyncClient(key=self.cluster.client_key, timeout=PATIENCE_S) as client:

            async def told() -> str:
                row = await node_row(client, name) if name in {each["name"] for each in await client.nodes()} else {}
                return str(row["door"][0]) if row.get("state") == "ready" and row["door"] else ""

            return str(await eventually(told, f"the door of {name}"))

    def key(self, name: str, role: str = "client") -> Path:
        """A key that is made now, and so knows all workers."""
        return new_key(self.cluster.home, name, role)[1]


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    with LocalCluster(workers=1, functions=[FUNCTIONS], settings={"session.heartbeat_s": 0.3}) as cluster:
        made = Doors(cluster, tmp_path_factory.mktemp("doors"))
        try:
            for name in ("door-1", "door-2"):
                made.start(name)
            for name in ("door-1", "door-2"):
                asyncio.run(made.address(name))
            yield made
        finally:
            made.close()


def use(body: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(2 * PATIENCE_S):
            await body()

    asyncio.run(main())


async def through(key: Path, *addresses: str) -> AsyncClient:
    """A client that is connected at a door; until the ring is copied there it is refused."""

    async def connected() -> AsyncClient:
        client = AsyncClient(key=key, master=addresses, timeout=5.0)
        await client.connect()
        return client

    found = await eventually(connected, f"a session at {addresses}")
    assert isinstance(found, AsyncClient)
    return found


def test_a_client_calls_through_a_door(doors: Doors) -> None:
    async def body() -> None:
        key = doors.key("caller")
        async with await through(key, await doors.address("door-1")) as client:
            assert await client.call("echo", {"value": "hi"}) == "hi"
            for node in ("master", "worker-1", "door-1", "door-2"):
                assert (await client.call("node.info", target=node))["name"] == node
            found = {result.node: result.value async for result in client.fan_out("echo", {"value": 1}, target="door-*")}
            assert found == {"door-1": 1, "door-2": 1}
            large = "x" * (3 * MIB)
            assert await client.call("echo", {"value": large}, target="door-2") == large
            answers = await asyncio.gather(*(client.call("echo", {"value": number}) for number in range(2000)))
            assert answers == list(range(2000))
            assert (await client.status())["master"] == "master"

    use(body)


def test_an_admin_key_is_a_client_at_a_door(doors: Doors, tmp_path: Path) -> None:
    async def body() -> None:
        args = {"path": str(tmp_path / "ran")}
        key = doors.key("boss", "admin")
        async with AsyncClient(key=key, timeout=PATIENCE_S) as direct:
            assert await direct.call("t.admin", args, target="worker-1")
        async with await through(key, await doors.address("door-1")) as client:
            assert await client.call("echo", {"value": 1}) == 1
            with pytest.raises(NotAllowed):
                await client.call("t.admin", args, target="worker-1")

    use(body)


def test_a_node_is_named_or_listed_or_found_by_its_key(doors: Doors) -> None:
    async def body() -> None:
        key, address = doors.key("finder"), await doors.address("door-2")
        async with await through(key, f"door-2@{address}") as client:
            assert await client.call("echo", {"value": 1}) == 1
        for wrong in ("door-1", "master"):
            with pytest.raises(Unreachable):
                await AsyncClient(key=key, master=f"{wrong}@{address}", timeout=1.0).connect()
        with pytest.raises(UsageError, match="knows no node"):
            await AsyncClient(key=key, master=f"door-9@{address}").connect()
        file = KeyFile.read(key)
        known = next(node for node in file.nodes if node.name == "door-2")
        listed = KeyFile(
            file.name, file.role, file.cluster, file.pair, file.master_public, nodes=(KnownNode("d", known.public, (address,)),)
        )
        listed.rewrite(key)
        async with await through(key, address) as client:
            assert await client.call("echo", {"value": 2}) == 2

    use(body)


def test_a_revoked_key_is_out_at_the_door_at_once(doors: Doors) -> None:
    async def body() -> None:
        key, address = doors.key("gone"), await doors.address("door-1")
        async with await through(key, address) as client:
            assert await client.call("echo", {"value": 1}) == 1
            Ring(doors.cluster.home / "keys" / "ring.json").revoke("gone")

            async def refused() -> bool:
                try:
                    await client.call("echo", {"value": 1}, timeout=0.5)
                except ZClusterError:
                    return True
                return False

            await eventually(refused, "the session ends")

        async def denied() -> bool:
            try:
                await AsyncClient(key=key, master=address, timeout=5.0).connect()
            except NotAllowed:
                return True
            raise AssertionError("a revoked key was let in")

        assert await eventually(denied, "the door refuses the key")

    use(body)


def test_a_key_that_nobody_admitted_is_refused_at_the_door(doors: Doors) -> None:
    async def body() -> None:
        key, address = doors.key("fresh"), await doors.address("door-1")
        async with await through(key, address):
            pass
        for name in ("worker-1", "door-2"):
            # A worker's own key opens no session at a door, whatever program uses it.
            stranger = KeyFile.read(doors.cluster.key_file(name))
            path, nodes = key.with_name(f"as-{name}.key"), KeyFile.read(key).nodes
            KeyFile(name, "client", stranger.cluster, stranger.pair, stranger.master_public, nodes=nodes).write(path)
            with pytest.raises(NotAllowed):
                await AsyncClient(key=path, master=f"door-1@{address}", timeout=5.0).connect()

    use(body)


def test_a_client_goes_to_the_next_address_when_its_worker_dies(doors: Doors) -> None:
    async def body() -> None:
        doors.start("door-3")
        first, second = await doors.address("door-3"), await doors.address("door-1")
        key = doors.key("mover")
        async with await through(key, f"door-3@{first}", f"door-1@{second}") as client:
            assert await client.call("echo", {"value": 1}) == 1
            doors.kill("door-3")

            async def again() -> Any:
                return await client.call("echo", {"value": 2}, timeout=2.0)

            assert await eventually(again, "an answer through the other door") == 2

    use(body)


def test_a_door_without_a_master_sends_clients_away_until_it_is_back(doors: Doors) -> None:
    async def body() -> None:
        key = doors.key("patient")
        async with await through(key, await doors.address("door-2")) as client:
            doors.cluster.kill("master")
            await doors.cluster.restart_master()

            async def again() -> Any:
                return await client.call("echo", {"value": 3}, timeout=2.0)

            assert await eventually(again, "an answer after the master's return") == 3

    use(body)


def test_clients_at_different_nodes_send_to_one_another_and_follow_the_events(doors: Doors) -> None:
    async def body() -> None:
        ann, bob = doors.key("ann"), doors.key("bob")
        async with (
            await through(ann, await doors.address("door-1")) as at_one,
            await through(bob, await doors.address("door-2")) as at_two,
            AsyncClient(home=doors.cluster.home) as at_master,
            at_one.messages() as for_ann,
            at_two.messages() as for_bob,
            asyncio.timeout(30),
        ):
            assert await at_one.send("bob", "hello") == 1
            message = await anext(for_bob)
            assert (message.key, message.text) == ("ann", "hello")
            assert await at_master.send("all", "both") == 2
            assert [(await anext(each)).text for each in (for_ann, for_bob)] == ["both", "both"]
            assert [event["name"] async for event in at_two.events(after=0, limit=1)] == ["join"]

    use(body)
