"""Faults of processes and of strangers, with real sockets and processes: every call ends, once, and nobody unknown gets in."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import psutil
import pytest
import zmq

from zcluster.bench.child import child_environment
from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient
from zcluster.errors import EXIT_NOT_ALLOWED, MasterLost, NodeLost, NotAllowed, ZClusterError
from zcluster.keys import KeyFile, generate
from zcluster.wire import Bye, Hello, Requests, Welcome, WireLimits, decode, encode
from zcluster.wire.messages import RequestGroup

WAIT_S = 20.0
FAST = {"session.heartbeat_s": 0.3}
CALLS = 10_000
IN_FLIGHT = 200


async def eventually(check: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until ``check`` is true."""
    try:
        async with asyncio.timeout(WAIT_S):
            while not await check():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {WAIT_S} s: {what}") from None


def dealer(context: zmq.Context[zmq.Socket[bytes]], address: str, mechanism: str, master_public: str = "") -> zmq.Socket[bytes]:
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    if mechanism == "PLAIN":
        socket.setsockopt(zmq.PLAIN_USERNAME, b"admin")
        socket.setsockopt(zmq.PLAIN_PASSWORD, b"admin")
    elif mechanism == "CURVE":
        pair = generate()
        socket.setsockopt(zmq.CURVE_SERVERKEY, master_public.encode())
        socket.setsockopt(zmq.CURVE_PUBLICKEY, pair.public.encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret.encode())
    socket.connect(address)
    return socket


@pytest.mark.parametrize("mechanism", ["NULL", "PLAIN", "CURVE"])
def test_strangers_get_nothing(mechanism: str) -> None:
    async def body() -> None:
        async with LocalCluster(workers=1) as cluster, AsyncClient(key=cluster.client_key) as client:
            public = KeyFile.read(cluster.client_key).master_public
            before = (await client.status())["counters"]
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            socket = dealer(context, cluster.address, mechanism, public)
            socket.send(encode(Hello(versions=[1], instance="stranger")))
            for value in range(50):
                assert await client.call("echo", {"value": value}) == value
            if mechanism == "CURVE":

                async def denied() -> bool:
                    return (await client.status())["counters"].get("zap_denied", 0) > before.get("zap_denied", 0)

                await eventually(denied, "the key is denied")
            assert not socket.poll(200), "a stranger was answered"
            status = await client.status()
            assert status["counters"].get("no_session", 0) == before.get("no_session", 0)
            assert status["counters"]["event_session_opened"] == before["event_session_opened"]
            context.destroy(linger=0)

    asyncio.run(body())


def test_a_second_process_with_the_same_key_replaces_the_first() -> None:
    async def body() -> None:
        async with LocalCluster(workers=1) as cluster, AsyncClient(key=cluster.client_key) as client:
            first = cluster.pids["worker-1"]
            command = [sys.executable, "-m", "zcluster", "worker", "--key", str(cluster.key_file("worker-1"))]
            second = subprocess.Popen(command, env=child_environment(), stderr=subprocess.DEVNULL)
            try:

                async def replaced() -> bool:
                    try:
                        return bool((await client.call("node.info", target="worker-1"))["pid"] == second.pid)
                    except ZClusterError:
                        return False

                await eventually(replaced, "the second process serves")
                assert first != second.pid

                async def ended() -> bool:
                    """It has, and waits to be waited for: a signal would find a process that no longer handles it."""
                    return bool(psutil.Process(first).status() == psutil.STATUS_ZOMBIE)

                await eventually(ended, "the first process has ended")
                assert await cluster.terminate("worker-1") == EXIT_NOT_ALLOWED
                assert "another process with the key of worker-1" in cluster.logs("worker-1")
                assert await replaced(), "the end of the first does not disturb the second"
            finally:
                second.kill()
                second.wait()

    asyncio.run(body())


def test_a_name_in_a_message_proves_nothing() -> None:
    async def body() -> None:
        async with LocalCluster(workers=1) as cluster, AsyncClient(key=cluster.client_key) as client:
            key = KeyFile.read(cluster.new_key("mallory", "worker"))
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            socket = context.socket(zmq.DEALER)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.ROUTING_ID, b"worker-1")
            socket.setsockopt(zmq.CURVE_SERVERKEY, key.master_public.encode())
            socket.setsockopt(zmq.CURVE_PUBLICKEY, key.pair.public.encode())
            socket.setsockopt(zmq.CURVE_SECRETKEY, key.pair.secret.encode())
            socket.connect(cluster.address)
            hello = encode(Hello(versions=[1], instance="x"))
            header = hello[8:-1] + b',"name":"worker-1","role":"admin"}'
            forged = hello[:4] + len(header).to_bytes(4, "big") + header
            socket.send(forged)
            answers: list[Any] = []
            while not answers:
                assert socket.poll(int(WAIT_S * 1000))
                answers.append(decode(socket.recv(), WireLimits())[0])
            (welcome,) = answers
            assert isinstance(welcome, Welcome)
            assert (welcome.name, welcome.role) == ("mallory", "worker")
            socket.send(encode(Requests([RequestGroup("echo", "worker-1", 1000, 5, 0, 1, [0])])))
            assert socket.poll(int(WAIT_S * 1000))
            refused = decode(socket.recv(), WireLimits())[0]
            assert not isinstance(refused, Bye)
            assert getattr(refused, "code", "") == "not_allowed"
            assert (await client.call("node.info", target="worker-1"))["pid"] == cluster.pids["worker-1"]
            context.destroy(linger=0)

    asyncio.run(body())


