"""Faults of nodes that hold agents, with real processes: nothing is lost, nothing is there twice, and who comes back goes on.

Rules kept here: nothing waits for a time, everything for a fact (a row, a counter, an event, a digest), with a deadline.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
import zmq
from agent_peers import (
    agent_is,
    count_at,
    data_of,
    events,
    known,
    newest_event,
    read_book,
    some_rows,
    start_agent,
    write_book,
    zcluster,
)
from small_disk import fill, small_disk
from waiting import counter, eventually, node_row

from zcluster.bench.child import stop_processes
from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient
from zcluster.config import Home
from zcluster.errors import EXIT_NO_MATCH, NoSuchAgent, NoSuchGroup, NoSuchNode, StoreFailed
from zcluster.keys import KeyFile, Ring

MANY = 20_000
KILLS = 3
GROWTH_BYTES = 64 << 20
CHANGES = 10_000
FILES, FILE_BYTES = 400, 180_000
"""What is published then is more than the master may grow."""
COMMITS = 500
DISK_BYTES, FULL_ROWS = 24 << 20, 8000
SETTINGS = {"session.heartbeat_s": 0.5, "worker.door": "tcp://127.0.0.1:*"}
Body = Callable[[AsyncClient], Awaitable[None]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(2, settings=SETTINGS) as running:
        yield running


@pytest.fixture
def run(cluster: LocalCluster) -> Callable[[Body], None]:
    """Run a test with an administrator's client."""

    def with_client(body: Body) -> None:
        async def main() -> None:
            async with AsyncClient(key=cluster.admin_key) as client:
                await body(client)

        asyncio.run(main())

    return with_client


async def is_there(client: AsyncClient, node: str, count: int) -> None:
    """Wait until the master knows so many agents at ``node``."""

    async def check() -> bool:
        return await count_at(client, node) == count

    await eventually(check, f"the master knows {count} agents of {node}")


async def some_more(client: AsyncClient, node: str, than: int) -> int:
    """Wait until the master knows more agents of ``node``; how many."""

    async def check() -> int:
        count = await count_at(client, node)
        return count if count > than else 0

    return int(await eventually(check, f"the master knows more than {than} agents of {node}"))


def test_a_worker_that_is_killed_in_its_first_sync_goes_on(cluster: LocalCluster, run: Callable[[Body], None]) -> None:
    async def body(c: AsyncClient) -> None:
        assert await cluster.terminate("worker-1") == 0
        rows = some_rows("worker-1", MANY)
        await write_book(cluster, "worker-1", rows)
        taken = await counter(c, "rows_taken")
        there, partly = 0, 0
        for _ in range(KILLS):
            cluster.start_worker("worker-1")
            await some_more(c, "worker-1", there)
            cluster.kill("worker-1")
            await cluster.terminate("worker-1")
            there = await count_at(c, "worker-1")
            partly += 0 < there < MANY
            if there == MANY:
                break
        assert partly, "none was killed before it had sent everything"
        cluster.start_worker("worker-1")
        await is_there(c, "worker-1", MANY)
        assert set(await known(c, "node=worker-1", ["id"])) == {row.id for row in rows}
        assert await counter(c, "rows_taken") - taken == MANY, "no row was taken twice"

    run(body)


def test_a_master_that_is_killed_while_it_takes_rows_goes_on(cluster: LocalCluster, run: Callable[[Body], None]) -> None:
    async def body(c: AsyncClient) -> None:
        assert await cluster.terminate("worker-2") == 0
        rows = some_rows("worker-2", MANY)
        await write_book(cluster, "worker-2", rows)
        cluster.start_worker("worker-2")
        committed, partly = 0, 0
        for _ in range(KILLS):
            await some_more(c, "worker-2", committed)
            cluster.kill("master")
            await cluster.terminate("master")
            book = read_book(cluster, "master")
            mine = [id_ for id_, (node, _) in book.rows.items() if node == "worker-2"]
            assert len(mine) == book.cursors["worker-2"], "rows and cursor are one commit"
            committed = len(mine)
            partly += 0 < committed < MANY
            cluster.start_master()
            if committed == MANY:
                break
        assert partly, "the master was never killed before it had everything"
        await is_there(c, "worker-2", MANY)
        assert set(await known(c, "node=worker-2", ["id"])) == {row.id for row in rows}
        assert await counter(c, "rows_taken") == MANY - committed, "it goes on where it stopped"

    run(body)


async def all_rows(client: AsyncClient) -> dict[str, Any]:
    # Not last_seen: of a node that was dead for a while the master sets it itself.
    return await known(client, "", ["id", "node", "status", "labels.number", "first_seen", "epoch"])


