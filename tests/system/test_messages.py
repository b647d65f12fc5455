"""Messages between clients of a real cluster, each with a key of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from waiting import PATIENCE_S, eventually

from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient, Client
from zcluster.errors import Conflict, NoSuchClient, TooLarge, UsageError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(1, settings={"session.heartbeat_s": 0.3}) as running:
        for name in ("alice", "bob", "carol"):
            running.new_key(name, "client")
        yield running


def key(cluster: LocalCluster, name: str) -> Path:
    return cluster.key_file(name)


@contextlib.asynccontextmanager
async def two(cluster: LocalCluster) -> AsyncIterator[tuple[AsyncClient, AsyncClient]]:
    """Clients of alice and bob."""
    async with AsyncClient(key=key(cluster, "alice")) as alice, AsyncClient(key=key(cluster, "bob")) as bob:
        yield alice, bob


async def restart_killed(cluster: LocalCluster) -> None:
    """Kill the master, and start it again."""
    cluster.kill("master")
    await eventually(lambda: "master" not in cluster.pids, "the master is gone")
    cluster.start_master()


def test_a_message_says_who_sent_it(cluster: LocalCluster) -> None:
    async def body() -> None:
        async with two(cluster) as (alice, bob), alice.messages() as here, asyncio.timeout(PATIENCE_S):
            assert await bob.send("alice", "hello") == 1
            found = await anext(here)
            assert (found.sender, found.key, found.to, found.text, found.kept) == ("bob", "bob", "alice", "hello", False)
            assert await bob.send("alice", "as night", as_name="night") == 1
            found = await anext(here)
            assert (found.sender, found.key) == ("night", "bob")
            with pytest.raises(Conflict):
                await bob.send("alice", "x", as_name="alice")
            with pytest.raises(NoSuchClient):
                await alice.send("bob", "x")
            with pytest.raises(TooLarge):
                await bob.send("alice", "x" * 65_537)
            assert await bob.send("alice", "y" * 65_536) == 1
            assert len((await anext(here)).text) == 65_536
            with pytest.raises(UsageError):
                await bob.send("no name", "x")

    asyncio.run(body())


def test_names_of_others_cannot_be_taken(cluster: LocalCluster) -> None:
    async def body() -> None:
        async with AsyncClient(key=key(cluster, "alice")) as alice, AsyncClient(key=key(cluster, "bob")) as bob:
            with pytest.raises(Conflict):
                async with bob.messages("alice"):
                    raise AssertionError
            async with alice.messages("ops"):
                with pytest.raises(Conflict):
                    async with bob.messages("ops"):
                        raise AssertionError

            async def free_again() -> bool:
                async with bob.messages("ops") as here:
                    return here.name == "ops"

            await eventually(free_again, "alice's name is free again")

    asyncio.run(body())


def test_everybody_hears_but_the_sender(cluster: LocalCluster) -> None:
    async def body() -> None:
        async with (
            AsyncClient(key=key(cluster, "alice")) as alice, AsyncClient(key=key(cluster, "bob")) as bob,
            AsyncClient(key=key(cluster, "carol")) as carol, alice.messages() as a, bob.messages() as b, carol.messages() as c,
            asyncio.timeout(PATIENCE_S),
        ):  # fmt: skip
            assert await alice.send("all", "one") == 2
            assert await bob.send("all", "two") == 2
            assert [(await anext(each)).text for each in (a, b, c)] == ["two", "one", "one"]

    asyncio.run(body())


def test_kept_messages_come_in_order_once_also_after_a_restart_of_the_master(cluster: LocalCluster) -> None:
    async def body() -> None:
        async with AsyncClient(key=key(cluster, "alice")) as alice, asyncio.timeout(2 * PATIENCE_S):
            for number in range(3):
                assert await alice.send("bob", f"kept {number}", keep_s=600) == 0
            await restart_killed(cluster)
            await eventually(alice.status, "the master is back")
            assert await alice.send("bob", "kept 3", keep_s=600) == 0
            async with AsyncClient(key=key(cluster, "bob")) as bob, bob.messages() as here:
                texts = [(await anext(here)).text for _ in range(4)]
                assert texts == ["kept 0", "kept 1", "kept 2", "kept 3"]
            async with AsyncClient(key=key(cluster, "bob")) as bob, bob.messages() as here:
                assert await alice.send("bob", "live") == 1
                assert (await anext(here)).text == "live"

            async def nobody() -> bool:
                return not await alice.call("notes.who", target="master")

            await eventually(nobody, "bob has left, and nothing is kept")

    asyncio.run(body())


def test_a_listener_is_found_again_after_the_masters_restart(cluster: LocalCluster) -> None:
    async def body() -> None:
        async with two(cluster) as (alice, bob), bob.messages() as here, asyncio.timeout(2 * PATIENCE_S):
            await restart_killed(cluster)

            async def sent() -> bool:
                return await alice.send("bob", "again", timeout=1.0) == 1

            await eventually(sent, "bob listens again")
            assert (await anext(here)).text == "again"

    asyncio.run(body())


def test_a_stopped_listener_delays_nobody(cluster: LocalCluster) -> None:
    listener = start(cluster, "carol", "msg", "listen")
    assert listener.stderr is not None
    assert "listening as carol" in listener.stderr.readline()
    listener.send_signal(19)  # SIGSTOP

    async def body() -> None:
        async with two(cluster) as (alice, bob), bob.messages() as here, asyncio.timeout(2 * PATIENCE_S):
            for number in range(200):
                assert await alice.send("all", "x" * 60_000 + str(number)) in (1, 2)
                assert (await anext(here)).text.endswith(str(number))

    try:
        asyncio.run(body())
    finally:
        listener.kill()
        listener.communicate()


def test_the_blocking_client_sends_and_listens(cluster: LocalCluster) -> None:
    with Client(key=key(cluster, "alice")) as alice, Client(key=key(cluster, "bob")) as bob:
        assert bob.send("alice", "one", keep_s=60) == 0
        messages = alice.messages()
        assert next(messages).text == "one"
        assert bob.send("alice", "two") == 1
        assert next(messages).text == "two"


def environment(cluster: LocalCluster) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ZCLUSTER_", "_ZCLUSTER"))}
    return {**kept, "ZCLUSTER_HOME": str(cluster.home), "PYTHONPATH": str(ROOT)}


def start(cluster: LocalCluster, name: str, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "zcluster", *words, "--key", str(key(cluster, name))]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment(cluster), stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_two_people_chat(cluster: LocalCluster) -> None:
    alice = start(cluster, "alice", "chat", "--as", "ann")
    assert alice.stderr is not None
    assert "you are ann" in alice.stderr.readline()
    bob = start(cluster, "bob", "chat")
    assert bob.stderr is not None
    assert bob.stdin is not None
    assert bob.stdout is not None
    assert alice.stdin is not None
    assert alice.stdout is not None
    assert "you are bob" in bob.stderr.readline()
    bob.stdin.write("who\nsend ann hi ann\n")
    bob.stdin.flush()
    assert [bob.stdout.readline().split()[:2] for _ in range(3)] == [["NAME", "KEY"], ["ann", "alice"], ["bob", "bob"]]
    assert alice.stdout.readline().partition("  ")[2] == "bob: hi ann\n"
    alice.stdin.write("send all hello\n")
    alice.stdin.flush()
    assert bob.stdout.readline().partition("  ")[2] == "ann (alice) to all: hello\n"
    for each in (alice, bob):
        _, err = each.communicate("quit\n", timeout=PATIENCE_S)
        assert each.returncode == 0
        assert "error" not in err


def test_messages_for_programs(cluster: LocalCluster) -> None:
    listener = start(cluster, "bob", "msg", "listen", "--count", "2", "-o", "ndjson")
    assert listener.stderr is not None
    assert "listening as bob" in listener.stderr.readline()
    for text in ("one", "two"):
        sender = start(cluster, "alice", "msg", "send", "bob", text, "-o", "json")
        out, err = sender.communicate(timeout=PATIENCE_S)
        assert (sender.returncode, err, json.loads(out)["sessions"]) == (0, "", 1)
    out, _ = listener.communicate(timeout=PATIENCE_S)
    assert [(item["sender"], item["text"]) for item in map(json.loads, out.splitlines())] == [("alice", "one"), ("alice", "two")]
    absent = start(cluster, "alice", "msg", "send", "zed", "x")
    _, err = absent.communicate(timeout=PATIENCE_S)
    assert (absent.returncode, err.startswith("zcluster: error: nobody listens as zed")) == (5, True)
