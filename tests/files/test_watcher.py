"""Hints about a tree: which directories and files they name, and what becomes of them when watching is not possible.

inotify reports what a thread of ours reads, so these tests wait for hints (by a condition, up to a deadline); what must
*not* be hinted at is followed by an edit whose hint is waited for.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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

    def having(self, *paths: str) -> frozenset[str]:
        seen = self.until(lambda seen: seen is not None and seen >= set(paths))
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


def test_each_kind_of_edit_names_its_file(root: Path, watch: Callable[..., Hints]) -> None:
    hints = watch()
    assert hints.watcher.watching
    assert hints.watcher.watches == 4
    (root / "a" / "b" / "f").write_bytes(b"1")
    assert hints.having("a/b/f") == {"a/b/f"}
    (root / "a" / "b" / "f").chmod(0o600)
    assert hints.having("a/b/f") == {"a/b/f"}
    (root / "a" / "b" / "f").rename(root / "c" / "g")
    assert hints.having("a/b/f", "c/g") == {"a/b/f", "c/g"}
    (root / "c" / "g").unlink()
    assert hints.having("c/g") == {"c/g"}
    (root / "top").symlink_to("c")
    assert hints.having("top") == {"top"}


def test_an_edit_of_a_directory_names_the_one_that_it_is_in(root: Path, watch: Callable[..., Hints]) -> None:
    hints = watch()
    (root / "a" / "b").chmod(0o700)
    assert hints.having("a") == {"a"}
    (root / "a" / "b").rmdir()
    assert hints.having("a") == {"a"}
    (root / "c").rename(root / "a" / "b")
    assert hints.having("", "a", "a/b") == {"", "a", "a/b"}


def test_a_name_that_is_no_text_is_hinted_at_as_the_system_gives_it(root: Path, watch: Callable[..., Hints]) -> None:
    hints = watch()
    name = os.fsdecode(b"\xff")
    (root / "c" / name).write_bytes(b"1")
    assert hints.having(f"c/{name}") == {f"c/{name}"}


def test_the_own_directory_is_neither_watched_nor_hinted_at(root: Path, watch: Callable[..., Hints]) -> None:
    hints = watch()
    (root / ".zcluster" / "state").write_bytes(b"1")
    (root / ".zcluster").rename(root / ".zcluster2")
    (root / ".zcluster2").rename(root / ".zcluster")
    (root / "c" / "f").write_bytes(b"1")
    assert hints.having("c/f") <= {"", "c/f", ".zcluster2"}


def test_the_callback_comes_once_until_the_hints_are_collected(root: Path, watch: Callable[..., Hints]) -> None:
    hints = watch()
    for number in range(20):
        (root / "c" / f"{number}").write_bytes(b"1")
    (root / "a" / "f").write_bytes(b"1")
    assert hints._told.wait(DEADLINE_S)
    end_s = time.monotonic() + DEADLINE_S
    while "a/f" not in hints.watcher._files:
        assert time.monotonic() < end_s
    assert hints.calls == 1
    assert hints.watcher.collect() == frozenset({"a/f", *(f"c/{number}" for number in range(20))})
    assert (hints.watcher.collect() or frozenset()) <= {"a/f"}  # its second event, where that had not come yet


@pytest.mark.parametrize("hint", [(["a"], ""), ([], "a/f"), (None, "")])
def test_each_kind_of_hint_is_a_first_one(root: Path, hint: tuple[list[str] | None, str]) -> None:
    calls: list[int] = []
    watcher = Watcher(root, lambda: calls.append(1))
    try:
        for times in (1, 2):
            watcher._hint(*hint)
            watcher._hint(["c"])
            watcher._hint([], "c/f")
            assert len(calls) == times
            watcher.collect()
    finally:
        watcher.close()


def test_a_new_directory_is_watched_and_hinted_at_with_all_beneath(root: Path, watch: Callable[..., Hints]) -> None:
    hints = watch()
    deep = "/".join(str(level) for level in range(20))
    (root / deep).mkdir(parents=True)
    (root / deep / "f").write_bytes(b"1")
    hints.having("", *("/".join(str(level) for level in range(depth)) for depth in range(1, 21)))
    (root / deep / "g").write_bytes(b"2")
    hints.having(f"{deep}/g")


def test_a_moved_directory_is_known_by_its_new_path(root: Path, watch: Callable[..., Hints]) -> None:
    hints = watch()
    (root / "a").rename(root / "c" / "moved")
    assert hints.having("", "c", "c/moved", "c/moved/b") >= {""}
    (root / "c" / "moved" / "b" / "f").write_bytes(b"1")
    assert hints.having("c/moved/b/f") == {"c/moved/b/f"}
    (root / "a").mkdir()
    hints.having("", "a")
    (root / "a" / "f").write_bytes(b"1")
    assert hints.having("a/f") == {"a/f"}
    assert hints.watcher.watches == 5


def test_a_directory_that_leaves_the_tree_is_no_longer_watched(root: Path, tmp_path: Path, watch: Callable[..., Hints]) -> None:
    hints = watch()
    (root / "a").rename(tmp_path / "outside")
    (root / "c" / "f").write_bytes(b"1")
    hints.having("", "c/f")
    assert hints.watcher.watches == 2
    (tmp_path / "outside" / "b" / "f").write_bytes(b"1")
    (root / "c" / "f").unlink()
    assert hints.having("c/f") == {"c/f"}


def test_a_directory_that_comes_from_outside_is_watched(root: Path, tmp_path: Path, watch: Callable[..., Hints]) -> None:
    hints = watch()
    (tmp_path / "new" / "sub").mkdir(parents=True)
    (tmp_path / "new").rename(root / "c" / "new")
    hints.having("c", "c/new", "c/new/sub")
    (root / "c" / "new" / "sub" / "f").write_bytes(b"1")
    assert hints.having("c/new/sub/f") == {"c/new/sub/f"}


def test_what_is_not_covered_is_not_watched(root: Path, watch: Callable[..., Hints]) -> None:
    hints = watch(covers=lambda path: path != "a")
    assert hints.watcher.watches == 2
    (root / "a" / "f").write_bytes(b"1")
    (root / "c" / "f").write_bytes(b"1")
    assert hints.having("c/f") == {"c/f"}


def test_a_symlinked_root_is_resolved(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("tree")
    hints = Hints(tmp_path / "link")
    (root / "c" / "f").write_bytes(b"1")
    assert hints.having("c/f") == {"c/f"}
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


def test_files_up_to_the_limit_and_beyond(root: Path) -> None:
    watcher = Watcher(root, lambda: None, max_files=3, max_directories=2)
    try:
        files = ["a/1", "a/2", "c/1", "a/b/1"]
        for file in [*files[:3], files[0]]:
            watcher._hint([], file)
        assert watcher.collect() == frozenset({"a/1", "a/2", "c/1"})
        for file in [*files[:3], "c/2"]:
            watcher._hint([], file)
        assert watcher.collect() == frozenset({"a", "c"})  # their directories
        for file in [*files[:3], "c/2", "c/3", "a/b/1"]:
            watcher._hint([], file)
        assert watcher.collect() == frozenset({"a", "c", "c/3", "a/b/1"})  # and files again
        for file in files:
            watcher._hint([], file)
        assert watcher.collect() is None  # more directories than may be
        watcher._hint([], "a/1")
        assert watcher.collect() == frozenset({"a/1"})
    finally:
        watcher.close()


def test_what_is_hinted_at_after_everything_is_nothing_more(root: Path) -> None:
    watcher = Watcher(root, lambda: None)
    try:
        watcher._hint(None)
        watcher._hint([], "a/1")
        watcher._hint(["a"])
        assert not watcher._files
        assert watcher.collect() is None
        assert watcher.collect() == frozenset()
    finally:
        watcher.close()


@settings(max_examples=200, deadline=None)
@given(
    hints=st.lists(st.tuples(st.sampled_from(["", "a", "b", "c"]), st.sampled_from(["", "1", "2", "3"])), max_size=14),
    max_files=st.integers(0, 4),
    max_directories=st.integers(0, 4),
)
def test_whatever_becomes_of_a_hint_it_is_still_looked_at(
    hints: list[tuple[str, str]], max_files: int, max_directories: int
) -> None:
    watcher = Watcher(Path("/does/not/exist"), lambda: None, max_files=max_files, max_directories=max_directories)
    for directory, name in hints:
        watcher._hint([] if name else [directory], f"{directory}/{name}" if name else "")
    assert len(watcher._files) <= max_files
    told = watcher.collect()
    if told is None:
        assert len({directory for directory, _ in hints}) > max_directories
        return
    for directory, name in hints:
        assert directory in told or (name and f"{directory}/{name}" in told)


def test_an_overflow_means_everything(root: Path, watch: Callable[..., Hints]) -> None:
    hints = watch()
    fd = hints.watcher._fd
    assert fd is not None
    overflow = inotify_c.InotifyEvent(inotify_c.WatchDescriptor(-1), inotify_c.InotifyConstants.IN_Q_OVERFLOW, 0, b"")
    fd.handle_event(overflow)
    assert hints.watcher.collect() is None
    assert hints.watcher.watches == 4
    (root / "a" / "b" / "f").write_bytes(b"1")
    hints.having("a/b/f")


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