async def many_calls(client: AsyncClient, function: str, target: str, events: Callable[[int], None]) -> Counter[str]:
    """CALLS calls, each with its own value; what became of them, by the name of the outcome."""
    outcomes: Counter[str] = Counter()
    left = iter(range(CALLS))

    async def caller() -> None:
        for number in left:
            try:
                value = await client.call(function, {"value": number}, target=target, timeout=15.0)
                outcomes["right" if value == number else "wrong"] += 1
            except ZClusterError as error:
                outcomes[type(error).__name__] += 1
            events(sum(outcomes.values()))

    await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
    return outcomes


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_every_call_ends_when_its_worker_dies_or_stops(number: signal.Signals) -> None:
    async def body() -> None:
        async with LocalCluster(workers=2, settings=FAST) as cluster, AsyncClient(key=cluster.client_key) as client:
            done: list[int] = []

            def events(ended: int) -> None:
                if ended >= CALLS // 4 and not done:
                    done.append(ended)
                    cluster.kill("worker-1", number)

            outcomes = await many_calls(client, "echo", "any", events)
            assert sum(outcomes.values()) == CALLS
            assert set(outcomes) == {"right"}, f"echo is idempotent: it moves to the other worker, {outcomes}"

            done.clear()

            async def ready() -> bool:
                return {row["name"]: row["state"] for row in await client.nodes()}["worker-2"] == "ready"

            await eventually(ready, "worker-2 is ready")

            def events_2(ended: int) -> None:
                if ended >= CALLS // 4 and not done:
                    done.append(ended)
                    cluster.kill("worker-2", number)

            outcomes = await many_calls(client, "echo", "worker-2", events_2)
            assert sum(outcomes.values()) == CALLS
            assert set(outcomes) <= {"right", "NodeLost", "NodeUnavailable"}, f"it is for this node alone: {outcomes}"
            # Which of the two depends on whether any was running there at that moment, or all were on their way.
            assert outcomes["NodeLost"] + outcomes["NodeUnavailable"] > 0, outcomes

    asyncio.run(body())


def test_every_call_ends_when_the_master_is_killed_and_comes_back() -> None:
    async def body() -> None:
        async with LocalCluster(workers=1, settings=FAST) as cluster, AsyncClient(key=cluster.client_key) as client:
            done: list[int] = []
            restarts: list[asyncio.Task[None]] = []

            def events(ended: int) -> None:
                if ended >= CALLS // 4 and not done:
                    done.append(ended)
                    cluster.kill("master")
                    restarts.append(asyncio.ensure_future(cluster.restart_master()))

            outcomes = await many_calls(client, "echo", "worker-1", events)
            await asyncio.gather(*restarts)
            assert sum(outcomes.values()) == CALLS
            assert set(outcomes) == {"right"}, f"idempotent calls are made again: {outcomes}"
            with pytest.raises(MasterLost):
                task = asyncio.ensure_future(client.call("node.sleep", {"seconds": 30}, target="worker-1", idempotent=False))

                async def running() -> bool:
                    return any(row["in_flight"] for row in await client.nodes() if row["name"] == "worker-1")

                await eventually(running, "it runs")
                cluster.kill("master")
                await asyncio.gather(task, cluster.restart_master())
            assert await client.call("echo", {"value": 1}, target="worker-1") == 1

    asyncio.run(body())


def test_what_is_not_idempotent_is_lost_once_and_told_within_three_heartbeats() -> None:
    async def body() -> None:
        async with LocalCluster(workers=2, settings=FAST) as cluster, AsyncClient(key=cluster.client_key) as client:
            long = {"seconds": 30}
            calls = [asyncio.ensure_future(client.call("node.sleep", long, target="worker-1", timeout=60.0)) for _ in range(5)]

            async def running() -> bool:
                return {row["name"]: row["in_flight"] for row in await client.nodes()}["worker-1"] == 5

            await eventually(running, "they run")
            cluster.kill("worker-1", signal.SIGSTOP)
            results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), WAIT_S)
            assert [type(result) for result in results] == [NodeLost] * 5
            rows = {row["name"]: row["state"] for row in await client.nodes()}
            assert rows["worker-1"] == "dead"
            answers = [result async for result in client.fan_out("node.info")]
            assert answers[0].node == "worker-1", "who is missing is told first"
            assert {result.node: result.ok for result in answers} == {"worker-1": False, "worker-2": True, "master": True}
            cluster.kill("worker-1", signal.SIGCONT)

            async def back() -> bool:
                return {row["name"]: row["state"] for row in await client.nodes()}["worker-1"] == "ready"

            await eventually(back, "it is back")

    asyncio.run(body())


def test_a_revoked_key_gets_nothing_from_that_moment() -> None:
    async def body() -> None:
        async with LocalCluster(workers=1) as cluster, AsyncClient(key=cluster.client_key) as honest:
            key = cluster.new_key("leaver", "client")
            async with AsyncClient(key=key, timeout=2.0) as client:
                assert await client.call("echo", {"value": 1}) == 1
                command = [sys.executable, "-m", "zcluster", "keys", "revoke", "leaver", "--home", str(cluster.home)]
                subprocess.run(command, env=child_environment(), check=True, stdout=subprocess.DEVNULL)

                async def refused() -> bool:
                    try:
                        await client.call("echo", {"value": 2}, timeout=0.5)
                    except ZClusterError:
                        return True
                    return False

                await eventually(refused, "its calls are not served")
            with pytest.raises(NotAllowed):
                async with AsyncClient(key=key, timeout=2.0):
                    pass
            assert await honest.call("echo", {"value": 3}) == 3

    asyncio.run(body())
