"""Durable jobs from Python, against a running cluster."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from zcluster import (
    AsyncClient,
    Cancelled,
    Client,
    InvalidArguments,
    KeyConflict,
    MasterLost,
    NoSuchFunction,
    NoSuchJob,
    TimedOut,
    Unreachable,
)
from zcluster.bench.cluster import LocalCluster

FUNCTIONS = str(Path(__file__).with_name("jobs_functions.py"))
LARGE = "x" * 200_000
"""Beyond what a submission and an outcome carry."""


def test_jobs_from_submission_to_result() -> None:
    async def body() -> None:
        async with LocalCluster(2, functions=[FUNCTIONS]) as cluster, AsyncClient(home=cluster.home) as c:
            job = await c.submit("sum.of", {"a": 1, "b": 2}, idempotency_key="k")
            assert (await job.result(), await job.wait(), await job.state()) == (3, "done", "done")
            again = await c.submit("sum.of", {"a": 1, "b": 2}, idempotency_key="k")
            assert (again.id, again.known, await c.job(job.id).result()) == (job.id, True, 3)
            with pytest.raises(KeyConflict):
                await c.submit("sum.of", {"a": 1, "b": 3}, idempotency_key="k")
            with pytest.raises(NoSuchFunction):
                await c.submit("nothing.like.it")
            with pytest.raises(InvalidArguments) as caught:
                await (await c.submit("sum.of", {"a": 1}, target="worker-2")).result()
            assert caught.value.node == "worker-2"
            large = await c.submit("echo", {"value": LARGE})
            assert await large.result() == LARGE
            assert [result.value async for result in large.outcomes()] == [LARGE]
            await _unknown(c, job.id)
            await _fan_out(c)
            await _cancelled(c)

            async def one(number: int) -> int:
                value: int = await (await c.submit("sum.of", {"a": number, "b": 1})).result()
                return value

            assert await asyncio.gather(*(one(number) for number in range(300))) == list(range(1, 301))
            page = await c.queue.list(function="sum.of", limit=5)
            assert (len(page["items"]), page["next"]) == (5, page["items"][-1]["id"])
            assert {"accepted"} <= {record["what"] for record in await c.audit(limit=10)}
            await asyncio.to_thread(_blocking, cluster.home, job.id)

    asyncio.run(body())


async def _unknown(c: AsyncClient, known: str) -> None:
    """A number that never was, and one of another master's store: it is not the job of that number here."""
    store, number = known.split("-")
    for id_ in (f"{store}-999999", f"00000000-{number}"):
        with pytest.raises(NoSuchJob, match=id_):
            await c.job(id_).result()
        with pytest.raises(NoSuchJob):
            await c.job(id_).state()


async def _fan_out(c: AsyncClient) -> None:
    job = await c.submit("only.here", {"node": "worker-1"}, target="worker-*")
    found = await job.result()
    assert [(result.node, result.ok, result.value) for result in found] == [
        ("worker-1", True, "worker-1"),
        ("worker-2", False, None),
    ]
    assert "not on worker-2" in str(found[1].error)
    assert list(map(str, found)) == list(map(str, await c.job(job.id).result()))
    assert sorted([result.node async for result in job.outcomes()]) == ["worker-1", "worker-2"]


async def _cancelled(c: AsyncClient) -> None:
    job = await c.submit("sum.of", {"a": 1, "b": 2}, delay_s=3600)
    with pytest.raises(TimedOut, match="it goes on"):
        await job.result(0.01)
    waiting = asyncio.ensure_future(job.result())
    await job.cancel()
    with pytest.raises(Cancelled):
        await waiting
    assert await job.state() == "cancelled"


def _blocking(home: Path, known: str) -> None:
    with Client(home=home) as c:
        assert c.job(known).result() == 3
        job = c.submit("sum.of", {"a": 4, "b": 5})
        assert (job.result(), job.wait(), job.info()["id"]) == (9, "done", job.id)
        assert [result.value for result in job.outcomes()] == [9]
        assert c.queue.stats()["states"]["done"] >= 2


def test_a_wait_outlives_the_master() -> None:
    async def body() -> None:
        async with LocalCluster(1, functions=[FUNCTIONS]) as cluster, AsyncClient(home=cluster.home) as c:
            job = await c.submit("sum.of", {"a": 1, "b": 2}, delay_s=1)
            waiting = asyncio.ensure_future(job.result())

            async def persistent(number: int) -> int:
                value: int = await (await c.submit("sum.of", {"a": number, "b": 0}, idempotency_key=f"n{number}")).result()
                return value

            async def plain(number: int) -> int | None:
                try:
                    value: int = await (await c.submit("sum.of", {"a": number, "b": 0})).result()
                except (MasterLost, Unreachable):
                    return None
                return value

            every = [asyncio.ensure_future(work(number)) for number in range(50) for work in (persistent, plain)]
            await cluster.restart_master()
            assert await waiting == 3
            found = await asyncio.gather(*every)
            assert found[::2] == list(range(50))
            assert all(value in (None, number) for number, value in enumerate(found[1::2]))

    asyncio.run(body())
