"""Hints about a tree: which directories they name, and what becomes of them when watching is not possible.

inotify reports what a thread of ours reads, so these tests wait for hints (by a condition, up to a deadline); what must
*not* be hinted at is followed by an edit whose hint is waited for.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("watchdog.observers.inotify_c")

from watchdog.observers import inotify_c

from zcluster.files.watcher import Watcher

DEADLINE_S = 20.0


class Hints:
    """Collects what a watcher says."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self._told = threading.Event()
        self.calls = 0
        self.watcher = Watcher(root, self._on_hint, **settings)

    def _on_hint(self) -> None:
        self.calls += 1
        self._told.set()

    def until(self, enough: Callable[[frozenset[str] | None], bool]) -> frozenset[str] | None:
        """All hints up to the moment when ``enough`` says so of them."""
        seen: frozenset[str] | None = frozenset()
        while not enough(seen):
            assert self._told.wait(DEADLINE_S), f"no further hint after {seen}"
            self._told.clear()
            now = self.watcher.collect()
            seen = None if now is None or seen is None else seen | now
        return seen

    def having(self, *directories: str) -> frozenset[str]:
        seen = self.until(lambda seen: seen is not None and seen >= set(directories))
        assert seen is not None
        return seen

    def everything(self) -> None:
        self.until(lambda seen: seen is None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "tree" / "a" / "b").mkdir(parents=True)
    (tmp_path / "tree" / "c").mkdir()
    (tmp_path / "tree" / ".zcluster").mkdir()
    return tmp_path / "tree"


@pytest.fixture
def watch(root: Path) -> Iterator[Callable[..., Hints]]:
    made: list[Hints] = []

    def start(**settings: Any) -> Hints:
        made.append(Hints(root, **settings))
        return made[-1]

    yield start
    for hints in made:
        hints.watcher.close()


def test_each_kind_of_edit_names_its_directory(root: Path, watch: Callable[..., Hints]) -> None:
    hints = watch()
    assert hints.watcher.watching
    assert hints.watcher.watches == 4
    (root / "a" / "b" / "f").write_bytes(b"1")
    assert hints.having("a/b") == {"a/b"}
    (root / "a" / "b" / "f").chmod(0o600)
    assert hints.having("a/b") == {"a/b"}
    (root / "a" / "b" / "f").rename(root / "c" / "f")
    assert hints.having("a/b", "c") == {"a/b", "c"}
    (root / "c" / "f").unlink()
    assert hints.having("c") == {"c"}
    (root / "top").symlink_to("c")
    assert hints.having("") == {""}


def test_the_own_directory_is_neither_watched_nor_hinted_at(root: Path, watch: Callable[..., Hints]) -> None:
    hints = watch()
    (root / ".zcluster" / "state").write_bytes(b"1")
    (root / ".zcluster").rename(root / ".zcluster2")
    (root / ".zcluster2").rename(root / ".zcluster")
    (root / "c" / "f").write_bytes(b"1")
    assert hints.having("c") <= {"", "c", ".zcluster2"}


def test_the_callback_comes_once_until_the_hints_are_collected(root: Path, watch: Callable[..., Hints]) -> None:
    hints = watch()
    for number in range(20):
        (root / "c" / f"{number}").write_bytes(b"1")
    (root / "a" / "f").write_bytes(b"1")
    assert hints._told.wait(DEADLINE_S)
    end_s = time.monotonic() + DEADLINE_S
    while not hints.watcher._dirty or "a" not in hints.watcher._dirty:
        assert time.monotonic() < end_s
    assert hints.calls == 1
    assert hints.watcher.collect() == frozenset({"a", "c"})
    assert hints.watcher.collect() == frozenset()


def test_a_new_directory_is_watched_and_hinted_at_with_all_beneath(root: Path, watch: Callable[..., Hints]) -> None:
    hints = watch()
    deep = "/".join(str(level) for level in range(20))
    (root / deep).mkdir(parents=True)
    (root / deep / "f").write_bytes(b"1")
    hints.having("", *("/".join(str(level) for level in range(depth)) for depth in range(1, 21)))
    (root / deep / "f").write_bytes(b"2")
    hints.having(deep)


def test_a_moved_directory_is_known_by_its_new_path(root: Path, watch: Callable[..., Hints]) -> None:
    hints = watch()
    (root / "a").rename(root / "c" / "moved")
    assert hints.having("", "c", "c/moved", "c/moved/b") >= {""}
    (root / "c" / "moved" / "b" / "f").write_bytes(b"1")
    assert hints.having("c/moved/b") == {"c/moved/b"}
    (root / "a").mkdir()
    hints.having("", "a")
    (root / "a" / "f").write_bytes(b"1")
    assert hints.having("a") == {"a"}
    assert hints.watcher.watches == 5


