"""Files of workers that the master collects, over real processes and disks: they come up, change and go; nobody gets at
another one's; what is too much is refused with its reason."""

from __future__ import annotations

import asyncio
import functools
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import eventually

from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient
from zcluster.errors import UsageError

FAST = {"session.heartbeat_s": 0.3}


def in_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """The test as pytest runs it, in a loop of its own."""

    @functools.wraps(test)
    def run() -> None:
        async def body() -> None:
            await test()

        asyncio.run(body())

    return run


def up_tree(name: str = "logs", **more: object) -> str:
    """A [[sync.tree]] that workers bring up, to collected/NAME in the home."""
    extra = "".join(f"{key} = {value!r}\n".replace("'", '"') for key, value in more.items())
    return f'[[sync.tree]]\nname = "{name}"\npath = "collected/{name}"\ndirection = "up"\n{extra}'


def own(cluster: LocalCluster, worker: str, tree: str = "logs") -> Path:
    """Where a worker has its tree."""
    path = cluster.home / "trees" / worker / tree
    path.mkdir(parents=True, exist_ok=True)
    return path


def files(directory: Path) -> dict[str, str]:
    """The files of a directory, without zcluster's own."""
    found = {}
    for path in sorted(directory.rglob("*")) if directory.exists() else ():
        name = path.relative_to(directory).as_posix()
        if path.is_file() and not name.startswith(".zcluster") and "/.zcluster" not in name:
            found[name] = path.read_text()
    return found


async def has(directory: Path, wanted: dict[str, str]) -> None:
    """Wait until the directory has these files and no others."""
    try:
        await eventually(lambda: files(directory) == wanted, f"{directory} has {sorted(wanted)}")
    except AssertionError as error:
        raise AssertionError(f"{error}: it has {files(directory)}") from None


async def row(client: AsyncClient, worker: str, tree: str = "logs") -> dict[str, Any]:
    """The row of one worker and tree."""
    (found,) = await client.sync.status(tree, worker)
    return found


async def row_is(
    client: AsyncClient, worker: str, check: Callable[[dict[str, Any]], Any], what: str, tree: str = "logs"
) -> dict[str, Any]:
    """Wait until the row is as ``check`` says, and give it."""
    last: dict[str, Any] = {}

    async def seen() -> bool:
        nonlocal last
        last = await row(client, worker, tree)
        return bool(check(last))

    try:
        await eventually(seen, f"{tree} of {worker} is {what}")
    except AssertionError as error:
        raise AssertionError(f"{error}: {last}") from None
    return last


async def current(client: AsyncClient, worker: str, tree: str = "logs") -> dict[str, Any]:
    """Wait until the copy of a worker's tree is current."""
    return await row_is(client, worker, lambda found: found["state"] == "current", "current", tree)


@in_loop
async def test_files_come_up_change_and_go_and_each_worker_has_its_own() -> None:
    async with LocalCluster(workers=2, settings=FAST, config=up_tree()) as cluster:
        one, other, at_master = own(cluster, "worker-1"), own(cluster, "worker-2"), cluster.home / "collected" / "logs"
        async with AsyncClient(key=cluster.client_key, timeout=10.0) as client:
            (one / "deep").mkdir()
            (one / "deep" / "a.log").write_text("one\n")
            (one / "b.log").write_text("b\n")
            (other / "a.log").write_text("other\n")
            await has(at_master / "worker-1", {"b.log": "b\n", "deep/a.log": "one\n"})
            await has(at_master / "worker-2", {"a.log": "other\n"})
            (one / "b.log").write_text("b, longer\n")
            (one / "deep" / "a.log").unlink()
            await has(at_master / "worker-1", {"b.log": "b, longer\n"})
            found = await current(client, "worker-1")
            assert (found["direction"], found["reason"], found["files_behind"]) == ("up", "", 0)
            assert found["version"] == found["target"] > 0
            await current(client, "worker-2")
            (tree,) = await client.sync.trees()
            assert (tree["direction"], tree["files"], tree["bytes"]) == ("up", 2, len("b, longer\n") + len("other\n"))
            # What somebody changes at the master is put right again.
            (at_master / "worker-2" / "a.log").write_text("forged\n")
            (at_master / "worker-2" / "extra").write_text("forged\n")
            await has(at_master / "worker-2", {"a.log": "other\n"})
            assert files(one) == {"b.log": "b, longer\n"}