def test_a_master_that_lost_its_data_gets_everything_again(cluster: LocalCluster, run: Callable[[Body], None]) -> None:
    async def body(c: AsyncClient) -> None:
        for node in ("worker-1", "worker-2"):
            await c.agents.report([{"id": f"kept-by-{node}", "status": "active"}], node=node)
            await agent_is(c, f"kept-by-{node}", node=node)
        before = await all_rows(c)
        assert await cluster.terminate("master") == 0
        data = Home.of(cluster.home).data_dir
        for path in data.iterdir():
            if path.name != "nodes":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        cluster.start_master()

        async def again() -> bool:
            return await count_at(c, "worker-1") + await count_at(c, "worker-2") == len(before)

        await eventually(again, "all rows are there again")
        assert await all_rows(c) == before

    run(body)


def test_agents_of_a_worker_that_lost_its_book_are_disconnected_until_reported(
    cluster: LocalCluster, run: Callable[[Body], None]
) -> None:
    async def body(c: AsyncClient) -> None:
        rows = [{"id": f"lost-{number}", "status": "active"} for number in range(3)]
        await c.agents.report(rows, node="worker-1")
        for row in rows:
            await agent_is(c, str(row["id"]), status="active", node="worker-1")
        assert await cluster.terminate("worker-1") == 0
        shutil.rmtree(data_of(cluster, "worker-1"))
        cluster.start_worker("worker-1")
        await cluster.wait_ready("worker-1")
        for row in rows:
            await agent_is(c, str(row["id"]), status="disconnected", node="worker-1")
        assert (await c.agents.count("node=worker-1 and status=active"))["total"] == 0
        await c.agents.report(rows[:1], node="worker-1")
        await agent_is(c, "lost-0", status="active", node="worker-1")
        assert (await c.agents.count("node=worker-1 and status=active"))["total"] == 1

    run(body)


async def doors(client: AsyncClient) -> list[str]:
    """The doors of the workers."""

    async def check() -> list[str]:
        found = [(await node_row(client, name)).get("door") or [] for name in ("worker-1", "worker-2")]
        return [door[0] for door in found] if all(found) else []

    return list(await eventually(check, "the workers have doors"))


async def moves(client: AsyncClient, after: int, agent: str) -> list[tuple[str, str]]:
    """From where to where the agent went, in order."""
    found = await events(client, after, "agent_moved")
    return [(each["fields"]["from"], each["fields"]["to"]) for each in found if agent in each["fields"].values()]


def test_an_agent_that_moves_while_both_nodes_speak_of_it(
    cluster: LocalCluster, run: Callable[[Body], None], tmp_path: Path
) -> None:
    async def body(c: AsyncClient) -> None:
        await c.call("config.set", {"scope": "defaults", "values": {"interval": 0.5}}, target="master")
        cluster.new_key("mover", "agent")
        words = [word for door in await doors(c) for word in ("--node", door)]
        process = start_agent(cluster, tmp_path, "mover", *words)
        try:

            async def at_a_worker() -> str:
                # At the master first, when the workers have not heard of its key yet.
                row = await c.agents.show("mover")
                return str(row["node"]) if row["status"] == "active" and row["node"] != "master" else ""

            first = await eventually(at_a_worker, "it is at a worker")
            second = {"worker-1": "worker-2", "worker-2": "worker-1"}[first]
            after = await newest_event(c)

            async def refused(node: str) -> None:
                before = await counter(c, "rows_refused")

                async def check() -> bool:
                    await c.agents.report([{"id": "mover", "status": "active", "labels": {"by": "a program"}}], node=node)
                    return await counter(c, "rows_refused") > before

                await eventually(check, f"what is reported at {node} is refused")

            await refused(second)
            await agent_is(c, "mover", node=first, held="session", labels={})
            assert await moves(c, after, "mover") == []
            await c.agents.move("mover", second)

            async def moved() -> bool:
                for node in (first, second):
                    await c.agents.report([{"id": "mover", "status": "active"}], node=node)
                row = await c.agents.show("mover")
                return bool(row["node"] == second and row["held"] == "session" and row["status"] == "active")

            await eventually(moved, "it has its session at the other node")
            await refused(first)
            await settled(c, "worker-1", "worker-2")
            await agent_is(c, "mover", node=second, held="session", status="active", labels={})
            went = await moves(c, after, "mover")
            assert went[-1] == (first, second)
            assert len(went) == 1, f"it flapped: {went}"
        finally:
            stop_processes([process])

    run(body)


async def settled(client: AsyncClient, *nodes: str) -> None:
    """Wait until what was reported before at these nodes has come up: a mark that is reported after it has."""
    for node in nodes:
        mark = f"mark-{await newest_event(client)}"
        await client.agents.report([{"id": f"mark-of-{node}", "name": mark}], node=node)
        await agent_is(client, f"mark-of-{node}", name=mark)


