"""Nothing is reached outside of a root, by whatever path, and however the tree is swapped meanwhile."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zcluster.errors import PeerError, UsageError
from zcluster.files.beneath import HAS_OPENAT2, MAX_PATH_BYTES, MIN_OPEN, Beneath, components, name_fault

WAYS = [pytest.param(False, id="by-component")] + ([pytest.param(True, id="openat2")] if HAS_OPENAT2 else [])
Make = Callable[..., Beneath]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/a/b/c").mkdir(parents=True)
    (tmp_path / "outside/b").mkdir(parents=True)
    (tmp_path / "outside/secret").write_bytes(b"secret")
    return tmp_path / "root"


@pytest.fixture(params=WAYS)
def make(request: pytest.FixtureRequest, root: Path) -> Iterator[Make]:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    made: list[Beneath] = []

    def build(**options: object) -> Beneath:
        made.append(Beneath(fd, openat2=request.param, **options))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for beneath in made:
        beneath.close()
    os.close(fd)


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "/etc", "..", "../x", "a/..", "a/../b", "a//b", "a/", "./a", "a/.", "a\0b", "\ud800"),
        *(".zcluster", ".zcluster/state", "a/.ZCluster/x", ".zclu\ufb06er", "a/" + "x" * 256, "x" * 255 + "/y" * 2000),
    ],
)
def test_hostile_paths_are_refused(path: str, make: Make) -> None:
    with pytest.raises(PeerError):
        components(path)
    with pytest.raises(PeerError):
        make().open(path, os.O_WRONLY | os.O_CREAT)


def test_limits_of_names_and_paths() -> None:
    assert name_fault("x" * 255) == ""
    assert name_fault("é" * 127 + "x") == ""
    assert "255 bytes" in name_fault("é" * 128)
    long = "/".join(["x" * 255] * 16)
    assert len(long) == MAX_PATH_BYTES - 1
    assert len(components(long + "y"[:0])) == 16
    with pytest.raises(PeerError):
        components(long + "/y")


def test_it_works_beneath(make: Make, root: Path) -> None:
    beneath = make()
    beneath.mkdir("a/new", 0o755)
    os.close(beneath.open("a/new/f", os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    assert (root / "a/new/f").is_file()
    assert beneath.lstat("a/new/f").st_size == 0
    os.symlink("../x", root / "a/l")
    assert beneath.readlink("a/l") == "../x"
    beneath.unlink("a/new/f")
    beneath.rmdir("a/new")
    assert not (root / "a/new").exists()
    with pytest.raises(FileNotFoundError):
        beneath.dir_fd("a/new")


def test_no_symbolic_link_is_followed(make: Make, root: Path) -> None:
    os.symlink("../outside", root / "out")
    os.symlink("b", root / "a/in")
    os.symlink(root.parent / "outside", root / "a/b/absolute")
    os.symlink("../outside/secret", root / "leaf")
    beneath = make()
    for path in ("out/secret", "out/b/x", "a/in/c/x", "a/b/absolute/secret", "leaf"):
        with pytest.raises(OSError) as caught:
            beneath.open(path, os.O_RDWR | os.O_CREAT)
        assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR), path
    assert sorted(os.listdir(root.parent / "outside")) == ["b", "secret"]


def test_a_directory_that_becomes_a_link_is_seen_in_the_next_batch(make: Make, root: Path) -> None:
    beneath = make()
    beneath.dir_fd("a/b")
    (root / "a").rename(root / "aside")
    os.symlink("../outside", root / "a")
    beneath.forget()
    with pytest.raises(OSError):
        beneath.dir_fd("a/b")


def test_forgetting_closes_what_is_inside_and_nothing_else(make: Make, root: Path) -> None:
    (root / "a-b").mkdir()
    beneath = make()
    for path in ("a", "a/b", "a/b/c", "a-b"):
        beneath.dir_fd(path)
    beneath.forget("a/b")
    assert beneath.open_count == 2
    beneath.forget("a")
    assert beneath.open_count == 1


def test_open_directories_are_bounded(make: Make, root: Path) -> None:
    for number in range(20):
        (root / f"d{number}").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    beneath = make(max_open=MIN_OPEN)
    for number in range(20):
        held = beneath.dir_fd(f"d{number}")
        assert beneath.dir_fd(f"d{number}") == held
        assert beneath.open_count <= MIN_OPEN
    assert len(os.listdir("/proc/self/fd")) == before + MIN_OPEN
    beneath.close()
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(UsageError):
        make(max_open=MIN_OPEN - 1)


def test_a_forbidden_directory_is_not_entered_by_another_name(make: Make, root: Path) -> None:
    info = (root / "a/b").stat()
    beneath = make(forbidden=frozenset({(info.st_dev, info.st_ino)}))
    with pytest.raises(PeerError):
        beneath.dir_fd("a/b")
    assert beneath.open_count == 0


SWAPPER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
one, two = (os.fsencode(path) for path in sys.argv[1:3])
print("ready", flush=True)
for _ in range(100_000):
    if libc.renameat2(-100, one, -100, two, 2) != 0:
        sys.exit(f"renameat2: {ctypes.get_errno()}")
"""


def test_a_link_swapped_in_a_hundred_thousand_times_leads_nowhere(make: Make, root: Path) -> None:
    os.symlink(root.parent / "outside", root / "a.link")
    beneath = make()
    swapper = subprocess.Popen([sys.executable, "-c", SWAPPER, root / "a", root / "a.link"], stdout=subprocess.PIPE, text=True)
    written = refused = 0
    reasons: set[int | None] = set()
    assert swapper.stdout is not None
    with swapper:
        assert swapper.stdout.readline() == "ready\n"
        while swapper.poll() is None:
            beneath.forget()
            try:
                os.close(beneath.open("a/b/f", os.O_WRONLY | os.O_CREAT))
                written += 1
                os.close(beneath.open("a/g", os.O_WRONLY | os.O_CREAT))
            except OSError as error:
                reasons.add(error.errno)
                refused += 1
    assert swapper.returncode == 0
    assert written > 0
    assert refused > 0
    assert reasons <= {errno.ELOOP, errno.ENOTDIR, errno.EAGAIN}
    assert sorted(os.listdir(root.parent / "outside")) == ["b", "secret"]
    assert os.listdir(root.parent / "outside/b") == []
