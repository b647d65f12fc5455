"""Whose jobs are whose: what a key sees and may do, what becomes of its jobs when it loses its rights, and their secrets."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import eventually, lines, node_row

from zcluster.bench.child import child_environment
from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient
from zcluster.config import Home
from zcluster.errors import NoSuchJob, NotAllowed, ZClusterError
from zcluster.keys import Ring

FUNCTIONS = str(Path(__file__).with_name("queue_fault_functions.py"))
PASSWORD = "hunter2-and-more"
WRONG = 'top"secret\\987'


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    settings = {"worker.door": "tcp://127.0.0.1:*", "worker.slots": 4, "queue.backoff_base_s": 0.01}
    with LocalCluster(1, functions=[FUNCTIONS], settings=settings) as running:
        yield running


def use(body: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 60))


def ring(cluster: LocalCluster) -> Ring:
    return Ring(Home.of(cluster.home).ring_file)


async def connected(key: Path, *addresses: str) -> AsyncClient:
    """A client whose key has just been made: until the ring is read it is refused."""

    async def attempt() -> AsyncClient:
        client = AsyncClient(key=key, master=addresses, timeout=10.0)
        try:
            await client.connect()
        except ZClusterError:
            await client.close()
            raise
        return client

    found = await eventually(attempt, "a session")
    assert isinstance(found, AsyncClient)
    return found


async def nothing_of(client: AsyncClient, id_: str) -> None:
    """For this client there is no such job."""
    job = client.job(id_)
    asked: list[Callable[[], Awaitable[Any]]] = [job.state, job.info, lambda: job.result(5), lambda: job.wait(5)]
    asked += [lambda: client.call("queue.result", {"id": id_}, target="master")]
    asked += [lambda: client.call("queue.outcomes", {"id": id_}, target="master")]
    for ask in asked:
        with pytest.raises(NoSuchJob):
            await ask()
    for act in (client.queue.cancel, client.queue.retry, client.queue.drop):
        found = await act(id_)
        assert (found["done"], [each["code"] for each in found["refused"]]) == ([], ["no_such_job"])
    assert id_ not in [item["id"] for item in (await client.queue.list(limit=1000))["items"]]


async def told(client: AsyncClient, event: str, name: str) -> bool:
    """Whether there was such an event of a key."""
    found = [each["fields"]["name"] async for each in client.events(names=event, since_s=1, follow=False)]
    return name in found


async def own_only(mine: AsyncClient, other: AsyncClient, gate: Path) -> None:
    """``other`` learns nothing of the jobs of ``mine``."""
    waiting = await mine.submit("q.size", {"value": "x"}, delay_s=3600)
    running = await mine.submit("q.gate", {"path": str(gate) + ".noted", "gate": str(gate), "text": "a"})
    await eventually(lambda: lines(Path(str(gate) + ".noted")), "it runs")
    whole = await mine.submit("q.size", {"value": "x"}, target="worker-*", delay_s=3600)
    parts = (await mine.call("queue.outcomes", {"id": whole.id}, target="master"))["items"]
    for id_ in (waiting.id, running.id, whole.id, parts[0]["id"]):
        await nothing_of(other, id_)
    seen: list[dict[str, Any]] = []

    async def watch() -> None:
        async for row in other.queue.watch():
            seen.append(row)

    watching = asyncio.ensure_future(watch())

    async def watched() -> bool:
        await (await other.submit("q.size", {"value": "own"})).result()
        return bool(seen)

    await eventually(watched, "it watches")
    await asyncio.to_thread(gate.touch)
    assert await running.result() == "a"
    await waiting.cancel()
    await whole.cancel()
    last = await other.submit("q.size", {"value": "own"})
    await last.result()
    await eventually(lambda: any(row["id"] == last.id and row["state"] == "done" for row in seen), "its last is told")
    assert not {waiting.id, running.id, whole.id, parts[0]["id"]} & {row["id"] for row in seen}
    watching.cancel()
    for id_ in (waiting.id, running.id, whole.id):
        await nothing_of(other, id_)
    assert "keys" not in await other.queue.stats()


def test_a_client_has_its_own_jobs_and_an_admin_all(cluster: LocalCluster, tmp_path: Path) -> None:
    async def body() -> None:
        async with (
            await connected(cluster.new_key("ann", "client")) as ann,
            await connected(cluster.new_key("bob", "client")) as bob,
            AsyncClient(key=cluster.admin_key) as admin,
        ):
            await own_only(ann, bob, tmp_path / "one")
            await own_only(admin, bob, tmp_path / "two")
            job = await ann.submit("q.size", {"value": "x"}, delay_s=3600)
            assert (await admin.job(job.id).info())["caller"] == "ann"
            await admin.job(job.id).cancel()
            assert await job.state() == "cancelled"
            for work in (
                ann.submit("q.admin", {}), ann.call("queue.submit", {"function": "q.admin"}, target="master"),
                ann.submit("q.admin", {}, target="worker-*"), ann.submit("queue.pause", {"target": "all"}, target="master"),
                ann.submit("audit.since", {}, target="master"),
            ):  # fmt: skip
                with pytest.raises(NotAllowed):
                    await work
            assert await (await admin.submit("q.admin", {})).result() == "done"

    use(body)


def test_at_a_worker_s_door(cluster: LocalCluster, tmp_path: Path) -> None:
    async def body() -> None:
        async with AsyncClient(key=cluster.admin_key) as admin:

            async def door() -> str:
                return str((await node_row(admin, "worker-1"))["door"][0])

            address = await eventually(door, "the door is there")
            carol, dave = cluster.new_key("carol", "client"), cluster.new_key("dave", "client")
            async with await connected(carol, address) as c, await connected(dave) as d:
                assert await (await c.submit("q.size", {"value": "abc"}, idempotency_key="k")).result() == 3
                assert (await c.submit("q.size", {"value": "abc"}, idempotency_key="k")).known
                assert await (await c.submit("q.blob", {"size": 3_000_000})).result() == "x" * 2_999_998
                await own_only(c, d, tmp_path / "one")
                await own_only(d, c, tmp_path / "two")
                theirs = await d.submit("q.size", {"value": "x"}, delay_s=3600)
                async with await connected(cluster.new_key("boss", "admin"), address) as lowered:
                    with pytest.raises(NotAllowed):
                        await lowered.submit("q.admin", {})
                    with pytest.raises(NotAllowed):
                        await lowered.call("queue.submit", {"function": "q.admin"}, target="master")
                    await nothing_of(lowered, theirs.id)
                    await own_only(d, lowered, tmp_path / "three")
                    job = await lowered.submit("q.size", {"value": "abcd"})
                    assert await job.result() == 4
                    assert (await admin.job(job.id).info())["caller"] == "boss"

    use(body)


def test_a_revoked_key_s_jobs_do_not_run(cluster: LocalCluster, tmp_path: Path) -> None:
    async def body() -> None:
        noted, gate = tmp_path / "noted", tmp_path / "gate"
        async with AsyncClient(key=cluster.admin_key) as admin:
            async with await connected(cluster.new_key("eve", "client")) as eve:
                args = {"path": str(noted), "gate": str(gate), "text": "running"}
                running = await eve.submit("q.gate", args)
                await eventually(lambda: lines(noted) == ["running"], "it runs")
                late = await eve.submit("q.note", {"path": str(noted), "text": "late"}, delay_s=1)
                await admin.queue.pause("all")
                ready = await eve.submit("q.note", {"path": str(noted), "text": "ready"})
                parts = await eve.submit("q.note", {"path": str(noted), "text": "part"}, target="worker-*")
                again = await eve.submit("q.flaky", {"path": str(noted), "text": "again", "fails": 1})
                await (await eve.submit("q.size", {"value": "x"}, delay_s=3600)).cancel()
            ring(cluster).revoke("eve")
            await eventually(lambda: told(admin, "key_revoked", "eve"), "the revocation is known")
            await admin.queue.resume("all")
            for job in (ready, late, again):
                with pytest.raises(NotAllowed, match="revoked"):
                    await admin.job(job.id).result(timeout=30)
                assert await admin.job(job.id).state() == "failed"
            results = await admin.job(parts.id).result(timeout=30)
            assert [(each.ok, type(each.error)) for each in results] == [(False, NotAllowed)]
            assert await admin.job(running.id).state() == "running"
            gate.touch()
            assert await admin.job(running.id).result(timeout=30) == "running"
            assert lines(noted) == ["running"]

    use(body)


def test_a_key_with_a_lower_role_runs_no_more_than_that(cluster: LocalCluster, tmp_path: Path) -> None:
    async def body() -> None:
        noted = tmp_path / "noted"
        async with (
            AsyncClient(key=cluster.admin_key) as admin,
            await connected(cluster.new_key("frank", "admin")) as frank,
        ):
            theirs = await admin.submit("q.size", {"value": "x"}, delay_s=3600)
            assert await frank.job(theirs.id).state() == "queued"
            await admin.queue.pause("all")
            wants_admin = await frank.submit("q.admin", {"path": str(noted)})
            wants_nothing = await frank.submit("q.note", {"path": str(noted), "text": "fine"})
            file = Home.of(cluster.home).ring_file
            data = json.loads(file.read_text())
            [entry] = [each for each in data["entries"] if each["name"] == "frank"]
            entry["role"] = "client"
            file.write_text(json.dumps(data))

            async def lowered() -> bool:
                try:
                    await frank.queue.check()
                except NotAllowed:
                    return True
                return False

            await eventually(lowered, "the role is known")
            await nothing_of(frank, theirs.id)
            await admin.queue.resume("all")
            with pytest.raises(NotAllowed):
                await wants_admin.result(timeout=30)
            assert await wants_nothing.result(timeout=30) == "fine"
            assert lines(noted) == ["fine worker-1"]

    use(body)


def test_secrets_are_told_nowhere(cluster: LocalCluster) -> None:
    async def body() -> None:
        async with AsyncClient(key=cluster.admin_key) as admin:
            ids: list[str] = []
            for how in ("", "raise", "retry"):
                for password in (PASSWORD, WRONG):
                    args = {"password": password, "how": how}
                    job = await admin.submit("q.secret", args, retries=1, idempotency_key=f"{how}{len(ids)}")
                    whole = await admin.submit("q.secret", args, retries=1, target="worker-*")
                    ids += [job.id, whole.id]
                    assert await job.wait(30) == {"": "done", "raise": "failed", "retry": "dead"}[how]
                    await whole.wait(30)
            bad = await admin.submit("q.secret", {"password": PASSWORD, "hwo": PASSWORD, "how": [PASSWORD]})
            assert await bad.wait(30) == "failed"
            ids += [bad.id, (await admin.submit("q.secret", {"password": WRONG}, delay_s=3600)).id]
            gone = await admin.submit("q.secret", {"passwort": PASSWORD})
            await gone.wait(30)
            told: list[Any] = [await admin.job(id_).info() for id_ in (*ids, gone.id)]
            told += [await admin.call("queue.outcomes", {"id": id_}, target="master") for id_ in ids]
            told += [await admin.queue.list(limit=1000), await admin.queue.stats()]
            told += [event async for event in admin.events(since_s=1, follow=False)]
            for id_ in ids:
                try:
                    told.append(await admin.call("queue.result", {"id": id_}, target="master"))
                except ZClusterError as error:
                    told.append(error.to_dict())

            async def audited() -> list[Any]:
                page = (await admin.call("audit.since", {}, target="master"))["items"]
                return page if {*ids[:-1], gone.id} <= {item.get("job") for item in page if item["what"] == "ended"} else []

            told += await eventually(audited, "all ends are in the audit log")
            text = json.dumps(told) + cluster.logs("master") + cluster.logs("worker-1")
            for words in (["ls", "-o", "wide"], ["ls", "-o", "json"], *(["show", id_] for id_ in ids[:5])):
                text += cli(cluster, "queue", *words)
            text += cli(cluster, "audit", "--since", "1h")
            assert "***" in text
            for secret in (PASSWORD, "hunter2", WRONG, "secret\\987", "secret\\\\987", 'top\\"secret'):
                assert secret not in text, text[max(0, text.index(secret) - 300) : text.index(secret) + 100]

    use(body)


def cli(cluster: LocalCluster, *words: str) -> str:
    command = [sys.executable, "-m", "zcluster", *words]
    extra = {"ZCLUSTER_HOME": str(cluster.home)}
    done = subprocess.run(command, env=child_environment(extra), capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr
