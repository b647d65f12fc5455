"""How requests behave on a running cluster: targets, deadlines, cancels, fan-outs, rights."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE_S, counter, eventually, in_flight, lines, node_row

from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient
from zcluster.errors import (
    FunctionFailed,
    InvalidArguments,
    NoSuchFunction,
    NoSuchNode,
    NotAllowed,
    TimedOut,
    UsageError,
    ZClusterError,
)

FUNCTIONS = str(Path(__file__).with_name("bus_functions.py"))
Use = Callable[[Callable[[AsyncClient], Awaitable[None]]], None]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(workers=2, functions=[FUNCTIONS], settings={"session.heartbeat_s": 0.3}) as running:
        yield running


@pytest.fixture
def use(cluster: LocalCluster) -> Use:
    """Runs a test's body with a connected client; afterwards nothing is left running in the cluster."""

    def run(body: Callable[[AsyncClient], Awaitable[None]]) -> None:
        async def main() -> None:
            async with asyncio.timeout(PATIENCE_S), AsyncClient(key=cluster.client_key, timeout=PATIENCE_S) as client:
                await body(client)
                for name in cluster.worker_names:
                    await in_flight(client, name, 0)

        asyncio.run(main())

    return run


# -- targets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "nodes"), [
    ("master", ["master"]), ("worker-2", ["worker-2"]), ("any", ["worker-1", "worker-2"]),
])  # fmt: skip
def test_a_call_runs_on_the_node_that_its_target_means(use: Use, target: str, nodes: list[str]) -> None:
    async def body(client: AsyncClient) -> None:
        assert (await client.call("node.info", target=target))["name"] in nodes

    use(body)


@pytest.mark.parametrize(
    "target", ["", " ", "worker-9", "worker-3*", "Worker-1", "worker", "[", "worker-1,", ",", "worker-1,worker-9"]
)
def test_what_matches_nothing_is_no_such_node_and_runs_nowhere(use: Use, tmp_path: Path, target: str) -> None:
    async def body(client: AsyncClient) -> None:
        path = tmp_path / "ran"
        args = {"path": str(path), "text": "x"}
        with pytest.raises(NoSuchNode):
            async for _ in client.fan_out("t.mark", args, target=target):
                raise AssertionError("somebody answered")
        expected = UsageError if set(target) & set(",*[?") else NoSuchNode
        with pytest.raises(expected):
            await client.call("t.mark", args, target=target)
        assert lines(path) == []

    use(body)


@pytest.mark.parametrize("target", ["all", "worker-*", "worker-1,worker-2", "worker-[12]", "worker-?"])
def test_a_call_takes_no_target_that_means_several_nodes(use: Use, target: str) -> None:
    async def body(client: AsyncClient) -> None:
        with pytest.raises(UsageError, match="several nodes") as caught:
            await client.call("echo", {"value": 1}, target=target)
        assert "fan_out" in caught.value.hint

    use(body)


@pytest.mark.parametrize(("target", "nodes"), [
    ("worker-*", ["worker-1", "worker-2"]), ("worker-[2-9]", ["worker-2"]), ("worker-2", ["worker-2"]),
    ("worker-1, worker-2", ["worker-1", "worker-2"]), ("worker-2,worker-*,worker-2", ["worker-1", "worker-2"]),
])  # fmt: skip
def test_a_fan_out_goes_to_its_targets_only_and_once_to_each(use: Use, tmp_path: Path, target: str, nodes: list[str]) -> None:
    async def body(client: AsyncClient) -> None:
        path = tmp_path / "ran"
        results = [each async for each in client.fan_out("t.mark", {"path": str(path), "text": "x"}, target=target)]
        assert sorted(each.node for each in results) == nodes
        assert all(each.ok and each.value == "x" for each in results)
        assert sorted(lines(path)) == [f"x {node}" for node in nodes]

    use(body)