@in_loop
async def test_a_worker_that_is_away_keeps_its_copy_and_goes_on_when_it_is_back() -> None:
    async with LocalCluster(workers=1, settings=FAST, config=up_tree()) as cluster:
        source, copy = own(cluster, "worker-1"), cluster.home / "collected" / "logs" / "worker-1"
        async with AsyncClient(key=cluster.client_key, timeout=10.0) as client:
            (source / "a.log").write_text("before\n")
            await has(copy, {"a.log": "before\n"})
            await current(client, "worker-1")
            await cluster.terminate("worker-1")
            found = await row_is(client, "worker-1", lambda found: found["state"] == "away", "away")
            assert found["reason"]
            (source / "a.log").write_text("meanwhile\n")
            (source / "b.log").write_text("new\n")
            assert files(copy) == {"a.log": "before\n"}
            cluster.start_worker("worker-1")
            await has(copy, {"a.log": "meanwhile\n", "b.log": "new\n"})
            await current(client, "worker-1")
        await cluster.restart_master()
        async with AsyncClient(key=cluster.client_key, timeout=10.0) as client:
            await current(client, "worker-1")
            (source / "b.log").unlink()
            await has(copy, {"a.log": "meanwhile\n"})


@in_loop
async def test_what_a_worker_leaves_out_or_holds_back_is_visible_at_the_master() -> None:
    async with LocalCluster(workers=1, settings=FAST, config=up_tree(max_file_bytes=100_000)) as cluster:
        source, copy = own(cluster, "worker-1"), cluster.home / "collected" / "logs" / "worker-1"
        (source / "link").symlink_to("/etc/passwd")
        (Path(str(source)) / "bad\udcff").write_text("no UTF-8\n")
        for number in range(12):
            (source / f"{number}.log").write_text("x")
        async with (
            AsyncClient(key=cluster.client_key, timeout=10.0) as client,
            AsyncClient(key=cluster.admin_key, timeout=10.0) as admin,
        ):
            await has(copy, {f"{number}.log": "x" for number in range(12)})
            found = await row_is(client, "worker-1", lambda found: found["state"] == "current" and found["reason"], "current")
            assert "leaves out" in found["reason"]
            assert "1 more" in found["reason"]
            (tree,) = await client.sync.trees()
            assert tree["refused_count"] == 2
            assert {each["path"] for each in tree["refused"]} == {"worker-1/link", "worker-1/bad\\xff"}
            for path in source.glob("*.log"):
                path.unlink()
            found = await row_is(client, "worker-1", lambda found: found["state"] == "held", "held")
            assert "sync confirm" in found["reason"]
            (tree,) = await client.sync.trees()
            assert tree["held"].startswith("worker-1: ")
            assert len(files(copy)) == 12
            await admin.sync.confirm("logs", "worker-1")
            await has(copy, {})
            await current(client, "worker-1")
            with pytest.raises(UsageError, match="own"):
                await client.sync.diff("worker-1", "logs")
            assert (await client.sync.verify("worker-1", "logs"))["trees"][0]["wrong"] == []


LIMITS = {**FAST, "sync.up_files": 3, "sync.up_bytes": 10_000}


