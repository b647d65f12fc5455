"""A disk that a test fills: a small tmpfs, mounted where that is permitted."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@contextmanager
def small_disk(place: Path, size_bytes: int) -> Iterator[None]:
    """A file system of ``size_bytes`` at ``place``, with what is there."""
    aside = place.with_name("aside")
    place.rename(aside)
    place.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=700", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this system cannot mount a small file system")
    try:
        shutil.copytree(aside, place, dirs_exist_ok=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path) -> Path:
    """Let nothing be free on the disk of ``place``; the file to remove."""
    ballast = place / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    continue
    return ballast