def test_a_directory_that_leaves_the_tree_is_no_longer_watched(root: Path, tmp_path: Path, watch: Callable[..., Hints]) -> None:
    hints = watch()
    (root / "a").rename(tmp_path / "outside")
    (root / "c" / "f").write_bytes(b"1")
    hints.having("", "c")
    assert hints.watcher.watches == 2
    (tmp_path / "outside" / "b" / "f").write_bytes(b"1")
    (root / "c" / "f").unlink()
    assert hints.having("c") == {"c"}


def test_a_directory_that_comes_from_outside_is_watched(root: Path, tmp_path: Path, watch: Callable[..., Hints]) -> None:
    hints = watch()
    (tmp_path / "new" / "sub").mkdir(parents=True)
    (tmp_path / "new").rename(root / "c" / "new")
    hints.having("c", "c/new", "c/new/sub")
    (root / "c" / "new" / "sub" / "f").write_bytes(b"1")
    assert hints.having("c/new/sub") == {"c/new/sub"}


def test_what_is_not_covered_is_not_watched(root: Path, watch: Callable[..., Hints]) -> None:
    hints = watch(covers=lambda path: path != "a")
    assert hints.watcher.watches == 2
    (root / "a" / "f").write_bytes(b"1")
    (root / "c" / "f").write_bytes(b"1")
    assert hints.having("c") == {"c"}


def test_a_symlinked_root_is_resolved(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("tree")
    hints = Hints(tmp_path / "link")
    (root / "c" / "f").write_bytes(b"1")
    assert hints.having("c") == {"c"}
    hints.watcher.close()


def test_events_up_to_the_limit_and_beyond(root: Path) -> None:
    watcher = Watcher(root, lambda: None, burst_events=3)
    try:
        for _ in range(3):
            watcher._hint(["a"])
        assert watcher.collect() == frozenset({"a"})
        for _ in range(4):
            watcher._hint(["a"])
        assert watcher.collect() is None
        assert watcher.collect() == frozenset()
    finally:
        watcher.close()


def test_directories_up_to_the_limit_and_beyond(root: Path) -> None:
    watcher = Watcher(root, lambda: None, max_directories=2)
    try:
        watcher._hint(["a", "c"])
        assert watcher.collect() == frozenset({"a", "c"})
        watcher._hint(["a", "c", "a/b"])
        assert watcher.collect() is None
    finally:
        watcher.close()


def test_an_overflow_means_everything(root: Path, watch: Callable[..., Hints]) -> None:
    hints = watch()
    fd = hints.watcher._fd
    assert fd is not None
    overflow = inotify_c.InotifyEvent(inotify_c.WatchDescriptor(-1), inotify_c.InotifyConstants.IN_Q_OVERFLOW, 0, b"")
    fd.handle_event(overflow)
    assert hints.watcher.collect() is None
    assert hints.watcher.watches == 4
    (root / "a" / "b" / "f").write_bytes(b"1")
    hints.having("a/b")


def test_the_end_of_the_root_ends_the_watch(root: Path, tmp_path: Path, watch: Callable[..., Hints]) -> None:
    hints = watch()
    root.rename(tmp_path / "moved")
    hints.everything()
    assert not hints.watcher.watching
    assert hints.watcher.reason == "the root was moved"
    assert hints.watcher.watches == 0


def test_a_root_that_is_removed_ends_the_watch(tmp_path: Path) -> None:
    (tmp_path / "short").mkdir()
    hints = Hints(tmp_path / "short")
    (tmp_path / "short").rmdir()
    hints.everything()
    assert hints.watcher.reason == "the root is gone"
    hints.watcher.close()


def test_a_missing_root_is_no_exception(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path / "none", lambda: None)
    assert not watcher.watching
    assert "root" in watcher.reason
    watcher.close()


def refuse(code: int) -> Callable[..., Any]:
    def fail(*_arguments: Any) -> Any:
        raise OSError(code, "refused")

    return fail


def test_no_instances_left(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inotify_c.InotifyFD, "_create_inotify_fd", refuse(errno.EMFILE))
    watcher = Watcher(root, lambda: None)
    assert not watcher.watching
    assert "max_user_instances" in watcher.reason
    watcher.close()


def test_no_watches_left_at_the_start(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inotify_c.InotifyFD, "_add_callback", refuse(errno.ENOSPC))
    before = threading.active_count()
    watcher = Watcher(root, lambda: None)
    assert not watcher.watching
    assert "max_user_watches" in watcher.reason
    assert threading.active_count() == before


def test_no_watches_left_later(root: Path, watch: Callable[..., Hints], monkeypatch: pytest.MonkeyPatch) -> None:
    hints = watch()
    monkeypatch.setattr(inotify_c.InotifyFD, "_add_callback", refuse(errno.ENOSPC))
    (root / "c" / "new").mkdir()
    hints.everything()
    assert not hints.watcher.watching
    assert "max_user_watches" in hints.watcher.reason


def test_close_ends_its_threads_and_may_be_called_twice(root: Path) -> None:
    before = threading.active_count()
    watcher = Watcher(root, lambda: None)
    assert threading.active_count() > before
    watcher.close()
    watcher.close()
    assert threading.active_count() == before
    assert not watcher.watching
