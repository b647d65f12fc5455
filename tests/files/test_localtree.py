"""A tree's manifest, kept by looking: what is seen, what is hashed, and what is never taken for deleted."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zcluster.core.sync.entry import Entry, content_digest, decode_listing, listing_digest
from zcluster.core.sync.rules import Rules
from zcluster.errors import Cancelled, TooLarge, ZClusterError
from zcluster.files import treepass
from zcluster.files.contents import LARGE_BYTES, YOUNG_NS
from zcluster.files.localcache import LocalCache
from zcluster.files.localtree import LocalTree, Scan


class Clock:
    """A clock that is ahead of the files' stamps, so that none of them is young; or, with ``ahead_ns`` 0, right."""

    def __init__(self, ahead_ns: int = 10_000_000_000) -> None:
        self.ahead_ns = ahead_ns
        self.slept_s = 0.0

    def __call__(self) -> int:
        return time.time_ns() + self.ahead_ns

    def sleep(self, seconds: float) -> None:
        self.slept_s += seconds
        self.ahead_ns += int(seconds * 1e9) + 1_000_000_000


def tree_of(root: Path, rules: Rules | None = None, cache: Path | None = None, clock: Clock | None = None) -> LocalTree:
    clock = clock or Clock()
    return LocalTree(root, rules or Rules(), cache, clock_ns=clock, sleep_s=clock.sleep)


def entries(tree: LocalTree) -> dict[str, Entry]:
    out = {}
    for path, listing in tree.listings.items():
        for entry in decode_listing(listing):
            out[f"{path}/{entry.name}" if path else entry.name] = entry
    return out


def assert_sound(tree: LocalTree) -> None:
    """Each directory's digest is its listing's, and each listing has its directory."""
    found = {path: entry for path, entry in entries(tree).items() if entry.kind == "d"}
    assert set(tree.listings) == {"", *found}
    for path, entry in found.items():
        assert entry.digest == listing_digest(tree.listings[path])
    assert tree.root == listing_digest(tree.listings[""])
    others = [entry for entry in entries(tree).values() if entry.kind != "d"]
    assert (tree.files, tree.size_bytes) == (len(others), sum(entry.size for entry in others))


def assert_true(tree: LocalTree, root: Path) -> None:
    fresh = tree_of(root)
    fresh.scan(None)
    assert tree.listings == fresh.listings
    assert tree.root == fresh.root
    assert_sound(tree)


def reasons(scan: Scan) -> dict[str, str]:
    assert len(scan.refused) == scan.refused_count
    return dict(scan.refused)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "tree" / "a" / "b").mkdir(parents=True)
    (tmp_path / "tree" / "empty").mkdir()
    (tmp_path / "tree" / "top").write_bytes(b"1")
    (tmp_path / "tree" / "a" / "one").write_bytes(b"22")
    (tmp_path / "tree" / "a" / "b" / "two").write_bytes(b"")
    return tmp_path / "tree"


def test_a_first_scan_is_the_whole_manifest(root: Path) -> None:
    os.chmod(root / "top", 0o4640)
    os.utime(root / "top", ns=(1, 12_345))
    tree = tree_of(root)
    assert tree.listings == {}
    scan = tree.scan(None)
    assert scan.first
    assert scan.complete
    assert scan.changes is None
    assert not scan.unsettled
    assert scan.delta == tree.listings
    assert set(tree.listings) == {"", "a", "a/b", "empty"}
    assert entries(tree)["top"] == Entry("top", "f", 1, 12_345, 0o640, content_digest("xxh3_128", b"1"))
    assert entries(tree)["a/b/two"].digest == content_digest("xxh3_128", b"")
    assert (scan.files, scan.bytes, scan.hashed_files, scan.directories) == (3, 3, 3, 4)
    assert_sound(tree)


def test_nothing_changed_costs_no_hash_and_no_delta(root: Path) -> None:
    tree = tree_of(root)
    tree.scan(None)
    before = tree.listings
    scan = tree.scan(None)
    assert (scan.delta, scan.changes, scan.hashed_files, scan.directories) == ({}, [], 0, 4)
    assert tree.listings is before


