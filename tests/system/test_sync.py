"""File sync as a user sees it, with real nodes and disks: what is done to a tree at the master is what its copies hold."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from synced_trees import CONTROL, Tree, held, same, tree_table, write
from waiting import eventually

from zcluster.bench.child import child_environment
from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient, Client
from zcluster.errors import NotAllowed, ZClusterError

FIRST = {"a": "alpha", "d/b": "beta", "d/e/c": "gamma", "empty": ""}
MORE = {
    "modes": 'mode = "0640"',
    "chosen": 'include = ["*.conf", "sub/"]\nexclude = ["*.tmp"]\nextra_valid = ["local.conf"]',
    "kept": "delete = false",
    "links": 'symlinks = "copy"',
    "guarded": "delete_share = 0.3",
    "one": 'workers = "worker-1"',
    "command": 'on_change = ["sh", "-c", "echo $ZCLUSTER_VERSION >> ../said-$(basename $PWD)"]',
    "outside": 'worker_path = "/zcluster-not-allowed"',
}
PLAIN = ("changes", "kinds", "asked", "past", "paused", "mended", "renames", "cli", "linked", "bulk", "odd", "cases", "stat")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp("sources")
    found = {name: parent / name for name in (*PLAIN, *MORE)}
    for name, path in found.items():
        if name != "linked":
            path.mkdir()
    (parent / "linked-to").mkdir()
    found["linked"].symlink_to(parent / "linked-to")
    return found


@pytest.fixture(scope="module")
def cluster(places: dict[str, Path]) -> Iterator[LocalCluster]:
    config = "".join(tree_table(name, path, MORE.get(name, "")) for name, path in places.items())
    with LocalCluster(2, config=config, settings={"worker.on_change": "allow"}) as running:
        yield running


Body = Callable[[Tree], Awaitable[None]]


@pytest.fixture
def run(cluster: LocalCluster, places: dict[str, Path]) -> Callable[[str, Body], None]:
    """Run a test on the tree of a name, with an administrator's client."""

    def with_tree(name: str, body: Body) -> None:
        async def main() -> None:
            async with AsyncClient(key=cluster.admin_key) as client:
                await body(Tree(cluster, client, name, places[name]))

        asyncio.run(main())

    return with_tree


def test_what_changes_at_the_master_is_what_all_copies_hold(run: Callable[[str, Body], None]) -> None:
    async def body(tree: Tree) -> None:
        async def both() -> None:
            await tree.current("worker-1")
            await tree.current("worker-2")

        write(tree.path, FIRST)
        await both()
        assert held(tree.copy())["d/e/c"][0] == "file"
        (tree.path / "d" / "b").write_text("another")
        await both()
        (tree.path / "d" / "e" / "c").unlink()
        await both()
        os.rename(tree.path / "a", tree.path / "d" / "a is here now")
        await both()
        os.rename(tree.path / "d", tree.path / "D2")
        await both()
        (tree.path / "empty directory" / "in it").mkdir(parents=True)
        await both()
        (tree.path / "empty").chmod(0o600)
        (tree.path / "empty directory").chmod(0o711)
        await both()
        os.utime(tree.path / "empty", ns=(10**18, 10**18 + 7))
        await both()
        assert (tree.copy() / "empty").stat().st_mtime_ns == 10**18 + 7
        (tree.path / "empty directory" / "in it").rmdir()
        await both()
        (tree.path / "empty").write_bytes(b"")
        write(tree.path, {"now empty": "something"})
        await both()
        (tree.path / "now empty").write_bytes(b"")
        await both()
        (tree.path / "D2" / "b").write_text("ano")
        await both()

    run("changes", body)


def test_a_directory_becomes_a_file_and_the_reverse(run: Callable[[str, Body], None]) -> None:
    async def body(tree: Tree) -> None:
        write(tree.path, {"x/y/z": "deep", "x/w": "w", "f": "file"})
        await tree.current()
        shutil.rmtree(tree.path / "x")
        (tree.path / "f").unlink()
        write(tree.path, {"x": "a file", "f/g": "in a directory"})
        await tree.current()
        (tree.path / "x").unlink()
        shutil.rmtree(tree.path / "f")
        write(tree.path, {"x/y/z": "deep again", "f": "file again"})
        await tree.current()

    run("kinds", body)


