"""Putting large files together: only what differs is fetched, a cut is resumed, and a wrong whole is never given out."""

from __future__ import annotations

import errno
import os
import random
import stat
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zcluster.core.sync.blocks import BLOCK_BYTES, CHUNK_BLOCKS, CHUNK_BYTES
from zcluster.errors import PeerError, UsageError, ZClusterError
from zcluster.files import durable
from zcluster.files import patch as patching
from zcluster.files.patch import Patch

MIB = 1 << 20


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def hashes(data: bytes, unit_bytes: int) -> bytes:
    return b"".join(xxhash.xxh3_128_digest(data[at : at + unit_bytes]) for at in range(0, len(data), unit_bytes))


def missing_of(patch: Patch, data: bytes) -> list[tuple[int, int]]:
    """What is to be fetched, when all that is here has been compared."""
    if not patch.needs_hashes:
        return [(at, min(MIB, len(data) - at)) for at in range(0, len(data), MIB)]
    ranges: list[tuple[int, int]] = []
    for chunk in patch.coarse(hashes(data, CHUNK_BYTES)):
        part = data[chunk * CHUNK_BYTES : (chunk + 1) * CHUNK_BYTES]
        ranges += patch.fine(chunk * CHUNK_BLOCKS, hashes(part, BLOCK_BYTES))
    return ranges


def fetch(patch: Patch, data: bytes) -> int:
    """Do all that a sink does; returns how many bytes were fetched."""
    ranges = missing_of(patch, data)
    for offset, size in ranges:
        patch.write(offset, data[offset : offset + size])
    patch.finish()
    return sum(size for _offset, size in ranges)


