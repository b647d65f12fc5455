"""Groups with real nodes: what changes at the master is what workers answer and agents get."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import eventually, node_is

from zcluster.bench.child import child_environment
from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient
from zcluster.errors import NoSuchAgent, NoSuchGroup, NotAllowed, UsageError

Body = Callable[[AsyncClient], Awaitable[None]]
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(2) as running:
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


async def copied(client: AsyncClient, node: str, group: str, agents: int) -> dict[str, Any]:
    """Wait until the copy of ``node`` has so many agents in the group; its row."""

    async def check() -> Any:
        row = await client.groups.show(group, node=node)
        return row if row["agents"] == agents else None

    found: dict[str, Any] = await eventually(check, f"{node} knows {agents} agents of {group}")
    return found


def zcluster(cluster: LocalCluster, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zcluster", *words]
    environment = {**child_environment(), "ZCLUSTER_HOME": str(cluster.home)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S, input=stdin)


def test_groups_reach_the_workers_which_answer_from_their_copies(run: Callable[[Body], None]) -> None:
    async def body(c: AsyncClient) -> None:
        await c.groups.create("web", comment="web servers")
        assert (await c.groups.add("web", ["w1", "w2"], new=True))["changed"] == 2
        for node in ("worker-1", "worker-2"):
            row = await copied(c, node, "web", 2)
            assert (row["comment"], row["node"]) == ("web servers", node)
            assert row["age_s"] >= 0
            assert (await c.groups.of("w1", node=node))["groups"] == ["default", "web"]
        await c.groups.set(["web"], ["w1"])
        assert (await c.groups.of("w1"))["groups"] == ["web"]
        found = await c.agents.list("groups=web and groups!=default")
        assert [row["id"] for row in found["items"]] == ["w1"]
        await c.groups.delete("web")
        with pytest.raises(NoSuchGroup):
            await c.groups.show("web")
        assert (await c.groups.of("w1"))["groups"] == ["default"]

    run(body)


def test_a_worker_that_was_away_gets_what_it_missed(cluster: LocalCluster, run: Callable[[Body], None]) -> None:
    async def body(c: AsyncClient) -> None:
        await c.groups.create("late")
        await c.groups.add("late", ["l1"], new=True)
        await copied(c, "worker-2", "late", 1)
        cluster.kill("worker-2", signal.SIGKILL)
        await node_is(c, "worker-2", "dead")
        await c.groups.add("late", [f"l{n}" for n in range(2, 300)], new=True)
        await cluster.restart_worker("worker-2")
        await copied(c, "worker-2", "late", 299)
        await cluster.restart_master()
        assert (await c.groups.show("late"))["agents"] == 299, "the master has kept them too"
        assert (await c.groups.remove("late", filter="groups=late and id!=l1"))["changed"] == 298
        await copied(c, "worker-1", "late", 1)
        await copied(c, "worker-2", "late", 1)

    run(body)


def test_who_may_not_and_what_there_is_not(cluster: LocalCluster, run: Callable[[Body], None]) -> None:
    async def body(c: AsyncClient) -> None:
        async with AsyncClient(key=cluster.client_key) as other:
            await other.groups.list()
            for work in (
                other.groups.create("x"),
                other.groups.add("default", ["a"]),
                other.groups.put_file("default", "n", b""),
            ):
                with pytest.raises(NotAllowed):
                    await work
        with pytest.raises(NoSuchAgent):
            await c.groups.add("default", ["nobody"])
        for name in ("../etc", "a/b", "a\nb", ".x", "-x"):
            with pytest.raises(UsageError, match="is no name for a group"):
                await c.groups.create(name)

    run(body)


def test_the_command_line(cluster: LocalCluster, tmp_path: Path) -> None:
    assert zcluster(cluster, "groups", "create", "cli", "cli2").returncode == 0
    (tmp_path / "lines").write_text("c1 cli,cli2\nnonsense\nc2 cli\nc3 nope\n")
    done = zcluster(cluster, "groups", "set", "--new", "--from-file", str(tmp_path / "lines"))
    assert (done.returncode, done.stdout) == (3, "2 agents changed, 0 were so already\n")
    assert [line.split(":")[1] for line in done.stderr.splitlines()] == [" line 2", " line 4"]
    assert zcluster(cluster, "groups", "add", "cli2", "--from-file", "-", stdin="c2\n").returncode == 0
    assert zcluster(cluster, "groups", "of", "c2").stdout == "cli,cli2\n"
    items = json.loads(zcluster(cluster, "groups", "ls", "-o", "json").stdout)["items"]
    assert {item["name"]: item["agents"] for item in items if item["name"].startswith("cli")} == {"cli": 2, "cli2": 2}
    (tmp_path / "rules.conf").write_bytes(b"\x00rules")
    assert zcluster(cluster, "groups", "files", "cli", "put", str(tmp_path / "rules.conf")).returncode == 0
    assert zcluster(cluster, "groups", "files", "cli", "get", "rules.conf", "--out", str(tmp_path / "out")).returncode == 0
    assert (tmp_path / "out").read_bytes() == b"\x00rules"
    assert zcluster(cluster, "groups", "add", "nope", "c1").returncode == 5
    assert zcluster(cluster, "groups", "rm", "cli", "cli2").returncode == 0


def test_an_agent_gets_its_groups_configuration_and_files(
    cluster: LocalCluster, run: Callable[[Body], None], tmp_path: Path
) -> None:
    key = cluster.new_key("agent-1", "agent")
    files = tmp_path / "files"
    command = [
        sys.executable,
        "-m",
        "zcluster",
        "agent",
        "--key",
        str(key),
        "--state",
        str(tmp_path / "state"),
        "--files",
        str(files),
    ]

    async def has(name: str, content: bytes | None) -> None:
        def check() -> bool:
            path = files / name
            return path.read_bytes() == content if path.exists() else content is None

        await eventually(check, f"{name} is {content!r}")

    async def body(c: AsyncClient) -> None:
        await c.groups.create("fleet")
        await c.groups.put_file("fleet", "rules.conf", b"one")

        async def active() -> bool:
            return bool((await c.agents.show("agent-1"))["status"] == "active")

        await eventually(active, "the agent is active")
        await c.groups.add("fleet", ["agent-1"])
        await has("rules.conf", b"one")
        await c.groups.put_file("fleet", "rules.conf", b"two")
        await has("rules.conf", b"two")
        await c.config.set("group/fleet", {"extra": {"site": "berlin"}})

        def configured() -> bool:
            path = files / "config.json"
            return path.exists() and b"berlin" in path.read_bytes()

        await eventually(configured, "the agent has the configuration of its group")
        await c.groups.delete("fleet")
        await has("rules.conf", None)

    environment = {**child_environment(), "ZCLUSTER_HOME": str(tmp_path / "home")}
    with (tmp_path / "agent.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        run(body)
    except BaseException:
        print((tmp_path / "agent.log").read_text())
        raise
    finally:
        process.terminate()
        process.wait(LIMIT_S)
