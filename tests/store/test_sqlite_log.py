"""A log with damage before its end is told from one that a crash has cut off."""

from __future__ import annotations

import os
import random
import sqlite3
from pathlib import Path

import pytest

from zcluster.errors import StoreFailed
from zcluster.store.sqlite_file import StoreFile
from zcluster.store.sqlite_log import FRAME_BYTES, HEADER_BYTES, damaged_log

FRAME = FRAME_BYTES + 4096
COMMITS = 30


def log_after(path: Path, rounds: int = 1) -> Path:
    """A copy of the log of a database after COMMITS commits of a frame or some; before them ``rounds`` - 1 longer logs."""
    with_log = sqlite3.connect(path, isolation_level=None)
    with_log.execute("PRAGMA page_size = 4096")
    with_log.execute("PRAGMA journal_mode = WAL")
    with_log.execute("PRAGMA wal_autocheckpoint = 0")
    with_log.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, body BLOB)")
    for _ in range(rounds - 1):
        for _ in range(2 * COMMITS):
            with_log.execute("INSERT INTO t (body) VALUES (zeroblob(3000))")
        with_log.execute("PRAGMA wal_checkpoint(RESTART)")
    for number in range(COMMITS):
        with_log.execute("INSERT INTO t (body) VALUES (zeroblob(?))", (3000 * (number % 4),))
    copy = path.with_name("copy")
    copy.write_bytes(path.with_name(path.name + "-wal").read_bytes())
    with_log.close()
    return copy


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("rounds", [1, 2])
def test_what_a_crash_leaves_is_whole(tmp_path: Path, rounds: int) -> None:
    log = log_after(tmp_path / "a.db", rounds)
    assert not damaged_log(log)
    data = log.read_bytes()
    dice = random.Random(1)
    for size in (0, 10, HEADER_BYTES, HEADER_BYTES + 5, *(dice.randrange(len(data)) for _ in range(15))):
        log.write_bytes(data[:size])
        assert not damaged_log(log), size
        log.write_bytes(data[:size] + dice.randbytes(2 * FRAME))
        assert not damaged_log(log), size
    log.write_bytes(bytes(len(data)))
    assert not damaged_log(log)
    log.unlink()
    assert not damaged_log(log)


def test_a_bit_of_another_value_before_the_end_is_damage(tmp_path: Path) -> None:
    log = log_after(tmp_path / "a.db")
    data = log.read_bytes()
    places = [0, 8, 17, 25, HEADER_BYTES, *range(HEADER_BYTES + 1, 10 * FRAME, 997)]
    for at in places:
        log.write_bytes(data)
        flip(log, at)
        # The number of the format, and what counts the checkpoints, are checked by the sum alone.
        assert damaged_log(log), at
    log.write_bytes(data)
    flip(log, len(data) - 100)
    assert not damaged_log(log), "the last commit may be one that was cut off"


def test_pieces_of_commits_that_failed_are_no_damage(tmp_path: Path) -> None:
    log = log_after(tmp_path / "a.db")
    data = log.read_bytes()
    frames = [data[at : at + FRAME] for at in range(HEADER_BYTES, len(data), FRAME)]
    # A commit that fits, and then what is left of two others that were written over.
    log.write_bytes(data[: HEADER_BYTES + 2 * FRAME] + frames[5] + frames[6] + frames[9] + frames[2])
    assert not damaged_log(log)


def test_a_store_with_such_a_log_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    log = log_after(path)
    flip(log, HEADER_BYTES + 3 * FRAME)
    os.rename(log, path.with_name("a.db-wal"))
    with pytest.raises(StoreFailed, match=r"a\.db-wal is broken"):
        StoreFile(path)
    assert path.with_name("a.db-wal").exists()