def test_a_mode_of_the_tree_holds_in_every_copy(run: Callable[[str, Body], None]) -> None:
    async def body(tree: Tree) -> None:
        write(tree.path, {"d/f": "x"})
        (tree.path / "d" / "f").chmod(0o777)

        def right() -> bool:
            copy = tree.copy()
            return (copy / "d/f").stat().st_mode & 0o777 == 0o640 and (copy / "d").stat().st_mode & 0o777 == 0o750

        await eventually(lambda: (tree.copy() / "d/f").exists() and right(), "the mode is the tree's")
        assert (await tree.state("current"))["version"] >= 1
        assert (tree.path / "d" / "f").stat().st_mode & 0o777 == 0o777

    run("modes", body)


def test_only_what_the_patterns_cover_is_synced_and_deleted(run: Callable[[str, Body], None]) -> None:
    async def body(tree: Tree) -> None:
        own = {"mine.txt": "not covered", "local.conf": "extra, and valid", "extra.conf": "goes", "sub/x.tmp": "stays"}
        write(tree.copy(), own)
        write(tree.path, {"a.conf": "1", "b.txt": "2", "sub/c": "3", "sub/d.tmp": "4", "local.conf": "never sent"})
        await eventually(lambda: (tree.copy() / "sub" / "c").exists(), "what is covered comes")
        await eventually(lambda: not (tree.copy() / "extra.conf").exists(), "what is extra goes")
        files = {path for path, (kind, *_) in held(tree.copy()).items() if kind == "file"}
        assert files == {"a.conf", "sub/c", "mine.txt", "local.conf", "sub/x.tmp"}
        assert (tree.copy() / "local.conf").read_text() == "extra, and valid"
        shutil.rmtree(tree.path / "sub")
        await eventually(lambda: not (tree.copy() / "sub" / "c").exists(), "what is covered goes")
        assert (tree.copy() / "sub" / "x.tmp").exists()

    run("chosen", body)


def test_without_delete_nothing_goes(run: Callable[[str, Body], None]) -> None:
    async def body(tree: Tree) -> None:
        write(tree.path, {"stays": "1", "goes": "2"})
        await tree.current()
        (tree.path / "goes").unlink()
        (tree.path / "stays").write_text("new")
        await eventually(lambda: (tree.copy() / "stays").read_text() == "new", "the change came")
        await tree.state("current")
        assert (tree.copy() / "goes").read_text() == "2"

    run("kept", body)


def test_links_are_copied_where_the_tree_says_so_and_refused_elsewhere(run: Callable[[str, Body], None]) -> None:
    async def body(tree: Tree) -> None:
        write(tree.path, {"d/f": "x"})
        (tree.path / "d" / "link").symlink_to("f")
        (tree.path / "outside").symlink_to("../../etc/passwd")
        (tree.path / "absolute").symlink_to("/etc/passwd")
        await eventually(lambda: (tree.copy() / "d" / "link").is_symlink(), "the link is there")
        assert os.readlink(tree.copy() / "d" / "link") == "f"
        assert "outside" not in held(tree.copy())
        told = await tree.at_master()
        assert {row["path"] for row in told["refused"]} == {"outside", "absolute"}
        assert told["refused_count"] == 2
        # A directory that becomes a link: what the link leads to is not touched.
        (tree.path / "kept").mkdir()
        write(tree.path, {"kept/file": "1", "dir/file": "2"})
        await eventually(lambda: (tree.copy() / "dir/file").exists(), "it is there")
        shutil.rmtree(tree.path / "dir")
        (tree.path / "dir").symlink_to("kept")
        await eventually(lambda: (tree.copy() / "dir").is_symlink(), "the directory is a link now")
        assert (tree.copy() / "kept/file").read_text() == "1"

    run("links", body)


def test_a_root_that_is_a_symbolic_link_is_as_good_as_any(run: Callable[[str, Body], None]) -> None:
    async def body(tree: Tree) -> None:
        write(tree.path, FIRST)
        await tree.current()
        write(tree.path, {"a": "changed"})
        await tree.current()

    run("linked", body)


def test_same_size_and_time_with_other_content_is_found(run: Callable[[str, Body], None]) -> None:
    async def body(tree: Tree) -> None:
        write(tree.path, {"f": "one"})
        await tree.current()
        was = (tree.path / "f").stat()
        (tree.path / "f").write_text("two")
        os.utime(tree.path / "f", ns=(was.st_atime_ns, was.st_mtime_ns))
        await eventually(lambda: (tree.copy() / "f").read_text() == "two", "the other content came")
        await tree.current()

    run("stat", body)