@in_loop
async def test_more_than_a_worker_may_bring_is_refused_with_its_reason_and_nothing_of_it_is_kept() -> None:
    async with LocalCluster(workers=2, settings=LIMITS, config=up_tree(max_file_bytes=8000)) as cluster:
        one, other, at_master = own(cluster, "worker-1"), own(cluster, "worker-2"), cluster.home / "collected" / "logs"
        async with AsyncClient(key=cluster.client_key, timeout=10.0) as client:
            at_the_limit = {"a": "x" * 5000, "b": "y" * 4000, "c": "z" * 1000}
            for name, content in at_the_limit.items():
                (one / name).write_text(content)
            await has(at_master / "worker-1", at_the_limit)
            (one / "c").write_text("z" * 1001)
            found = await row_is(client, "worker-1", lambda found: found["state"] in ("failed", "held"), "refused: bytes")
            assert "10000" in found["reason"]
            assert files(at_master / "worker-1") == at_the_limit
            (one / "c").write_text("z")
            await has(at_master / "worker-1", {**at_the_limit, "c": "z"})
            (one / "d").write_text("d")
            found = await row_is(client, "worker-1", lambda found: found["state"] in ("failed", "held"), "refused: files")
            assert "3" in found["reason"]
            # The others go on, and so does the rest of what this one may do.
            (other / "a").write_text("fine")
            await has(at_master / "worker-2", {"a": "fine"})
            (one / "d").unlink()
            (one / "e").write_text("")
            (one / "b").unlink()
            await has(at_master / "worker-1", {"a": "x" * 5000, "c": "z", "e": ""})
            await current(client, "worker-1")
            (other / "large").write_text("x" * 8001)
            await row_is(client, "worker-2", lambda found: "large" in found["reason"], "refused: a large file")
            assert files(at_master / "worker-2") == {"a": "fine"}


@in_loop
async def test_merged_files_of_all_workers_are_together_and_the_first_one_keeps_its_name() -> None:
    async with LocalCluster(workers=2, settings=FAST, config=up_tree(keep="merged")) as cluster:
        one, other, merged = own(cluster, "worker-1"), own(cluster, "worker-2"), cluster.home / "collected" / "logs"
        async with AsyncClient(key=cluster.client_key, timeout=10.0) as client:
            (one / "one").mkdir()
            (one / "one" / "a.log").write_text("one\n")
            (one / "same.log").write_text("first\n")
            await has(merged, {"one/a.log": "one\n", "same.log": "first\n"})
            (other / "two.log").write_text("two\n")
            (other / "same.log").write_text("second\n")
            await has(merged, {"one/a.log": "one\n", "same.log": "first\n", "two.log": "two\n"})
            found = await row_is(client, "worker-2", lambda found: found["state"] == "current" and found["reason"], "in conflict")
            assert found["reason"] == "1 of its files is not merged: same.log belongs to worker-1"
            assert (await current(client, "worker-1"))["reason"] == ""
            (tree,) = await client.sync.trees()
            assert tree["conflicts"] == [{"path": "same.log", "worker": "worker-2", "owner": "worker-1", "at": "same.log"}]
            (one / "one" / "a.log").write_text("one, changed\n")
            (one / "same.log").unlink()
            await has(merged, {"one/a.log": "one, changed\n", "same.log": "second\n", "two.log": "two\n"})
            await row_is(client, "worker-2", lambda found: found["state"] == "current" and not found["reason"], "all merged")
            (tree,) = await client.sync.trees()
            assert (tree["conflicts"], tree["conflict_count"], tree["files"]) == ([], 0, 3)
            # What is not from a worker stays.
            (merged / "foreign").write_text("mine\n")
            (one / "foreign").write_text("theirs\n")
            await row_is(client, "worker-1", lambda found: "not from a worker" in found["reason"], "in conflict")
            assert files(merged)["foreign"] == "mine\n"
            (one / "one" / "a.log").unlink()
            await has(merged, {"foreign": "mine\n", "same.log": "second\n", "two.log": "two\n"})
            await eventually(lambda: not (merged / "one").exists(), "its directory has gone as well")
        await cluster.restart_master()
        async with AsyncClient(key=cluster.client_key, timeout=10.0) as client:
            (other / "two.log").write_text("two, changed\n")
            await has(merged, {"foreign": "mine\n", "same.log": "second\n", "two.log": "two, changed\n"})
            await row_is(client, "worker-1", lambda found: "not from a worker" in found["reason"], "still in conflict")
            # A copy that somebody removed is fetched again, and takes nothing away meanwhile.
            await cluster.terminate("master")
            shutil.rmtree(merged / ".zcluster" / "workers" / "worker-2")
            await cluster.terminate("worker-2")
            cluster.start_master()
            await cluster.wait_ready("master", "worker-1")
        async with AsyncClient(key=cluster.client_key, timeout=10.0) as client:
            await row_is(client, "worker-1", lambda found: "not from a worker" in found["reason"], "still in conflict")
            assert files(merged) == {"foreign": "mine\n", "same.log": "second\n", "two.log": "two, changed\n"}
            cluster.start_worker("worker-2")
            await current(client, "worker-2")
            (other / "two.log").unlink()
            await has(merged, {"foreign": "mine\n", "same.log": "second\n"})