def test_what_two_workers_report_of_one_agent_ends_at_the_newest(cluster: LocalCluster, run: Callable[[Body], None]) -> None:
    async def body(c: AsyncClient) -> None:
        after, expected = await newest_event(c), []
        for turn in range(6):
            node, other = ("worker-1", "worker-2") if turn % 2 else ("worker-2", "worker-1")
            await c.agents.report([{"id": "both", "status": "active", "name": f"turn {turn}"}], node=node)
            await agent_is(c, "both", node=node, name=f"turn {turn}")
            expected.append((other, node))
        await settled(c, "worker-1", "worker-2")
        await agent_is(c, "both", node="worker-1", name="turn 5")
        assert await moves(c, after, "both") == expected[1:], "each went once"
        for node in ("worker-1", "worker-2"):
            assert await cluster.terminate(node) == 0
        assert "both" in read_book(cluster, "worker-1").rows
        assert "both" not in read_book(cluster, "worker-2").rows, "who lost it was told"
        for node in ("worker-1", "worker-2"):
            cluster.start_worker(node)
        await cluster.wait_ready("worker-1", "worker-2")
        await agent_is(c, "both", node="worker-1", name="turn 5")

    run(body)


def test_a_revoked_agent_is_out_of_a_workers_door(cluster: LocalCluster, run: Callable[[Body], None], tmp_path: Path) -> None:
    async def body(c: AsyncClient) -> None:
        cluster.new_key("gone", "agent")
        process = start_agent(cluster, tmp_path, "gone", "--node", (await doors(c))[0])
        try:
            await agent_is(c, "gone", status="active", node="worker-1")
            Ring(Home.of(cluster.home).ring_file).revoke("gone")
            row = await agent_is(c, "gone", status="disconnected")
            assert row["node"] == "worker-1"
            assert row["held"] == "session"
        finally:
            stop_processes([process])

    run(body)


def test_targets_that_name_agents(cluster: LocalCluster, run: Callable[[Body], None]) -> None:
    async def body(c: AsyncClient) -> None:
        for node in ("worker-1", "worker-2"):
            await c.agents.report([{"id": f"target-{node}"}], node=node)
            await agent_is(c, f"target-{node}", node=node)
            assert (await c.call("node.info", target=f"agent:target-{node}"))["name"] == node
        await c.groups.create("targets")
        await c.groups.create("targets-empty")
        await c.groups.add("targets", ["target-worker-1", "target-worker-2"])

        async def both() -> bool:
            found = {each.node async for each in c.fan_out("node.info", target="group:targets")}
            return found == {"worker-1", "worker-2"}

        await eventually(both, "both nodes are meant")
        with pytest.raises(NoSuchAgent):
            await c.call("node.info", target="agent:nobody")
        for group, error in (("nothing", NoSuchGroup), ("targets-empty", NoSuchNode)):
            with pytest.raises(error):
                [each async for each in c.fan_out("node.info", target=f"group:{group}")]
        for target, node in (("agent:target-worker-2", "worker-2"), ("agent:nobody", ""), ("group:nothing", "")):
            done = await asyncio.to_thread(zcluster, cluster, "dapi", "call", "node.info", "--target", target, "-o", "json")
            assert done.returncode == (0 if node else EXIT_NO_MATCH), done
            if node:
                (item,) = json.loads(done.stdout)["items"]
                assert (item["node"], item["value"]["name"]) == (node, node), "it says which node answered"

    run(body)


# -- groups ----------------------------------------------------------------------------------------------------------------


class Deaf:
    """A subscriber that subscribes to everything and never reads."""

    def __init__(self, key_path: Path) -> None:
        key = KeyFile.read(key_path)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, 1)
        self._socket.setsockopt(zmq.RCVBUF, 4096)
        self._socket.curve_publickey = key.pair.public.encode()
        self._socket.curve_secretkey = key.pair.secret.encode()
        self._socket.curve_serverkey = key.master_public.encode()
        self._socket.connect(key.publish[0])
        self._socket.subscribe(b"")

    def hears(self) -> bool:
        """Whether something came: it is subscribed."""
        return bool(self._socket.poll(0))

    def close(self) -> None:
        self._socket.close()
        self._context.term()


