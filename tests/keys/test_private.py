"""Private files: modes, atomic steps, bounds, locks."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from zcluster.errors import Busy, InvalidKey
from zcluster.keys.private import STALE_S, locked, make_private_dir, read_private, replace, sweep, write_new


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def _open_umask() -> object:
    """A umask that takes nothing away: the modes must be right by themselves."""
    old = os.umask(0)
    yield
    os.umask(old)


def test_a_directory_is_0700_and_an_open_one_is_closed(tmp_path: Path) -> None:
    assert make_private_dir(tmp_path / "a" / "b") is True
    assert mode_of(tmp_path / "a" / "b") == 0o700
    (tmp_path / "a" / "b").chmod(0o755)
    assert make_private_dir(tmp_path / "a" / "b") is False
    assert mode_of(tmp_path / "a" / "b") == 0o700


def test_a_directory_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidKey, match="not a directory"):
        make_private_dir(tmp_path / "file")
    with pytest.raises(InvalidKey, match="cannot make the directory"):
        make_private_dir(tmp_path / "file" / "below")


def test_a_new_file_is_0600_and_never_replaces(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_new(path, b"one")
    assert (path.read_bytes(), mode_of(path), path.stat().st_nlink) == (b"one", 0o600, 1)
    with pytest.raises(InvalidKey, match="exists already"):
        write_new(path, b"two")
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["x"]


def test_a_dangling_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidKey, match="exists already"):
        write_new(tmp_path / "x", b"secret")
    assert not (tmp_path / "elsewhere").exists()


def test_a_replaced_file_is_0600_and_another_inode(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"one")
    path.chmod(0o644)
    inode = path.stat().st_ino
    replace(path, b"two", mtime_ns=123456789)
    assert (path.read_bytes(), mode_of(path), path.stat().st_mtime_ns) == (b"two", 0o600, 123456789)
    assert path.stat().st_ino != inode
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("call", ["fsync", "link", "replace"])
def test_a_failing_step_leaves_the_old_file_and_no_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    (tmp_path / "old").write_bytes(b"old")

    def fail(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    if call != "link":
        with pytest.raises(InvalidKey, match="No space left") as caught:
            replace(tmp_path / "old", b"new")
        assert "free some space" in caught.value.hint
    if call != "replace":
        with pytest.raises(InvalidKey, match="No space left"):
            write_new(tmp_path / "new", b"new")
    assert os.listdir(tmp_path) == ["old"]
    assert (tmp_path / "old").read_bytes() == b"old"


def test_an_interrupt_while_writing_leaves_no_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_fd: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_new(tmp_path / "new", b"secret")
    assert os.listdir(tmp_path) == []


def test_the_bits_that_are_forbidden_are_refused_with_the_repair(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"data")
    for mode, forbid in ((0o640, 0o077), (0o604, 0o077), (0o620, 0o022), (0o602, 0o022)):
        path.chmod(mode)
        with pytest.raises(InvalidKey, match=f"mode {mode:04o}") as caught:
            read_private(path, 10, forbid=forbid)
        assert caught.value.hint == f"run: chmod 600 {path}"
    path.chmod(0o644)
    assert read_private(path, 10, forbid=0o022)[0] == b"data"


def test_reading_is_bounded_and_needs_a_regular_file(tmp_path: Path) -> None:
    write_new(tmp_path / "x", b"12345")
    assert read_private(tmp_path / "x", 5, forbid=0o077)[0] == b"12345"
    with pytest.raises(InvalidKey, match="larger than 4 bytes"):
        read_private(tmp_path / "x", 4, forbid=0o077)
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path / "fifo", tmp_path):
        with pytest.raises(InvalidKey, match="not a regular file"):
            read_private(path, 5, forbid=0)
    with pytest.raises(FileNotFoundError):
        read_private(tmp_path / "none", 5, forbid=0)
    with pytest.raises(InvalidKey, match="cannot read"):
        read_private(tmp_path / "x" / "y", 5, forbid=0)


def test_a_read_error_is_an_invalid_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_new(tmp_path / "x", b"12345")

    def fail(*_args: object, **_options: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("zcluster.keys.private.open", fail, raising=False)
    with pytest.raises(InvalidKey, match=r"cannot read .*Input/output error"):
        read_private(tmp_path / "x", 5, forbid=0)


def test_a_lock_has_one_holder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path):
        assert mode_of(path) == 0o600
        with pytest.raises(Busy, match="locked by another process") as caught, locked(path, wait_s=0):
            raise AssertionError("two holders")
        assert caught.value.retry_after_s == 1.0
    with locked(path, wait_s=0):
        pass
    with pytest.raises(InvalidKey, match="cannot lock"), locked(tmp_path / "none" / "lock"):
        raise AssertionError("locked nothing")


def test_a_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked(tmp_path / "lock"):
        raise RuntimeError
    with locked(tmp_path / "lock", wait_s=0):
        pass


def test_only_old_temporaries_are_swept(tmp_path: Path) -> None:
    for name in (".a.key.00.tmp", ".b.key.11.tmp", "c.key", "d.tmp"):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (1000.0, 1000.0))
    os.utime(tmp_path / ".b.key.11.tmp", (1001.0, 1001.0))
    assert sweep(tmp_path, 1000.0 + STALE_S) == []
    assert sweep(tmp_path, 1000.5 + STALE_S) == [tmp_path / ".a.key.00.tmp"]
    assert sorted(os.listdir(tmp_path)) == [".b.key.11.tmp", "c.key", "d.tmp"]
