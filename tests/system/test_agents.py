"""Agents as processes: they join, die, move, and are many."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import eventually, json_lines

from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient
from zcluster.keys import new_keys

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 30.0


class Agents:
    """Agent processes of one test."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *words: str) -> None:
        """``zcluster agent`` with these words."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("ZCLUSTER_")}
        command = [sys.executable, "-m", "zcluster", "agent", "--home", str(self.place / name), *words]
        with self._log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(command, env={**kept, "PYTHONPATH": str(ROOT)}, stderr=log)

    def said(self, name: str) -> list[dict[str, Any]]:
        """The lines of its log."""
        return json_lines(self._log(name).read_text())

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to it."""
        self.processes[name].send_signal(number)

    def close(self) -> None:
        """Kill what is left."""
        for process in self.processes.values():
            process.kill()
            process.wait(timeout=LIMIT_S)

    def _log(self, name: str) -> Path:
        return self.place / f"{name}.log"


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Agents]:
    place = tmp_path / "agents"
    place.mkdir()
    found = Agents(place)
    yield found
    found.close()


async def rows(client: AsyncClient) -> dict[str, dict[str, Any]]:
    """The agents that the master knows."""
    select = ["id", "status", "node", "labels", "os", "metrics", "epoch", "first_seen"]
    found = await client.call("agents.list", {"limit": 1000, "select": select}, target="master", timeout=10)
    return {row["id"]: row for row in found["items"]}


async def status_is(client: AsyncClient, name: str, *statuses: str) -> dict[str, Any]:
    """Wait until the agent's status is one of these."""

    async def check() -> dict[str, Any] | None:
        row = (await rows(client)).get(name)
        return row if row is not None and row["status"] in statuses else None

    return dict(await eventually(check, f"{name} is {' or '.join(statuses)}"))


async def faster(client: AsyncClient) -> None:
    """Agents with an interval of half a second: what takes 3 intervals takes 1.5 s."""
    await client.call("config.set", {"scope": "defaults", "values": {"interval": 0.5}}, target="master", timeout=10)


def test_an_agent_is_active_then_silent_then_disconnected_and_back(agents: Agents) -> None:
    async def main() -> None:
        async with LocalCluster(workers=0) as cluster, AsyncClient(home=cluster.home) as client:
            await faster(client)
            key = str(cluster.new_key("a1", "agent"))
            agents.start("a1", "--key", key, "--label", "site=ber")
            row = await status_is(client, "a1", "active")
            assert row["node"] == "master"

            async def said_all() -> bool:
                said = (await rows(client))["a1"]
                return said["labels"] == {"site": "ber"} and "cpu" in said["metrics"] and bool(said["os"]["platform"])

            await eventually(said_all, "what it says is known")
            agents.kill("a1")
            await status_is(client, "a1", "silent", "disconnected")
            await status_is(client, "a1", "disconnected")
            agents.start("a1", "--key", key)
            fresh = await status_is(client, "a1", "active")
            assert fresh["epoch"] > row["epoch"]
            assert fresh["first_seen"] == row["first_seen"]
            agents.kill("a1", signal.SIGTERM)
            await status_is(client, "a1", "disconnected")
            assert agents.processes["a1"].wait(timeout=LIMIT_S) == 0

    asyncio.run(main())


def test_a_stopped_agent_is_silent_though_its_connection_lives(agents: Agents) -> None:
    async def main() -> None:
        async with LocalCluster(workers=0) as cluster, AsyncClient(home=cluster.home) as client:
            await faster(client)
            agents.start("a1", "--key", str(cluster.new_key("a1", "agent")))
            await status_is(client, "a1", "active")
            await eventually(lambda: any(line.get("setting") == "interval" for line in agents.said("a1")), "it is told")
            agents.kill("a1", signal.SIGSTOP)
            await status_is(client, "a1", "disconnected")
            agents.kill("a1", signal.SIGCONT)
            await status_is(client, "a1", "active")

    asyncio.run(main())


def test_its_configuration_changes_while_it_runs(agents: Agents) -> None:
    async def main() -> None:
        async with LocalCluster(workers=0) as cluster, AsyncClient(home=cluster.home) as client:
            files = agents.place / "files"
            agents.start("a1", "--key", str(cluster.new_key("a1", "agent")), "--files", str(files))
            await status_is(client, "a1", "active")
            values = {"interval": 0.5, "metrics": ["memory"], "extra": {"proxy": "p:1"}}
            await client.call("config.set", {"scope": "agent/a1", "values": values}, target="master", timeout=10)

            async def applied() -> bool:
                return list((await rows(client))["a1"]["metrics"]) == ["memory"]

            await eventually(applied, "it measures memory alone")
            await eventually(lambda: (files / "config.json").exists(), "config.json is written")
            assert json.loads((files / "config.json").read_text()) == {"proxy": "p:1"}
            told = [line for line in agents.said("a1") if line.get("setting") == "interval"]
            assert [(line["old"], line["new"]) for line in told] == [(10.0, 0.5)]

    asyncio.run(main())


