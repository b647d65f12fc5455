"""The ring's file when it cannot be read for a while: nothing is missed, and the log stays quiet."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from zcluster.errors import InvalidKey
from zcluster.keys import Ring, generate
from zcluster.keys.private import read_private

KEYS = [generate().public for _ in range(3)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ring.json"


def test_a_file_that_could_not_be_read_is_tried_again_until_it_can(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, reader = Ring(path), Ring(path)
    writer.add("stays", "worker", KEYS[0])
    writer.add("goes", "worker", KEYS[1])
    assert reader.reload_if_changed()
    writer.revoke("goes")
    real_open, reason = os.open, [errno.EMFILE]

    def failing_open(*args: object, **options: object) -> int:
        raise OSError(reason[0], os.strerror(reason[0]))

    monkeypatch.setattr(os, "open", failing_open)
    for reason[0] in (errno.EMFILE, errno.EIO):
        with pytest.raises(InvalidKey, match=os.strerror(reason[0])):
            reader.reload_if_changed()
        assert not any(reader.reload_if_changed() for _ in range(3)), "the same reason is told once"
    assert reader.by_public(KEYS[1]) is not None
    monkeypatch.setattr(os, "open", real_open)
    assert reader.reload_if_changed()
    assert reader.by_public(KEYS[1]) is None
    writer.add("new", "worker", KEYS[2])
    monkeypatch.setattr(os, "open", failing_open)
    with pytest.raises(InvalidKey, match=os.strerror(errno.EIO)):
        reader.reload_if_changed()
    assert not reader.reload_if_changed()


def test_a_file_that_cannot_be_read_is_an_error_each_time_it_is_asked_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Ring(path)
    ring.add("w", "worker", KEYS[0])

    def failing_open(*args: object, **options: object) -> int:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(os, "open", failing_open)
    for _ in range(2):
        with pytest.raises(InvalidKey, match=os.strerror(errno.ENOMEM)):
            ring.load()
    assert ring.by_public(KEYS[0]) is not None


def test_a_file_that_became_broken_while_it_was_read_is_not_missed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Ring(path)
    ring.add("w", "worker", KEYS[0])
    good = path.read_bytes()
    path.write_bytes(b"half")

    def read_then_repair(target: Path, limit_bytes: int, *, forbid: int) -> tuple[bytes, os.stat_result]:
        found = read_private(target, limit_bytes, forbid=forbid)
        path.write_bytes(good)
        return found

    with monkeypatch.context() as patched:
        patched.setattr("zcluster.keys.ring.read_private", read_then_repair)
        with pytest.raises(InvalidKey, match="not JSON"):
            ring.reload_if_changed()
    assert ring.reload_if_changed(), "what is there now was never read"