def test_a_fan_out_to_all_asks_the_master_too_and_each_answers_for_itself(use: Use) -> None:
    async def body(client: AsyncClient) -> None:
        results = {each.node: each async for each in client.fan_out("t.length", {"text": "four"}, target="all")}
        assert sorted(results) == ["master", "worker-1", "worker-2"]
        assert results["worker-1"].value == results["worker-2"].value == 4
        assert isinstance(results["master"].error, NoSuchFunction)

    use(body)


def test_any_is_the_least_loaded_worker(use: Use, tmp_path: Path) -> None:
    async def body(client: AsyncClient) -> None:
        args = {"path": str(tmp_path / "ran"), "gate": str(tmp_path / "gate")}
        calls = [asyncio.create_task(client.call("t.gate", args)) for _ in range(10)]
        await in_flight(client, "worker-1", 5)
        await in_flight(client, "worker-2", 5)
        pinned = [asyncio.create_task(client.call("t.gate", args, target="worker-1")) for _ in range(5)]
        await in_flight(client, "worker-1", 10)
        calls += [asyncio.create_task(client.call("t.gate", args)) for _ in range(3)]
        await in_flight(client, "worker-2", 8)
        (tmp_path / "gate").touch()
        await asyncio.gather(*calls, *pinned)

    use(body)


def test_an_unknown_function_is_told_at_once(use: Use) -> None:
    async def body(client: AsyncClient) -> None:
        for target in ("any", "master", "worker-1"):
            with pytest.raises(NoSuchFunction, match=r"t\.nothing"):
                await client.call("t.nothing", target=target)

    use(body)


# -- beside each other --------------------------------------------------------------------------------------------------


def test_slow_calls_delay_no_other_on_the_same_worker(use: Use, tmp_path: Path) -> None:
    async def body(client: AsyncClient) -> None:
        args = {"path": str(tmp_path / "ran"), "gate": str(tmp_path / "gate")}
        slow = [asyncio.create_task(client.call("t.gate", args, target="worker-1")) for _ in range(20)]
        await in_flight(client, "worker-1", 20)
        kinds: list[tuple[str, dict[str, Any]]] = [("echo", {"value": 4}), ("t.length", {"text": "four"})]
        for function, arguments in kinds:
            quick = [client.call(function, arguments, target="worker-1") for _ in range(200)]
            assert await asyncio.gather(*quick) == [4] * 200
        assert not any(task.done() for task in slow)
        (tmp_path / "gate").touch()
        assert await asyncio.gather(*slow) == ["gate"] * 20

    use(body)


def test_a_function_is_told_who_asks_and_how_long_there_is(use: Use, cluster: LocalCluster) -> None:
    async def body(client: AsyncClient) -> None:
        caller, role, node, request_id, left_s = await client.call("t.who", target="worker-2", timeout=12.0)
        assert (caller, role, node) == ("client", "client", "worker-2")
        assert request_id.split(".")[0] == str(client.session)
        assert 5.0 < left_s <= 12.0
        async with AsyncClient(key=cluster.admin_key) as admin:
            found = await admin.call("t.who")
            assert found[:2] == ["admin", "admin"]
            assert 20.0 < found[4] <= 30.0, "the default deadline is 30 s"

    use(body)


@pytest.mark.parametrize(("args", "named"), [
    ({"text": 4}, "text"), ({}, "text"), ({"text": "x", "loud": True}, "loud"), ({"text": None}, "text"),
])  # fmt: skip
def test_wrong_arguments_are_refused_before_it_runs_and_named(use: Use, args: dict[str, Any], named: str) -> None:
    async def body(client: AsyncClient) -> None:
        with pytest.raises(InvalidArguments, match=named):
            await client.call("t.length", args)

    use(body)