def test_a_revoked_key_ends_it(agents: Agents) -> None:
    async def main() -> None:
        async with LocalCluster(workers=0) as cluster, AsyncClient(home=cluster.home) as client:
            agents.start("a1", "--key", str(cluster.new_key("a1", "agent")))
            await status_is(client, "a1", "active")
            words = [sys.executable, "-m", "zcluster", "keys", "revoke", "a1", "--home", str(cluster.home)]
            subprocess.run(words, check=True, capture_output=True, timeout=LIMIT_S, env={**os.environ, "PYTHONPATH": str(ROOT)})
            await status_is(client, "a1", "disconnected")

    asyncio.run(main())


def test_fifty_simulated_agents(agents: Agents) -> None:
    async def main() -> None:
        async with LocalCluster(workers=0) as cluster, AsyncClient(home=cluster.home) as client:
            fleet = agents.place / "keys"
            await asyncio.to_thread(new_keys, cluster.home, "sim-", 50, "agent", fleet)
            agents.start("fleet", "--simulate", "50", "--keys", str(fleet))

            async def active() -> int:
                return sum(row["status"] == "active" for row in (await rows(client)).values())

            async def all_active() -> bool:
                return await active() == 50

            async def none_active() -> bool:
                return await active() == 0

            async def counted_at_the_node() -> bool:
                return [node["agents"] for node in await client.nodes()] == [50]

            await eventually(all_active, "all are active")
            await eventually(counted_at_the_node, "the master's heartbeat says how many agents it has")
            agents.kill("fleet", signal.SIGTERM)
            await eventually(none_active, "all have left")

    asyncio.run(main())


def start_door(agents: Agents, cluster: LocalCluster, name: str) -> None:
    """A worker with a door for agents."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ZCLUSTER_")}
    key = cluster.new_key(name, "worker")
    command = [sys.executable, "-m", "zcluster", "worker", "--home", str(cluster.home), "--key", str(key)]
    command += ["--door", "tcp://127.0.0.1:*"]
    with (agents.place / f"{name}.log").open("ab") as log:
        env = {**kept, "PYTHONPATH": str(ROOT)}
        agents.processes[name] = subprocess.Popen(command, env=env, stderr=log, stdout=log)


async def door_of(client: AsyncClient, name: str) -> str:
    """Where the door of a worker is, once it is there."""

    async def told() -> str:
        row = next((row for row in await client.nodes() if row["name"] == name), {})
        return str(row["door"][0]) if row.get("state") == "ready" and row.get("door") else ""

    return str(await eventually(told, f"the door of {name}"))


async def is_at(client: AsyncClient, agent: str, node: str) -> None:
    """Wait until the master knows the agent as active at this node."""

    async def check() -> bool:
        row = (await rows(client)).get(agent, {})
        return bool(row.get("node") == node and row.get("status") == "active")

    await eventually(check, f"{agent} is at {node}")


def test_an_agent_goes_to_the_node_that_it_was_given_and_moves_when_it_dies(agents: Agents) -> None:
    async def main() -> None:
        async with LocalCluster(workers=0) as cluster, AsyncClient(home=cluster.home) as client:
            await faster(client)
            for name in ("door-1", "door-2"):
                start_door(agents, cluster, name)
            nodes = [await door_of(client, name) for name in ("door-1", "door-2")]
            # The key file is older than the doors: the agent learns at the master whose they are.
            agents.start("a1", "--key", str(cluster.new_key("a1", "agent")), "--node", nodes[0])
            await is_at(client, "a1", "door-1")
            key = str(cluster.new_key("a2", "agent"))
            agents.start("a2", "--key", key, "--node", nodes[0], "--node", nodes[1])
            row = await status_is(client, "a2", "active")
            while row["node"] not in ("door-1", "door-2"):
                row = await status_is(client, "a2", "active")
            other = {"door-1": "door-2", "door-2": "door-1"}[row["node"]]
            agents.kill(row["node"])
            await is_at(client, "a2", other)
            lost = [line for line in agents.said("a2") if line["message"].startswith("lost")]
            assert [line["at"] for line in lost] == [row["node"]]

    asyncio.run(main())


def test_an_agent_moves_when_it_is_told_to(agents: Agents) -> None:
    async def main() -> None:
        async with LocalCluster(workers=0) as cluster, AsyncClient(home=cluster.home) as client:
            await faster(client)
            start_door(agents, cluster, "door-1")
            await door_of(client, "door-1")
            agents.start("a1", "--key", str(cluster.new_key("a1", "agent")))
            await is_at(client, "a1", "master")

            async def told() -> bool:
                answer = await client.call("agents.move", {"id": "a1", "node": "door-1"}, target="master", timeout=10)
                return bool(answer["moved"])

            await eventually(told, "it is told to move")
            await is_at(client, "a1", "door-1")

    asyncio.run(main())
