"""Faults of processes, disks and people, with real nodes: whatever happens, the copies become what the source is, each file is
always an old or a new one, and nothing is deleted that was only not seen.

Clocks: no node compares its clock with another's. Times of files are the source's and are set, versions have numbers, and a
report says how long ago something was. What remains is tested here: files with times of another hour.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from synced_trees import Tree, held, same, strays, tree_table, write
from waiting import eventually

from zcluster.bench.cluster import LocalCluster
from zcluster.bench.sockets import carried_bytes
from zcluster.clients import AsyncClient
from zcluster.errors import ZClusterError
from zcluster.files.durable import CRASH_VARIABLE

FAST = {"session.heartbeat_s": 0.3}
STEPS = ("staged", "synced", "journaled", "renaming", "renamed", "deleted", "state", "done")
MIB = 1 << 20
Body = Callable[[LocalCluster, Callable[[str], Tree]], Awaitable[None]]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")


def run(parent: Path, trees: dict[str, str], body: Body, *, workers: int = 1, settings: dict[str, object] | None = None) -> None:
    """Run ``body`` on a cluster with these trees (name: more settings), whose sources are empty directories."""
    for name in trees:
        (parent / name).mkdir(exist_ok=True)
    config = "".join(tree_table(name, parent / name, more) for name, more in trees.items())

    async def main() -> None:
        async with (
            LocalCluster(workers, config=config, settings={**FAST, **(settings or {})}) as cluster,
            AsyncClient(key=cluster.admin_key) as client,
        ):
            await body(cluster, lambda name: Tree(cluster, client, name, parent / name))

    asyncio.run(main())


def sync_pid(cluster: LocalCluster, node: str) -> int:
    """The sync process of a node; 0 while there is none."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(cluster.pids[node]).children():
            if "zcluster.files" in child.cmdline():
                return int(child.pid)
    return 0