def test_names_that_differ_by_case_only_and_a_rename_of_case(run: Callable[[str, Body], None]) -> None:
    async def body(tree: Tree) -> None:
        write(tree.path, {"Readme": "1", "Dir/x": "2"})
        await tree.current()
        os.rename(tree.path / "Readme", tree.path / "README")
        os.rename(tree.path / "Dir", tree.path / "dir")
        await tree.current()
        assert {"README", "dir/x"} <= held(tree.copy()).keys()
        write(tree.path, {"readme": "twin"})

        async def refused() -> bool:
            return {row["path"] for row in (await tree.at_master())["refused"]} == {"README", "readme"}

        await eventually(refused, "the twins are refused")
        (tree.path / "readme").unlink()
        await tree.current()

    run("cases", body)


def test_names_that_no_tree_may_have_are_refused_and_the_rest_is_synced(run: Callable[[str, Body], None]) -> None:
    async def body(tree: Tree) -> None:
        write(tree.path, {"good": "1", "ünï": "2"})
        odd = [b"not\xffutf8", b"new\nline", b"con", b"dot.", unicodedata.normalize("NFD", "é").encode(), b".ZCLUSTER"]
        for name in odd:
            write(tree.path, {os.fsdecode(name): "x"})
        os.mkfifo(tree.path / "pipe")

        async def refused() -> bool:
            return bool((await tree.at_master())["refused_count"] == len(odd) + 1)

        await eventually(refused, "all odd names are refused")
        await eventually(lambda: held(tree.copy()).keys() == {"good", "ünï"}, "the others are there")
        row = await tree.at_master()
        assert all(each["reason"] for each in row["refused"])
        assert not row["held"]
        json.dumps(row, ensure_ascii=False).encode()

    run("odd", body)


def names(root: Path) -> set[str]:
    """What is in a directory at one moment: a version that the guard let go may still be on its way into it."""
    return set(os.listdir(root)) - {CONTROL}


def test_mass_deletion_is_held_until_someone_confirms_it(run: Callable[[str, Body], None]) -> None:
    async def body(tree: Tree) -> None:
        write(tree.path, {f"f{number}": "x" for number in range(40)})
        await tree.current()
        for number in range(20):
            (tree.path / f"f{number}").unlink()
        # However few are seen to go at once: what went in the last minute counts together.
        row = await tree.state("held", "20 of 40 files would go")
        assert "zcluster sync confirm" in row["reason"]
        assert (await tree.at_master())["held"] == row["reason"]
        assert len(names(tree.copy())) >= 28
        await tree.client.sync.confirm(tree.name)
        await tree.current()
        for number in range(20, 40):
            (tree.path / f"f{number}").unlink()
        await tree.state("held", "it is suddenly empty")
        assert len(names(tree.copy())) >= 11
        for number in range(20, 40):
            write(tree.path, {f"f{number}": "x"})
        await tree.current()

    run("guarded", body)


def test_a_tree_concerns_the_workers_that_it_names(run: Callable[[str, Body], None]) -> None:
    async def body(tree: Tree) -> None:
        write(tree.path, FIRST)
        await tree.current("worker-1")
        assert [row["worker"] for row in await tree.client.sync.status(tree.name)] == ["worker-1"]
        assert not tree.copy("worker-2").exists()
        with pytest.raises(ZClusterError, match=r"no copy of a tree|no tree"):
            await tree.client.sync.diff("worker-2", tree.name)

    run("one", body)


def test_a_command_runs_once_for_each_version(run: Callable[[str, Body], None]) -> None:
    async def body(tree: Tree) -> None:
        said = tree.copy().parent / "said-command"
        write(tree.path, {"a": "1"})
        await tree.current()
        write(tree.path, {"a": "2"})
        await tree.current()
        await tree.client.sync.now(tree.name, wait=True)
        versions = said.read_text().split()
        assert len(versions) == len(set(versions))
        assert int(versions[-1]) == (await tree.row())["version"]

    run("command", body)


def test_a_place_that_the_worker_does_not_allow_is_refused_with_the_reason(run: Callable[[str, Body], None]) -> None:
    async def body(tree: Tree) -> None:
        write(tree.path, {"a": "1"})
        row = await tree.state("failed", "lets trees be beneath")
        assert "worker.tree_roots" in row["reason"]
        assert row["error"]
        assert "zcluster-not-allowed" not in os.listdir("/")

    run("outside", body)


