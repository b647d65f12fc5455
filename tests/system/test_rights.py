"""Rights in a running cluster: every function by every way in, a change of the configuration at once, jobs, and the command line.

No function of the table runs: each is called with an argument that it does not have, so what is not refused for want of a right
is refused for that.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from waiting import eventually, node_row

from zcluster.bench.child import child_environment
from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient
from zcluster.config import Home
from zcluster.errors import EXIT_NOT_ALLOWED, EXIT_OK, NotAllowed, ZClusterError

ROLES: dict[str, dict[str, Any]] = {
    "deploy": {"functions": ["node.*", "echo"], "targets": ["worker-*", "any"], "priorities": [0, 5]},
    "ops": {"base": "admin", "functions": ["queue.*", "node.*", "config.*"], "targets": ["master"]},
    "viewer": {"functions": ["*.list", "cluster.*", "node.info"]},
    "worker": {"functions": ["node.*", "cluster.*", "queue.*", "echo"]},
}
BEGIN = "\n# the roles of this test\n"
KEYS = {"root": "admin", "carl": "client", "ann": "deploy", "olga": "ops", "vic": "viewer"}
"""Who is there, with which role."""


def tables(roles: dict[str, dict[str, Any]]) -> str:
    return BEGIN + "".join(
        f"\n[roles.{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in said.items())
        for name, said in roles.items()
    )


def base_of(role: str) -> str:
    return str(ROLES.get(role, {"base": role}).get("base", "client"))


def may(role: str, door: bool, function: str, asks: str, target: str, node: str) -> bool:
    """By the words of docs/how-to/rights.md, for priority 5."""
    base, names = base_of(role), [role]
    if door:
        base, names = "client", [role, "client", "worker"]
    if asks == "admin" and base != "admin":
        return False
    for said in (ROLES[name] for name in names if name in ROLES):
        targets = said.get("targets", ["*"])
        by_word = target in ("any", "master") and (target in targets or "*" in targets)
        by_node = any(fnmatchcase(node, glob) for glob in targets) and target != "any"
        if not any(fnmatchcase(function, glob) for glob in said.get("functions", ["*"])) or not (by_word or by_node):
            return False
    return True


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    settings = {"worker.door": "tcp://127.0.0.1:*"}
    with LocalCluster(1, settings=settings, config=tables(ROLES)) as running:
        for name, role in {**KEYS, "dora": "deploy"}.items():
            running.new_key(name, role)
        yield running


def use(body: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 60))


def configure(cluster: LocalCluster, roles: dict[str, dict[str, Any]]) -> None:
    file = Home.of(cluster.home).config_file
    text = file.read_text().partition(BEGIN)[0]
    file.write_text(text + tables(roles))
    cluster.kill("master", signal.SIGHUP)


async def way_in(cluster: LocalCluster, entry: str) -> list[str]:
    """The addresses of an entry."""
    if entry == "bus":
        return [cluster.address]
    if entry == "ipc":
        return [f"ipc://{Home.of(cluster.home).bus_socket}"]
    async with AsyncClient(key=cluster.admin_key) as admin:

        async def door() -> str:
            return str((await node_row(admin, "worker-1"))["door"][0])

        return [await eventually(door, "the door is there")]


async def connected(cluster: LocalCluster, name: str, addresses: list[str]) -> AsyncClient:
    """A client, once its key is known where it comes in."""

    async def attempt() -> AsyncClient:
        client = AsyncClient(key=cluster.key_file(name), master=addresses, timeout=10.0)
        try:
            await client.connect()
        except ZClusterError:
            await client.close()
            raise
        return client

    found = await eventually(attempt, f"a session of {name}")
    assert isinstance(found, AsyncClient)
    return found


@pytest.mark.parametrize("entry", ["bus", "door", "ipc"])
def test_every_function_by_every_way_in(cluster: LocalCluster, entry: str) -> None:
    async def body() -> None:
        addresses = await way_in(cluster, entry)
        async with AsyncClient(key=cluster.admin_key) as admin:
            functions = await admin.functions()
        assert len(functions) > 60
        for name, role in KEYS.items():
            async with await connected(cluster, name, addresses) as client:

                async def code(function: str, target: str, client: AsyncClient = client) -> str:
                    try:
                        await client.call(function, {"no such argument": 1}, target=target)
                    except ZClusterError as error:
                        return error.code
                    return "it ran"

                asked = [
                    (each, target)
                    for each in functions
                    for target in ("any", "master", "worker-1")
                    if target == "any" or target in each["nodes"]
                ]
                codes = await asyncio.gather(*(code(each["name"], target) for each, target in asked))
                wrong = []
                for (each, target), found in zip(asked, codes, strict=True):
                    allowed = may(role, entry == "door", each["name"], each["role"], target, target)
                    if found != ("invalid_arguments" if allowed else "not_allowed"):
                        wrong.append((each["name"], target, found))
                assert wrong == [], name

    use(body)


async def told(admin: AsyncClient, event: str, name: str) -> list[dict[str, Any]]:
    """The events of this name about a key."""
    found = [each["fields"] async for each in admin.events(names=event, since_s=1, follow=False)]
    return [fields for fields in found if fields["name"] == name]


def test_a_fan_out_and_a_priority_and_what_is_told_of_a_denial(cluster: LocalCluster) -> None:
    async def body() -> None:
        async with (
            AsyncClient(key=cluster.admin_key) as admin,
            await connected(cluster, "dora", [cluster.address]) as dora,
        ):
            results = {result.node: result async for result in dora.fan_out("node.info", target="all")}
            assert results["worker-1"].ok
            assert isinstance(results["master"].error, NotAllowed)
            assert results["master"].error.node == "master"
            await dora.call("echo", {"value": 1}, priority=5)
            with pytest.raises(NotAllowed, match="priority 6 is not one of role deploy: 0 to 5"):
                await dora.call("echo", {"value": 1}, priority=6)
            with pytest.raises(NotAllowed, match=r"rights\.check"):
                await dora.rights.check("echo")
            found = [(await admin.rights.check("echo", name="dora", priority=level))["allowed"] for level in (5, 6)]
            assert found == [True, False]

            async def both() -> bool:
                said = [(each["function"], each["target"]) for each in await told(admin, "right_denied", "dora")]
                return ("node.info", "all") in said and ("echo", "any") in said

            await eventually(both, "both are events")

    use(body)


def test_a_change_of_the_configuration_holds_at_once(cluster: LocalCluster) -> None:
    """For open sessions, for jobs that wait, at the node, and for jobs that a worker had carried."""

    async def body() -> None:
        async with (
            AsyncClient(key=cluster.admin_key) as admin,
            await connected(cluster, "ann", [cluster.address]) as ann,
            await connected(cluster, "carl", await way_in(cluster, "door")) as carried,
        ):
            assert await ann.call("echo", {"value": 1}) == 1
            await admin.queue.pause("all")
            job = await ann.submit("echo", {"value": 2})
            whole = await ann.submit("echo", {"value": 3}, target="worker-*")
            mine = await carried.submit("echo", {"value": 4})
            other = await carried.submit("node.info")
            with pytest.raises(NotAllowed):
                await ann.submit("echo", {"value": 2}, target="master")
            with pytest.raises(NotAllowed):
                await ann.submit("queue.list", target="worker-1")
            with pytest.raises(NotAllowed):
                await carried.submit("sync.status", target="master")
            with pytest.raises(NotAllowed):
                await carried.call("queue.submit", {"function": "sync.status", "target": "master"}, target="master")
            narrower = {**ROLES, "deploy": {**ROLES["deploy"], "functions": ["node.*"]}, "worker": {"functions": ["node.*"]}}
            configure(cluster, narrower)

            async def narrowed() -> bool:
                try:
                    await ann.call("echo", {"value": 1})
                except NotAllowed:
                    return True
                return False

            await eventually(narrowed, "the session that is open has the new rights")
            assert (await ann.call("node.info", target="worker-1"))["name"] == "worker-1"
            await admin.queue.resume("all")
            for refused in (job, mine):
                with pytest.raises(NotAllowed):
                    await admin.job(refused.id).result(timeout=30)
            assert [(each.ok, type(each.error)) for each in await admin.job(whole.id).result(timeout=30)] == [(False, NotAllowed)]
            assert (await admin.job(other.id).result(timeout=30))["name"] == "worker-1"
            # A role that is gone is a key that may do nothing: its session ends.
            configure(cluster, {name: said for name, said in ROLES.items() if name != "deploy"})

            await eventually(lambda: told(admin, "hello_refused", "ann"), "its session has ended, and it gets no other")
            configure(cluster, {"deploy": {}, **{name: said for name, said in ROLES.items() if name != "deploy"}})

            async def back() -> bool:
                return bool(await ann.call("node.info", target="master", timeout=0.5))

            await eventually(back, "the key has a role again, and what that is now")
            configure(cluster, ROLES)

    use(body)


def cli(cluster: LocalCluster, *words: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "zcluster", *words]
    extra = {"ZCLUSTER_HOME": str(cluster.home)}
    done = subprocess.run(command, env=child_environment(extra), capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_the_command_line_explains_and_is_held_to_it(cluster: LocalCluster) -> None:
    code, told, _ = cli(cluster, "rights", "check", "ann", "node.info", "worker-1")
    assert (code, told.splitlines()[-1]) == (EXIT_OK, "ann may call node.info at worker-1 with priority 5")
    assert "node.info asks for the role client" in told
    code, told, _ = cli(cluster, "rights", "check", "ann", "node.info", "all", "-o", "json")
    assert code == EXIT_NOT_ALLOWED
    assert [step["what"] for step in json.loads(told)["steps"] if step["ok"] is False] == ["target"]
    ann = str(cluster.key_file("ann"))
    assert cli(cluster, "dapi", "call", "node.info", "--target", "worker-1", "--key", ann)[0] == EXIT_OK
    code, _, said = cli(cluster, "dapi", "call", "node.info", "--target", "master", "--key", ann)
    assert code == EXIT_NOT_ALLOWED
    assert "the role deploy has no right to target master" in said


def test_without_a_master_the_home_answers(cluster: LocalCluster, tmp_path: Path) -> None:
    """The last test of the module: it stops the master."""
    cluster.kill("master", signal.SIGTERM)
    asyncio.run(cluster.terminate("master"))
    code, told, said = cli(cluster, "rights", "check", "olga", "queue.pause", "master")
    assert code == EXIT_OK
    assert "what role it asks for is not known here" in told
    assert "no master runs on this home" in said
    assert cli(cluster, "rights", "check", "olga", "config.set", "master", "--door")[0] == EXIT_NOT_ALLOWED
    assert set(json.loads(cli(cluster, "rights", "ls", "-o", "json")[1])["items"][0]) == {
        "name", "base", "functions", "targets", "priorities"
    }  # fmt: skip