def replace(bench: Any, treedir: Any, data: bytes) -> int:
    """Make ``big`` of the tree ``data``; returns how many bytes were fetched."""
    staging = bench.staging(treedir)
    fetched = fetch(staging.begin("big", bench.file("big", data, 0o640)), data)
    assert staging.commit(bench.steps(), b"s").paths == ["big"]
    info = (bench.root / "big").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_mtime_ns, info.st_nlink) == (0o640, bench.file("", b"").mtime_ns, 1)
    assert bench.staged() == []
    assert (bench.root / "big").read_bytes() == data
    return fetched


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * MIB + 5])
def test_a_new_file_is_fetched_in_order_and_not_read_again(bench: Any, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.delattr(os, "preadv")
    assert replace(bench, bench.open(), noise(size)) == size


def test_a_file_written_out_of_order_is_read_again_and_right(bench: Any) -> None:
    data = noise(3 * MIB)
    staging = bench.staging(bench.open())
    patch = staging.begin("d/big", bench.file("big", data))
    for part in (1, 0, 2):
        patch.write(part * MIB, data[part * MIB : (part + 1) * MIB])
    patch.finish()
    staging.commit(bench.steps(make_dirs=[("d", 0o755)]), b"s")
    assert bench.contents()["d/big"] == data


def test_only_blocks_that_differ_are_fetched(bench: Any) -> None:
    treedir, data = bench.open(), bytearray(noise(3 * MIB + 100))
    replace(bench, treedir, bytes(data))
    for at in (0, 5 * BLOCK_BYTES + 17, 2 * MIB, len(data) - 1):
        data[at] ^= 1
    assert replace(bench, treedir, bytes(data)) == 3 * BLOCK_BYTES + len(data) % BLOCK_BYTES
    assert replace(bench, treedir, bytes(data)) == 0


@pytest.mark.parametrize("shift", [1, 4096, 300_001])
def test_an_insertion_and_a_removal_cost_their_own_size(bench: Any, shift: int) -> None:
    treedir, data = bench.open(), noise(4 * MIB)
    replace(bench, treedir, data)
    longer = data[: 2 * MIB] + noise(shift, 9) + data[2 * MIB :]
    assert replace(bench, treedir, longer) <= shift + 2 * BLOCK_BYTES
    assert replace(bench, treedir, data) <= 2 * BLOCK_BYTES


def test_growing_and_shrinking_at_the_end(bench: Any) -> None:
    treedir, data = bench.open(), noise(2 * MIB)
    replace(bench, treedir, data)
    assert replace(bench, treedir, data + b"more") <= BLOCK_BYTES
    assert replace(bench, treedir, data[:MIB]) == 0
    assert replace(bench, treedir, noise(100, 5)) == 100
    assert replace(bench, treedir, b"") == 0


@given(st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_edit_leads_to_the_new_file(tmp_path_factory: pytest.TempPathFactory, bench: Any, data: st.DataObject) -> None:
    bench.close()
    bench.root = tmp_path_factory.mktemp("tree")
    treedir = bench.open()
    old = noise(data.draw(st.integers(0, 5 * BLOCK_BYTES)), 3)
    replace(bench, treedir, old)
    begin = data.draw(st.integers(0, len(old)))
    end = data.draw(st.integers(begin, len(old)))
    replace(bench, treedir, old[:begin] + noise(data.draw(st.integers(0, 2 * BLOCK_BYTES)), 4) + old[end:])


def test_a_cut_is_resumed_where_it_stopped(bench: Any) -> None:
    data = noise(4 * MIB)
    treedir = bench.open()
    staging = bench.staging(treedir)
    patch = staging.begin("big", bench.file("big", data))
    assert not patch.needs_hashes
    patch.write(0, data[: 3 * MIB])
    staging.abandon()
    with pytest.raises(UsageError):
        patch.write(0, b"x")
    bench.close()
    treedir = bench.open()
    assert replace(bench, treedir, data) <= MIB + BLOCK_BYTES


def test_a_finished_file_that_was_not_committed_is_found_again(bench: Any) -> None:
    data = noise(2 * MIB)
    staging = bench.staging(bench.open())
    patch = staging.begin("big", bench.file("big", data, 0o400))
    fetch(patch, data)
    with pytest.raises(UsageError):
        patch.finish()
    bench.close()
    assert replace(bench, bench.open(), data) == 0


def test_a_partial_file_is_trusted_in_nothing_but_its_hashes(bench: Any) -> None:
    data = noise(2 * MIB)
    treedir = bench.open()
    name = f"part.{bench.file('', data).digest.hex()}.0"
    stage = bench.root / ".zcluster/stage"
    (stage / name).write_bytes(noise(5 * MIB, 8))
    assert replace(bench, treedir, data) == len(data)
    os.symlink("/etc/passwd", stage / name)
    assert replace(bench, treedir, data) == 0
    outside = bench.home / "outside"
    outside.write_bytes(b"mine")
    os.link(outside, stage / name)
    fetch(bench.staging(treedir).begin("new", bench.file("new", data)), data)
    assert outside.read_bytes() == b"mine"


def test_two_files_of_one_content_at_once(bench: Any) -> None:
    data = noise(MIB)
    staging = bench.staging(bench.open())
    one, two = staging.begin("one", bench.file("one", data)), staging.begin("two", bench.file("two", data))
    assert one.name != two.name
    fetch(one, data)
    three = staging.begin("three", bench.file("three", data))
    assert len({one.name, two.name, three.name}) == 3
    fetch(two, data)
    fetch(three, data)
    assert staging.commit(bench.steps(), b"s").errors == []
    assert bench.contents() == {"one": data, "two": data, "three": data}


def test_a_wrong_whole_is_never_given_out_and_then_fetched_anew(bench: Any) -> None:
    """As when a block's hash collides, or the file changed between its hashes and its digest."""
    treedir, old, new = bench.open(), noise(MIB), noise(MIB, 2)
    replace(bench, treedir, old)
    staging = bench.staging(treedir)
    patch = staging.begin("big", bench.file("big", new))
    assert patch.coarse(hashes(old, CHUNK_BYTES)) == []
    with pytest.raises(PeerError):
        patch.finish()
    assert bench.staged() == []
    assert (bench.root / "big").read_bytes() == old
    again = bench.staging(treedir).begin("big", bench.file("big", new))
    assert not again.needs_hashes
    again.write(0, new)
    again.finish()
    assert treedir.distrusted == set()


def test_a_wrong_byte_in_order_is_found(bench: Any) -> None:
    data = noise(MIB)
    patch = bench.staging(bench.open()).begin("big", bench.file("big", data))
    patch.write(0, data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(PeerError):
        patch.finish()
    assert bench.staged() == []


def test_a_file_that_is_not_complete_is_not_finished(bench: Any) -> None:
    data = noise(MIB)
    patch = bench.staging(bench.open()).begin("big", bench.file("big", data))
    patch.write(0, data[: MIB // 2])
    with pytest.raises(PeerError):
        patch.finish()


def test_what_lies_beyond_the_file_is_refused(bench: Any) -> None:
    data = noise(CHUNK_BYTES + 1)
    treedir = bench.open()
    replace(bench, treedir, noise(CHUNK_BYTES + 1, 2))
    patch = bench.staging(treedir).begin("big", bench.file("big", data))
    for offset, size in ((-1, 1), (len(data), 1), (0, len(data) + 1), (1 << 60, 1)):
        with pytest.raises(PeerError):
            patch.write(offset, bytes(size))
    patch.write(len(data), b"")
    assert patch.chunks == 2
    for call in (
        lambda: patch.coarse(bytes(48)),
        lambda: patch.coarse(bytes(16), 2),
        lambda: patch.coarse(bytes(15)),
        lambda: patch.coarse(bytes(16), -1),
        lambda: patch.fine(CHUNK_BLOCKS, bytes(32)),
        lambda: patch.fine(-1, bytes(16)),
        lambda: patch.fine(0, bytes(17)),
    ):
        with pytest.raises(PeerError):
            call()
    assert patch.fine(0, bytes(16 * (CHUNK_BLOCKS + 1))) == [(0, len(data))]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("call", ["reserve", "pwrite_all"])
def test_a_full_disk_sweeps_everything_and_says_what_to_do(
    bench: Any, monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    treedir, old, new = bench.open(), noise(MIB), noise(MIB, 2)
    replace(bench, treedir, old)
    staging = bench.staging(treedir)
    staging.put("f", bench.file("f", b"x"), b"x")

    def full(*_arguments: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(durable, call, full)
    with pytest.raises(ZClusterError) as caught:
        staging.begin("big", bench.file("big", new)).write(0, new)
    assert caught.value.hint
    assert bench.staged() == []
    assert bench.contents() == {"big": old}
    monkeypatch.undo()
    assert replace(bench, treedir, new) == len(new)


def test_space_is_reserved_before_anything_is_written(bench: Any) -> None:
    data = noise(2 * MIB)
    patch = bench.staging(bench.open()).begin("big", bench.file("big", data))
    info = (bench.root / ".zcluster/stage" / patch.name).stat()
    assert info.st_size == len(data)
    assert info.st_blocks * 512 >= len(data)


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_what_is_no_file_is_not_compared(bench: Any, kind: str) -> None:
    treedir, data = bench.open(), noise(MIB)
    (bench.home / "outside").write_bytes(data)
    place: Path = bench.root / "big"
    if kind == "link":
        os.symlink("../outside", place)
    elif kind == "fifo":
        os.mkfifo(place)
    else:
        place.mkdir()
    patch = bench.staging(treedir).begin("big", bench.file("big", data))
    assert not patch.needs_hashes


def test_an_old_file_that_shrinks_meanwhile_is_no_harm(bench: Any) -> None:
    treedir, old = bench.open(), noise(3 * MIB)
    replace(bench, treedir, old)
    staging = bench.staging(treedir)
    new = old[:-1] + b"!"
    patch = staging.begin("big", bench.file("big", new))
    os.truncate(bench.root / "big", MIB)
    ranges = missing_of(patch, new)
    assert sum(size for _offset, size in ranges) > MIB
    for offset, size in ranges:
        patch.write(offset, new[offset : offset + size])
    patch.finish()


def test_memory_is_a_chunk_however_large_the_file(bench: Any) -> None:
    treedir, data = bench.open(), noise(24 * MIB)
    replace(bench, treedir, data)
    changed = data[:-1] + b"!"
    coarse, entry = hashes(changed, CHUNK_BYTES), bench.file("big", changed)
    patch = bench.staging(treedir).begin("big", entry)
    tracemalloc.start()
    (last,) = patch.coarse(coarse)
    ranges = patch.fine(last * CHUNK_BLOCKS, hashes(changed[last * CHUNK_BYTES :], BLOCK_BYTES))
    ((offset, size),) = ranges
    patch.write(offset, changed[offset : offset + size])
    patch.finish()
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * CHUNK_BYTES
    assert patch.bytes_kept == len(data) - size


def test_an_up_tree_compares_by_its_own_hash(bench: Any) -> None:
    bench.hash_name = "blake2b_256"
    treedir, data = bench.open(), noise(MIB)
    replace(bench, treedir, data)
    assert replace(bench, treedir, data + b"x") <= BLOCK_BYTES
    with pytest.raises(PeerError):
        bench.staging(treedir).begin("big", type(bench.file("", b""))("big", "f", 1, 0, 0, bytes(16)))


def test_so_many_of_one_content_are_bounded(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patching, "_SAME_NAME_MAX", 2)
    staging, entry = bench.staging(bench.open()), bench.file("big", noise(100))
    for path in ("one", "two"):
        staging.begin(path, entry)
    with pytest.raises(UsageError):
        staging.begin("three", entry)


def test_old_blocks_are_shared_where_the_file_system_can(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone stands in for FICLONE, which few file systems have: what matches in place is not written again."""
    written: list[int] = []
    pwrite_all = durable.pwrite_all

    def clone(patch: Patch) -> bool:
        pwrite_all(patch._out_fd, os.pread(patch._old_fd, 1 << 30, 0), 0)
        return True

    def counted(fd: int, data: Any, offset: int) -> None:
        written.append(len(data))
        pwrite_all(fd, data, offset)

    treedir, data = bench.open(), noise(4 * MIB)
    replace(bench, treedir, data)
    monkeypatch.setattr(Patch, "_clone", clone)
    monkeypatch.setattr(durable, "pwrite_all", counted)
    changed = data[:MIB] + b"!" + data[MIB + 1 :]
    assert replace(bench, treedir, changed) == sum(written) == BLOCK_BYTES
    written.clear()
    longer = data[: 2 * MIB] + noise(5000, 9) + data[2 * MIB :]
    assert replace(bench, treedir, longer) <= 3 * BLOCK_BYTES
    assert sum(written) < 2 * MIB + CHUNK_BYTES
    assert replace(bench, treedir, data) <= 2 * BLOCK_BYTES


def test_a_disk_without_reservations_is_written_all_the_same(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_arguments: int) -> int:
        durable.ctypes.set_errno(errno.EOPNOTSUPP)
        return -1

    monkeypatch.setattr(durable, "_FALLOCATE", unsupported)
    assert replace(bench, bench.open(), noise(MIB)) == MIB
