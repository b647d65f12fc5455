"""The history of versions: numbers that are given once, manifests and contents that come back, bounds, and faults."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from zcluster.core.sync.entry import (
    DIRECTORY,
    FILE,
    LINK,
    Entry,
    content_digest,
    decode_listing,
    encode_listing,
    listing_digest,
)
from zcluster.errors import Busy, NoSuchVersion, UsageError, ZClusterError
from zcluster.files.blobs import PART_BYTES, Adding
from zcluster.files.history import FILE_BYTES, MAX_LACKING, MAX_NUMBER, RECORDING, History
from zcluster.files.history_schema import Version

MIB = 1024 * 1024
Files = Mapping[str, bytes]


def manifest_of(files: Files, hash_name: str = "xxh3_128", modes: Mapping[str, int] | None = None) -> dict[str, bytes]:
    """The manifest of a tree with these files."""
    names: dict[str, dict[str, bytes | None]] = {"": {}}
    for path, data in files.items():
        parts = path.split("/")
        for depth in range(1, len(parts)):
            names.setdefault("/".join(parts[:depth]), {})
            names["/".join(parts[: depth - 1])][parts[depth - 1]] = None
        names["/".join(parts[:-1])][parts[-1]] = data
    listings: dict[str, bytes] = {}
    for directory in sorted(names, key=lambda path: path.count("/") + bool(path), reverse=True):
        entries = []
        for name, content in names[directory].items():
            path = f"{directory}/{name}" if directory else name
            if content is None:
                entries.append(Entry(name, DIRECTORY, 0, 0, (modes or {}).get(path, 0o755), listing_digest(listings[path])))
            else:
                entries.append(Entry(name, FILE, len(content), 7, 0o644, content_digest(hash_name, content)))
        listings[directory] = encode_listing(entries)
    return listings


def entries_of(manifest: Mapping[str, bytes]) -> dict[str, Entry]:
    return {
        f"{directory}/{entry.name}" if directory else entry.name: entry
        for directory, listing in manifest.items()
        for entry in decode_listing(listing)
    }


class Recorder:
    """Records trees as the master does: only what changed since the version before."""

    def __init__(self, history: History, tree: str = "conf", hash_name: str = "xxh3_128") -> None:
        self.history = history
        self.tree = tree
        self.hash_name = hash_name
        self.before: dict[str, bytes] = {}
        self.asked: list[str] = []

    def open(self, files: Files, **more: Any) -> int:
        manifest = manifest_of(files, self.hash_name)
        given: dict[str, Any] = {"epoch": 1, "added": 0, "changed": 0, "removed": 0, "cause": "change", "at_s": 1.0} | more
        size = sum(map(len, files.values()))
        return self.history.open_version(self.tree, root=listing_digest(manifest[""]), files=len(files), bytes=size, **given)

    def record(self, files: Files, contents: Files | None = None, **more: Any) -> Version:
        number = self.open(files, **more)
        return self.fill(number, files, contents)

    def fill(self, number: int, files: Files, contents: Files | None = None, *, whole: bool = False) -> Version:
        """Record what version ``number`` has; ``contents`` is what reading gives instead."""
        manifest = manifest_of(files, self.hash_name)
        before = {} if whole else self.before
        delta: dict[str, bytes | None] = {path: listing for path, listing in manifest.items() if before.get(path) != listing}
        delta.update({path: None for path in before if path not in manifest})
        assert self.history.record_listings(self.tree, number, delta)
        old, new = entries_of(before), entries_of(manifest)
        changed = [(path, entry) for path, entry in new.items() if entry.kind == FILE and old.get(path) != entry]
        missing = list(self.history.missing_blobs(self.tree, number, None if whole else changed))
        self.asked = [path for path, _ in missing]
        read = files if contents is None else contents
        self.history.add_blobs(self.tree, number, ((path, entry, iter([read[path]])) for path, entry in missing))
        self.before = manifest
        return self.history.finish(self.tree, number)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "sync" / "history.db"


def opened(path: Path, keep_versions: int = 10, keep_bytes: int = 64 * MIB) -> History:
    return History(path, keep_versions, keep_bytes)


@pytest.fixture
def kept(path: Path) -> Iterator[History]:
    history = opened(path)
    yield history
    history.close()


def prune(history: History, max_rows: int = 2000) -> int:
    """Prune until there is no more; returns the number of slices."""
    for slices in range(1, 10_000):
        if not history.prune(max_rows):
            return slices
    raise AssertionError("pruning does not end")


def content(history: History, digest: bytes) -> bytes:
    return b"".join(history.content(digest))


def assert_holds(history: History, tree: str, number: int, files: Files, hash_name: str = "xxh3_128") -> None:
    """The version has this manifest, and each file's content."""
    manifest = manifest_of(files, hash_name)
    assert history.manifest(tree, number) == manifest
    for name, entry in entries_of(manifest).items():
        if entry.kind == FILE:
            assert content(history, entry.digest) == files[name]


