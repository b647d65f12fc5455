"""A glance at the files that a hint names: what it finds by itself, what it leaves to the look that follows, and when the
whole directory is looked at instead."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.files.test_localtree import Clock, assert_sound, entries, tree_of
from zcluster.core.sync.entry import DIRECTORY, Change, Entry, content_digest, encode_listing, parent
from zcluster.core.sync.rules import Rules
from zcluster.files.held import NO_SIGNATURE, SIGNATURE_BYTES, STAT, Packed, parse_stats
from zcluster.files.localtree import LocalTree, Scan

COPY = Rules(symlinks="copy")
FILES = 12
"""In each directory: so up to three are glanced at."""


def fill(root: Path) -> None:
    for directory in ("", "a", "a/b", "c"):
        (root / directory).mkdir(parents=True, exist_ok=True)
        for number in range(FILES):
            (root / directory / f"f{number}").write_bytes(b"%d" % number)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fill(tmp_path / "tree")
    return tmp_path / "tree"


@pytest.fixture
def tree(root: Path) -> LocalTree:
    tree = tree_of(root, COPY)
    tree.scan(None)
    return tree


def assert_true(tree: LocalTree, root: Path) -> Scan:
    fresh = tree_of(root, COPY)
    scan = fresh.scan(None)
    assert tree.listings == fresh.listings
    assert tree.root == fresh.root
    assert (tree.files, tree.size_bytes) == (scan.files, scan.bytes)
    assert_sound(tree)
    for path, entry in entries(tree).items():
        if entry.kind == "f":
            assert tree.stat_of(path) == fresh.stat_of(path)
    return scan


def paths(scan: Scan) -> list[str]:
    return [change.path for change in scan.changes or []]


def test_named_files_alone_are_looked_at_and_their_directory_later(root: Path, tree: LocalTree) -> None:
    (root / "a" / "f1").write_bytes(b"changed")
    (root / "a" / "f2").unlink()
    (root / "a" / "f3").chmod(0o600)
    (root / "a" / "f4").write_bytes(b"not told")
    (root / "a" / "new").write_bytes(b"not told")
    scan = tree.scan(["a/f1", "a/f2", "a/f3"])
    assert paths(scan) == ["a/f1", "a/f2", "a/f3"]
    assert (scan.hashed_files, scan.directories) == (2, 1)
    assert scan.unsettled == {"a"}
    assert scan.complete
    assert set(scan.delta) == {"", "a"}
    assert_sound(tree)
    after = tree.scan(scan.unsettled)
    assert paths(after) == ["a/f4", "a/new"]
    assert after.hashed_files == 2
    assert not after.unsettled
    assert_true(tree, root)


def test_a_quarter_of_a_directory_is_glanced_at_and_no_more(root: Path, tree: LocalTree) -> None:
    for number in range(FILES):
        (root / "c" / f"f{number}").write_bytes(b"changed")
    assert paths(tree.scan(["c/f1", "c/f2", "c/f3"])) == ["c/f1", "c/f2", "c/f3"]
    assert tree.scan(["c/f1", "c/f2", "c/f3", "c/f4"]).hashed_files == FILES - 3
    assert_true(tree, root)


def test_a_hint_that_is_not_so_changes_nothing(root: Path, tree: LocalTree) -> None:
    before = tree.listings
    scan = tree.scan(["a/f1", "f3"])
    assert (scan.delta, scan.changes, scan.hashed_files) == ({}, [], 0)
    assert scan.unsettled == {"", "a"}
    assert tree.listings is before
    # What was seen of the directory is still true of all of it: nothing is compared one by one.
    assert tree._held.stats["a"][:SIGNATURE_BYTES] != NO_SIGNATURE
    assert not tree.scan(scan.unsettled).unsettled


def test_the_directory_of_a_changed_file_has_no_signature(root: Path, tree: LocalTree) -> None:
    (root / "a" / "f1").write_bytes(b"changed")
    tree.scan(["a/f1"])
    assert tree._held.stats["a"][:SIGNATURE_BYTES] == NO_SIGNATURE
    tree.scan(["a"])
    assert tree._held.stats["a"][:SIGNATURE_BYTES] != NO_SIGNATURE


@pytest.mark.parametrize("gone", ["b", "new", "F1", "f1.", os.fsdecode(b"\xff"), "no/such/name"])
def test_what_is_no_known_file_is_looked_for_in_whole(root: Path, tree: LocalTree, gone: str) -> None:
    """The directory is looked at in whole: so what no hint told is found at once."""
    (root / "a" / "f4").write_bytes(b"not told")
    if "/" not in gone and gone != "b":
        (root / "a" / gone).write_bytes(b"there")
    scan = tree.scan([f"a/{gone}", "a/f1"] if gone != "b" else ["a/b", "a/f1"])
    if gone == "b":  # a known directory, which is looked at itself
        assert (scan.delta, scan.directories) == ({}, 2)
        scan = tree.scan(scan.unsettled)
    assert "a/f4" in paths(scan)
    assert not scan.unsettled
    assert scan.refused_count == assert_true(tree, root).refused_count


@pytest.mark.parametrize("kind", ["directory", "link", "bad link", "fifo", "large"])
def test_a_file_that_becomes_something_else(root: Path, kind: str) -> None:
    rules = Rules(symlinks="copy", max_file_bytes=1000)
    tree = tree_of(root, rules)
    tree.scan(None)
    path = root / "a" / "f1"
    path.unlink()
    if kind == "directory":
        path.mkdir()
        (path / "in").write_bytes(b"in")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "large":
        path.write_bytes(bytes(1001))
    else:
        path.symlink_to("f2" if kind == "link" else "../../out")
    scan = tree.scan(["a/f1"])
    fresh = tree_of(root, rules)
    expected = fresh.scan(None)
    assert tree.listings == fresh.listings
    assert scan.refused == expected.refused
    assert scan.refused_count == (0 if kind in ("directory", "link") else 1)
    assert_sound(tree)
    # What is refused is asked about again in whole, and found when it is a file again.
    if kind == "directory":
        shutil.rmtree(path)
    else:
        path.unlink()
    path.write_bytes(b"a file again")
    again = tree.scan(["a/f1"])
    assert again.refused_count == 0
    assert entries(tree)["a/f1"].digest == content_digest("xxh3_128", b"a file again")
    assert_sound(tree)


def test_a_link_is_glanced_at_too(root: Path) -> None:
    (root / "a" / "link").symlink_to("f1")
    tree = tree_of(root, COPY)
    tree.scan(None)
    (root / "a" / "link").unlink()
    (root / "a" / "link").symlink_to("f2")
    (root / "a" / "new").write_bytes(b"not told")
    scan = tree.scan(["a/link"])
    assert paths(scan) == ["a/link"]
    assert entries(tree)["a/link"].target == "f2"
    tree.scan(scan.unsettled)
    assert_true(tree, root)


def test_a_twin_refuses_both_and_one_that_goes_gives_the_other_back(root: Path, tree: LocalTree) -> None:
    (root / "a" / "F1").write_bytes(b"twin")
    scan = tree.scan(["a/F1"])
    assert dict(scan.refused).keys() == {"a/f1", "a/F1"}
    assert_true(tree, root)
    (root / "a" / "F1").unlink()
    assert tree.scan(["a/f2"]).refused_count == 0  # whatever is named, where something is refused all is looked at
    assert_true(tree, root)


def test_what_is_gone_beneath_a_directory_asks_for_all_of_it(root: Path, tree: LocalTree) -> None:
    (root / "a" / "f1").write_bytes(b"changed")
    shutil.rmtree(root / "a" / "b")
    scan = tree.scan(["a/f1", "a/b", "a/b/f1"])
    assert paths(scan)[:2] == ["a/b", "a/b/f0"]
    assert "a/f1" in paths(scan)
    assert scan.complete
    assert not scan.unsettled - {"a"}
    assert_true(tree, root)


def test_files_of_a_directory_that_is_gone_or_is_another_one(root: Path, tree: LocalTree) -> None:
    (root / "a").rename(root / "moved")
    tree.scan(["a/f1", "a/b/f1", "a/b", "", "moved"])
    assert_true(tree, root)
    (root / "c").rename(root / "a")
    (root / "moved").rename(root / "c")
    (root / "c" / "f1").write_bytes(b"changed")
    tree.scan(["c/f1", "", "c/b/f1", "c"])
    assert_true(tree, root)


def test_files_of_a_directory_that_only_its_files_told_of(root: Path, tree: LocalTree) -> None:
    """The directory is gone, and hints at what was in it are all that came."""
    shutil.rmtree(root / "a")
    scan = tree.scan(["a/b/f1", "a/f1"])
    assert scan.complete
    assert not any(path.startswith("a") for path in tree.listings)
    assert_true(tree, root)


def test_another_directory_in_its_place_is_found_later(root: Path, tree: LocalTree) -> None:
    (root / "a" / "b").rename(root / "was")
    shutil.copytree(root / "was", root / "a" / "b")
    (root / "was").rename(root.parent / "was")
    (root / "a" / "b" / "f5").write_bytes(b"not told")
    scan = tree.scan(["a/b/f1"])
    assert scan.hashed_files == 1  # another inode
    tree.scan(scan.unsettled)
    assert_true(tree, root)


def test_young_files_that_are_not_named_stay_young(root: Path) -> None:
    clock = Clock()
    tree = tree_of(root, COPY, clock=clock)
    tree.scan(None)
    clock.ahead_ns = 0
    (root / "a" / "f1").write_bytes(b"x")
    (root / "a" / "f2").write_bytes(b"x")
    assert tree.scan(["a/f1", "a/f2"]).hashed_files == 2
    clock.ahead_ns = 10_000_000_000
    assert tree.scan(["a/f1"]).hashed_files == 1  # and is no longer young
    assert tree.scan(["a/f1"]).hashed_files == 0
    assert tree._held.young == {"a": {"f2"}}
    assert tree.scan(["a"]).hashed_files == 1
    assert not tree._held.young
    assert tree.scan(["a"]).hashed_files == 0


def test_a_young_file_that_goes_is_forgotten(root: Path) -> None:
    clock = Clock()
    tree = tree_of(root, COPY, clock=clock)
    tree.scan(None)
    clock.ahead_ns = 0
    (root / "a" / "f1").write_bytes(b"x")
    tree.scan(["a/f1"])
    (root / "a" / "f1").unlink()
    tree.scan(["a/f1"])
    assert not tree._held.young
    assert_true(tree, root)


def test_our_own_files_are_taken_over_without_a_hash(root: Path, tree: LocalTree) -> None:
    (root / "a" / "f1").write_bytes(b"ours")
    os.utime(root / "a" / "f1", ns=(0, 1_000_000_001))
    written = Entry("f1", "f", 4, 1_000_000_001, 0o644, content_digest("xxh3_128", b"ours"))
    until_ns = (root / "a" / "f1").stat().st_ctime_ns
    assert tree.scan(["a/f1"], {"a/f1": written}, known_until_ns=until_ns).hashed_files == 0
    assert entries(tree)["a/f1"].digest == written.digest
    assert_true(tree, root)


def failing_stat(monkeypatch: pytest.MonkeyPatch, bad: str, code: int) -> None:
    real = os.stat

    def guarded(path: Any, *args: Any, **more: Any) -> os.stat_result:
        if path == bad:
            raise OSError(code, os.strerror(code))
        return real(path, *args, **more)

    monkeypatch.setattr(os, "stat", guarded)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ELOOP])
def test_a_file_that_cannot_be_asked_about_is_never_taken_for_gone(
    root: Path, tree: LocalTree, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    (root / "a" / "f4").write_bytes(b"not told")
    failing_stat(monkeypatch, "f1", code)
    scan = tree.scan(["a/f1"])  # the listing of all of the directory asks in another way
    assert paths(scan) == ["a/f4"]
    assert scan.complete
    assert_true(tree, root)


def test_a_file_that_cannot_be_read_keeps_its_entry(root: Path, tree: LocalTree, monkeypatch: pytest.MonkeyPatch) -> None:
    before = entries(tree)["a/f1"]
    (root / "a" / "f1").write_bytes(b"changed")
    (root / "a" / "f2").write_bytes(b"changed")
    real = os.open

    def guarded(path: Any, *args: Any, **more: Any) -> int:
        if path == "f1":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *args, **more)

    monkeypatch.setattr(os, "open", guarded)
    scan = tree.scan(["a/f1", "a/f2"])
    assert scan.errors == [("a/f1", "Permission denied")]
    assert not scan.complete
    assert scan.unsettled == {"a"}
    assert paths(scan) == ["a/f2"]
    assert entries(tree)["a/f1"] == before
    monkeypatch.setattr(os, "open", real)
    assert tree.scan(["a/f1"]).complete
    assert_true(tree, root)


def test_a_directory_that_cannot_be_opened_is_not_gone(root: Path, tree: LocalTree, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree.listings

    def refuse(_self: object, _path: str) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("zcluster.files.beneath.Beneath.dir_fd", refuse)
    scan = tree.scan(["a/f1"])
    assert scan.errors == [("a", "Permission denied")]
    assert not scan.complete
    assert tree.listings is before


def test_under_other_rules_nothing_is_glanced_at_before_all_was_looked_at(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tree_of(root, COPY, tmp_path / "cache")
    first.scan(None)
    first.save()
    real = os.open

    def guarded(path: Any, *args: Any, **more: Any) -> int:
        if path == "a":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *args, **more)

    monkeypatch.setattr(os, "open", guarded)
    rules = Rules(symlinks="copy", exclude=("f5",))
    tree = tree_of(root, rules, tmp_path / "cache")
    assert not tree.scan(None).complete
    assert "a/f5" in entries(tree)
    monkeypatch.setattr(os, "open", real)
    tree.scan(["a/f1"])
    assert "a/f5" not in entries(tree)
    assert_sound(tree)


def test_the_bound_on_files_counts_what_is_looked_at_twice_once(root: Path) -> None:
    rules = Rules(symlinks="copy", max_files=4 * FILES)
    tree = tree_of(root, rules)
    tree.scan(None)
    for _ in range(2):
        (root / "a").rename(root / "x")
        shutil.copytree(root / "x", root / "a")
        shutil.rmtree(root / "x")
        # The root's look leads to both, which are named by themselves too.
        scan = tree.scan(["", "a", "a/b", "a/f1", "a/b/f1", "c"])
        assert scan.files == 4 * FILES
    assert_sound(tree)


def test_a_restart_after_a_glance_hashes_what_was_not_told_and_nothing_else(root: Path, tmp_path: Path) -> None:
    tree = tree_of(root, COPY, tmp_path / "cache")
    tree.scan(None)
    tree.save()
    (root / "a" / "f1").write_bytes(b"changed")
    (root / "a" / "f2").unlink()
    (root / "a" / "f3").write_bytes(b"not told")
    tree.scan(["a/f1", "a/f2"])
    tree.save()
    again = tree_of(root, COPY, tmp_path / "cache")
    scan = again.scan(None)
    assert scan.hashed_files == 1
    assert_true(again, root)
    again.save()
    assert tree_of(root, COPY, tmp_path / "cache").scan(None).hashed_files == 0


def test_what_was_young_at_a_glance_is_hashed_after_a_restart(root: Path, tmp_path: Path) -> None:
    clock = Clock()
    tree = tree_of(root, COPY, tmp_path / "cache", clock)
    tree.scan(None)
    clock.ahead_ns = 0
    (root / "a" / "f1").write_bytes(b"x")
    tree.scan(["a/f1"])
    tree.save()
    assert tree_of(root, COPY, tmp_path / "cache").scan(None).hashed_files == 1


def test_more_changes_than_are_listed(root: Path, tree: LocalTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcluster.files.localtree.MAX_CHANGES", 2)
    for number, listed in ((2, True), (3, False)):
        for name in range(number):
            (root / "a" / f"f{name}").write_bytes(b"%d" % (100 * number))
        scan = tree.scan([f"a/f{name}" for name in range(number)])
        assert scan.delta
        assert (scan.changes is not None) is listed


# Any edits, any hints.

PLACES = ["", "a", "a/b", "c"]
NAMES = ["f0", "f1", "f2", "F1", "g", "b", "bad."]
PATHS = st.builds(lambda place, name: f"{place}/{name}".lstrip("/"), st.sampled_from(PLACES), st.sampled_from(NAMES))
WHATS = ["write", "rewrite", "chmod", "gone", "move", "dir", "link", "fifo", "tree gone"]
EDITS = st.lists(st.tuples(st.sampled_from(WHATS), PATHS, PATHS), max_size=8)


def edit(root: Path, what: str, one: str, two: str) -> set[str]:
    """One edit, where it is possible, and the hints that a watcher gives."""
    path = root / one
    if what in ("write", "rewrite") and path.exists() and not path.is_file():
        return set()  # a fifo would wait for ever
    if what == "tree gone" and not path.is_dir():
        return set()  # the same
    if what in ("write", "rewrite", "chmod") and path.is_symlink():
        return set()  # it would be done to another file
    try:
        if what == "write":
            path.write_bytes(two.encode())
        elif what == "rewrite":  # of the same size, with the same time
            stat = path.stat()
            path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
            os.utime(path, ns=(0, stat.st_mtime_ns))
        elif what == "chmod":
            path.chmod(path.stat().st_mode ^ 0o040)
            return {parent(one)} if path.is_dir() else {one}
        elif what == "gone":
            path.unlink()
        elif what == "move":
            is_dir = path.is_dir() and not path.is_symlink()
            path.rename(root / two)
            if is_dir:
                return {parent(one), parent(two), *beneath(root, two)}
            return {one, two}
        elif what == "dir":
            path.mkdir()
            return {parent(one), one}
        elif what == "link":
            path.symlink_to("f1")
        elif what == "fifo":
            os.mkfifo(path)
        else:
            hints = {*beneath(root, one), parent(one)}
            shutil.rmtree(path)
            return hints
    except OSError:
        return set()
    return {one}


def beneath(root: Path, path: str) -> set[str]:
    """The directories beneath ``path``, and itself."""
    return {os.path.relpath(at, root) for at, _, _ in os.walk(root / path)}


def kinds(found: dict[str, Entry]) -> dict[str, Any]:
    """What changes say of paths: of a directory, that it is there and how it may be used."""
    return {path: entry.mode if entry.kind == DIRECTORY else entry for path, entry in found.items()}


def changed(before: dict[str, Any], changes: list[Change] | None) -> dict[str, Any]:
    assert changes is not None
    after = dict(before)
    assert len({change.path for change in changes}) == len(changes)
    for change in changes:
        old = {} if change.old is None else kinds({change.path: change.old})
        assert before.get(change.path) == old.get(change.path)
        after.pop(change.path, None)
        if change.new is not None:
            after |= kinds({change.path: change.new})
    return after


def scan_soundly(tree: LocalTree, dirty: frozenset[str] | set[str]) -> Scan:
    """A scan whose changes lead from what was to what is."""
    before = kinds(entries(tree))
    scan = tree.scan(dirty)
    assert changed(before, scan.changes) == kinds(entries(tree))
    assert_sound(tree)
    return scan


@settings(max_examples=60, deadline=None)
@given(rounds=st.lists(EDITS, min_size=1, max_size=3))
def test_with_all_hints_the_manifest_is_right_at_once(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[list[tuple[str, str, str]]]
) -> None:
    root, tree, _ = begun(tmp_path_factory)
    for edits in rounds:
        hints: set[str] = set()
        for one in edits:
            hints |= edit(root, *one)
        scan = scan_soundly(tree, hints)
        assert scan.complete
        expected = assert_true(tree, root)
        assert scan.refused_count == expected.refused_count


@settings(max_examples=80, deadline=None)
@given(rounds=st.lists(EDITS, min_size=1, max_size=3), data=st.data())
def test_with_some_hints_it_is_right_when_what_was_unsettled_was_looked_at(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[list[tuple[str, str, str]]], data: st.DataObject
) -> None:
    """Of each directory in which something was done at least one hint comes: itself, or a file of it, changed or not."""
    root, tree, clock = begun(tmp_path_factory)
    for edits in rounds:
        told: dict[str, set[str]] = {}
        for one in edits:
            for hint in edit(root, *one):
                told.setdefault(hint if hint in tree.listings else parent(hint), set()).add(hint)
        hints: set[str] = set()
        for directory, names in sorted(told.items()):
            known = {f"{directory}/f{number}".lstrip("/") for number in (0, 5, 7)}
            hints |= data.draw(st.sets(st.sampled_from(sorted({directory} | names | known)), min_size=1))
        clock.ahead_ns = data.draw(st.sampled_from([0, 10_000_000_000]))
        scan = scan_soundly(tree, hints)
        clock.ahead_ns = 10_000_000_000
        looks = 0
        while scan.unsettled:
            looks += 1
            assert looks < 4
            scan = scan_soundly(tree, scan.unsettled)
        expected = assert_true(tree, root)
        assert scan.refused_count == expected.refused_count
        assert not tree._held.young


def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LocalTree, Clock]:
    root = tmp_path_factory.mktemp("glance")
    fill(root)
    clock = Clock()
    tree = tree_of(root, COPY, clock=clock)
    tree.scan(None)
    return root, tree, clock


# Single entries of a listing.

ENTRIES = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
    st.tuples(st.integers(0, 2**53 - 1), st.integers(-(2**63), 2**63 - 1), st.binary(min_size=16, max_size=16)),
    max_size=12,
)


@given(found=ENTRIES, other=ENTRIES, data=st.data())
def test_single_entries_are_read_and_exchanged_as_if_all_were_decoded(found: Any, other: Any, data: st.DataObject) -> None:
    def packed(of: dict[str, Any]) -> tuple[bytes, bytes]:
        names = sorted(of, key=lambda name: name.encode())
        listing = encode_listing(Entry(name, "f", of[name][0], of[name][1], 0o644, of[name][2]) for name in names)
        return listing, b"s" * SIGNATURE_BYTES + b"".join(STAT.pack(of[name][1], of[name][0]) for name in names)

    listing, stats = packed(found)
    one = Packed(listing, stats)
    assert len(one) == len(found)
    rows = parse_stats(listing, stats)
    for name in found:
        assert one.row(one.index(name)) == rows[name]
    for name in other.keys() - found.keys():
        assert one.index(name) == -1
    assert one.index(os.fsdecode(b"\xff")) == -1
    names = data.draw(st.sets(st.sampled_from(sorted(found)))) if found else set()
    exchanged: dict[int, Any] = {}
    wanted = dict(found)
    for name in names:
        if data.draw(st.booleans()):
            size, mtime_ns, digest = data.draw(st.sampled_from([found[name], (1, 2, b"d" * 16)]))
            wanted[name] = (size, mtime_ns, digest)
            exchanged[one.index(name)] = (Entry(name, "f", size, mtime_ns, 0o644, digest), mtime_ns, size)
        else:
            del wanted[name]
            exchanged[one.index(name)] = None
    expected_listing, expected_stats = packed(wanted)
    if wanted != found:
        expected_stats = NO_SIGNATURE + expected_stats[SIGNATURE_BYTES:]
    assert one.exchange(exchanged) == (expected_listing, expected_stats)
    assert one.exchange({}) == (listing, stats)