def kill_sync(cluster: LocalCluster, node: str) -> None:
    pid = sync_pid(cluster, node)
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def contents(root: Path, name: str) -> bytes | None:
    try:
        return (root / name).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def old_and_new(number: int) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Two states of one tree, with all that may happen to a path between them."""
    old = {f"sub/f{index:02}": b"old %d %d" % (number, index) for index in range(24)}
    old |= {"turns": b"file", "dir/inside": b"x", "goes/a/b": b"old", "same": b"same", "large": b"o" * (2 * MIB)}
    new = {f"sub/f{index:02}": b"new %d %d" % (number, index) for index in range(24)}
    new |= {"turns/inside": b"new", "dir": b"file", "same": b"same", "fresh/c": b"new", "large": b"o" * MIB + b"n" * MIB}
    return old, new


def make(root: Path, files: dict[str, bytes]) -> None:
    """Make a tree hold these files and no others, as quickly as possible."""
    for entry in root.iterdir():
        if entry.name != ".zcluster":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    write(root, files)


def torn(copy: Path, *states: dict[str, bytes]) -> list[str]:
    """Files of a copy that are not as one of these states has them."""
    names = {name for state in states for name in state}
    return [name for name in names if contents(copy, name) not in {None, *(state.get(name) for state in states)}]


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.soak)])
def test_a_copy_survives_sigkill_at_every_step(rounds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = tmp_path / "crash"
    monkeypatch.setenv(CRASH_VARIABLE, str(point))

    async def body(cluster: LocalCluster, tree_of: Callable[[str], Tree]) -> None:
        tree = tree_of("t")
        for number in range(rounds):
            for step in STEPS:
                old, new = old_and_new(number)
                make(tree.path, old)
                await tree.current()
                await tree.client.sync.pause("t")
                point.write_text(f"{step} {1 + number if step == 'renaming' else 1}")
                make(tree.path, new)
                await tree.client.sync.now("t")
                await tree.client.sync.resume("t")
                await eventually(lambda: not point.exists(), f"killed at {step}")
                assert torn(tree.copy(), old, new) == [], step
                await tree.current()

    run(tmp_path, {"t": "delete_share = 1.0"}, body)


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.soak)])
def test_sigkill_of_any_process_at_any_moment(rounds: int, tmp_path: Path) -> None:
    chance = random.Random(rounds)

    async def body(cluster: LocalCluster, tree_of: Callable[[str], Tree]) -> None:
        tree = tree_of("t")
        files = {f"d{number % 20}/f{number}": b"%d " % number * 100 for number in range(1500)}
        write(tree.path, {**files, "large": chance.randbytes(12 * MIB)})
        for _ in range(rounds):
            for victim in ("worker sync", "master sync", "worker-1", "master"):
                await asyncio.sleep(chance.uniform(0, 0.1))  # the moment is what is tried, nothing waits for it
                if victim.endswith("sync"):
                    kill_sync(cluster, "master" if victim.startswith("master") else "worker-1")
                else:
                    cluster.kill(victim)
                for number in chance.sample(range(1500), 50):
                    write(tree.path, {f"d{number % 20}/f{number}": chance.randbytes(chance.randrange(2000))})
                if victim == "worker-1":
                    await cluster.restart_worker("worker-1")
                elif victim == "master":
                    await cluster.restart_master()
            await tree.current()

    run(tmp_path, {"t": ""}, body, settings={"sync.window_bytes": MIB})


def test_a_large_file_goes_on_where_the_master_was_cut_off(tmp_path: Path) -> None:
    size, window = 96 * MIB, 4 * MIB

    async def body(cluster: LocalCluster, tree_of: Callable[[str], Tree]) -> None:
        tree = tree_of("t")
        worker = cluster.pids["worker-1"]
        write(tree.path, {"small": "1"})
        await tree.current()
        before = carried_bytes([worker])
        if before is None:
            pytest.skip("this kernel does not tell what its sockets have carried")
        (tmp_path / "large").write_bytes(os.urandom(size))
        os.rename(tmp_path / "large", tree.path / "large")
        while (carried_bytes([worker]) or 0) < before + size // 4:
            await asyncio.sleep(0)
        cluster.kill("worker-1", signal.SIGSTOP)
        cluster.kill("master", signal.SIGSTOP)
        first = (carried_bytes([worker]) or 0) - before
        assert first < size, "it was over before it could be cut off"
        cluster.kill("master")
        cluster.kill("worker-1", signal.SIGCONT)
        await cluster.restart_master()
        await tree.current()
        second = carried_bytes([worker]) or 0
        # What was on its way (a window, and what pipes and sockets between the four processes hold) may come twice.
        assert first + second < size + window + 8 * MIB, f"{first} + {second}"
        assert second > size // 8

    run(tmp_path, {"t": ""}, body, settings={"sync.window_bytes": window})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@needs_root
def test_a_full_and_a_read_only_disk_on_the_worker(tmp_path: Path, small_disk: Path) -> None:
    async def body(cluster: LocalCluster, tree_of: Callable[[str], Tree]) -> None:
        tree = tree_of("t")
        copy = small_disk / "copy"

        async def current() -> None:
            await eventually(lambda: same(tree.path, copy), "the copy is the same")
            await tree.state("current")
            assert strays(copy) == []

        write(tree.path, {f"f{number}": b"old" for number in range(30)})
        await current()
        before = held(copy)
        write(tree.path, {f"f{number}": os.urandom(300_000) for number in range(30)} | {"large": os.urandom(3 * MIB)})
        await tree.state("failed", "No space left")
        assert all(held(copy)[name][3] in (3, 300_000) for name in before), "a file is truncated"
        assert (await tree.at_master())["held"] == ""
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        await current()
        await cluster.terminate("worker-1")
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        write(tree.path, {"f1": "new"})
        cluster.start_worker("worker-1")
        await tree.state("failed", "Read-only")
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
        await current()

    roots: dict[str, object] = {"worker.tree_roots": str(small_disk)}
    run(tmp_path, {"t": f'worker_path = "{small_disk}/copy"'}, body, settings=roots)


def test_a_source_that_is_gone_empty_or_another_disk_deletes_nothing(tmp_path: Path) -> None:
    async def body(cluster: LocalCluster, tree_of: Callable[[str], Tree]) -> None:
        tree = tree_of("t")
        write(tree.path, {f"d/f{number}": "x" for number in range(30)})
        await tree.current()
        as_it_was = held(tree.path)
        away = tree.path.with_name("away")
        os.rename(tree.path, away)
        await tree.client.sync.now("t")
        row = await tree.state("held")
        assert row["reason"]
        assert held(tree.copy()) == as_it_was
        tree.path.mkdir()  # as an unmounted disk leaves it
        await tree.client.sync.now("t")
        await tree.state("held", "marker")
        assert held(tree.copy()) == as_it_was
        kill_sync(cluster, "master")
        await tree.state("held", "marker")
        assert held(tree.copy()) == as_it_was
        shutil.rmtree(tree.path)
        os.rename(away, tree.path)
        await tree.client.sync.now("t")
        await tree.current()
        # The same with the marker in its place, and with nobody looking meanwhile.
        await cluster.terminate("master")
        shutil.rmtree(tree.path / "d")
        cluster.start_master()
        await cluster.wait_ready("master", "worker-1")
        await tree.state("held", "suddenly empty")
        assert held(tree.copy()) == as_it_was
        await tree.client.sync.confirm("t")
        await tree.current()
        assert held(tree.copy()) == {}

    run(tmp_path, {"t": ""}, body)


def without_overriding_permissions(work: Callable[[], None]) -> None:
    """Do ``work`` in a thread whose children may not read what permissions forbid, even as root."""
    errors: list[BaseException] = []

    def body() -> None:
        try:
            if os.geteuid() == 0:
                for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
                    assert ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) == 0  # PR_CAPBSET_DROP: of this thread only
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def test_what_cannot_be_read_is_not_gone(tmp_path: Path) -> None:
    async def body(cluster: LocalCluster, tree_of: Callable[[str], Tree]) -> None:
        tree = tree_of("t")
        write(tree.path, {"secret/f": "1", "secret/deep/g": "2", "file": "3", "other": "4"})
        await tree.current()
        as_it_was = held(tree.path)
        (tree.path / "file").chmod(0)
        (tree.path / "secret").chmod(0)

        async def noticed() -> bool:
            await tree.client.sync.now("t")
            return bool((await tree.at_master())["errors"])

        def files() -> set[str]:
            return {path for path, (kind, *_) in held(tree.copy()).items() if kind == "file"}

        await eventually(noticed, "the errors are told")
        write(tree.path, {"other": "new"})
        await eventually(lambda: (tree.copy() / "other").read_text() == "new", "what can be read is synced")
        assert files() == {"secret/f", "secret/deep/g", "file", "other"}
        # Without any memory of what was there before, nothing may be concluded from what is seen now.
        await cluster.terminate("master")
        for cache in (tmp_path / "nothing", *cluster.home.rglob("t.cache")):
            cache.unlink(missing_ok=True)
        cluster.start_master()
        await cluster.wait_ready("master", "worker-1")
        await eventually(noticed, "the errors are told again")
        await tree.client.sync.now("t")
        assert files() == {"secret/f", "secret/deep/g", "file", "other"}
        (tree.path / "secret").chmod(0o755)
        (tree.path / "file").chmod(0o644)
        await tree.client.sync.now("t")
        await tree.current()
        assert held(tree.copy()).keys() == as_it_was.keys()

    without_overriding_permissions(lambda: run(tmp_path, {"t": ""}, body))


def test_files_that_change_while_they_are_read(tmp_path: Path) -> None:
    stop = threading.Event()

    def content(number: int) -> bytes:
        return b"%08d" % number * (1 + number % 5000)

    def writing(root: Path) -> None:
        chance, number = random.Random(1), 0
        while not stop.is_set():
            number += 1
            (root / ".new").write_bytes(content(number))
            os.rename(root / ".new", root / "replaced")
            with (root / "grows").open("ab") as file:
                file.write(b"x" * chance.randrange(100_000))
            with (root / "shrinks").open("r+b") as file:
                file.truncate(chance.randrange(3_000_000))
            if (root / "grows").stat().st_size > 8 * MIB:
                (root / "grows").unlink()
            (root / "comes and goes").write_bytes(b"y" * chance.randrange(1000))
            if number % 2:
                (root / "comes and goes").unlink()

    async def body(cluster: LocalCluster, tree_of: Callable[[str], Tree]) -> None:
        tree = tree_of("t")
        write(tree.path, {"replaced": content(0), "shrinks": b"z" * 3_000_000})
        await tree.current()
        first = (await tree.at_master())["version"]
        thread = threading.Thread(target=writing, args=(tree.path,))
        thread.start()
        try:

            async def moved() -> bool:
                found = contents(tree.copy(), "replaced") or b""
                assert found == content(int(found[:8])), "a mixture"
                return bool((await tree.at_master())["version"] > first + 50)

            # Whether a copy gets any of them while each file is rewritten all the time is not promised.
            await eventually(moved, "versions are published meanwhile")
        finally:
            stop.set()
            thread.join()
        await tree.current()
        assert "shrinks" in held(tree.copy())

    run(tmp_path, {"t": 'exclude = [".new"]'}, body)


def test_a_worker_that_was_away_for_a_hundred_versions_and_a_rollback_meanwhile(tmp_path: Path) -> None:
    async def body(cluster: LocalCluster, tree_of: Callable[[str], Tree]) -> None:
        tree, sync = tree_of("t"), tree_of("t").client.sync
        write(tree.path, {f"f{number}": "first" for number in range(50)})
        await tree.current("worker-1")
        await tree.current("worker-2")
        as_it_was, first = held(tree.path), (await tree.row())["version"]

        async def kept() -> bool:
            return bool((await sync.show(first, "t"))["kept"])

        await eventually(kept, "the first version is kept")
        await cluster.terminate("worker-1")
        number = 0
        while (await tree.at_master())["version"] < first + 100:
            number += 1
            write(tree.path, {f"f{number % 50}": f"changed {number}", f"g{number % 7}/h{number % 11}": f"{number}"})
            await sync.now("t")
        cluster.start_worker("worker-1")
        done = await sync.rollback(first, "t")
        await tree.current("worker-1")
        await tree.current("worker-2")
        assert held(tree.copy()) == as_it_was
        assert (await tree.row())["version"] == done["version"]
        for _ in range(3):
            write(tree.path, {f"f{number}": os.urandom(10) for number in range(50)})
            await sync.now("t")
            await sync.rollback(first, "t")
        await tree.current("worker-1")
        await tree.current("worker-2")
        assert held(tree.copy("worker-2")) == as_it_was

    run(tmp_path, {"t": ""}, body, workers=2, settings={"sync.history_versions": 200})


def test_a_copy_that_a_crash_left_truncated_is_mended_and_never_sent(tmp_path: Path) -> None:
    async def body(cluster: LocalCluster, tree_of: Callable[[str], Tree]) -> None:
        tree = tree_of("t")
        write(tree.path, {"a": "content", "b": "content", "large": os.urandom(2 * MIB), "old": "x", "ahead": "y"})
        for name, hours in (("old", -1), ("ahead", 1)):
            when = (tree.path / name).stat().st_mtime_ns + hours * 3600 * 10**9
            os.utime(tree.path / name, ns=(when, when))
        await tree.current()
        as_it_was, version = held(tree.path), (await tree.row())["version"]
        for end in ("killed", "stopped"):
            if end == "killed":
                cluster.kill("worker-1")
            else:
                await cluster.terminate("worker-1")
            (tree.copy() / "a").write_bytes(b"")
            os.truncate(tree.copy() / "b", 3)
            os.truncate(tree.copy() / "large", MIB)
            (tree.copy() / ".zcluster" / "stage" / "stray").write_text("left by a dead process")
            await cluster.restart_worker("worker-1")
            await tree.current()
        assert held(tree.path) == as_it_was
        assert (await tree.row())["version"] == version

    run(tmp_path, {"t": ""}, body)


def test_commands_fail_hang_and_take_a_version_back(tmp_path: Path) -> None:
    said = tmp_path / "said"
    script = f'echo "$ZCLUSTER_TREE $ZCLUSTER_VERSION" >> {said}; if grep -q bad f; then echo it is bad; exit 3; fi; ' + (
        "if grep -q slow f; then sleep 30; fi"
    )
    command = f"on_change = [\"sh\", \"-c\", '''{script}''']\non_change_timeout_s = 0.5\n"

    async def body(cluster: LocalCluster, tree_of: Callable[[str], Tree]) -> None:
        report, back = tree_of("report"), tree_of("back")
        for tree in (report, back):
            write(tree.path, {"f": "good", "kept": "1"})
            await tree.current()
        write(report.path, {"f": "bad", "more": "2"})
        row = await report.state("current", "it is bad")
        assert "ended with 3" in row["reason"]
        assert same(report.path, report.copy())
        write(report.path, {"f": "slow"})
        await report.state("current", "more than 0.5 s")
        write(report.path, {"f": "good again"})
        await report.current()
        as_it_was = held(back.path)
        # The bad file first: each of these may be seen as a version of its own, and none of them is to be a good one.
        write(back.path, {"f": "bad", "more": "2"})
        (back.path / "kept").unlink()
        row = await back.state("failed", "rolled back")
        await eventually(lambda: held(back.copy()) == as_it_was, "the version before is there again")
        assert row["version"] < row["target"]
        runs = said.read_text().splitlines()
        assert len(runs) == len(set(runs)), "a version's command ran twice"
        write(back.path, {"f": "good again"})
        await back.current()

    trees = {"report": command, "back": f'{command}on_change_failure = "rollback"'}
    run(tmp_path, trees, body, settings={"worker.on_change": "allow"})


def test_a_worker_that_refuses_commands_says_so_and_takes_the_files(tmp_path: Path) -> None:
    async def body(cluster: LocalCluster, tree_of: Callable[[str], Tree]) -> None:
        tree = tree_of("t")
        write(tree.path, {"f": "1"})
        # The empty tree before the file was a version too, and said the same.
        await eventually(lambda: same(tree.path, tree.copy()), "the worker takes the file")
        row = await tree.state("current", "worker.on_change is 'refuse'")
        assert row["version"] == row["target"]
        assert not (tmp_path / "ran").exists()

    run(tmp_path, {"t": f'on_change = ["touch", "{tmp_path}/ran"]'}, body)


def test_trees_that_overlap_on_a_worker(tmp_path: Path) -> None:
    async def body(cluster: LocalCluster, tree_of: Callable[[str], Tree]) -> None:
        outer, inner = tree_of("outer"), tree_of("inner")
        write(outer.path, {"a": "outer"})
        write(inner.path, {"b": "inner"})

        async def decided() -> dict[str, Any] | None:
            rows = {row["tree"]: row for row in await outer.client.sync.status()}
            states = sorted(row["state"] for row in rows.values())
            return rows if states == ["current", "failed"] else None

        rows = await eventually(decided, "one of them is refused")
        failed = next(row for row in rows.values() if row["state"] == "failed")
        assert "overlaps" in failed["reason"]

    trees = {"outer": 'worker_path = "trees/worker-1/x"', "inner": 'worker_path = "trees/worker-1/x/y"\nworkers = "worker-1"'}
    run(tmp_path, trees, body)


def test_trees_that_overlap_at_the_master_are_refused_at_start(tmp_path: Path) -> None:
    for name in ("one", "one/two"):
        (tmp_path / name).mkdir()
    config = tree_table("one", tmp_path / "one") + tree_table("two", tmp_path / "one" / "two")
    with pytest.raises(ZClusterError, match=r"overlap|ended with exit code"), LocalCluster(0, config=config):
        pytest.fail("it started")