async def groups_table(client: AsyncClient, node: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = await client.call("tables.status", target=node)
    return next(row for row in rows if row["table"] == "groups")


async def has_the_groups(client: AsyncClient, worker: str) -> None:
    """Wait until the copy of the worker is what the master has."""

    async def check() -> bool:
        source, copy = await groups_table(client, "master"), await groups_table(client, worker)
        return bool(copy["ready"] and copy["digest"] == source["digest"])

    await eventually(check, f"{worker} has the groups")


def test_a_subscriber_that_never_reads_and_a_stopped_worker_hold_up_nobody(
    cluster: LocalCluster, run: Callable[[Body], None]
) -> None:
    async def body(c: AsyncClient) -> None:
        await c.groups.create("heard")
        for worker in ("worker-1", "worker-2"):
            await has_the_groups(c, worker)
        deaf = [Deaf(cluster.new_key(f"deaf-{number}", "client")) for number in range(3)]
        master = psutil.Process(cluster.pids["master"])
        try:
            for each in deaf:
                await eventually(each.hears, "it is subscribed")
            before_bytes = master.memory_info().rss
            cluster.kill("worker-1", signal.SIGSTOP)
            lines = [f"heard-{number:05} heard" for number in range(CHANGES)]
            await c.groups.bulk(lines, new=True)
            for _ in range(FILES):
                await c.groups.put_file("heard", "large", os.urandom(FILE_BYTES))
            await has_the_groups(c, "worker-2")
            assert (await c.groups.show("heard", node="worker-2"))["agents"] == CHANGES
            assert master.memory_info().rss - before_bytes < GROWTH_BYTES
        finally:
            cluster.kill("worker-1", signal.SIGCONT)
            for each in deaf:
                each.close()
        await has_the_groups(c, "worker-1")
        assert (await c.groups.show("heard", node="worker-1"))["agents"] == CHANGES

    run(body)


def test_a_storm_of_commits_reaches_every_worker(cluster: LocalCluster, run: Callable[[Body], None]) -> None:
    async def body(c: AsyncClient) -> None:
        await c.groups.create("storm")
        before = (await groups_table(c, "master"))["revision"]
        await asyncio.gather(*(c.groups.add("storm", [f"storm-{number}"], new=True) for number in range(COMMITS)))
        source = await groups_table(c, "master")
        assert source["revision"] >= before + COMMITS
        for worker in ("worker-1", "worker-2"):
            await has_the_groups(c, worker)
            assert (await c.groups.show("storm", node=worker))["agents"] == COMMITS

    run(body)


# -- the disk ---------------------------------------------------------------------------------------------------------------


def test_a_master_whose_disk_is_full_acknowledges_nothing_and_recovers() -> None:
    async def main() -> None:
        async with LocalCluster(1, settings=SETTINGS) as cluster, AsyncClient(key=cluster.admin_key) as c:
            await c.agents.report([{"id": "before", "status": "active"}], node="worker-1")
            await agent_is(c, "before", node="worker-1")
            assert await cluster.terminate("master") == 0
            with small_disk(data_of(cluster, "master"), DISK_BYTES):
                try:
                    cluster.start_master()
                    await cluster.wait_ready("master", "worker-1")
                    await body(cluster, c)
                finally:
                    await cluster.terminate("master")

    async def body(cluster: LocalCluster, c: AsyncClient) -> None:
        await agent_is(c, "before", status="active")
        after = await newest_event(c)
        ballast = fill(data_of(cluster, "master"))
        rows = [{"id": f"full-{number:04}", "labels": {"pad": "p" * 250}} for number in range(FULL_ROWS)]
        for start in range(0, FULL_ROWS, 1000):
            assert (await c.agents.report(rows[start : start + 1000], node="worker-1"))["taken"] == 1000
        await eventually(lambda: newest_of_the_disk(c, after, "agents_store_failed"), "an event says so")
        with pytest.raises(StoreFailed, match="disk is full"):
            await c.agents.report([{"id": "mine"}])
        with pytest.raises(StoreFailed, match="disk is full"):
            for number in range(COMMITS):
                await c.config.set("node/worker-1", {"extra": {"pad": f"{number}" * 10_000}})
        await eventually(lambda: events(c, after, "store_failed"), "an event says so of the store")
        assert set(await known(c)) < {"before", *(str(row["id"]) for row in rows)}, "questions are answered"
        assert (await c.call("node.info", target="worker-1"))["name"] == "worker-1"
        # What was acknowledged while the disk was filling up stays, also when it is killed now.
        there = set(await known(c))
        cluster.kill("master")
        await cluster.terminate("master")
        assert set(read_book(cluster, "master").rows) == there
        cluster.start_master()
        await cluster.wait_ready("master", "worker-1")
        assert set(await known(c)) == there
        ballast.unlink()
        await is_there(c, "worker-1", FULL_ROWS + 1)
        await c.groups.create("room")
        assert (await c.agents.report([{"id": "mine"}]))["taken"] == 1
        await eventually(lambda: newest_of_the_disk(c, after, "agents_store_recovered"), "an event says so")

    asyncio.run(main())


async def newest_of_the_disk(client: AsyncClient, after: int, name: str) -> bool:
    """Whether what was told last of the disk is this."""
    found = await events(client, after, "agents_store_failed", "agents_store_recovered")
    return bool(found) and found[-1]["name"] == name
