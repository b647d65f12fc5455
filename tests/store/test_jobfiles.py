"""The files of large arguments and results: kept whole or not at all, checked when read, swept when nobody names them."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from zcluster.errors import StoreFailed
from zcluster.process.failpoints import VARIABLE
from zcluster.store.jobfiles import JobFiles


@pytest.fixture
def files(tmp_path: Path) -> Iterator[JobFiles]:
    files = JobFiles(tmp_path / "jobs.files")
    yield files
    files.close()


def listed(files: JobFiles) -> set[str]:
    return set(os.listdir(files.directory))


def test_what_is_kept_can_be_read(files: JobFiles) -> None:
    bodies = [b"one", b"", b"x" * 3_000_000, b"one"]
    names = files.keep(bodies)
    assert [files.read(name) for name in names] == bodies
    assert len(set(names)) == 4, "the same content twice is two files: each is removed with its own row"
    assert files.names() == listed(files) == set(names)
    assert files.keep([]) == []


def test_files_are_private_and_named_by_their_digest(files: JobFiles) -> None:
    [name] = files.keep([b"secret"])
    path = files.directory / name
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(files.directory.stat().st_mode) == 0o700
    assert re.fullmatch(r"[0-9a-f]{16}-[0-9a-f]{32}", name)
    assert name.endswith(hashlib.blake2b(b"secret", digest_size=16).hexdigest())


def test_it_is_there_for_who_opens_next(files: JobFiles) -> None:
    names = files.keep([b"one", b"two"])
    again = JobFiles(files.directory)
    assert [again.read(name) for name in names] == [b"one", b"two"]
    again.close()


def test_a_missing_file_is_told(files: JobFiles) -> None:
    [name] = files.keep([b"one"])
    files.remove([name])
    with pytest.raises(StoreFailed, match=f"{name} of a job is missing") as error:
        files.read(name)
    assert error.value.hint


@pytest.mark.parametrize("damage", [b"", b"onf", b"one ", b"on"])
def test_a_damaged_file_is_told(files: JobFiles, damage: bytes) -> None:
    [name] = files.keep([b"one"])
    (files.directory / name).write_bytes(damage)
    with pytest.raises(StoreFailed, match="damaged"):
        files.read(name)


def test_a_link_is_not_followed(files: JobFiles, tmp_path: Path) -> None:
    [name] = files.keep([b"one"])
    (files.directory / name).rename(tmp_path / "elsewhere")
    (files.directory / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreFailed):
        files.read(name)


@pytest.mark.parametrize("name", ["", "../jobs.db", "/etc/passwd", "a", f"{'0' * 16}-{'0' * 32}/x", f"{'0' * 16}-{'0' * 32}\n"])
def test_a_name_of_another_kind_is_refused(files: JobFiles, name: str) -> None:
    with pytest.raises(StoreFailed, match="is no file of a job"):
        files.read(name)
    with pytest.raises(StoreFailed, match="is no file of a job"):
        files.remove([name])


def test_removing_twice_is_no_error(files: JobFiles) -> None:
    one, two = files.keep([b"one", b"two"])
    files.remove([one])
    files.remove([one, two])
    assert listed(files) == set()


def test_orphans_are_swept(files: JobFiles) -> None:
    one, two, three = files.keep([b"one", b"two", b"three"])
    (files.directory / f"{'a' * 16}.new").write_bytes(b"half")
    (files.directory / "README").write_bytes(b"somebody's")
    assert files.sweep({two}) == 3
    assert listed(files) == {two, "README"}
    assert files.names() == {two}
    assert files.sweep({two, one, three}) == 0


def failing(monkeypatch: pytest.MonkeyPatch, name: str, at: int, number: int) -> None:
    """The ``at``th call of os.NAME fails."""
    real: Callable[..., Any] = getattr(os, name)
    calls = 0

    def call(*args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError(number, os.strerror(number))
        return real(*args, **more)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize(
    ("name", "at"), [("open", 2), ("write", 1), ("write", 2), ("fsync", 1), ("fsync", 2), ("fsync", 3), ("rename", 2)]
)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failing_disk_leaves_nothing(files: JobFiles, monkeypatch: pytest.MonkeyPatch, name: str, at: int, number: int) -> None:
    [before] = files.keep([b"before"])
    with monkeypatch.context() as patch:
        failing(patch, name, at, number)
        with pytest.raises(StoreFailed, match="disk is full" if number == errno.ENOSPC else "writing the files of jobs failed"):
            files.keep([b"one", b"two"])
    assert listed(files) == {before}
    [after] = files.keep([b"after"])
    assert files.read(after) == b"after"


def test_short_writes_go_on(files: JobFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
        [name] = files.keep([b"0123456789"])
    assert files.read(name) == b"0123456789"


def test_each_file_and_the_directory_are_synced_before_it_returns(files: JobFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    real_sync, real_rename = os.fsync, os.rename

    def sync(fd: int) -> None:
        steps.append("directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        real_sync(fd)

    def rename(*args: Any, **more: Any) -> None:
        steps.append("rename")
        real_rename(*args, **more)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", rename)
    files.keep([b"one", b"two"])
    assert steps == ["file", "rename", "file", "rename", "directory"]


def test_what_cannot_be_a_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name in ("file", "link", "no/such"):
        with pytest.raises(StoreFailed, match="opening the files of jobs"):
            JobFiles(tmp_path / name)


@pytest.mark.parametrize(
    ("point", "kept"), [("queue.file.before_rename", {b"one"}), ("queue.file.after_rename", {b"one", b"two"})]
)
def test_a_crash_leaves_whole_files_and_what_is_swept(files: JobFiles, point: str, kept: set[bytes]) -> None:
    program = (
        "import pathlib, sys\nfrom zcluster.store.jobfiles import JobFiles\n"
        "JobFiles(pathlib.Path(sys.argv[1])).keep([b'one', b'two'])\n"
    )
    environment = {**os.environ, VARIABLE: f"{point}:2"}
    ended = subprocess.run([sys.executable, "-c", program, str(files.directory)], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert {files.read(name) for name in files.names()} == kept
    assert files.sweep(set()) == 2
    assert listed(files) == set()