@in_loop
async def test_workers_own_files_in_a_copy_stay_and_come_up() -> None:
    table = '[[sync.tree]]\nname = "rules"\npath = "files/rules"\nextra_valid = ["local/", "*.own"]\nexclude = ["*.tmp"]\n'
    async with LocalCluster(workers=2, settings=FAST, config=table) as cluster:
        master, one = cluster.home / "files" / "rules", own(cluster, "worker-1", "rules")
        other, kept = cluster.home / "trees" / "worker-2" / "rules", cluster.home / "data" / "sync" / "extra" / "rules"
        (master / "sub").mkdir(parents=True)
        (master / "sub" / "a.conf").write_text("a\n")
        (master / "b.conf").write_text("b\n")
        (master / "not-for-all.own").write_text("the master's own\n")
        async with AsyncClient(key=cluster.client_key, timeout=10.0) as client:
            await has(one, {"sub/a.conf": "a\n", "b.conf": "b\n"})
            await has(other, {"sub/a.conf": "a\n", "b.conf": "b\n"})
            (one / "local").mkdir()
            (one / "local" / "deep.conf").write_text("mine\n")
            (one / "sub" / "x.own").write_text("mine too\n")
            (one / "local" / "no.tmp").write_text("excluded\n")
            (one / "extra.conf").write_text("not allowed\n")
            await has(kept / "worker-1", {"local/deep.conf": "mine\n", "sub/x.own": "mine too\n"})
            (master / "sub" / "a.conf").write_text("changed\n")
            stays = {"local/deep.conf": "mine\n", "local/no.tmp": "excluded\n", "sub/x.own": "mine too\n"}
            await has(one, {"b.conf": "b\n", "sub/a.conf": "changed\n", **stays})
            await has(other, {"b.conf": "b\n", "sub/a.conf": "changed\n"})
            found = await current(client, "worker-1", "rules.extra")
            assert found["direction"] == "up"
            await current(client, "worker-1", "rules")
            await current(client, "worker-2", "rules.extra")
            assert [tree["name"] for tree in await client.sync.trees()] == ["rules", "rules.extra"]
            differs = (await client.sync.diff("worker-1", "rules"))["trees"][0]
            assert {each["path"] for each in differs["extra_valid"]} == {"local/deep.conf", "sub/x.own"}
            (one / "sub" / "x.own").unlink()
            await has(kept / "worker-1", {"local/deep.conf": "mine\n"})
            assert files(kept / "worker-2") == {}
        await cluster.restart_worker("worker-1")
        (one / "local" / "deep.conf").write_text("mine, changed\n")
        await has(kept / "worker-1", {"local/deep.conf": "mine, changed\n"})
        (master / "sub" / "a.conf").unlink()
        await has(one, {"b.conf": "b\n", "local/deep.conf": "mine, changed\n", "local/no.tmp": "excluded\n"})


@in_loop
async def test_files_come_no_faster_than_their_pace_small_ones_and_large_ones() -> None:
    rate = 200_000
    async with LocalCluster(workers=1, settings={**FAST, "sync.up_rate_bytes": rate}, config=up_tree()) as cluster:
        source, copy = own(cluster, "worker-1"), cluster.home / "collected" / "logs" / "worker-1"
        wanted = {"large": "l" * 400_000, **{f"{number}.log": "s" * 30_000 for number in range(8)}}
        began_s = time.monotonic()
        for name, content in wanted.items():
            (source / name).write_text(content)
        await has(copy, wanted)
        # A second's worth may come at once, and the last question is not paid for yet.
        assert time.monotonic() - began_s >= (sum(map(len, wanted.values())) - 2 * rate) / rate
        async with AsyncClient(key=cluster.client_key, timeout=10.0) as client:
            await current(client, "worker-1")
