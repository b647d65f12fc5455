"""The source's side of content: exactly what the manifest names, or nothing."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
import xxhash

from zcluster.core.sync.effects import Piece
from zcluster.core.sync.rules import Rules
from zcluster.errors import PeerError
from zcluster.files import reader as reading
from zcluster.files.localtree import LocalTree
from zcluster.files.reader import Pieces, Reader

BLOCK = 16_384
LARGE = os.urandom(10 * BLOCK + 123)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "tree" / "d" / "e").mkdir(parents=True)
    (tmp_path / "tree" / "small").write_bytes(b"small")
    (tmp_path / "tree" / "none").write_bytes(b"")
    (tmp_path / "tree" / "d" / "e" / "large").write_bytes(LARGE)
    return tmp_path / "tree"


@pytest.fixture
def tree(root: Path) -> LocalTree:
    tree = LocalTree(root, Rules(), None, clock_ns=lambda: time.time_ns() + 10**10)
    tree.scan(None)
    return tree


@pytest.fixture
def reader(root: Path, tree: LocalTree) -> Reader:
    return Reader(root, tree.stat_of)


def whole(tree: LocalTree, path: str) -> Piece:
    held = tree.stat_of(path)
    assert held is not None
    return Piece(path, held.digest, 0, held.size)


def read(reader: Reader, *items: Piece, max_bytes: int = 1 << 20) -> Pieces:
    sizes: list[int] = []
    data = b""
    for pieces in reader.read(items, max_bytes):
        sizes += pieces.sizes
        data += pieces.data
    return Pieces(sizes, data)


def test_whole_files_and_pieces(reader: Reader, tree: LocalTree) -> None:
    large = whole(tree, "d/e/large")
    part = Piece(large.path, large.digest, 1000, 50)
    got = read(reader, whole(tree, "small"), large, whole(tree, "none"), part)
    assert got == Pieces([5, len(LARGE), 0, 50], b"small" + LARGE + LARGE[1000:1050])


def test_batches_hold_at_most_max_bytes_and_at_least_one_piece(reader: Reader, tree: LocalTree) -> None:
    large, small = whole(tree, "d/e/large"), whole(tree, "small")
    batches = [pieces.sizes for pieces in reader.read([small, small, large, small, small], 10)]
    assert batches == [[5, 5], [len(LARGE)], [5, 5]]
    assert [pieces.sizes for pieces in reader.read([small, small], 9)] == [[5], [5]]
    assert list(reader.read([], 10)) == []


@pytest.mark.parametrize("what", ["grown", "shrunk", "same", "gone", "replaced", "link", "directory"])
def test_what_has_changed_cannot_be_had(root: Path, tree: LocalTree, reader: Reader, what: str) -> None:
    item, other = whole(tree, "small"), whole(tree, "d/e/large")
    path = root / "small"
    before = path.stat()
    if what in ("grown", "shrunk", "same"):
        path.write_bytes({"grown": b"smaller", "shrunk": b"s", "same": b"other"}[what])
        os.utime(path, ns=(0, before.st_mtime_ns))
    elif what == "replaced":
        (root / "new").write_bytes(b"small")
        os.utime(root / "new", ns=(0, before.st_mtime_ns))
        (root / "new").rename(path)
    else:
        path.rename(root.parent / "outside")
        if what == "link":
            path.symlink_to(root.parent / "outside")
        elif what == "directory":
            path.mkdir()
    assert read(reader, item, other) == Pieces([-1, len(LARGE)], LARGE)


def test_a_directory_replaced_by_a_link_is_not_followed(root: Path, tree: LocalTree, reader: Reader) -> None:
    item = whole(tree, "d/e/large")
    (root / "d").rename(root.parent / "outside")
    (root / "d").symlink_to(root.parent / "outside")
    assert read(reader, item).sizes == [-1]
    assert reader.hash_blocks(item.path, item.digest, BLOCK, [(0, 1)]) is None


def test_what_the_manifest_does_not_name_cannot_be_had(root: Path, tree: LocalTree, reader: Reader) -> None:
    small = whole(tree, "small")
    (root.parent / "secret").write_bytes(b"small")
    (root / "later").write_bytes(b"small")
    wrong = [
        Piece("small", bytes(16), 0, 5),
        Piece("small", small.digest, 0, 6),
        Piece("small", small.digest, 5, 1),
        Piece("small", small.digest, -1, 1),
        Piece("../secret", small.digest, 0, 5),
        Piece("later", small.digest, 0, 5),
        Piece("d", small.digest, 0, 0),
    ]
    assert read(reader, *wrong) == Pieces([-1] * len(wrong), b"")
    assert reader.hash_blocks("small", bytes(16), BLOCK, [(0, 1)]) is None


def test_a_file_that_changes_while_it_is_read(
    root: Path, tree: LocalTree, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = whole(tree, "small")
    real = os.pread

    def racing(fd: int, count: int, offset: int) -> bytes:
        data = real(fd, count, offset)
        (root / "small").write_bytes(b"raced")
        return data

    monkeypatch.setattr(os, "pread", racing)
    assert read(reader, item).sizes == [-1]


def test_a_file_that_is_cut_while_it_is_read(
    root: Path, tree: LocalTree, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = whole(tree, "d/e/large")
    real = os.pread

    def racing(fd: int, count: int, offset: int) -> bytes:
        os.truncate(root / "d" / "e" / "large", 100)
        return real(fd, count, offset)

    monkeypatch.setattr(os, "pread", racing)
    assert read(reader, item).sizes == [-1]


def test_a_root_that_is_gone_gives_nothing(root: Path, tree: LocalTree, reader: Reader) -> None:
    item = whole(tree, "small")
    root.rename(root.parent / "away")
    assert read(reader, item, item).sizes == [-1, -1]
    assert reader.hash_blocks("small", item.digest, BLOCK, [(0, 1)]) is None


def blocks_of(data: bytes, block_bytes: int) -> list[bytes]:
    return [xxhash.xxh3_128_digest(data[start : start + block_bytes]) for start in range(0, len(data), block_bytes)]


@pytest.mark.parametrize("block_bytes", [BLOCK, 60 * BLOCK, 1 << 20])
def test_hashes_of_blocks(reader: Reader, tree: LocalTree, block_bytes: int) -> None:
    item = whole(tree, "d/e/large")
    expected = blocks_of(LARGE, block_bytes)
    assert reader.hash_blocks(item.path, item.digest, block_bytes, [(0, len(expected))]) == b"".join(expected)


def test_one_read_serves_all(reader: Reader, tree: LocalTree) -> None:
    item = whole(tree, "d/e/large")
    expected = blocks_of(LARGE, BLOCK)
    runs = [(3, 2), (10, 1), (0, 1)]
    wanted = b"".join([*expected[3:5], expected[10], expected[0]])
    assert reader.hash_blocks(item.path, item.digest, BLOCK, runs) == wanted
    read_bytes = reader.hashed_bytes
    assert read_bytes == 3 * BLOCK + 123
    assert reader.hash_blocks(item.path, item.digest, BLOCK, runs) == wanted
    assert reader.hashed_bytes == read_bytes
    assert reader.hash_blocks(item.path, item.digest, BLOCK, [(0, 11)]) == b"".join(expected)


def test_many_threads_get_the_same(reader: Reader, tree: LocalTree) -> None:
    item = whole(tree, "d/e/large")
    answers: list[bytes | None] = []
    threads = [
        threading.Thread(target=lambda: answers.append(reader.hash_blocks(item.path, item.digest, BLOCK, [(0, 11)])))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [b"".join(blocks_of(LARGE, BLOCK))] * 8
    assert reader.hashed_bytes == len(LARGE)


def test_remembered_hashes_are_bounded(root: Path, tree: LocalTree) -> None:
    reader = Reader(root, tree.stat_of, cache_bytes=500)
    large, small = whole(tree, "d/e/large"), whole(tree, "small")
    for _ in range(2):
        assert reader.hash_blocks(large.path, large.digest, BLOCK, [(0, 11)]) is not None
        assert reader.hash_blocks(small.path, small.digest, BLOCK, [(0, 1)]) is not None
    assert reader.hashed_bytes == 2 * (len(LARGE) + 5)  # one is forgotten for the other


@pytest.mark.parametrize("runs", [[(0, 12)], [(11, 1)], [(0, 0)], [(-1, 2)]])
def test_runs_that_are_not_of_the_file_are_the_peers_fault(reader: Reader, tree: LocalTree, runs: list[tuple[int, int]]) -> None:
    item = whole(tree, "d/e/large")
    with pytest.raises(PeerError):
        reader.hash_blocks(item.path, item.digest, BLOCK, runs)


def test_the_most_blocks_of_one_question(reader: Reader, tree: LocalTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_BLOCKS", 11)
    item = whole(tree, "d/e/large")
    assert reader.hash_blocks(item.path, item.digest, BLOCK, [(0, 11)]) is not None
    with pytest.raises(PeerError):
        reader.hash_blocks(item.path, item.digest, BLOCK, [(0, 11), (0, 1)])


def test_a_file_that_changes_while_it_is_hashed_leaves_nothing_behind(
    root: Path, tree: LocalTree, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = whole(tree, "d/e/large")
    real = os.preadv

    def racing(fd: int, buffers: list[memoryview], offset: int) -> int:
        with open(root / "d" / "e" / "large", "r+b") as file:
            file.write(b"?")
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", racing)
    assert reader.hash_blocks(item.path, item.digest, BLOCK, [(0, 11)]) is None
    assert reader.hashed_bytes == 0
    (known,) = reader._cache.values()
    assert not any(known.known)


def test_no_file_stays_open(reader: Reader, tree: LocalTree, root: Path) -> None:
    item, gone = whole(tree, "d/e/large"), whole(tree, "small")
    (root / "small").unlink()
    before = len(os.listdir("/proc/self/fd"))
    read(reader, item, gone)
    reader.hash_blocks(item.path, item.digest, BLOCK, [(0, 11)])
    reader.hash_blocks(gone.path, gone.digest, BLOCK, [(0, 1)])
    batches = reader.read([item, item], 1)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert len(os.listdir("/proc/self/fd")) == before