# ----- versions and what they hold


def test_a_version_comes_back_whole(kept: History) -> None:
    files = {"a": b"one", "d/b": b"two", "d/e/c": b"", "d/e/f": os.urandom(3000), "g/same": b"one"}
    version = Recorder(kept).record(files, at_s=12.5, added=5, epoch=3, cause="start")
    assert (version.number, version.epoch, version.at_s, version.cause, version.added) == (1, 3, 12.5, "start", 5)
    assert (version.files, version.bytes, version.of) == (5, 3009, 0)
    assert version.kept
    assert version.listed
    assert version.reason == ""
    assert_holds(kept, "conf", 1, files)


def test_versions_survive_a_restart(path: Path) -> None:
    first = opened(path)
    recorder = Recorder(first)
    recorder.record({"a": b"1"})
    recorder.record({"a": b"2", "b/c": b"3"})
    first.close()
    second = opened(path)
    assert [version.number for version in second.versions("conf")] == [2, 1]
    assert_holds(second, "conf", 1, {"a": b"1"})
    assert_holds(second, "conf", 2, {"a": b"2", "b/c": b"3"})
    assert second.restored is None
    assert Recorder(second).open({}) == 3
    second.close()


def test_what_did_not_change_is_stored_once(kept: History) -> None:
    files = {f"d{i}/f{j}": os.urandom(500) for i in range(10) for j in range(10)}
    recorder = Recorder(kept)
    recorder.record(files)
    before = kept.stored_bytes
    files = files | {"d3/f3": b"x" * 10}
    assert recorder.record(files).kept
    assert recorder.asked == ["d3/f3"]
    assert kept.stored_bytes - before < 3000, "one content, its directory and the root"
    assert_holds(kept, "conf", 2, files)


def test_trees_count_for_themselves_and_share_contents(kept: History) -> None:
    Recorder(kept, "a").record({"x": b"same"})
    recorder = Recorder(kept, "b")
    assert recorder.record({"y": b"same"}).number == 1
    assert recorder.asked == []
    assert kept.trees() == ["a", "b"]


