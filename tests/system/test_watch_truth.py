"""Hints and looks together lose no change, whatever inotify does: bursts, deep new trees, an interpreter that stands still.

What a sync process does is done here: look at what was hinted at, again at what was unsettled, and, as its slow clock would,
at everything at the end. The manifest must then be what a fresh look says, and most of it must have come by hints.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zcluster.core.sync.rules import Rules
from zcluster.files.localtree import LocalTree
from zcluster.files.watcher import Watcher

DEADLINE_S = 60.0


class Keeper:
    """A tree that is kept up to date by hints, in a thread of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.hinted = threading.Event()
        self.watcher = Watcher(root, self.hinted.set)
        self.tree = LocalTree(root, Rules(), None)
        self.full_scans = 0
        self._unsettled = self.tree.scan(None).unsettled
        self._closing = False
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._closing:
                self.hinted.wait(0.03)
                self.hinted.clear()
                self.look()
        except BaseException as error:
            self._fault = error

    def look(self) -> None:
        """Look at what was hinted at, and again at what was not settled."""
        dirty = self.watcher.collect()
        if dirty is None:
            self.full_scans += 1
        elif not dirty and not self._unsettled:
            return
        self._unsettled = self.tree.scan(None if dirty is None else dirty | self._unsettled).unsettled

    def until(self, check: Callable[[LocalTree], bool]) -> None:
        """Wait until the tree, kept by hints alone, is as ``check`` wants it."""
        end_s = time.monotonic() + DEADLINE_S
        while not check(self.tree):
            assert self._fault is None, self._fault
            assert time.monotonic() < end_s, "the hints did not lead there"
            time.sleep(0.01)

    def settle(self) -> None:
        """What the slow clock does: one full look, and then what was unsettled, until nothing is."""
        self.close()
        end_s = time.monotonic() + DEADLINE_S
        self._unsettled = self.tree.scan(None).unsettled
        while self._unsettled:
            assert time.monotonic() < end_s, f"{self._unsettled} never settles"
            time.sleep(0.03)
            self._unsettled = self.tree.scan(self._unsettled).unsettled

    def close(self) -> None:
        self._closing = True
        self._thread.join()
        self.watcher.close()
        assert self._fault is None, self._fault

    def assert_nothing_lost(self) -> None:
        fresh = LocalTree(self.root, Rules(), None)
        fresh.scan(None)
        lost = {path for path in fresh.listings if self.tree.listings.get(path) != fresh.listings[path]}
        assert not lost
        assert self.tree.listings.keys() == fresh.listings.keys()
        assert self.tree.root == fresh.root
        assert list(self.tree.verify()) == []


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    root = tmp_path / "tree"
    for number in range(20):
        (root / f"d{number}").mkdir(parents=True)
        for file in range(100):
            (root / f"d{number}" / f"{file}").write_bytes(b"old")
    keeper = Keeper(root)
    assert keeper.watcher.watching, keeper.watcher.reason
    yield keeper
    keeper.close()


def edit(root: Path, program: str) -> None:
    """Run ``program`` in another process, in ``root``: an editor that our interpreter's lock does not hold up."""
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True, timeout=DEADLINE_S)


REPLACE = """
import os
for number in range(10_000):
    directory, file = divmod(number % 2000, 100)
    with open("new", "wb") as out:
        out.write(b"%d" % number)
    os.rename("new", f"d{directory}/{file}")
"""


def test_ten_thousand_files_replaced_by_rename(keeper: Keeper) -> None:
    edit(keeper.root, REPLACE)
    done = threading.Event()

    def replaced(tree: LocalTree) -> bool:
        stat = tree.stat_of("d19/99")
        if stat is not None and stat.size == 4:
            done.set()
        return done.is_set()

    keeper.until(replaced)
    keeper.settle()
    keeper.assert_nothing_lost()


def test_ten_thousand_renames_within_the_tree(keeper: Keeper) -> None:
    edit(
        keeper.root,
        """
import os
for turn in range(5):
    for number in range(2000):
        directory, file = divmod(number, 100)
        os.rename(f"d{(directory + turn) % 20}/{file}{'x' * turn}", f"d{(directory + turn + 1) % 20}/{file}{'x' * (turn + 1)}")
""",
    )
    keeper.until(lambda tree: tree.stat_of("d4/99xxxxx") is not None)
    keeper.settle()
    assert keeper.tree.files == 2000
    keeper.assert_nothing_lost()


def test_a_deep_tree_made_at_once(keeper: Keeper) -> None:
    edit(
        keeper.root,
        """
import os
for tree in range(20):
    path = f"deep{tree}"
    for level in range(20):
        os.mkdir(path)
        with open(f"{path}/file", "w") as out:
            out.write(str(level))
        path = f"{path}/{level}"
""",
    )
    last = "/".join(["deep19", *(str(level) for level in range(19)), "file"])
    keeper.until(lambda tree: tree.stat_of(last) is not None)
    # The new directories are watched too.
    with open(keeper.root / last, "a") as file:
        file.write("more")
    keeper.until(lambda tree: (stat := tree.stat_of(last)) is not None and stat.size == 6)
    keeper.settle()
    keeper.assert_nothing_lost()


def test_an_interpreter_that_stands_still_for_three_seconds(keeper: Keeper) -> None:
    usleep = ctypes.PyDLL(None).usleep  # PyDLL: it keeps the interpreter's lock
    editor = subprocess.Popen(
        [
            sys.executable,
            "-c",
            """
import os
os.read(0, 1)
for number in range(2000):
    directory, file = divmod(number, 100)
    with open(f"d{directory}/{file}", "wb") as out:
        out.write(b"new one")
print("done", flush=True)
os.read(0, 1)
""",
        ],
        cwd=keeper.root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert editor.stdin is not None
        assert editor.stdout is not None
        os.write(editor.stdin.fileno(), b"g")
        usleep(3_000_000)
        assert editor.stdout.readline() == b"done\n"
    finally:
        editor.communicate(b"x", timeout=DEADLINE_S)
    keeper.until(lambda tree: tree.size_bytes == 2000 * len(b"new one"))
    keeper.settle()
    keeper.assert_nothing_lost()
