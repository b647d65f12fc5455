"""A journal is whole or it is none, and what a file holds never makes reading it raise."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zcluster.errors import UsageError
from zcluster.files import durable, journal
from zcluster.files.journal import Record


def record(**changes: object) -> Record:
    whole = Record(
        version=3,
        token=b"t" * 16,
        owner=None,
        respelled=[],
        away_files=[],
        away_dirs=[],
        make_dirs=[("d", 0o755)],
        renames=[("d", [("s.1", "f")])],
        touches=[("g", False, 0o600, 5)],
        delete_files=["h"],
        delete_dirs=["e"],
        state=b"after",
    )
    return msgspec.structs.replace(whole, **changes)


@pytest.fixture
def control(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_it_is_read_as_it_was_written(control: int) -> None:
    assert journal.read(control) is None
    journal.write(control, record())
    assert journal.read(control) == record()
    journal.write(control, record(delete_files=[]))
    assert journal.read(control) == record(delete_files=[])
    journal.remove(control)
    journal.remove(control)
    assert journal.read(control) is None


def test_every_torn_length_is_no_journal() -> None:
    data = journal.encode(record())
    assert journal.decode(data) == record()
    for size in range(len(data)):
        assert journal.decode(data[:size]) is None
    assert journal.decode(data + b"x") is None


def test_every_flipped_byte_is_no_journal() -> None:
    data = bytearray(journal.encode(record()))
    for at in range(len(data)):
        data[at] ^= 0x40
        assert journal.decode(bytes(data)) is None
        data[at] ^= 0x40


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_without_an_error(data: bytes) -> None:
    assert journal.decode(data) is None
    framed = journal._framed(journal._MAGIC, data)
    assert journal.decode(framed) is None


@pytest.mark.parametrize("staged", ["../x", "/etc/passwd", "..", "", "a/b"])
def test_a_name_that_leads_elsewhere_is_no_journal(staged: str) -> None:
    assert journal.decode(journal.encode(record(renames=[("", [("s.1", "f")])]))) is not None
    assert journal.decode(journal.encode(record(renames=[("", [(staged, "f")])]))) is None
    assert journal.decode(journal.encode(record(renames=[("", [("s.1", staged)])]))) is None


def test_too_much_is_refused_before_anything_is_written(control: int, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(journal.encode(record()))
    monkeypatch.setattr(journal, "MAX_JOURNAL_BYTES", size)
    journal.write(control, record())
    journal.remove(control)
    with pytest.raises(UsageError):
        journal.write(control, record(version=3, delete_files=["hh"]))
    assert os.listdir(control) == []


def test_a_full_disk_leaves_no_journal(control: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        journal.write(control, record())
    assert os.listdir(control) == []


def test_the_state_is_replaced_in_one_step(control: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert journal.read_state(control) == journal.Stored(b"", None)
    journal.write_state(control, b"1" * 16, b"one")
    journal.write_state(control, b"2" * 16, None)
    assert journal.read_state(control) == journal.Stored(b"2" * 16, None)
    journal.write_state(control, b"3" * 16, b"three")

    def failing(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="Input/output"):
        journal.write_state(control, b"4" * 16, b"four")
    assert journal.read_state(control).state == b"three"
    assert os.listdir(control) == [journal.STATE_NAME]


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_a_damaged_state_is_no_state(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    place = tmp_path_factory.getbasetemp() / "states"
    place.mkdir(exist_ok=True)
    fd = os.open(place, os.O_RDONLY)
    try:
        for content in (data, journal._framed(journal._STATE_MAGIC, data)):
            (place / journal.STATE_NAME).write_bytes(content)
            assert journal.read_state(fd) == journal.Stored(b"", None)
    finally:
        os.close(fd)


def test_reading_is_bounded_and_never_blocks(control: int, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    os.symlink("/etc/passwd", tmp_path / "link")
    os.mkdir(tmp_path / "dir")
    (tmp_path / "long").write_bytes(b"12345")
    for name in ("fifo", "link", "dir", "none"):
        assert durable.read_file(control, name, 100) is None
    assert durable.read_file(control, "long", 5) == b"12345"
    assert durable.read_file(control, "long", 4) is None
