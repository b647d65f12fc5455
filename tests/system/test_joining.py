"""Joining a running cluster: by a token, by hand, killed at any step; and what a revoked key leaves behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE_S, eventually, json_lines, node_is, states

from zcluster.bench.child import start_process, stop_processes
from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient
from zcluster.errors import NoSuchJob, NotAllowed, ZClusterError
from zcluster.keys import KeyFile, Ring, fingerprint, generate, new_key
from zcluster.keys.tokens import TokenText, create_token, revoke_token
from zcluster.process.failpoints import VARIABLE
from zcluster.workers.joining import Joining, joined, request

JOIN = """
import sys
from pathlib import Path
from zcluster.keys.tokens import TokenText
from zcluster.workers.joining import Joining, joined
joined(Joining(Path(sys.argv[1]), TokenText.read(sys.stdin.readline())))
"""


class Place:
    """A running master, and what a new machine has."""

    def __init__(self, cluster: LocalCluster, directory: Path) -> None:
        self.cluster = cluster
        self.directory = directory
        self.ring = Ring(cluster.home / "keys" / "ring.json")

    def token(self, role: str = "client", **options: Any) -> TokenText:
        """A new token, as the command line makes it."""
        master = KeyFile.read(self.cluster.key_file("master"))
        _token, pair = create_token(self.ring, role, **{"ttl_s": 600.0, **options})
        return TokenText(pair, master.pair.public, master.cluster, (self.cluster.address,), role)

    def said(self, message: str) -> list[dict[str, Any]]:
        """What the master's log says of ``message``."""
        return [line for line in json_lines(self.cluster.logs("master")) if line["message"] == message]

    def admin(self) -> AsyncClient:
        return AsyncClient(key=self.cluster.admin_key, timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with LocalCluster(workers=0) as cluster:
        yield Place(cluster, tmp_path_factory.mktemp("joining"))


def use(body: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(2 * PATIENCE_S):
            await body()

    asyncio.run(main())


def process(path: Path, token: TokenText, failpoint: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", JOIN, str(path)]
    environment = {**os.environ, **({VARIABLE: failpoint} if failpoint else {})}
    made = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    assert made.stdin is not None
    made.stdin.write(f"{token.text}\n")
    made.stdin.close()
    return made


def test_a_worker_joins_with_a_token_and_needs_none_afterwards(place: Place) -> None:
    home, log = place.directory / "new machine", place.directory / "worker.log"
    command = [sys.executable, "-m", "zcluster", "worker", "--home", str(home), "--name", "web-1"]
    token = place.token("worker")

    async def body() -> None:
        async with place.admin() as client:
            for _ in range(2):  # the second time with a token that is used up
                worker = start_process(command, log, {"ZCLUSTER_JOIN": token.text})
                try:
                    await node_is(client, "web-1", "ready")
                finally:
                    stop_processes([worker])
                await eventually(lambda: _is_away(client, "web-1"), "the worker has left")
            assert [(row["name"], row["token"] != "") for row in await client.call("keys.ls") if row["name"] == "web-1"] == [
                ("web-1", True)
            ]

    use(body)
    assert "the token is not used" in log.read_text()
    assert token.pair.secret not in log.read_text() + place.cluster.logs("master")


async def _is_away(client: AsyncClient, name: str) -> bool:
    return (await states(client))[name] in ("left", "dead")


def test_of_two_at_once_one_joins_and_the_other_is_only_refused(place: Place) -> None:
    token, said = place.token(), list[str]()

    def one(name: str) -> str:
        try:
            return joined(Joining(place.directory / f"{name}.key", token, name, say=said.append)).name
        except NotAllowed as error:
            return error.message

    with ThreadPoolExecutor(2) as pool:
        found = sorted(pool.map(one, ("two-a", "two-b")))
    winners = [each for each in found if each in ("two-a", "two-b")]
    assert [name for name in ("two-a", "two-b") if name in Ring(place.ring.path).entries] == winners
    assert [each for each in found if each not in winners] == ["the master refuses the token"]

    async def told() -> None:
        # the stranger hears it before the log does
        await eventually(lambda: any("used up" in line["reason"] for line in place.said("key_refused")), "the log says used up")

    use(told)


@pytest.mark.parametrize("point", ["join.before_asking", "join.answered"])
def test_a_joiner_that_was_killed_joins_when_it_runs_again(place: Place, point: str) -> None:
    token, path = place.token(), place.directory / f"{point}.key"
    assert process(path, token, point).wait(PATIENCE_S) == -signal.SIGKILL
    before = KeyFile.read(path)
    assert before.joining
    after = joined(Joining(path, token))
    assert (after.joining, after.pair) == (False, before.pair)
    assert [entry.public for entry in Ring(place.ring.path).entries.values() if entry.name == after.name] == [after.pair.public]


def test_a_master_that_was_killed_before_its_answer_gives_it_to_who_asks_again(place: Place) -> None:
    cluster = place.cluster
    asyncio.run(cluster.terminate("master"))
    cluster.start_master({VARIABLE: "join.before_answer"})
    asyncio.run(cluster.wait_ready("master"))
    token, path = place.token(), place.directory / "killed master.key"
    joiner = process(path, token)

    async def dead() -> None:
        await eventually(lambda: Ring(place.ring.path).by_public(KeyFile.read(path).pair.public), "the key is in the ring")
        await eventually(lambda: "master" not in cluster.pids, "the master is dead")

    use(dead)
    cluster.start_master()
    asyncio.run(cluster.wait_ready("master"))
    assert joiner.wait(PATIENCE_S) == 0
    assert not KeyFile.read(path).joining


@pytest.mark.parametrize("reason", ["expired", "revoked", "forged"])
def test_a_token_that_is_worth_nothing_is_refused_without_a_reason(place: Place, reason: str) -> None:
    token = place.token(ttl_s=0.001 if reason == "expired" else 600.0)
    known = Ring(place.ring.path).token_of(token.pair.public)
    assert known is not None
    if reason == "revoked":
        revoke_token(place.ring, known.id)
    if reason == "forged":
        token = replace(token, pair=generate())
    path, said = place.directory / f"{reason}.key", list[str]()
    with pytest.raises(NotAllowed, match="refuses the token"):
        joined(Joining(path, token, say=said.append))
    assert KeyFile.read(path).joining, "the same key is used with the next token"
    mark = fingerprint(token.pair.public) if reason == "forged" else f"{known.id} is {reason}"

    async def told() -> None:
        await eventually(lambda: any(mark in line["reason"] for line in place.said("connection denied")), f"the log says {mark}")

    use(told)
    before = KeyFile.read(path)
    assert joined(Joining(path, place.token())).pair == before.pair


def test_a_key_is_accepted_by_its_fingerprint_while_its_owner_waits(place: Place) -> None:
    path = place.directory / "by hand.key"
    master = KeyFile.read(place.cluster.key_file("master")).pair.public
    made = request(path, "hand", "client", "unknown", master, (place.cluster.address,))
    mark = fingerprint(made.pair.public)

    async def body() -> None:
        waits = asyncio.create_task(asyncio.to_thread(joined, Joining(path)))
        async with place.admin() as client:

            async def pending() -> bool:
                return mark in {row["fingerprint"] for row in await client.call("keys.pending")}

            await eventually(pending, "the key has been seen")
            accepted = await client.call("keys.accept", {"name": "by-hand", "fingerprint": mark, "role": "client"})
            assert accepted["public"] == made.pair.public
        done = await waits
        assert (done.name, done.cluster, done.joining) == ("by-hand", "local", False)
        async with AsyncClient(key=path, timeout=PATIENCE_S) as client:
            assert await client.call("echo", {"value": 1}) == 1

    use(body)


def test_a_later_key_of_the_same_name_inherits_nothing(place: Place) -> None:
    home = place.cluster.home
    _file, path = new_key(home, "bob", "client")

    async def body() -> None:
        async with AsyncClient(key=path, timeout=PATIENCE_S) as client:
            job = await client.submit("echo", {"value": 1}, delay_s=600.0, idempotency_key="once")
        async with place.admin() as admin:
            gone = await admin.call("keys.revoke", {"name": "bob"})
            assert gone["name"] == "bob"
            path.rename(place.directory / "old bob.key")
            new_key(home, "bob", "client")
            with pytest.raises(ZClusterError):
                async with AsyncClient(key=place.directory / "old bob.key", timeout=2.0) as client:
                    await client.call("echo", {"value": 1})
            async with AsyncClient(key=path, timeout=PATIENCE_S) as client:
                with pytest.raises((NoSuchJob, NotAllowed)):
                    await client.queue.show(job.id)
                again = await client.submit("echo", {"value": 1}, delay_s=600.0, idempotency_key="once")
                assert again.id != job.id, "the idempotency key was another key's"
                assert [row["id"] for row in (await client.queue.list())["items"]] == [again.id]

    use(body)


def test_the_command_line_makes_a_token_that_works_and_revokes_with_the_masters_word(place: Place) -> None:
    def run(*words: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "zcluster", *words, "--home", str(place.cluster.home), "-o", "json"]
        found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE_S).stdout)
        return found

    made = run("token", "create", "--role", "client", "--name", "cli")
    assert joined(Joining(place.directory / "cli.key", TokenText.read(made["token"]))).name == "cli"
    gone = run("keys", "revoke", "cli")
    assert gone["applied"] is True
    assert gone["tokens_revoked"] == 1