def test_a_failure_names_its_type_message_node_and_request(use: Use, cluster: LocalCluster) -> None:
    async def body(client: AsyncClient) -> None:
        with pytest.raises(FunctionFailed, match=r"LookupError: .*no disk") as caught:
            await client.call("t.fail", target="worker-1")
        error = caught.value
        assert error.node == "worker-1"
        assert error.request_id.startswith(f"{client.session}.")
        assert "Traceback" not in str(error.to_dict())
        (result,) = [each async for each in client.fan_out("t.fail", target="worker-2")]
        assert isinstance(result.error, FunctionFailed)
        assert result.error.node == "worker-2"
        assert "Traceback" in cluster.logs("worker-1")

    use(body)


# -- deadlines ----------------------------------------------------------------------------------------------------------


def test_an_async_function_is_stopped_at_its_deadline(use: Use, tmp_path: Path) -> None:
    async def body(client: AsyncClient) -> None:
        path = tmp_path / "ran"
        args = {"path": str(path), "gate": str(tmp_path / "never")}
        with pytest.raises(TimedOut):
            await client.call("t.async_gate", args, timeout=0.2)
        await eventually(lambda: lines(path) == ["gate began", "gate cancelled"], "it is stopped where it runs")

    use(body)


def test_a_thread_past_its_deadline_is_told_and_its_late_result_reaches_nobody(use: Use, tmp_path: Path) -> None:
    async def body(client: AsyncClient) -> None:
        path, gate = tmp_path / "ran", tmp_path / "gate"
        stray = await counter(client, "stray_result")
        with pytest.raises(TimedOut, match="unknown"):
            await client.call("t.gate", {"path": str(path), "gate": str(gate)}, target="worker-1", timeout=0.2)
        gate.touch()
        await eventually(lambda: lines(path) == ["gate began", "gate ended"], "the thread ends")
        assert await client.call("echo", {"value": 7}, target="worker-1") == 7
        assert await counter(client, "stray_result") == stray

    use(body)


def test_a_functions_own_limit_holds_when_the_callers_is_longer(use: Use, tmp_path: Path) -> None:
    async def body(client: AsyncClient) -> None:
        gate = tmp_path / "gate"
        with pytest.raises(TimedOut, match=r"its own limit of 0\.3 s"):
            await client.call("t.gate_short", {"path": str(tmp_path / "ran"), "gate": str(gate)})
        gate.touch()

    use(body)


def test_a_fan_out_ends_at_its_deadline_with_the_answers_there_are(use: Use, tmp_path: Path) -> None:
    async def body(client: AsyncClient) -> None:
        gate = tmp_path / "gate"
        args = {"path": str(tmp_path / "ran"), "gate": str(gate)}
        results = {each.node: each async for each in client.fan_out("t.async_gate", args, target="all", timeout=0.3)}
        assert isinstance(results["master"].error, NoSuchFunction)
        assert isinstance(results["worker-1"].error, TimedOut)
        assert isinstance(results["worker-2"].error, TimedOut)

    use(body)


# -- cancels and streams ------------------------------------------------------------------------------------------------


def test_cancel_stops_an_async_function_where_it_runs(use: Use, tmp_path: Path) -> None:
    async def body(client: AsyncClient) -> None:
        path = tmp_path / "ran"
        task = asyncio.create_task(client.call("t.async_gate", {"path": str(path), "gate": str(tmp_path / "never")}))
        await eventually(lambda: lines(path) == ["gate began"], "it runs")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: lines(path) == ["gate began", "gate cancelled"], "it is stopped where it runs")

    use(body)


def test_leaving_a_fan_out_stops_it_on_every_node(use: Use, tmp_path: Path) -> None:
    async def body(client: AsyncClient) -> None:
        path = tmp_path / "ran"
        args = {"path": str(path), "gate": str(tmp_path / "never")}
        results = client.fan_out("t.async_gate", args, target="all")
        assert (await anext(results)).node == "master"
        await eventually(lambda: len(lines(path)) == 2, "it runs on both workers")
        await results.aclose()  # type: ignore[attr-defined]
        await eventually(lambda: sorted(lines(path)) == ["gate began"] * 2 + ["gate cancelled"] * 2, "it is stopped on both")

    use(body)


@pytest.mark.parametrize("function", ["t.count", "t.async_count"])
def test_a_stream_gives_every_item_in_order(use: Use, tmp_path: Path, function: str) -> None:
    async def body(client: AsyncClient) -> None:
        args = {"path": str(tmp_path / "ran"), "upto": 1000}
        assert [item async for item in client.stream(function, args)] == list(range(1000))
        assert lines(tmp_path / "ran")[0] == "ended"

    use(body)


@pytest.mark.parametrize("function", ["t.count", "t.async_count"])
def test_leaving_a_stream_closes_its_generator(use: Use, tmp_path: Path, function: str) -> None:
    async def body(client: AsyncClient) -> None:
        path = tmp_path / "ran"
        items = client.stream(function, {"path": str(path), "upto": 1_000_000_000})
        assert [await anext(items) for _ in range(100)] == list(range(100))
        await items.aclose()  # type: ignore[attr-defined]
        (end,) = await eventually(lambda: lines(path), "it is closed where it runs")
        assert end.startswith("closed")

    use(body)


def test_a_stream_that_is_not_read_is_held_back(use: Use, tmp_path: Path) -> None:
    async def body(client: AsyncClient) -> None:
        path = tmp_path / "ran"
        items = client.stream("t.count", {"path": str(path), "upto": 1_000_000_000})
        assert await anext(items) == 0
        for value in range(300):
            assert await client.call("echo", {"value": value}) == value
        await items.aclose()  # type: ignore[attr-defined]
        (end,) = await eventually(lambda: lines(path), "it is closed where it runs")
        assert int(end.removeprefix("closed at ")) < 200, "it ran ahead of its reader"

    use(body)


# -- rights -------------------------------------------------------------------------------------------------------------


def test_a_client_may_not_call_what_is_for_administrators(use: Use, cluster: LocalCluster, tmp_path: Path) -> None:
    async def body(client: AsyncClient) -> None:
        path = tmp_path / "ran"
        args = {"path": str(path)}
        for target in ("any", "worker-1"):
            with pytest.raises(NotAllowed, match="client"):
                await client.call("t.admin", args, target=target)
        with pytest.raises(NotAllowed):
            async for each in client.fan_out("t.admin", args, target="worker-*"):
                assert isinstance(each.error, NotAllowed)
                raise each.error
        assert lines(path) == []
        async with AsyncClient(key=cluster.admin_key) as admin:
            assert await admin.call("t.admin", args) == "done"
        assert lines(path) == ["ran"]

    use(body)


@pytest.mark.parametrize("role", ["worker", "agent"])
def test_the_key_of_a_node_or_agent_opens_no_client(use: Use, cluster: LocalCluster, role: str) -> None:
    async def body(client: AsyncClient) -> None:
        key = cluster.new_key(f"no-client-{role}", role)
        with pytest.raises(ZClusterError) as caught:
            async with AsyncClient(key=key, timeout=2.0):
                raise AssertionError("it is connected")
        assert role in str(caught.value)

    use(body)


def test_load_is_shown_while_requests_run(use: Use, tmp_path: Path) -> None:
    async def body(client: AsyncClient) -> None:
        args = {"path": str(tmp_path / "ran"), "gate": str(tmp_path / "gate")}
        calls = [asyncio.create_task(client.call("t.async_gate", args, target="worker-2")) for _ in range(8)]
        await in_flight(client, "worker-2", 8)
        row = await node_row(client, "worker-2")
        assert row["load"] == round(8 / row["slots"], 4)
        assert row["state"] == "ready"
        assert 0 <= row["last_seen_s"] < 5
        assert row["version"]
        (tmp_path / "gate").touch()
        await asyncio.gather(*calls)

    use(body)
