"""Staging and committing: what is put in place, what is left alone, and what a full disk, a kill or a hostile path may do."""

from __future__ import annotations

import errno
import itertools
import os
import runpy
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zcluster.core.sync.entry import Entry
from zcluster.errors import PeerError, UsageError, ZClusterError
from zcluster.files import durable, journal
from zcluster.files.staging import Staging
from zcluster.files.treedir import TreeDir

SCRIPT = Path(__file__).with_name("killed_commit.py")
KILLS = 20
MTIME_NS = 1_700_000_000_123_456_789


def test_files_get_content_mode_and_time(bench: Any) -> None:
    treedir = bench.open()
    staging = bench.staging(treedir)
    for mode in (0o400, 0o644, 0o777, 0o000):
        staging.put(f"m{mode:o}", bench.file("m", b"data", mode), b"data")
    assert bench.contents() == {}
    applied = staging.commit(bench.steps(), b"state")
    assert sorted(applied.paths) == ["m0", "m400", "m644", "m777"]
    assert (applied.dirs, applied.errors, applied.kept) == ({""}, [], [])
    for mode in (0o400, 0o644, 0o777, 0o000):
        info = (bench.root / f"m{mode:o}").stat()
        assert (stat.S_IMODE(info.st_mode), info.st_mtime_ns, info.st_size) == (mode, MTIME_NS, 4)
    assert treedir.state() == b"state"
    assert bench.staged() == []


def test_a_staging_can_be_used_for_several_parts(bench: Any) -> None:
    treedir = bench.open()
    staging = bench.staging(treedir)
    for part in (b"one", b"two"):
        staging.put("f", bench.file("f", part), part)
        assert staging.commit(bench.steps(), part).paths == ["f"]
    assert bench.contents() == {"f": b"two"}
    assert staging.commit(bench.steps(), b"three").paths == []
    assert treedir.state() == b"three"


def test_the_last_of_two_puts_counts(bench: Any) -> None:
    treedir = bench.open()
    staging = bench.staging(treedir)
    for data in (b"first", b"second"):
        staging.put("f", bench.file("f", data), data)
    assert len(bench.staged()) == 1
    staging.commit(bench.steps(), b"")
    assert bench.contents() == {"f": b"second"}


@pytest.mark.parametrize("data", [b"wrong", b"right but longer", b""])
def test_content_that_is_not_what_its_entry_says_is_not_written(bench: Any, data: bytes) -> None:
    staging = bench.staging(bench.open())
    with pytest.raises(PeerError):
        staging.put("f", bench.file("f", b"right"), data)
    with pytest.raises(PeerError):
        staging.put("f", bench.link("f", "x"), b"")
    assert bench.staged() == []


def test_an_up_tree_is_checked_with_blake2b(bench: Any) -> None:
    bench.hash_name = "blake2b_256"
    staging = bench.staging(bench.open())
    staging.put("f", bench.file("f", b"right"), b"right")
    with pytest.raises(PeerError):
        staging.put("g", bench.file("g", b"right"), b"wrong")
    bench.hash_name = "xxh3_128"
    with pytest.raises(PeerError):
        staging.put("h", bench.file("h", b"right"), b"right")
    assert staging.commit(bench.steps(), b"").paths == ["f"]


def test_links_are_put_and_never_followed(bench: Any) -> None:
    (bench.home / "outside").write_bytes(b"mine")
    treedir = bench.open()
    bench.apply(treedir, {}, {"l": "../outside", "m": "target"})
    assert bench.contents() == {"l": "../outside", "m": "target"}
    bench.apply(treedir, {"l": b"now a file"}, {"m": "other"})
    assert bench.contents() == {"l": b"now a file", "m": "other"}
    assert (bench.home / "outside").read_bytes() == b"mine"
    staging = bench.staging(treedir)
    for target in ("", "x" * 4097, "a\0b", "\ud800"):
        with pytest.raises(PeerError):
            staging.put_link("n", bench.link("n", target))
    staging.put_link("n", bench.link("n", "x" * 4095))
    assert len(bench.staged()) == 1