def test_status_diff_and_verify_say_how_a_copy_is(run: Callable[[str, Body], None]) -> None:
    async def body(tree: Tree) -> None:
        sync = tree.client.sync
        write(tree.path, FIRST)
        await tree.current()
        row = await tree.row()
        assert row["worker"] == "worker-1"
        assert row["direction"] == "down"
        assert row["version"] == row["target"] >= 1
        assert row["behind_since_s"] is None
        assert row["bytes_behind"] == 0
        assert row["error"] == ""
        told = await tree.at_master()
        assert (told["files"], told["bytes"]) == (4, 14)
        assert told["version"] == row["version"]
        assert told["root"] == row["root"]
        nothing: dict[str, list[object]] = {"missing": [], "shared": [], "extra": [], "extra_valid": []}
        (found,) = (await sync.diff("worker-1", tree.name))["trees"]
        assert {name: found[name] for name in nothing} == nothing
        (verified,) = (await sync.verify("worker-1", tree.name))["trees"]
        assert (verified["files"], verified["bytes"], verified["wrong"]) == (4, 14, [])
        await sync.pause(tree.name)
        write(tree.path, {"new": "n", "a": "changed"})
        await tree.state("paused")
        (found,) = (await sync.diff("worker-1", tree.name))["trees"]
        assert [each["path"] for each in found["missing"]] == ["new"]
        assert [(each["path"], each["size"], each["copy_size"]) for each in found["shared"]] == [("a", 7, 5)]
        assert (await tree.row())["files_behind"] == 2
        await sync.resume(tree.name)
        await tree.current()
        with pytest.raises(ZClusterError, match=r"no copy of a tree|no tree"):
            await sync.status("no such tree")

    run("asked", body)


def test_history_shows_what_was_and_rollback_brings_it_back(run: Callable[[str, Body], None]) -> None:
    async def body(tree: Tree) -> None:
        sync = tree.client.sync
        write(tree.path, {"a": "one", "sub/b": "two"})
        await tree.current()
        first, as_it_was = (await tree.row())["version"], held(tree.path)

        async def kept(version: int) -> bool:
            return next(bool(row["kept"]) for row in await sync.history(tree.name) if row["version"] == version)

        await eventually(lambda: kept(first), "the first version is kept")
        (tree.path / "sub" / "b").unlink()
        write(tree.path, {"a": "other", "c": "three"})
        await tree.current()
        second = (await tree.row())["version"]
        await eventually(lambda: kept(second), "the second version is kept")
        shown = [await sync.show(version, tree.name) for version in range(first + 1, second + 1)]
        changes = [change for each in shown for change in each["changes"]]
        assert {("sub/b", "removed"), ("c", "added"), ("a", "changed")} <= {(each["path"], each["change"]) for each in changes}
        done = await sync.rollback(first, tree.name)
        assert done["of"] == first
        assert done["version"] > second
        await tree.current()
        assert held(tree.copy()) == as_it_was == held(tree.path)
        newest = (await sync.history(tree.name))[0]
        assert (newest["cause"], newest["of"]) == ("rollback", first)
        with pytest.raises(ZClusterError, match="no version 10000"):
            await sync.rollback(10_000, tree.name)

    run("past", body)


def test_a_pause_holds_copies_back_and_now_looks_at_once(run: Callable[[str, Body], None]) -> None:
    async def body(tree: Tree) -> None:
        sync = tree.client.sync
        write(tree.path, FIRST)
        await tree.current("worker-2")
        await sync.pause(tree.name, "worker-2")
        write(tree.path, {"a": "changed"})
        await tree.current("worker-1")
        row = await tree.state("paused", worker="worker-2")
        assert row["reason"]
        assert row["version"] < row["target"]
        assert row["behind_since_s"] is not None
        assert (tree.copy("worker-2") / "a").read_text() == "alpha"
        assert (await tree.at_master())["paused"] == ["worker-2"]
        await sync.resume(tree.name, "worker-2")
        await tree.current("worker-2")
        rows = (await sync.now(tree.name, wait=True, timeout=20))["workers"]
        assert {row["state"] for row in rows} == {"current"}

    run("paused", body)


def test_a_copy_that_was_edited_is_mended(run: Callable[[str, Body], None]) -> None:
    async def body(tree: Tree) -> None:
        write(tree.path, FIRST)
        await tree.current()
        copy = tree.copy()
        (copy / "a").write_text("edited here")
        (copy / "stray").write_text("made here")
        (copy / "d" / "b").unlink()
        # In one step: a copy is mended while a longer deletion is under way.
        os.rename(copy / "d" / "e", tree.cluster.home / "away 1")
        await tree.current()
        # A directory of the copy that becomes a link to elsewhere: elsewhere is not touched.
        elsewhere = tree.cluster.home / "elsewhere"
        write(elsewhere, {"b": "not ours", "c": "neither"})
        before = held(elsewhere)
        (copy / "link").symlink_to(elsewhere)
        os.rename(copy / "d", tree.cluster.home / "away 2")
        with contextlib.suppress(OSError):  # where it was mended already
            os.rename(copy / "link", copy / "d")
        (copy / "link").unlink(missing_ok=True)
        await tree.current()
        assert held(elsewhere) == before
        os.rename(copy / "d", tree.cluster.home / "away 3")
        await tree.current()

    run("mended", body)


