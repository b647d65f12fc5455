"""The trees of the bench of file sync: how they are made, changed and compared, and where."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from zcluster.bench import trees
from zcluster.bench.trees import (
    MEMORY_FILE_SYSTEMS,
    SourceTree,
    check_same,
    file_system_of,
    files_there,
    find_place,
    footprint_bytes,
    tree_digest,
)
from zcluster.errors import UsageError, ZClusterError


def a_tree(place: Path, files: int = 3, size_bytes: int = 10) -> SourceTree:
    source = SourceTree(place / "source", place / "beside", files, size_bytes)
    source.prepare()
    source.show()
    return source


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_tree_has_its_files_and_is_the_same_in_each_run(tmp_path: Path) -> None:
    trees_made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        trees_made.append(a_tree(tmp_path / name, 250, 1000))
    found = [contents(tree.data) for tree in trees_made]
    assert found[0] == found[1]
    assert len(found[0]) == len(set(found[0].values())) == 250
    assert {len(content) for content in found[0].values()} == {1000}
    assert sorted(path.name for path in trees_made[0].data.iterdir()) == ["d00000", "d00001", "d00002"]
    assert [place.name for _, place in trees_made[0].sample()] == ["f0000099", "f0000199", "f0000249"]


def test_files_of_no_length_and_of_more_than_a_piece(tmp_path: Path) -> None:
    for size_bytes in (0, trees.PIECE_BYTES + 1):
        place = tmp_path / str(size_bytes)
        place.mkdir()
        assert a_tree(place, 1, size_bytes).file(0).stat().st_size == size_bytes


def test_a_tree_is_shown_and_hidden_at_once(tmp_path: Path) -> None:
    source = SourceTree(tmp_path / "source", tmp_path / "beside", 3, 10)
    source.prepare()
    assert list(source.root.iterdir()) == []
    source.show()
    assert len(contents(source.data)) == 3
    source.hide()
    assert list(source.root.iterdir()) == []


@pytest.mark.parametrize("files", [1, 2, 50, 7919])
def test_each_file_has_its_turn_to_change(tmp_path: Path, files: int) -> None:
    source = SourceTree(tmp_path / "source", tmp_path / "beside", files, 0)
    source.prepare()
    source.show()
    places = {place for _, place in source.prepare_changes(files)}
    assert places == {source.file(number) for number in range(files)}
    assert len(source.prepare_changes(files + 1)) == files


def test_a_change_is_of_the_same_length_and_of_another_second(tmp_path: Path) -> None:
    source = a_tree(tmp_path, 20, 100)
    before, old_s = contents(source.data), {path: int(path.stat().st_mtime) for path in source.data.rglob("f*")}
    changes = source.prepare_changes(5)
    assert contents(source.data) == before
    source.apply(changes)
    after = contents(source.data)
    assert sum(after[name] != before[name] for name in before) == 5
    assert {len(content) for content in after.values()} == {100}
    assert all(int(place.stat().st_mtime) != old_s[place] for _, place in changes)


@pytest.mark.parametrize(("share", "pages"), [(0.0, 1), (0.5, 2), (1.0, 5)])
def test_pages_change_and_nothing_else(tmp_path: Path, share: float, pages: int) -> None:
    source = a_tree(tmp_path, 1, 4 * 4096 + 100)
    before = source.file(0).read_bytes()
    source.apply(source.prepare_pages(share))
    after = source.file(0).read_bytes()
    assert len(after) == len(before)
    assert sum(before[at : at + 4096] != after[at : at + 4096] for at in range(0, len(before), 4096)) == pages


def test_bytes_are_put_into_the_middle(tmp_path: Path) -> None:
    source = a_tree(tmp_path, 1, 1001)
    before = source.file(0).read_bytes()
    source.apply(source.prepare_insert(64))
    after = source.file(0).read_bytes()
    assert (len(after), after[:500], after[564:]) == (1065, before[:500], before[500:])


def test_changed_files_are_there_when_size_and_time_are(tmp_path: Path) -> None:
    source = a_tree(tmp_path)
    copy = tmp_path / "copy"
    changes = source.sample()
    assert not files_there(changes, source.data, copy)
    for _, place in changes:
        mine = copy / place.relative_to(source.data)
        mine.parent.mkdir(parents=True)
        mine.write_bytes(place.read_bytes())
        assert not files_there(changes, source.data, copy)
        os.utime(mine, ns=(0, place.stat().st_mtime_ns))
    assert files_there(changes, source.data, copy)


def build(root: Path) -> Path:
    (root / "a").mkdir(parents=True)
    (root / "a" / "file").write_bytes(b"text")
    (root / "a" / "file").chmod(0o644)
    (root / "link").symlink_to("a/file")
    return root


def test_what_is_not_of_the_tree_and_times_are_in_no_digest(tmp_path: Path) -> None:
    one, two = build(tmp_path / "one"), build(tmp_path / "two")
    (two / ".zcluster").mkdir()
    (two / ".zcluster" / "state").write_bytes(b"ours")
    os.utime(two / "a" / "file", (5, 5))
    assert tree_digest(one) == tree_digest(two)


def another_target(root: Path) -> None:
    (root / "link").unlink()
    (root / "link").symlink_to("a")


SPOILS: tuple[Callable[[Path], object], ...] = (
    lambda root: (root / "a" / "file").write_bytes(b"texT"),
    lambda root: (root / "a" / "file").write_bytes(b""),
    lambda root: (root / "a" / "file").chmod(0o600),
    lambda root: (root / "a" / "file").rename(root / "file"),
    lambda root: (root / "a" / "file").unlink(),
    lambda root: (root / "more").mkdir(),
    lambda root: (root / "a" / ".zcluster").write_bytes(b"not at the top"),
    another_target,
)


@pytest.mark.parametrize("number", range(len(SPOILS)))
def test_every_difference_is_found(tmp_path: Path, number: int) -> None:
    whole, copy = build(tmp_path / "whole"), build(tmp_path / "copy")
    check_same(whole, {"a copy": copy})
    SPOILS[number](copy)
    with pytest.raises(ZClusterError, match="a copy"):
        check_same(whole, {"good": whole, "a copy": copy})


def test_a_copy_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZClusterError, match="cannot be read"):
        check_same(build(tmp_path / "whole"), {"a copy": tmp_path / "missing"})


def test_a_place_has_room_or_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "_free_bytes", lambda _path: 1000)
    assert find_place(tmp_path, 1000, Path("/nowhere")).path == tmp_path
    with pytest.raises(UsageError, match="needs"):
        find_place(tmp_path, 1001, Path("/nowhere"))
    with pytest.raises(UsageError, match="not a directory"):
        find_place(tmp_path / "missing", 0, tmp_path)


def test_memory_is_taken_when_it_has_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = tmp_path / "memory"
    memory.mkdir()
    free = {memory: 100, tmp_path: 1000}
    monkeypatch.setattr(trees, "SHM", memory)
    monkeypatch.setattr(trees, "_free_bytes", free.__getitem__)
    monkeypatch.setattr(trees, "file_system_of", {memory: "tmpfs", tmp_path: "ext4"}.__getitem__)
    assert find_place(None, 100, tmp_path) == trees.Place(memory, "tmpfs")
    assert find_place(None, 101, tmp_path) == trees.Place(tmp_path, "ext4")
    assert "tmpfs" in MEMORY_FILE_SYSTEMS


def test_what_files_need() -> None:
    assert footprint_bytes(10, 1, 2) == 10 * 2 * (4096 + trees.INODE_BYTES)
    assert footprint_bytes(1, 4097, 1) == 2 * 4096 + trees.INODE_BYTES
    assert footprint_bytes(1, 0, 1) == trees.INODE_BYTES
    assert file_system_of(Path("/proc")) == "proc"