def test_directories_are_made_and_get_their_modes_last(bench: Any) -> None:
    treedir = bench.open()
    applied = bench.apply(treedir, {"a/b/f": b"x"}, make_dirs=[("a", 0o555), ("a/b", 0o500)])
    assert sorted(applied.paths) == ["a", "a/b", "a/b/f"]
    assert applied.errors == []
    assert [stat.S_IMODE((bench.root / path).stat().st_mode) for path in ("a", "a/b")] == [0o555, 0o500]
    applied = bench.apply(treedir, {"a/b/f": b"y", "a/b/g": b"z"}, make_dirs=[("a/b", 0o511)], delete_files=["a/b/none"])
    assert applied.errors == []
    assert [stat.S_IMODE((bench.root / path).stat().st_mode) for path in ("a", "a/b")] == [0o555, 0o511]


def test_touch_changes_mode_and_time_only(bench: Any) -> None:
    treedir = bench.open()
    bench.apply(treedir, {"d/f": b"x", "plain": b"y"}, {"l": "plain"}, make_dirs=[("d", 0o755)])
    os.mkfifo(bench.root / "fifo")
    touch = [(path, bench.file(path, b"x", 0o600, 5)) for path in ("d/f", "fifo", "l", "none")]
    applied = bench.apply(treedir, {}, touch=[*touch, ("d", bench.directory("d", 0o700))])
    info = (bench.root / "d/f").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_mtime_ns) == (0o600, 5)
    assert stat.S_IMODE((bench.root / "d").stat().st_mode) == 0o700
    assert (bench.root / "plain").stat().st_mtime_ns == MTIME_NS
    assert sorted(path for path, _reason in applied.errors) == ["fifo", "l", "none"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_the_owner_is_set(bench: Any) -> None:
    treedir = bench.open()
    staging = bench.staging(treedir, (1234, 2345))
    staging.put("d/f", bench.file("f", b"x"), b"x")
    staging.put_link("d/l", bench.link("l", "f"))
    patch = staging.begin("d/big", bench.file("big", b"big"))
    patch.write(0, b"big")
    patch.finish()
    staging.commit(bench.steps(make_dirs=[("d", 0o755)]), b"")
    for path in ("d", "d/f", "d/l", "d/big"):
        info = (bench.root / path).lstat()
        assert (info.st_uid, info.st_gid) == (1234, 2345)
    staging = bench.staging(treedir, (0, 0))
    staging.commit(bench.steps(touch=[("d/f", bench.file("f", b"x"))]), b"")
    assert (bench.root / "d/f").stat().st_uid == 0


def test_deletes_touch_only_what_they_name(bench: Any) -> None:
    treedir = bench.open()
    files = {"d/covered": b"1", "d/mine": b"2", "e/x/y": b"3"}
    bench.apply(treedir, files, make_dirs=[("d", 0o755), ("e", 0o755), ("e/x", 0o755)])
    gone = ["d/covered", "e/x/y", "none", "no/where"]
    applied = bench.apply(treedir, {}, delete_files=gone, delete_dirs=["e/x", "d", "e", "none"])
    assert (applied.errors, applied.kept) == ([], ["d"])
    assert bench.contents() == {"d": None, "d/mine": b"2"}


def test_a_directory_is_not_deleted_as_a_file_nor_the_reverse(bench: Any) -> None:
    treedir = bench.open()
    bench.apply(treedir, {"f": b"1"}, make_dirs=[("d", 0o755)])
    applied = bench.apply(treedir, {}, delete_files=["d"], delete_dirs=["f"])
    assert [path for path, _reason in applied.errors] == ["d"]
    assert bench.contents() == {"d": None, "f": b"1"}


def test_a_directory_becomes_a_file_and_the_reverse(bench: Any) -> None:
    treedir = bench.open()
    bench.apply(treedir, {"d/x": b"1", "d/s/y": b"2", "f": b"3"}, {"l": "f"}, make_dirs=[("d", 0o755), ("d/s", 0o755)])
    applied = bench.apply(
        treedir,
        {"d": b"file now", "f/in": b"4", "l/in": b"5"},
        make_dirs=[("f", 0o755), ("l", 0o755)],
        move_away=["d", "f", "l"],
        delete_files=["d/x", "d/s/y"],
        delete_dirs=["d/s", "d"],
    )
    assert applied.errors == []
    assert bench.contents() == {"d": b"file now", "f": None, "f/in": b"4", "l": None, "l/in": b"5"}
    assert bench.staged() == []


def test_what_the_rules_do_not_cover_blocks_a_file_and_is_not_lost(bench: Any) -> None:
    treedir = bench.open()
    bench.apply(treedir, {"d/x": b"1", "d/mine": b"2", "e/mine": b"3"}, make_dirs=[("d", 0o755), ("e", 0o755)])
    applied = bench.apply(
        treedir, {"d": b"file", "e": b"file", "g": b"goes on"}, move_away=["d"], delete_files=["d/x"], delete_dirs=["d"]
    )
    assert sorted(path for path, _reason in applied.errors) == ["d", "e"]
    assert all("do not cover" in reason for _path, reason in applied.errors)
    assert bench.contents() == {"d": None, "d/mine": b"2", "e": None, "e/mine": b"3", "g": b"goes on"}
    assert bench.staged() == []
    assert treedir.state() == b"state"


def test_with_an_error_the_state_stays_as_it_was(bench: Any) -> None:
    treedir = bench.open()
    bench.apply(treedir, {"e/mine": b"3"}, make_dirs=[("e", 0o755)])
    staging = bench.staging(treedir)
    staging.put("e", bench.file("e", b"x"), b"x")
    assert staging.commit(bench.steps(), b"newer").errors != []
    assert treedir.state() == b"state"


def test_a_file_comes_back_when_its_directory_cannot_be_made(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    treedir = bench.open()
    bench.apply(treedir, {"f": b"precious"})

    def full(path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "mkdir", full)
    applied = bench.apply(treedir, {"f/in": b"4"}, make_dirs=[("f", 0o755)], move_away=["f"])
    assert sorted(path for path, _reason in applied.errors) == ["f", "f/in"]
    assert bench.contents() == {"f": b"precious"}
    assert bench.staged() == []


def test_content_that_did_not_come_is_an_error_and_nothing_is_deleted(bench: Any) -> None:
    treedir = bench.open()
    bench.apply(treedir, {"old": b"1", "f": b"2"})
    staging = bench.staging(treedir)
    staging.put("g", bench.file("g", b"3"), b"3")
    plan = bench.steps(fetch=[("f", bench.file("f", b"9")), ("g", bench.file("g", b"3"))], delete_files=["old"])
    applied = staging.commit(plan, b"newer")
    assert applied.errors == [("f", "its content was not received")]
    assert bench.contents() == {"old": b"1", "f": b"2", "g": b"3"}
    assert treedir.state() == b"state"


def test_a_case_only_rename(bench: Any) -> None:
    treedir = bench.open()
    bench.apply(treedir, {"Readme": b"1", "Docs/a": b"2"}, make_dirs=[("Docs", 0o755)])
    applied = bench.apply(
        treedir,
        {"README": b"1", "docs/a": b"3"},
        make_dirs=[("docs", 0o755)],
        delete_files=["Readme", "Docs/a"],
        delete_dirs=["Docs"],
    )
    assert applied.errors == []
    assert bench.contents() == {"README": b"1", "docs": None, "docs/a": b"3"}


def test_two_spellings_that_are_one_file(bench: Any) -> None:
    """What a file system without cases shows: both names lead to one file, which must not be deleted by its old name."""
    treedir = bench.open()
    bench.apply(treedir, {"Readme": b"1"})
    os.link(bench.root / "Readme", bench.root / "README")
    assert bench.apply(treedir, {"README": b"2"}, delete_files=["Readme"]).errors == []
    assert bench.contents() == {"README": b"2"}
    assert bench.staged() == []


@pytest.fixture
def caseless(tmp_path: Path) -> Any:
    """A directory that does not tell cases apart, where this system can make one."""
    place = tmp_path / "caseless"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", "casefold=utf8-12.1.0,size=16m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(["mount", *options], capture_output=True).returncode != 0:
        pytest.skip("this system cannot mount a file system without cases")
    inside = place / "tree"
    inside.mkdir()
    if subprocess.run(["chattr", "+F", str(inside)], capture_output=True).returncode != 0:
        subprocess.run(["umount", str(place)], check=True)
        pytest.skip("this system cannot make a directory without cases")
    yield inside
    subprocess.run(["umount", str(place)], check=True)


def test_a_case_only_rename_where_cases_are_the_same(bench: Any, caseless: Path) -> None:
    bench.root = caseless
    test_a_case_only_rename(bench)
    bench.close()


HOSTILE_PARTS = ["..", ".", "", ".zcluster", ".ZCLUSTER", "a\0b", "\ud800", "x" * 256, "out", "fifo", "leaf", "deep"]


def hostile_paths() -> list[str]:
    joined = ["/".join(parts) for size in (1, 2, 3) for parts in itertools.product(HOSTILE_PARTS, repeat=size)]
    found = [f"{path}{end}" for path in joined[:250] for end in ("", "/x")]
    return ["/etc/passwd", "//etc/passwd", "/tmp/x", *found][:500]


def test_five_hundred_hostile_paths_write_nothing_outside(bench: Any) -> None:
    outside = bench.home / "outside"
    (outside / "sub").mkdir(parents=True)
    (outside / "victim").write_bytes(b"victim")
    treedir = bench.open()
    os.symlink("../outside", bench.root / "out")
    os.symlink("../outside/victim", bench.root / "leaf")
    os.symlink(outside, bench.root / "deep")
    os.mkfifo(bench.root / "fifo")
    control = sorted(os.listdir(bench.root / ".zcluster"))
    paths = hostile_paths()
    assert len(set(paths)) == 500
    entry = bench.file("f", b"evil")
    for path in paths:
        staging = bench.staging(treedir)
        for put in (
            lambda p, s=staging: s.put(p, entry, b"evil"),
            lambda p, s=staging: s.put_link(p, bench.link("f", "/etc")),
            lambda p, s=staging: s.begin(p, entry),
        ):
            try:
                put(path)
            except PeerError:
                continue
        steps = bench.steps(
            make_dirs=[(path, 0o777)], touch=[(path, entry)], move_away=[path], delete_files=[path], delete_dirs=[path]
        )
        try:
            assert staging.commit(steps, b"s").errors or path.startswith("x" * 256)
        except PeerError:
            assert "\ud800" in path
        staging.abandon()
    assert sorted(os.listdir(outside)) == ["sub", "victim"]
    assert os.listdir(outside / "sub") == []
    assert (outside / "victim").read_bytes() == b"victim"
    assert sorted(os.listdir(bench.home)) == ["outside", "tree"]
    assert sorted(set(os.listdir(bench.root / ".zcluster")) - set(control)) == ["state"]
    assert TreeDir.marker_ok(treedir)


SWAPPER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
one, two = (os.fsencode(path) for path in sys.argv[1:3])
print("ready", flush=True)
for _ in range(100_000):
    if libc.renameat2(-100, one, -100, two, 2) != 0:
        sys.exit(f"renameat2: {ctypes.get_errno()}")
"""


def test_a_link_swapped_in_during_commits_a_hundred_thousand_times(bench: Any) -> None:
    outside = bench.home / "outside"
    outside.mkdir()
    (outside / "old").write_bytes(b"keep")
    treedir = bench.open()
    bench.apply(treedir, {"d/f": b"0"}, make_dirs=[("d", 0o755)])
    os.symlink("../outside", bench.root / "l")
    command = [sys.executable, "-c", SWAPPER, str(bench.root / "d"), str(bench.root / "l")]
    commits = errors = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as swapper:
        assert swapper.stdout is not None
        assert swapper.stdout.readline() == "ready\n"
        while swapper.poll() is None:
            data = b"%d" % commits
            touch = [("d/f", bench.file("f", data, 0o600))]
            errors += len(bench.apply(treedir, {"d/f": data, "d/g": data}, touch=touch, delete_files=["d/old"]).errors)
            commits += 1
    assert swapper.returncode == 0
    assert commits > 1
    assert os.listdir(outside) == ["old"]
    assert (outside / "old").stat().st_mode & 0o777 != 0o600
    assert bench.staged() == []


def put_until_it_fails(staging: Staging, entry: Entry, data: bytes) -> ZClusterError:
    for number in range(3):
        try:
            staging.put(f"f{number}", entry, data)
        except ZClusterError as error:
            return error
    pytest.fail("nothing failed")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("at", [0, 1, 5])
def test_a_full_disk_while_staging_leaves_the_tree_as_it_was(
    bench: Any, monkeypatch: pytest.MonkeyPatch, code: int, at: int
) -> None:
    treedir = bench.open()
    bench.apply(treedir, {"f": b"old"})
    staging = bench.staging(treedir)
    patch = staging.begin("big", bench.file("big", b"b" * 100))
    patch.write(0, b"b" * 50)
    write, left = os.write, at

    def full(fd: int, data: Any) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(code, os.strerror(code))
        return write(fd, data[:3])

    monkeypatch.setattr(os, "write", full)
    data = b"new content"
    caught = put_until_it_fails(staging, bench.file("f", data), data)
    assert caught.hint
    assert os.strerror(code) in caught.message
    assert bench.contents() == {"f": b"old"}
    assert bench.staged() == []
    monkeypatch.undo()
    assert bench.apply(treedir, {"f": b"new"}).errors == []
    assert bench.contents() == {"f": b"new"}


def test_a_disk_that_became_read_only(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    treedir = bench.open()
    bench.apply(treedir, {"f": b"old"})
    staging = bench.staging(treedir)
    staging.put("f", bench.file("f", b"new"), b"new")
    patch = staging.begin("big", bench.file("big", b"b" * 100))

    def refused(*_arguments: Any, **_names: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("open", "unlink", "pwrite"):
        monkeypatch.setattr(os, name, refused)
    with pytest.raises(ZClusterError, match="Read-only") as caught:
        patch.write(0, b"b")
    assert "remount" in caught.value.hint
    with pytest.raises(ZClusterError, match="Read-only"):
        staging.put("f", bench.file("f", b"new"), b"new")
    monkeypatch.undo()
    assert not patch.is_open
    assert bench.contents() == {"f": b"old"}
    bench.close()
    assert bench.apply(bench.open(), {"f": b"new"}).paths == ["f"]
    assert [name for name in bench.staged() if not name.startswith("part.")] == []


def test_a_full_disk_at_the_journal_leaves_the_tree_as_it_was(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    treedir = bench.open()
    bench.apply(treedir, {"f": b"old"})

    def full(control_fd: int, record: journal.Record) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal, "write", full)
    with pytest.raises(ZClusterError, match="as it was"):
        bench.apply(treedir, {"f": b"new"}, delete_files=["f"])
    assert bench.contents() == {"f": b"old"}
    assert bench.staged() == []
    monkeypatch.undo()
    assert bench.apply(treedir, {"f": b"new"}).errors == []


def test_a_disk_that_fails_after_the_journal_is_recovered(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    treedir = bench.open()
    bench.apply(treedir, {"f": b"old"})

    def failing(control_fd: int, token: bytes, state: bytes | None) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(journal, "write_state", failing)
    with pytest.raises(ZClusterError, match="recovery"):
        bench.apply(treedir, {"f": b"new"})
    with pytest.raises(UsageError):
        bench.staging(treedir)
    with pytest.raises(ZClusterError, match="recovered"):
        treedir.recover()
    monkeypatch.undo()
    assert treedir.recover().version == 7
    assert bench.contents() == {"f": b"new"}
    assert treedir.state() == b"state"


def test_a_file_that_cannot_be_replaced_does_not_stop_the_rest(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    treedir = bench.open()
    bench.apply(treedir, {"a": b"1", "b": b"1", "c": b"1"})
    rename = os.rename

    def immutable(src: str, dst: str, **fds: int) -> None:
        if dst == "b":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        rename(src, dst, **fds)

    monkeypatch.setattr(os, "rename", immutable)
    applied = bench.apply(treedir, {"a": b"2", "b": b"2", "c": b"2"})
    assert [path for path, _reason in applied.errors] == ["b"]
    assert "immutable" in applied.errors[0][1]
    assert bench.contents() == {"a": b"2", "b": b"1", "c": b"2"}
    assert bench.staged() == []


@pytest.mark.parametrize("count", [durable.FEW - 1, durable.FEW])
def test_a_small_batch_is_synced_by_file_a_large_one_at_once(bench: Any, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    treedir = bench.open()
    order: list[str] = []
    fsync, syncfs, rename = os.fsync, durable.syncfs, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(durable, "syncfs", lambda fd: (order.append("syncfs"), syncfs(fd))[1])
    monkeypatch.setattr(os, "rename", lambda *names, **fds: (order.append("rename"), rename(*names, **fds))[1])
    durable.crash_point = order.append
    try:
        bench.apply(treedir, {f"f{number}": b"x" for number in range(count)})
    finally:
        durable.crash_point = None
    before_journal = order[order.index("staged") : order.index("synced")]
    assert before_journal.count("syncfs") == (count >= durable.FEW)
    assert before_journal.count("fsync") == (count + 1 if count < durable.FEW else 0)
    assert order[order.index("synced") : order.index("journaled")].count("fsync") == 2
    after = order[order.index("deleted") : order.index("state")]
    assert after == ["deleted", "fsync", "fsync", "rename", "fsync"]


@pytest.mark.parametrize("count", [durable.FEW - 2, durable.FEW - 1])
def test_what_was_touched_is_durable_before_the_state(bench: Any, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """The files and their one directory: together FEW or one less."""
    treedir = bench.open()
    files = {f"f{number}": b"x" for number in range(count)}
    bench.apply(treedir, files)
    order: list[str] = []
    fsync, syncfs = os.fsync, durable.syncfs
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(durable, "syncfs", lambda fd: (order.append("syncfs"), syncfs(fd))[1])
    durable.crash_point = order.append
    try:
        touch = [(path, bench.file(path, data, 0o600)) for path, data in files.items()]
        bench.apply(treedir, {}, touch=touch, delete_files=["none"])
    finally:
        durable.crash_point = None
    after = order[order.index("deleted") : order.index("state")]
    assert after.count("syncfs") == (count + 1 >= durable.FEW)
    assert after.count("fsync") == 2 + (count + 1 if count + 1 < durable.FEW else 0)


def test_staging_wants_recovery_and_the_same_root(bench: Any) -> None:
    treedir = TreeDir(bench.root, "t", create=True)
    with pytest.raises(UsageError):
        bench.staging(treedir)
    treedir.recover()
    staging = bench.staging(treedir)
    staging.put("f", bench.file("f", b"x"), b"x")
    bench.root.rename(bench.home / "elsewhere")
    bench.root.mkdir()
    with pytest.raises(ZClusterError, match="replaced"):
        staging.commit(bench.steps(), b"")
    assert os.listdir(bench.root) == []
    treedir.close()


def test_abandoning_leaves_nothing_but_partial_files(bench: Any) -> None:
    treedir = bench.open()
    staging = bench.staging(treedir)
    staging.put("f", bench.file("f", b"x"), b"x")
    staging.put_link("l", bench.link("l", "f"))
    staging.begin("big", bench.file("big", b"xyz")).write(0, b"x")
    staging.abandon()
    assert [name.split(".")[0] for name in bench.staged()] == ["part"]
    assert bench.contents() == {}


Check = Callable[[Path], None]


def check_recovered(root: Path, *, completed: bool | None) -> None:
    """The tree is wholly old or wholly new after recovery, and nothing stray is left."""
    script = runpy.run_path(str(SCRIPT))
    treedir = TreeDir(root, "t", create=False)
    found = treedir.recover()
    files = {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file() and not path.is_symlink()
    }
    files = {path: data for path, data in files.items() if not path.startswith(".zcluster/")}
    is_new = "fresh/a/b" in files
    assert files == (script["NEW"] if is_new else script["OLD"])
    assert (root / script["LINK_PATH"]).is_symlink() == is_new
    assert treedir.state() == (b"version 2" if is_new else None)
    assert completed is None or is_new == completed
    assert found.applied is None or found.applied.errors == []
    assert found.applied is None or found.applied.kept == ["kept"]
    assert not (root / "gone").exists() or not is_new
    stray = [name for name in os.listdir(root / ".zcluster/stage") if not name.startswith("part.")]
    assert stray == []
    script["commit"](treedir)
    assert os.listdir(root / ".zcluster/stage") == []
    assert sorted(os.listdir(root / ".zcluster")) == ["lock", "stage", "state", "tree"]
    treedir.close()


@pytest.mark.parametrize(
    ("step", "completed"),
    [
        ("staged", False),
        ("synced", False),
        ("journaled", True),
        ("renaming", True),
        ("renamed", True),
        ("deleted", True),
        ("state", True),
        ("done", True),
    ],
)
def test_a_kill_at_any_step_leaves_the_old_or_the_new_version(tmp_path: Path, step: str, completed: bool) -> None:
    subprocess.run([sys.executable, SCRIPT, tmp_path, step, str(KILLS)], check=True)
    for number in range(KILLS):
        check_recovered(tmp_path / str(number), completed=completed)


@pytest.mark.parametrize("recovery_step", ["renaming", "renamed", "deleted"])
def test_a_recovery_that_is_killed_again_and_again_still_completes(tmp_path: Path, recovery_step: str) -> None:
    subprocess.run([sys.executable, SCRIPT, tmp_path, "renaming", "5", recovery_step], check=True)
    for number in range(5):
        check_recovered(tmp_path / str(number), completed=True)


def test_a_void_journal_is_not_carried_out_again(bench: Any) -> None:
    """A power cut may bring a removed journal back; the tree has moved on since."""
    treedir = bench.open()
    bench.apply(treedir, {"f": b"1", "g": b"1"})
    kept: list[bytes] = []

    def keep(step: str) -> None:
        if step == "journaled":
            kept.append((bench.root / ".zcluster/journal").read_bytes())

    durable.crash_point = keep
    try:
        bench.apply(treedir, {"f": b"2"}, delete_files=["g"])
    finally:
        durable.crash_point = None
    (bench.root / "g").write_bytes(b"made since")
    (bench.root / ".zcluster/journal").write_bytes(kept[0])
    assert treedir.recover().applied is None
    assert bench.contents() == {"f": b"2", "g": b"made since"}
    assert not (bench.root / ".zcluster/journal").exists()


def test_what_was_staged_can_be_forgotten(bench: Any) -> None:
    treedir = bench.open()
    staging = bench.staging(treedir)
    for path in ("a", "d/b", "d/c"):
        staging.put(path, bench.file(path, b"x"), b"x")
    patch = staging.begin("d/big", bench.file("d/big", b"xyz"))
    patch.write(0, b"xyz")
    patch.finish()
    for path in ("l", "d/m"):
        staging.put_link(path, bench.link(path, "x"))
    staging.put("l", bench.file("l", b"no link now"), b"no link now")
    for path in ("d/b", "d/b", "d/c", "d/big", "none", "no/where"):
        staging.forget(path)
    staging.forget_links()
    assert len(bench.staged()) == 2
    assert staging.commit(bench.steps(), b"").errors == []
    assert bench.contents() == {"a": b"x", "l": b"no link now"}


def test_the_entry_of_a_directory_cannot_be_staged(bench: Any) -> None:
    staging = bench.staging(bench.open())
    entry: Entry = bench.directory("d", 0o755)
    for call in (lambda: staging.put("d", entry, b""), lambda: staging.put_link("d", entry), lambda: staging.begin("d", entry)):
        with pytest.raises(PeerError):
            call()