def test_the_same_size_and_mtime_with_other_content_is_seen(root: Path) -> None:
    tree = tree_of(root)
    tree.scan(None)
    st = (root / "a" / "one").stat()
    (root / "a" / "one").write_bytes(b"33")
    os.utime(root / "a" / "one", ns=(st.st_atime_ns, st.st_mtime_ns))
    scan = tree.scan(None)
    assert set(scan.delta) == {"", "a"}
    assert scan.changes is not None
    (change,) = scan.changes
    assert change.path == "a/one"
    assert change.old is not None
    assert change.new is not None
    assert change.new.digest == content_digest("xxh3_128", b"33")
    assert change.old.mtime_ns == change.new.mtime_ns
    assert_true(tree, root)


def test_a_dirty_directory_is_looked_at_alone(root: Path) -> None:
    tree = tree_of(root)
    tree.scan(None)
    (root / "top").write_bytes(b"changed")
    (root / "a" / "one").write_bytes(b"changed")
    scan = tree.scan(["a"])
    assert scan.directories == 1
    assert [change.path for change in scan.changes or []] == ["a/one"]
    assert entries(tree)["top"].size == 1
    tree.scan([""])
    assert_true(tree, root)


def test_what_appears_is_looked_at_with_all_beneath(root: Path) -> None:
    tree = tree_of(root)
    tree.scan(None)
    (root / "a" / "new" / "deep").mkdir(parents=True)
    (root / "a" / "new" / "deep" / "f").write_bytes(b"x")
    scan = tree.scan(["a/new/deep"])  # not known: the nearest known one above is looked at
    assert [change.path for change in scan.changes or []] == ["a/new", "a/new/deep", "a/new/deep/f"]
    assert_true(tree, root)


def test_what_is_gone_goes_with_all_beneath(root: Path) -> None:
    tree = tree_of(root)
    tree.scan(None)
    (root / "a").rename(root.parent / "elsewhere")
    scan = tree.scan(["a/b"])
    gone = [change.path for change in scan.changes or [] if change.new is None]
    assert gone == ["a", "a/b", "a/b/two", "a/one"]
    assert scan.delta["a/b"] is None
    assert scan.files == 1
    assert_true(tree, root)


def test_a_directory_in_the_place_of_another_is_looked_at_anew(root: Path) -> None:
    (root / "other" / "b").mkdir(parents=True)
    (root / "other" / "b" / "mine").write_bytes(b"m")
    tree = tree_of(root)
    tree.scan(None)
    (root / "a").rename(root / "was")
    (root / "other").rename(root / "a")
    tree.scan([""])
    assert_true(tree, root)


def test_a_file_becomes_a_directory_and_the_reverse(root: Path) -> None:
    tree = tree_of(root)
    tree.scan(None)
    (root / "top").unlink()
    (root / "top").mkdir()
    (root / "top" / "in").write_bytes(b"i")
    (root / "empty").rmdir()
    (root / "empty").write_bytes(b"e")
    tree.scan([""])
    assert_true(tree, root)


def test_a_directory_replaced_by_a_link_is_not_followed(root: Path) -> None:
    tree = tree_of(root)
    tree.scan(None)
    (root / "a").rename(root.parent / "outside")
    (root / "a").symlink_to(root.parent / "outside")
    scan = tree.scan(["a", "a/b"])
    assert "a" in reasons(scan)
    assert not any(path.startswith("a") for path in entries(tree))
    assert_true(tree, root)


def test_links_are_copied_when_the_rules_say_so(root: Path) -> None:
    (root / "good").symlink_to("a/one")
    (root / "a" / "bad").symlink_to("../../etc")
    tree = tree_of(root, Rules(symlinks="copy"))
    scan = tree.scan(None)
    assert entries(tree)["good"] == Entry("good", "l", 0, 0, 0, b"", "a/one")
    assert set(reasons(scan)) == {"a/bad"}
    assert scan.complete
    assert set(reasons(tree_of(root).scan(None))) == {"good", "a/bad"}


def test_what_no_tree_may_hold_is_refused_and_the_rest_goes_on(root: Path) -> None:
    os.mkfifo(root / "fifo")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(root / "sock"))
    server.close()
    (root / "Twin").write_bytes(b"")
    (root / "tWIN").write_bytes(b"")
    (root / "bell\x07").write_bytes(b"")
    with open(os.fsencode(root) + b"/\xff\xfe", "wb"):
        pass
    (root / "large").write_bytes(b"123")
    (root / ".zcluster").mkdir()
    (root / ".zcluster" / "state").write_bytes(b"own")
    scan = tree_of(root, Rules(max_file_bytes=2)).scan(None)
    refused = reasons(scan)
    assert set(refused) == {"fifo", "sock", "Twin", "tWIN", "bell\x07", os.fsdecode(b"\xff\xfe"), "large"}
    assert scan.complete
    assert scan.files == 3
    assert "max_file_bytes" in refused["large"]
    assert "UTF-8" in refused[os.fsdecode(b"\xff\xfe")]