def test_many_renames_and_a_deep_new_tree_are_all_seen(run: Callable[[str, Body], None]) -> None:
    async def body(tree: Tree) -> None:
        count = 2_000
        write(tree.path, {f"d{number % 10}/f{number}": "old" for number in range(count)})
        for number in range(count):
            at = tree.path / f"d{number % 10}"
            (at / ".new").write_text(f"new {number}")
            os.rename(at / ".new", at / f"f{number}")
        write(tree.path, {"/".join(f"level{number}" for number in range(40)) + "/leaf": "deep"})
        await tree.current()

    run("bulk", body)


@pytest.mark.soak
def test_ten_thousand_renames_are_all_seen(run: Callable[[str, Body], None]) -> None:
    async def body(tree: Tree) -> None:
        write(tree.path, {f"d{number % 100}/f{number}": "old" for number in range(10_000)})
        await tree.current()
        for number in range(10_000):
            at = tree.path / f"d{number % 100}"
            (at / ".new").write_text(f"new {number}")
            os.rename(at / ".new", at / f"f{number}")
        await tree.current("worker-1")
        await tree.current("worker-2")

    run("renames", body)


def zcluster(cluster: LocalCluster, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zcluster", "sync", *words, "--key", str(cluster.admin_key)]
    return subprocess.run(command, env=child_environment(), capture_output=True, text=True, timeout=60, check=False)


def newest_version(cluster: LocalCluster, name: str) -> int:
    history = json.loads(zcluster(cluster, "history", "--tree", name, "-o", "json").stdout)
    return int(history["items"][0]["version"])


def test_the_command_line_says_and_does_the_same(cluster: LocalCluster, places: dict[str, Path]) -> None:
    name, path = "cli", places["cli"]
    write(path, FIRST)
    done = zcluster(cluster, "now", "--wait", "--tree", name, "--timeout", "30", "-o", "json")
    assert done.returncode == 0, done.stderr
    rows = [row for row in json.loads(done.stdout)["items"] if row["tree"] == name]
    assert {row["state"] for row in rows} == {"current"}
    assert len(rows) == 2
    assert same(path, cluster.home / "trees" / "worker-2" / name)
    # Now: while the files change a version may be made of what is there half way.
    first = newest_version(cluster, name)
    assert zcluster(cluster, "diff", "worker-1", "--tree", name).returncode == 0
    assert zcluster(cluster, "verify", "worker-1", "--tree", name).returncode == 0
    assert zcluster(cluster, "pause", "--tree", name).returncode == 0
    write(path, {"a": "changed", "more": "m"})
    assert zcluster(cluster, "now", "--tree", name).returncode == 0
    told = zcluster(cluster, "status", "--tree", name)
    assert told.returncode == 3
    assert "paused" in told.stdout
    differs = zcluster(cluster, "diff", "worker-1", "--tree", name, "-o", "name")
    assert differs.returncode == 3
    assert sorted(differs.stdout.split()) == ["a", "more"]
    assert zcluster(cluster, "resume", "--tree", name).returncode == 0
    assert zcluster(cluster, "now", "--wait", "--tree", name, "--timeout", "30").returncode == 0
    assert newest_version(cluster, name) > first
    shown = zcluster(cluster, "show", str(newest_version(cluster, name)), "--tree", name)
    assert shown.returncode == 0
    assert "more" in shown.stdout
    back = zcluster(cluster, "rollback", str(first), "--tree", name)
    assert back.returncode == 0, back.stderr
    assert (path / "a").read_text() == "alpha"
    assert not (path / "more").exists()
    assert zcluster(cluster, "show", "99999", "--tree", name).returncode != 0


def test_what_changes_something_is_for_administrators(cluster: LocalCluster) -> None:
    with Client(key=cluster.client_key) as client:
        assert client.sync.status("asked")
        for change in (client.sync.pause, client.sync.resume, client.sync.confirm):
            with pytest.raises(NotAllowed):
                change("asked")
        with pytest.raises(NotAllowed):
            client.sync.rollback(1, "asked")