def test_contents_of_up_trees_are_named_by_blake2b(kept: History) -> None:
    files = {"a": os.urandom(5000)}
    assert Recorder(kept, hash_name="blake2b_256").record(files).kept
    assert_holds(kept, "conf", 1, files, "blake2b_256")


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES, 6 * PART_BYTES + 5])
@pytest.mark.parametrize("random_bytes", [True, False])
def test_contents_of_any_size_come_in_chunks_of_any_size(kept: History, size: int, random_bytes: bool) -> None:
    data = os.urandom(size) if random_bytes else (b"some text " * (size // 10 + 1))[:size]
    number = Recorder(kept).open({"f": data})
    entry = Entry("f", FILE, size, 1, 0o644, content_digest("xxh3_128", data))
    chunks = (data[at : at + 700_001] for at in range(0, size, 700_001))
    assert kept.add_blobs("conf", number, [("f", entry, chunks)]) == 1
    parts = list(kept.content(entry.digest))
    assert b"".join(parts) == data
    assert max(map(len, parts)) <= PART_BYTES
    if size > 100 and not random_bytes:
        assert kept.stored_bytes < size // 5


def test_a_rollback_makes_an_old_state_the_newest(kept: History) -> None:
    recorder = Recorder(kept)
    recorder.record({"a": b"1", "b": b"2"})
    recorder.record({"a": b"changed"})
    assert kept.to_roll_back("conf", 1).number == 1
    version = recorder.record({"a": b"1", "b": b"2"}, cause="rollback", of=1)
    assert (version.number, version.cause, version.of, version.kept) == (3, "rollback", 1, True)
    assert recorder.asked == []
    assert_holds(kept, "conf", 3, {"a": b"1", "b": b"2"})


def test_versions_come_in_pages(kept: History) -> None:
    for number in range(7):
        Recorder(kept).open({"a": b"%d" % number})
    assert [version.number for version in kept.versions("conf", limit=3)] == [7, 6, 5]
    assert [version.number for version in kept.versions("conf", before=5, limit=3)] == [4, 3, 2]
    assert [version.number for version in kept.versions("conf", before=2)] == [1]
    assert kept.versions("other") == []


def test_an_unknown_version_is_said_to_be(kept: History) -> None:
    Recorder(kept).record({"a": b"1"})
    for call in (kept.manifest, kept.changes, kept.to_roll_back, kept.version):
        with pytest.raises(NoSuchVersion, match="no version 2") as raised:
            call("conf", 2)
        assert "sync history" in raised.value.hint


# ----- changes


def test_changes_of_a_version(kept: History) -> None:
    recorder = Recorder(kept)
    recorder.record({"a": b"1", "d/x": b"2", "d/y": b"3", "gone/z": b"4", "same/s": b"5", "turn": b"6"})
    recorder.record({"a": b"1!", "d/x": b"2", "new/n": b"7", "d/w": b"8", "same/s": b"5", "turn/t": b"9"})
    found = kept.changes("conf", 2)
    kinds = {change.path: (change.old is not None, change.new is not None) for change in found}
    assert kinds == {
        "a": (True, True), "d/w": (False, True), "d/y": (True, False), "gone": (True, False), "gone/z": (True, False),
        "new": (False, True), "new/n": (False, True), "turn": (True, True), "turn/t": (False, True),
    }  # fmt: skip
    assert [change.path for change in found] == sorted(kinds)
    assert kept.changes("conf", 2, limit=4) + kept.changes("conf", 2, after=found[3].path) == found
    first = kept.changes("conf", 1)
    assert {change.path for change in first} == {"a", "d", "d/x", "d/y", "gone", "gone/z", "same", "same/s", "turn"}
    assert all(change.old is None for change in first)


def test_a_directory_is_a_change_by_its_mode(kept: History) -> None:
    files = {"d/a": b"1"}
    for number, mode in ((1, 0o755), (2, 0o700)):
        manifest = manifest_of(files, modes={"d": mode})
        root = listing_digest(manifest[""])
        assert number == kept.open_version(
            "conf", epoch=1, root=root, files=1, bytes=1, added=0, changed=0, removed=0, cause="change", at_s=0
        )
        assert kept.record_listings("conf", number, manifest)
    assert [(change.path, change.new and change.new.mode) for change in kept.changes("conf", 2)] == [("d", 0o700)]


def test_the_same_root_has_no_changes(kept: History) -> None:
    recorder = Recorder(kept)
    recorder.record({"a/b": b"1"})
    recorder.record({"a/b": b"1"})
    assert kept.changes("conf", 2) == []
    assert kept.since("conf", 1) == []


def test_changes_since_a_version(kept: History) -> None:
    recorder = Recorder(kept)
    for number in range(5):
        recorder.record({"a": b"%d" % number, f"n{number}": b"x"})
    assert {change.path for change in kept.since("conf", 3) or ()} == {"a", "n2", "n4"}
    assert len(kept.since("conf", 3, limit=3) or ()) == 3
    assert kept.since("conf", 3, limit=2) is None
    assert kept.since("conf", 77) is None
    assert kept.since("none", 1) is None
    recorder.open({"b": b"not recorded yet"})
    assert kept.since("conf", 3) is None


def test_a_symbolic_link_is_in_the_manifest_and_has_no_content(kept: History) -> None:
    listing = encode_listing([Entry("l", LINK, 0, 0, 0, b"", "target")])
    number = kept.open_version(
        "conf", epoch=1, root=listing_digest(listing), files=1, bytes=0, added=1, changed=0, removed=0, cause="start", at_s=0
    )
    assert kept.record_listings("conf", number, {"": listing})
    assert list(kept.missing_blobs("conf", number, None)) == []
    assert kept.finish("conf", number).kept
    assert kept.manifest("conf", number) == {"": listing}


# ----- numbers


def test_a_number_is_never_given_again_though_its_version_is_gone(path: Path) -> None:
    history = opened(path, keep_versions=1)
    recorder = Recorder(history)
    for expected in (1, 2, 3):
        assert recorder.record({"a": b"%d" % expected}).number == expected
        prune(history)
    history.forget("conf")
    prune(history)
    assert history.newest("conf") is None
    history.close()
    history = opened(path)
    assert Recorder(history).open({}) == 4
    assert Recorder(history).open({}, floor=4) == 5
    assert Recorder(history).open({}, floor=900) == 901
    assert Recorder(history).open({}, floor=900) == 902
    history.close()


def test_numbers_end_at_the_limit(kept: History) -> None:
    assert Recorder(kept).open({}, floor=MAX_NUMBER - 1) == MAX_NUMBER
    with pytest.raises(UsageError, match="used up"):
        Recorder(kept).open({})


# ----- what cannot be kept


def test_a_file_that_changed_while_it_was_read_is_made_up_for_by_the_next_version(kept: History) -> None:
    recorder = Recorder(kept)
    files = {"a": b"right", "b": b"other"}
    version = recorder.record(files, {"a": b"wrong", "b": b"other"})
    assert not version.kept
    assert version.reason == "a: it changed while it was read"
    with pytest.raises(UsageError, match="changed while it was read"):
        kept.to_roll_back("conf", 1)
    with pytest.raises(ZClusterError, match="no content"):
        content(kept, content_digest("xxh3_128", b"right"))
    files = files | {"c": b"new"}
    assert recorder.record(files).kept
    assert recorder.asked == ["c", "a"], "what the version before lacks, too"
    assert_holds(kept, "conf", 2, files)


def test_what_was_lacking_and_is_gone_is_lacking_no_more(kept: History) -> None:
    recorder = Recorder(kept)
    recorder.record({"d/a": b"right", "b": b"other"}, {"d/a": b"grown longer", "b": b"other"})
    assert recorder.record({"b": b"other"}).kept
    assert recorder.asked == []


@pytest.mark.parametrize("lacking", [MAX_LACKING, MAX_LACKING + 1])
def test_more_lacking_files_than_are_remembered_cost_a_full_look(kept: History, lacking: int) -> None:
    files = {f"f{i:04}": b"%d" % i for i in range(lacking)} | {"good": b"x"}
    recorder = Recorder(kept)
    assert not recorder.record(files, dict.fromkeys(files, b"?") | {"good": b"x"}).kept
    found = kept._database.rows("SELECT lacking IS NULL FROM versions")
    assert found == [(int(lacking > MAX_LACKING),)]
    assert recorder.record(files | {"next": b"y"}).kept
    assert set(recorder.asked) == set(files) - {"good"} | {"next"}


def test_an_unreadable_file_is_skipped(kept: History) -> None:
    def unreadable() -> Iterator[bytes]:
        yield b"x" * (5 * MIB)
        raise PermissionError(13, "Permission denied")

    files = {"a": b"", "b": b"fine"}
    number = Recorder(kept).open(files)
    manifest = manifest_of(files)
    assert kept.record_listings("conf", number, manifest)
    big = Entry("a", FILE, 9 * MIB, 1, 0o644, b"d" * 16)
    missing = list(kept.missing_blobs("conf", number, [("a", big), ("b", entries_of(manifest)["b"])]))
    assert [path for path, _ in missing] == ["a", "b"]
    assert kept.add_blobs("conf", number, [("a", big, unreadable()), ("b", missing[1][1], [b"fine"])]) == 1
    version = kept.finish("conf", number)
    assert (version.kept, version.reason) == (False, "a: it could not be read: Permission denied")
    assert kept._database.rows("SELECT count(*) FROM partial") == [(0,)]
    assert kept._database.rows("SELECT count(*) FROM parts WHERE id >> 24 NOT IN (SELECT id FROM blobs)") == [(0,)]


@pytest.mark.parametrize(("size", "is_kept"), [(1000 - FILE_BYTES, True), (1001 - FILE_BYTES, False)])
def test_a_tree_larger_than_the_bound_is_not_kept(path: Path, size: int, is_kept: bool) -> None:
    history = opened(path, keep_bytes=1000)
    number = history.open_version(
        "conf", epoch=1, root=b"r" * 32, files=1, bytes=size, added=1, changed=0, removed=0, cause="change", at_s=0
    )
    version = history.version("conf", number)
    assert version.wanted is is_kept
    assert ("larger than sync.history_bytes (1000)" in version.reason) is not is_kept
    history.close()


def test_a_tree_that_is_not_kept_has_a_manifest_and_a_clear_refusal(path: Path) -> None:
    history = opened(path, keep_bytes=1000)
    recorder = Recorder(history)
    version = recorder.record({"a": bytes(2000)})
    assert recorder.asked == []
    assert not version.kept
    assert history.manifest("conf", 1) == manifest_of({"a": bytes(2000)})
    with pytest.raises(UsageError, match=r"larger than sync\.history_bytes") as raised:
        history.to_roll_back("conf", 1)
    assert raised.value.hint == "raise sync.history_bytes"
    prune(history)
    assert history.newest("conf") == version
    assert recorder.record({"a": b"small"}).kept, "everything is looked at again"
    history.close()


def test_trees_that_fit_alone_but_not_together(path: Path) -> None:
    history = opened(path, keep_bytes=10_000)
    assert Recorder(history, "a").record({f"f{i}": os.urandom(1000) for i in range(5)}).wanted
    version = Recorder(history, "b").record({f"f{i}": os.urandom(1000) for i in range(5)})
    assert not version.wanted
    assert "beside the 5640 bytes of other trees" in version.reason
    history.close()


@pytest.mark.parametrize(("size", "is_kept"), [(10_000, True), (10_001, False)])
def test_a_file_larger_than_a_quarter_of_the_bound_is_not_kept(path: Path, size: int, is_kept: bool) -> None:
    history = opened(path, keep_bytes=40_000)
    recorder = Recorder(history)
    version = recorder.record({"large": os.urandom(size), "b": b"x"})
    assert version.kept is is_kept
    assert ("large has 10001 bytes" in version.reason) is not is_kept
    if not is_kept:
        again = recorder.record({"large": b"y", "b": b"x"})
        assert again.kept
    history.close()


# ----- pruning


def test_the_last_versions_are_kept(path: Path) -> None:
    history = opened(path, keep_versions=3)
    recorder = Recorder(history)
    states = {number: {"a": os.urandom(2000), "same": b"s", f"d{number}/x": os.urandom(100)} for number in range(1, 9)}
    for number, files in states.items():
        assert recorder.record(files).number == number
        prune(history, max_rows=3)
        shown = [version.number for version in history.versions("conf")]
        assert shown == list(range(number, max(0, number - 3), -1))
        for one in shown:
            assert_holds(history, "conf", one, states[one])
    for number in (1, 2, 3):
        with pytest.raises(ZClusterError):
            content(history, content_digest("xxh3_128", states[number]["a"]))
    assert history._database.rows("SELECT count(*) FROM parts WHERE id >> 24 NOT IN (SELECT id FROM blobs)") == [(0,)]
    history.close()


def test_nothing_is_left_when_a_tree_is_forgotten(path: Path) -> None:
    history = opened(path)
    Recorder(history, "a").record({"x/y": os.urandom(3 * MIB), "shared": b"s"})
    Recorder(history, "b").record({"shared": b"s"})
    history.forget("a")
    assert prune(history) > 1
    assert history.trees() == ["b"]
    assert_holds(history, "b", 1, {"shared": b"s"})
    assert history._database.rows("SELECT count(*), sum(stored) FROM blobs") == [(2, history.stored_bytes)]
    assert path.stat().st_size < MIB, "the space is given back"
    history.close()


def test_the_bound_by_bytes_drops_the_oldest(path: Path) -> None:
    history = opened(path, keep_versions=100, keep_bytes=100_000)
    recorder = Recorder(history)
    states = {}
    for number in range(1, 30):
        states[number] = {"a": os.urandom(20_000), "same": b"s"}
        recorder.record(states[number], at_s=float(number))
        prune(history)
        assert history.stored_bytes <= 100_000
        kept = [version.number for version in history.versions("conf")]
        assert kept == list(range(number, number - len(kept), -1))
        assert number < 4 or len(kept) >= 3, "no more than necessary goes"
        for one in kept:
            assert_holds(history, "conf", one, states[one])
    history.close()


def test_what_a_restart_finds_too_large_is_pruned_to_the_newest(path: Path) -> None:
    history = opened(path)
    recorder = Recorder(history)
    for _ in range(5):
        recorder.record({"a": os.urandom(50_000)})
    history.close()
    history = opened(path, keep_bytes=1000)
    prune(history)
    assert [version.number for version in history.versions("conf")] == [5]
    history.close()


def test_random_recording_and_pruning_in_slices_loses_nothing(path: Path) -> None:
    """The oracle: a kept version always comes back whole, whatever is recorded between two slices."""
    dice = random.Random(5)
    history = opened(path, keep_versions=4)
    recorders = {tree: Recorder(history, tree) for tree in ("a", "b")}
    states: dict[str, dict[int, dict[str, bytes]]] = {"a": {}, "b": {}}
    current: dict[str, dict[str, bytes]] = {"a": {}, "b": {}}
    pool = [os.urandom(dice.randrange(1, 400)) for _ in range(12)]
    for _ in range(250):
        tree = dice.choice("ab")
        match dice.randrange(4):
            case 0 if states[tree]:
                current[tree] = dict(dice.choice(list(states[tree].values())))
            case 1 if current[tree]:
                del current[tree][dice.choice(list(current[tree]))]
            case _:
                current[tree][f"d{dice.randrange(4)}/e{dice.randrange(3)}/f{dice.randrange(3)}"] = dice.choice(pool)
        number = recorders[tree].open(current[tree])
        for _ in range(dice.randrange(4)):
            history.prune(dice.choice([1, 5, 50]))
        assert recorders[tree].fill(number, current[tree]).kept
        states[tree][number] = dict(current[tree])
        for _ in range(dice.randrange(6)):
            history.prune(dice.choice([1, 5, 50]))
        for one in ("a", "b"):
            for version in history.versions(one):
                assert_holds(history, one, version.number, states[one][version.number])
    prune(history, 3)
    assert all(len(history.versions(tree)) == 4 for tree in "ab")
    history.close()


def test_an_empty_history_has_nothing_to_prune(kept: History) -> None:
    prune(kept)
    assert kept.prune() is False


# ----- faults


def test_a_manifest_with_a_hole_is_not_taken_for_whole(kept: History) -> None:
    """The version before was opened, and the process died before its listings came: a delta is not enough."""
    recorder = Recorder(kept)
    recorder.record({"a/x": b"1", "b/y": b"2"})
    second = manifest_of({"a/x": b"changed", "b/y": b"2"})
    Recorder(kept).open({"a/x": b"changed", "b/y": b"2"})
    third = {"a/x": b"changed", "b/y": b"3"}
    number = recorder.open(third)
    delta = {path: listing for path, listing in manifest_of(third).items() if second[path] != listing}
    assert not kept.record_listings("conf", number, delta)
    assert list(kept.missing_blobs("conf", number, [])) == []
    version = kept.finish("conf", number)
    assert (version.kept, version.reason) == (False, "its manifest was not recorded")
    with pytest.raises(UsageError, match="manifest of version 3"):
        kept.manifest("conf", number)
    assert recorder.fill(number, third, whole=True).kept
    assert_holds(kept, "conf", number, third)


def test_a_recording_that_was_cut_off_can_be_made_up_for(path: Path) -> None:
    history = opened(path)
    files = {"d/a": b"1", "b": b"2"}
    number = Recorder(history).open(files)
    history.record_listings("conf", number, manifest_of(files))
    history.close()
    history = opened(path)
    prune(history)
    newest = history.newest("conf")
    assert newest is not None
    assert (newest.number, newest.kept, newest.listed, newest.reason) == (1, False, True, RECORDING)
    assert history.finish("conf", number).kept is False, "nothing was looked at"
    recorder = Recorder(history)
    assert recorder.fill(number, files, whole=True).kept
    assert sorted(recorder.asked) == ["b", "d/a"]
    history.close()


def test_what_a_killed_process_left_of_a_large_content_is_swept(path: Path) -> None:
    first = opened(path)
    number = Recorder(first).open({"a": b""})
    data = os.urandom(6 * MIB)

    def killed() -> Iterator[bytes]:
        yield data[: 5 * MIB]
        assert first._database.rows("SELECT count(*) > 0 FROM parts") == [(1,)]
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Adding, "_undo", lambda self, number: None)
        with pytest.raises(KeyboardInterrupt):
            first.add_blobs(
                "conf", number, [("a", Entry("a", FILE, len(data), 1, 0, content_digest("xxh3_128", data)), killed())]
            )
    first.close()
    second = opened(path)
    assert second._database.rows("SELECT count(*) FROM parts") == [(0,)]
    assert second._database.rows("SELECT count(*) FROM partial") == [(0,)]
    second.close()


def test_a_second_content_of_one_digest_is_dropped(kept: History) -> None:
    number = Recorder(kept).open({})
    data = os.urandom(6 * MIB)
    entry = Entry("a", FILE, len(data), 1, 0, content_digest("xxh3_128", data))
    for _ in range(2):
        kept.add_blobs("conf", number, [("a", entry, [data]), ("b", entry, [data])])
    assert kept._database.rows("SELECT count(*) FROM parts") == [(6,)]
    assert kept._database.rows("SELECT count(*) FROM partial") == [(0,)]
    assert content(kept, entry.digest) == data


def fill_disk(history: History) -> None:
    pages = history._database.rows("PRAGMA page_count")[0][0]
    history._database.rows(f"PRAGMA max_page_count = {pages}")


def open_many(recorder: Recorder) -> None:
    """Open versions until there is no page left."""
    for _ in range(1000):
        recorder.open({"a": b"2"})


def free_disk(history: History) -> None:
    history._database.rows("PRAGMA max_page_count = 1000000")


def test_a_full_disk_opens_no_version(kept: History) -> None:
    recorder = Recorder(kept)
    recorder.record({"a": b"1"})
    fill_disk(kept)
    with pytest.raises(ZClusterError, match="disk is full") as raised:
        open_many(recorder)
    assert "free space" in raised.value.hint
    last = kept.versions("conf")[0].number
    free_disk(kept)
    assert recorder.open({"a": b"2"}) == last + 1


def test_a_full_disk_while_recording_leaves_a_version_that_is_not_kept(kept: History) -> None:
    recorder = Recorder(kept)
    recorder.record({"a": b"1"})
    files = {"a": b"1", "b": os.urandom(MIB)}
    number = recorder.open(files)
    assert kept.record_listings("conf", number, manifest_of(files))
    missing = list(kept.missing_blobs("conf", number, [("b", entries_of(manifest_of(files))["b"])]))
    fill_disk(kept)
    with pytest.raises(ZClusterError, match="disk is full"):
        kept.add_blobs("conf", number, [(path, entry, [files[path]]) for path, entry in missing])
    version = kept.finish("conf", number)
    assert (version.kept, version.reason) == (False, "recording content failed: the disk is full")
    free_disk(kept)
    assert_holds(kept, "conf", 1, {"a": b"1"})
    files["c"] = b"next"
    assert recorder.record(files).kept
    assert_holds(kept, "conf", number + 1, files)


def test_pruning_on_a_full_disk_frees_the_reserve_and_goes_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = opened(path, keep_versions=1)
    recorder = Recorder(history)
    recorder.record({"a": b"1"})
    recorder.record({"a": b"2"})
    reserve = path.with_name("history.db.reserve")
    assert reserve.stat().st_blocks * 512 >= 4 * MIB
    right = history._database.write

    def full(what: str, *, durable: bool) -> Any:
        if reserve.exists():
            raise ZClusterError("the disk is full")
        return right(what, durable=durable)

    monkeypatch.setattr(history._database, "write", full)
    assert history.prune()
    assert not reserve.exists()
    prune(history)
    assert [version.number for version in history.versions("conf")] == [2]
    assert reserve.exists(), "there is room again"
    history.close()


def damage(path: Path, offset: int, size: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xa5" * size)


@pytest.mark.parametrize(
    ("offset", "size", "counter"),
    [(0, 4096, 0), (100, 60, 0), (16_384 * 3, 16_384 * 4, None)],
)
def test_a_broken_database_is_moved_aside_and_numbers_go_on(path: Path, offset: int, size: int, counter: int | None) -> None:
    history = opened(path)
    recorder = Recorder(history)
    for number in range(5):
        recorder.record({f"f{i}": os.urandom(5000) for i in range(number + 5)})
    history.close()
    damage(path, offset, size)
    history = opened(path)
    assert history.restored is not None
    assert history.restored.moved_to == path.with_name("history.db.broken")
    assert history.restored.moved_to.exists()
    assert history.restored.reason
    if counter is not None:
        assert history.restored.counters == {}
    assert history.versions("conf") == []
    known = history.restored.counters.get("conf", 0)
    assert Recorder(history).open({}, floor=7) == 8 > known
    history.close()
    history = opened(path)
    assert history.restored is None
    history.close()


def test_the_counters_of_a_broken_database_are_saved_when_they_can_be_read(path: Path) -> None:
    history = opened(path)
    for _ in range(5):
        Recorder(history).open({})
    page = history._database.rows("SELECT rootpage FROM sqlite_master WHERE name = 'versions'")[0][0]
    history.close()
    damage(path, (page - 1) * 16_384, 4096)
    history = opened(path)
    assert history.restored is not None
    assert history.restored.counters == {"conf": 5}
    assert Recorder(history).open({}) == 6
    history.close()


def test_an_unknown_format_is_refused(path: Path) -> None:
    opened(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(ZClusterError, match="format 99"):
        opened(path)


def test_a_second_process_is_refused(kept: History, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Recorder(kept).open({})
    code = (
        "import sys, pathlib; from zcluster.errors import Busy; from zcluster.files import history, history_schema\n"
        "history_schema.LOCK_WAIT_S = 0\n"
        "try: history.History(pathlib.Path(sys.argv[1]), 1, 1)\n"
        "except Busy as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "another process" in done.stdout
    assert issubclass(Busy, ZClusterError)


def test_the_files_are_private(kept: History, path: Path) -> None:
    Recorder(kept).record({"a": b"1"})
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file


def test_bounds_are_checked(path: Path, kept: History) -> None:
    for versions, size in ((0, 1), (1, -1)):
        with pytest.raises(UsageError):
            opened(path.with_name("other.db"), versions, size)
        with pytest.raises(UsageError):
            kept.set_bounds(versions, size)


def test_bounds_may_change_while_it_runs(kept: History) -> None:
    recorder = Recorder(kept)
    for number in range(6):
        recorder.record({"a": b"%d" % number})
    kept.set_bounds(2, 60)
    prune(kept)
    assert len(kept.versions("conf")) == 1, "by number two, but the bytes are too many"
    assert not recorder.record({"a": bytes(200)}).wanted


CHILD = """
import os, pathlib, sys
from tests_history import Recorder
from zcluster.files.history import History
history = History(pathlib.Path(sys.argv[1]), 3, 1 << 24)
recorder = Recorder(history)
newest = history.newest("conf")
recorder.before = {}
step = 0
while True:
    step += 1
    files = {f"d{i}/f": os.urandom(300) for i in range(5)} | {"large": os.urandom(5 << 20) if step % 4 == 0 else b"s"}
    number = recorder.open(files)
    os.write(1, b"%d\\n" % number)
    recorder.fill(number, files, whole=True)
    for _ in range(6):
        history.prune(7)
"""


def test_sigkill_at_any_moment_uses_no_number_twice_and_loses_no_version(path: Path, tmp_path: Path) -> None:
    """The child is killed after a random number of calls to the disk, told by pipe: it is never waited for by time."""
    dice = random.Random(11)
    said: list[int] = []
    for _ in range(30):
        with run_child(path, tmp_path) as child:
            assert child.stdout is not None
            fresh = [int(child.stdout.readline()) for _ in range(dice.randrange(1, 4))]
            for _ in range(dice.randrange(20_000)):
                continue
            child.send_signal(signal.SIGKILL)
            fresh += [int(line) for line in child.stdout.read().splitlines()]
        assert not said or min(fresh) > max(said)
        assert len(set(fresh)) == len(fresh)
        said += fresh
        history = opened(path, keep_versions=3, keep_bytes=1 << 24)
        assert history.restored is None
        newest = history.newest("conf")
        assert newest is not None
        assert newest.number >= said[-1]
        said.append(newest.number)
        for version in history.versions("conf"):
            if version.kept:
                for directory in history.manifest("conf", version.number).values():
                    for entry in decode_listing(directory):
                        if entry.kind == FILE:
                            assert content_digest("xxh3_128", content(history, entry.digest)) == entry.digest
        assert history._database.rows("SELECT count(*) FROM parts WHERE id >> 24 NOT IN (SELECT id FROM blobs)") == [(0,)]
        history.close()


def run_child(path: Path, tmp_path: Path) -> subprocess.Popen[bytes]:
    (tmp_path / "tests_history.py").write_bytes(Path(__file__).read_bytes())
    where = os.pathsep.join([str(tmp_path), str(Path(__file__).resolve().parents[2])])
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": where}
    )