def test_refused_names_are_named_up_to_a_bound_and_counted_beyond(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(treepass, "MAX_REPORTED", 3)
    for number in range(4):
        (root / f"bad{number}.").write_bytes(b"")
    tree = tree_of(root)
    first = tree.scan(None)
    assert (len(first.refused), first.refused_count) == (3, 4)
    (root / "bad0.").unlink()
    again = tree.scan([""])
    assert (len(again.refused), again.refused_count) == (3, 3)


def test_a_case_only_rename(root: Path) -> None:
    tree = tree_of(root)
    tree.scan(None)
    (root / "top").rename(root / "TOP")
    scan = tree.scan([""])
    assert [change.path for change in scan.changes or []] == ["TOP", "top"]
    assert scan.hashed_files == 1
    assert not scan.refused


def test_a_new_twin_of_an_unchanged_file_refuses_both_until_one_goes(root: Path) -> None:
    tree = tree_of(root)
    tree.scan(None)
    (root / "TOP").write_bytes(b"1")
    scan = tree.scan([""])
    assert set(reasons(scan)) == {"top", "TOP"}
    assert scan.hashed_files == 0
    assert_true(tree, root)
    (root / "TOP").unlink()
    assert not tree.scan([""]).refused
    assert_true(tree, root)


def test_only_what_the_rules_cover(root: Path) -> None:
    tree = tree_of(root, Rules(exclude=("b/", "top"), mode=0o600))
    tree.scan(None)
    assert set(entries(tree)) == {"a", "a/one", "empty"}
    assert entries(tree)["a/one"].mode == 0o600
    assert entries(tree)["a"].mode == 0o700
    assert_sound(tree)


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Names that cannot be opened, whoever runs the tests."""
    names: set[str] = set()
    real = os.open

    def guarded(path: Any, *args: Any, **more: Any) -> int:
        if path in names:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *args, **more)

    monkeypatch.setattr(os, "open", guarded)
    return names


def test_what_cannot_be_read_is_not_gone(root: Path, unreadable: set[str]) -> None:
    tree = tree_of(root)
    tree.scan(None)
    before = entries(tree)
    (root / "a" / "one").write_bytes(b"new content")
    unreadable |= {"one", "b"}
    scan = tree.scan(None)
    assert not scan.complete
    assert scan.errors == [("a/one", "Permission denied"), ("a/b", "Permission denied")]
    assert entries(tree) == before
    assert scan.delta == {}
    unreadable.clear()
    assert tree.scan(None).complete
    assert_true(tree, root)


def test_what_could_never_be_read_appears_when_it_can(root: Path, unreadable: set[str]) -> None:
    unreadable |= {"one", "b"}
    tree = tree_of(root)
    scan = tree.scan(None)
    assert not scan.complete
    assert set(entries(tree)) == {"a", "empty", "top"}
    assert_sound(tree)
    assert not tree.scan(None).complete
    unreadable.clear()
    assert tree.scan(None).complete
    assert_true(tree, root)


def test_a_root_that_is_missing_or_no_directory_is_an_error(root: Path) -> None:
    tree = tree_of(root)
    tree.scan(None)
    before = tree.listings
    root.rename(root.parent / "away")
    with pytest.raises(ZClusterError, match="cannot be read"):
        tree.scan(None)
    root.write_bytes(b"")
    with pytest.raises(ZClusterError, match="cannot be read"):
        tree.scan(["a"])
    assert tree.listings is before


def test_a_root_that_is_another_directory_is_hashed_anew(root: Path) -> None:
    tree = tree_of(root)
    tree.scan(None)
    root.rename(root.parent / "away")
    root.mkdir()
    (root / "top").write_bytes(b"1")
    scan = tree.scan(None)
    assert scan.hashed_files == 1
    assert set(entries(tree)) == {"top"}
    assert_true(tree, root)


def test_a_symlinked_root_is_legitimate(root: Path) -> None:
    (root.parent / "link").symlink_to("tree")
    tree = tree_of(root.parent / "link")
    tree.scan(None)
    assert_true(tree, root)


def test_the_bound_on_files(root: Path) -> None:
    tree = tree_of(root, Rules(max_files=3))
    tree.scan(None)
    before = tree.listings
    (root / "fourth").write_bytes(b"")
    for dirty in (None, [""]):
        with pytest.raises(TooLarge, match="more than 3") as caught:
            tree.scan(dirty)
        assert "max_files" in caught.value.hint
        assert tree.listings is before
    (root / "top").unlink()
    assert tree.scan(None).files == 3
    with pytest.raises(TooLarge):
        tree_of(root, Rules(max_files=2)).scan(None)


def test_depth_at_the_limit_and_beyond(root: Path) -> None:
    path = root
    for _ in range(63):
        path = path / "d"
    path.mkdir(parents=True)
    (path / "file").write_bytes(b"64th")
    (path / "dir").mkdir()
    (path / "dir" / "beyond").write_bytes(b"")
    tree = tree_of(root)
    scan = tree.scan(None)
    deep = "/".join(["d"] * 63)
    assert f"{deep}/file" in entries(tree)
    assert set(reasons(scan)) == {f"{deep}/dir/beyond"}
    assert_sound(tree)


def test_a_young_file_is_hashed_again_at_the_next_look(root: Path) -> None:
    clock = Clock()
    tree = tree_of(root, clock=clock)
    tree.scan(None)
    clock.ahead_ns = 0
    (root / "a" / "one").write_bytes(b"aa")
    scan = tree.scan(["a"])
    assert scan.unsettled == {"a"}
    assert scan.complete
    # A write within the same tick: the stamps stay the same, whatever the content is.
    held = tree.stat_of("a/one")
    assert held is not None
    assert held.digest == content_digest("xxh3_128", b"aa")
    clock.ahead_ns = 10_000_000_000
    again = tree.scan(["a"])
    assert again.hashed_files == 1
    assert not again.unsettled
    assert again.delta == {}
    assert tree.scan(["a"]).hashed_files == 0


def test_stamps_of_the_future_are_not_young_for_ever(root: Path) -> None:
    tree = tree_of(root, clock=Clock(-3_600_000_000_000))
    assert not tree.scan(None).unsettled


def test_a_large_young_file_is_waited_for_and_read_once(root: Path) -> None:
    clock = Clock(0)
    with open(root / "large", "wb") as file:
        file.truncate(LARGE_BYTES)
    tree = tree_of(root, clock=clock)
    scan = tree.scan(None)
    assert clock.slept_s * 1e9 >= YOUNG_NS
    assert "large" in entries(tree)
    assert scan.hashed_bytes == LARGE_BYTES + 3


def test_a_file_that_never_holds_still_keeps_its_old_entry(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tree_of(root)
    tree.scan(None)
    before = entries(tree)
    (root / "a" / "one").write_bytes(b"start")
    reads = 0
    real = os.pread

    def growing(fd: int, count: int, offset: int) -> bytes:
        nonlocal reads
        reads += 1
        data = real(fd, count, offset)
        with open(root / "a" / "one", "ab") as file:
            file.write(b"x")
        return data

    monkeypatch.setattr(os, "pread", growing)
    scan = tree.scan(["a"])
    assert reads == 3
    assert scan.unsettled == {"a"}
    assert not scan.complete
    assert not scan.errors
    assert entries(tree) == before
    monkeypatch.setattr(os, "pread", real)
    assert tree.scan(scan.unsettled).complete
    assert_true(tree, root)


def test_a_file_that_changes_once_while_read_is_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pread
    done: list[int] = []

    def once(fd: int, count: int, offset: int) -> bytes:
        data = real(fd, count, offset)
        if not done:
            done.append(1)
            (root / "top").write_bytes(b"a different one")
        return data

    (root / "a" / "one").unlink()
    (root / "a" / "b" / "two").unlink()
    monkeypatch.setattr(os, "pread", once)
    tree = tree_of(root)
    assert tree.scan(None).complete
    assert entries(tree)["top"].digest == content_digest("xxh3_128", b"a different one")


MTIME_NS = 1_000_000_001


@pytest.mark.parametrize(
    ("size", "mtime_ns", "late_ns", "hashed"),
    [
        (4, MTIME_NS, 0, 0),
        (4, MTIME_NS, 1, 1),  # touched after the moment that we vouch for
        (5, MTIME_NS, 0, 1),
        (4, MTIME_NS + 1, 0, 1),
    ],
)
def test_what_our_own_writer_wrote_is_not_hashed(root: Path, size: int, mtime_ns: int, late_ns: int, hashed: int) -> None:
    clock = Clock()
    tree = tree_of(root, clock=clock)
    tree.scan(None)
    clock.ahead_ns = 0
    (root / "a" / "one").write_bytes(b"ours")
    os.utime(root / "a" / "one", ns=(0, MTIME_NS))
    written = Entry("one", "f", size, mtime_ns, 0o644, content_digest("xxh3_128", b"ours"))
    until_ns = (root / "a" / "one").stat().st_ctime_ns - late_ns
    scan = tree.scan(["a"], {"a/one": written}, known_until_ns=until_ns)
    assert scan.hashed_files == hashed
    # What was not hashed is settled, although it is young: nobody else can have written it without another mtime.
    assert bool(scan.unsettled) == bool(hashed)
    assert entries(tree)["a/one"].digest == written.digest


def test_our_own_file_with_a_young_mtime_is_hashed(root: Path) -> None:
    clock = Clock()
    tree = tree_of(root, clock=clock)
    tree.scan(None)
    clock.ahead_ns = 0
    (root / "a" / "one").write_bytes(b"ours")
    st = (root / "a" / "one").stat()
    written = Entry("one", "f", 4, st.st_mtime_ns, 0o644, content_digest("xxh3_128", b"ours"))
    assert tree.scan(["a"], {"a/one": written}, known_until_ns=clock()).hashed_files == 1


def test_a_restart_hashes_nothing_that_stat_says_is_unchanged(root: Path, tmp_path: Path) -> None:
    tree = tree_of(root, cache=tmp_path / "cache")
    tree.scan(None)
    tree.save()
    (root / "a" / "one").write_bytes(b"later")
    tree.scan(["a"])
    tree.save()
    (root / "top").write_bytes(b"while we were away")
    (root / "empty").rmdir()
    again = tree_of(root, cache=tmp_path / "cache")
    scan = again.scan(None)
    assert scan.first
    assert scan.hashed_files == 1
    assert scan.delta == again.listings
    assert_true(again, root)


def test_what_is_seen_while_it_is_saved_is_in_the_next_save(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source saves where it records a version, and looks in another thread."""
    tree = tree_of(root, cache=tmp_path / "cache")
    tree.scan(None)
    tree.save()
    save = LocalCache.save

    def seen_meanwhile(cache: LocalCache, *saved: Any) -> None:
        monkeypatch.setattr(LocalCache, "save", save)
        (root / "a" / "one").write_bytes(b"later")
        tree.scan(["a"])
        cache.save(*saved)

    monkeypatch.setattr(LocalCache, "save", seen_meanwhile)
    (root / "top").write_bytes(b"first")
    tree.scan([""])
    tree.save()
    tree.save()
    again = tree_of(root, cache=tmp_path / "cache")
    assert again.scan(None).hashed_files == 0
    assert_true(again, root)


def test_a_restart_with_nothing_changed_knows_its_root(root: Path, tmp_path: Path) -> None:
    tree = tree_of(root, cache=tmp_path / "cache")
    tree.scan(None)
    tree.save()
    again = tree_of(root, cache=tmp_path / "cache")
    assert again.scan(None).hashed_files == 0
    assert_true(again, root)


def test_what_was_young_when_saved_is_hashed_after_a_restart(root: Path, tmp_path: Path) -> None:
    tree = tree_of(root, cache=tmp_path / "cache", clock=Clock(0))
    assert tree.scan(None).unsettled
    tree.save()
    assert tree_of(root, cache=tmp_path / "cache").scan(None).hashed_files == 3


def test_other_rules_look_again_but_hash_nothing(root: Path, tmp_path: Path) -> None:
    tree = tree_of(root, cache=tmp_path / "cache")
    tree.scan(None)
    tree.save()
    again = tree_of(root, Rules(exclude=("top",), mode=0o600), tmp_path / "cache")
    assert again.scan(None).hashed_files == 0
    assert set(entries(again)) == {"a", "a/one", "a/b", "a/b/two", "empty"}
    assert entries(again)["a/one"].mode == 0o600
    assert_sound(again)
    other = tree_of(root, Rules(hash="blake2b_256"), tmp_path / "cache")
    assert other.scan(None).hashed_files == 3


def test_a_cache_of_another_root_is_not_used(root: Path, tmp_path: Path) -> None:
    tree = tree_of(root, cache=tmp_path / "cache")
    tree.scan(None)
    tree.save()
    root.rename(tmp_path / "away")
    root.mkdir()
    (root / "top").write_bytes(b"1")
    assert tree_of(root, cache=tmp_path / "cache").scan(None).hashed_files == 1


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_broken_cache_costs_time_and_nothing_else(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    base = tmp_path_factory.mktemp("broken")
    root = base / "tree"
    (root / "d").mkdir(parents=True)
    (root / "d" / "f").write_bytes(b"f")
    tree = tree_of(root, cache=base / "cache")
    tree.scan(None)
    tree.save()
    raw = bytearray((base / "cache").read_bytes())
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    else:
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    (base / "cache").write_bytes(raw)
    again = tree_of(root, cache=base / "cache")
    again.scan(None)
    assert_true(again, root)
    again.save()
    assert tree_of(root, cache=base / "cache").scan(None).hashed_files == 0


def test_many_saves_do_not_grow_the_cache_without_bound(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcluster.files.localcache._SLACK_BYTES", 0)
    tree = tree_of(root, cache=tmp_path / "cache")
    sizes = []
    for number in range(30):
        (root / "a" / "one").write_bytes(b"%d" % number)
        tree.scan(None)
        tree.save()
        sizes.append((tmp_path / "cache").stat().st_size)
    assert max(sizes) < 4 * sizes[0]
    assert sizes[1] > sizes[0]
    assert tree_of(root, cache=tmp_path / "cache").scan(None).hashed_files == 0


def test_stat_of_says_what_was_hashed(root: Path) -> None:
    tree = tree_of(root)
    assert tree.stat_of("top") is None
    tree.scan(None)
    held, real = tree.stat_of("a/one"), (root / "a" / "one").stat()
    assert held == (2, real.st_mtime_ns, real.st_ctime_ns, real.st_ino, content_digest("xxh3_128", b"22"))
    assert tree.stat_of("a") is None
    assert tree.stat_of("a/none") is None
    assert tree.stat_of("no/such") is None
    (root / "a" / "one").write_bytes(b"333")
    assert tree.stat_of("a/one") == held
    tree.scan(["a"])
    now = tree.stat_of("a/one")
    assert now is not None
    assert now.size == 3


def test_verify_reads_every_byte(root: Path) -> None:
    (root / "link").symlink_to("top")
    tree = tree_of(root, Rules(symlinks="copy"))
    tree.scan(None)
    calls: list[tuple[int, int, int]] = []
    assert list(tree.verify(lambda *numbers: calls.append(numbers))) == []
    assert calls[-1] == (4, 3, 3)
    st = (root / "top").stat()
    (root / "top").write_bytes(b"2")
    os.utime(root / "top", ns=(0, st.st_mtime_ns))
    (root / "a" / "one").unlink()
    (root / "empty").rmdir()
    (root / "link").unlink()
    (root / "link").symlink_to("a")
    found = dict(tree.verify())
    assert set(found) == {"top", "a/one", "empty", "link"}
    assert "although its size and time are the same" in found["top"]


def test_progress_may_end_a_scan_and_nothing_has_changed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(treepass, "PROGRESS_DIRECTORIES", 2)
    tree = tree_of(root)

    def stop(_directories: int, _files: int, _bytes: int) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        tree.scan(None, on_progress=stop)
    assert tree.listings == {}
    open_before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Cancelled):
        tree.scan(None, on_progress=stop)
    assert len(os.listdir("/proc/self/fd")) == open_before


NAMES = st.sampled_from(["a", "b", "c", "a/a", "a/b", "b/c", "a/b/c", "c/c/c"])
EDITS = st.lists(st.tuples(st.sampled_from(["file", "dir", "gone", "move"]), NAMES, NAMES), max_size=12)


@settings(max_examples=80, deadline=None)
@given(rounds=st.lists(EDITS, min_size=1, max_size=4))
def test_dirty_directories_lead_to_what_a_fresh_look_says(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[list[tuple[str, str, str]]]
) -> None:
    root = tmp_path_factory.mktemp("edits")
    tree = tree_of(root)
    tree.scan(None)
    for edits in rounds:
        dirty: set[str] = set()
        for what, one, two in edits:
            dirty |= {path.rpartition("/")[0] for path in (one, two)}
            edit(root, what, one, two)
        tree.scan(dirty)
        assert_true(tree, root)


def edit(root: Path, what: str, one: str, two: str) -> None:
    """One edit, where it is possible."""
    path = root / one
    try:
        if what == "file":
            path.write_bytes(two.encode())
        elif what == "dir":
            path.mkdir()
        elif what == "move":
            path.rename(root / two)
        elif path.is_dir():
            path.rmdir()
        else:
            path.unlink()
    except OSError:
        return
