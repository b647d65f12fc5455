"""Workers' copies merged into one directory: places, conflicts, what is not from a worker, and faults."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zcluster.core.sync.entry import FILE, Change, Entry
from zcluster.core.sync.ownership import Conflict
from zcluster.errors import UsageError
from zcluster.files import merged
from zcluster.files.merged import MergedTree
from zcluster.files.treedir import TreeDir

NEW = Entry("x", FILE, 0, 0, 0, b"")


class Desk:
    """A merged tree and its workers' copies."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.open()

    def open(self) -> None:
        self.treedir = TreeDir(self.root, "logs", create=True)
        self.treedir.recover()
        self.tree = MergedTree(self.treedir)

    def close(self) -> None:
        self.tree.close()
        self.treedir.close()

    def copy(self, worker: str, path: str) -> Path:
        return self.root / ".zcluster" / "workers" / worker / path

    def put(self, worker: str, path: str, data: str) -> Change:
        """As a sink does: a new file, renamed over."""
        place = self.copy(worker, path)
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.root / ".zcluster" / "stage" / "t"
        temporary.write_text(data)
        temporary.rename(place)
        return Change(path, None, NEW)

    def drop(self, worker: str, path: str) -> Change:
        self.copy(worker, path).unlink()
        return Change(path, NEW, None)

    def seen(self) -> dict[str, str]:
        """The merged files, as a user sees them."""
        found = {}
        for directory, names, files in os.walk(self.root):
            names[:] = [name for name in names if name != ".zcluster"]
            for name in files:
                path = Path(directory, name)
                found[str(path.relative_to(self.root))] = os.readlink(path) if path.is_symlink() else path.read_text()
        return found


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "merged")
    yield desk
    desk.close()


def test_files_of_workers_come_together(desk: Desk) -> None:
    result = desk.tree.apply("w1", [desk.put("w1", "a", "1"), desk.put("w1", "d/e/b", "2")])
    assert (result.placed, result.errors, result.conflicts) == (2, [], [])
    desk.tree.apply("w2", [desk.put("w2", "d/c", "3")])
    assert desk.seen() == {"a": "1", "d/e/b": "2", "d/c": "3"}
    assert (desk.root / "a").stat().st_ino == desk.copy("w1", "a").stat().st_ino, "no space is taken twice"
    desk.tree.apply("w1", [desk.put("w1", "a", "changed"), desk.drop("w1", "d/e/b")])
    assert desk.seen() == {"a": "changed", "d/c": "3"}
    assert not (desk.root / "d/e").exists()
    assert list((desk.root / ".zcluster/stage").iterdir()) == []


def test_the_first_keeps_its_place_and_the_next_gets_it(desk: Desk) -> None:
    desk.tree.apply("w1", [desk.put("w1", "a", "1")])
    result = desk.tree.apply("w2", [desk.put("w2", "a", "2")])
    assert result.conflicts == desk.tree.conflicts() == [Conflict("a", "w2", "w1", "a")]
    assert desk.seen() == {"a": "1"}
    desk.tree.apply("w1", [desk.drop("w1", "a")])
    assert desk.seen() == {"a": "2"}
    assert desk.tree.conflicts() == []


def test_owners_survive_a_restart(desk: Desk) -> None:
    desk.tree.apply("w2", [desk.put("w2", "a", "2")])
    desk.tree.apply("w1", [desk.put("w1", "a", "1")])
    desk.close()
    desk.open()
    result = desk.tree.merge_all(["w1", "w2"])
    assert (result.placed, result.removed, result.errors) == (0, 0, [])
    assert desk.seen() == {"a": "2"}
    assert desk.tree.conflicts() == [Conflict("a", "w1", "w2", "a")]


def test_what_is_not_from_a_worker_is_never_touched(desk: Desk) -> None:
    (desk.root / "a").write_text("mine")
    (desk.root / "d").write_text("mine too")
    (desk.root / "e/f").mkdir(parents=True)
    (desk.root / "e/f/g").write_text("and mine")
    (desk.root / "l").symlink_to("e")
    before = desk.seen()
    changes = [desk.put("w1", path, "w1") for path in ("a", "d/x", "e/f", "l/y")]
    result = desk.tree.apply("w1", changes)
    assert desk.seen() == before
    assert result.conflicts == [
        Conflict(path, "w1", "", at) for path, at in (("a", "a"), ("d/x", "d"), ("e/f", "e/f"), ("l/y", "l"))
    ]
    assert [conflict.path for conflict in desk.tree.conflicts()] == ["a", "d/x", "e/f", "l/y"]
    desk.tree.apply("w1", [desk.drop("w1", path) for path in ("a", "d/x")])
    assert desk.seen() == before
    for path in ("e/f/g", "l"):
        (desk.root / path).unlink()
    desk.tree.merge_all(["w1"])
    assert desk.seen() == {"a": "mine", "d": "mine too", "e/f": "w1", "l/y": "w1"}


def test_what_was_put_over_a_workers_file_by_hand_stays(desk: Desk) -> None:
    desk.tree.apply("w1", [desk.put("w1", "a", "1")])
    (desk.root / "a").unlink()
    (desk.root / "a").write_text("by hand")
    assert desk.tree.apply("w1", [desk.put("w1", "a", "2")]).conflicts == [Conflict("a", "w1", "", "a")]
    desk.tree.merge_all(["w1"])
    desk.tree.apply("w1", [desk.drop("w1", "a")])
    assert desk.seen() == {"a": "by hand"}


def test_what_was_removed_by_hand_comes_back(desk: Desk) -> None:
    desk.tree.apply("w1", [desk.put("w1", "d/a", "1")])
    (desk.root / "d/a").unlink()
    assert desk.tree.merge_all(["w1"]).placed == 1
    assert desk.seen() == {"d/a": "1"}


def test_a_file_and_a_directory_of_one_name(desk: Desk) -> None:
    desk.tree.apply("w1", [desk.put("w1", "x", "file")])
    result = desk.tree.apply("w2", [desk.put("w2", "x/y", "beneath")])
    assert result.conflicts == desk.tree.conflicts() == [Conflict("x/y", "w2", "w1", "x")]
    desk.tree.apply("w1", [desk.drop("w1", "x")])
    assert desk.seen() == {"x/y": "beneath"}
    desk.tree.apply("w1", [desk.put("w1", "x", "file")])
    assert desk.tree.conflicts() == [Conflict("x", "w1", "w2", "x/y")]
    desk.tree.apply("w2", [desk.drop("w2", "x/y")])
    assert desk.seen() == {"x": "file"}


def test_symbolic_links_are_merged_as_links(desk: Desk) -> None:
    desk.put("w1", "a", "1")
    desk.copy("w1", "l").symlink_to("a")
    assert desk.tree.merge_all(["w1"]).placed == 2
    assert desk.seen() == {"a": "1", "l": "a"}
    assert desk.tree.merge_all(["w1"]).placed == 0


def refuse_links(*_: Any, **__: Any) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def test_where_links_are_refused_files_are_copied(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refuse_links)
    desk.put("w1", "d/a", "1" * 3000)
    desk.copy("w1", "d/a").chmod(0o640)
    desk.copy("w1", "l").symlink_to("d/a")
    assert desk.tree.merge_all(["w1"]).placed == 2
    assert desk.seen() == {"d/a": "1" * 3000, "l": "d/a"}
    place, source = (desk.root / "d/a").stat(), desk.copy("w1", "d/a").stat()
    assert place.st_ino != source.st_ino
    assert (place.st_mode, place.st_mtime_ns) == (source.st_mode, source.st_mtime_ns)
    assert desk.tree.merge_all(["w1"]).placed == 0
    desk.put("w1", "d/a", "2" * 3000)
    os.utime(desk.copy("w1", "d/a"), ns=(source.st_mtime_ns, source.st_mtime_ns))
    assert desk.tree.merge_all(["w1"]).placed == 1, "the same size and time, but not the same bytes"
    assert desk.seen()["d/a"] == "2" * 3000


def test_a_missing_copy_removes_nothing(desk: Desk) -> None:
    desk.tree.apply("w1", [desk.put("w1", "a", "1")])
    desk.copy("w1", "").rename(desk.root / ".zcluster/elsewhere")
    result = desk.tree.merge_all(["w1", "w2"])
    assert desk.seen() == {"a": "1"}
    assert result.errors == [("", "the copy of w1 is missing: its files stay in their places")]


def test_a_worker_that_is_no_more_is_forgotten(desk: Desk) -> None:
    desk.tree.apply("w1", [desk.put("w1", path, "1") for path in ("a", "d/b")])
    desk.tree.apply("w2", [desk.put("w2", "a", "2")])
    assert desk.tree.forget("w1").removed == 2
    assert desk.seen() == {"a": "2"}
    assert desk.tree.forget("w1").removed == 0


def test_a_file_that_is_gone_from_the_copy_again_is_an_error_of_its_own(desk: Desk) -> None:
    change = desk.put("w1", "a", "1")
    desk.drop("w1", "a")
    result = desk.tree.apply("w1", [change, desk.put("w1", "b", "2")])
    assert result.errors == [("a", "it is not in the copy of w1 any more")]
    assert desk.seen() == {"b": "2"}
    desk.tree.merge_all(["w1"])
    assert desk.tree.conflicts() == []


def test_a_copys_own_directory_is_not_merged(desk: Desk) -> None:
    desk.put("w1", ".zcluster/state", "x")
    desk.put("w1", "a", "1")
    assert desk.tree.merge_all(["w1"]).errors == []
    assert desk.seen() == {"a": "1"}


@pytest.mark.parametrize("worker", ["..", "", "a/b", ".zcluster", "w\0"])
def test_a_hostile_name_of_a_worker_is_refused(desk: Desk, worker: str) -> None:
    with pytest.raises(UsageError):
        desk.tree.merge_all([worker])


def test_a_broken_book_is_begun_anew_and_links_are_known_again(desk: Desk) -> None:
    desk.tree.apply("w1", [desk.put("w1", "a", "1"), desk.put("w1", "d/b", "2")])
    (desk.root / "hand").write_text("mine")
    desk.close()
    (desk.root / ".zcluster/owners.db").write_bytes(b"no database" * 1000)
    assert not desk.tree.begun_anew
    desk.open()
    assert desk.tree.begun_anew
    assert desk.tree.merge_all(["w1"]).conflicts == []
    desk.tree.apply("w1", [desk.drop("w1", "a")])
    assert desk.seen() == {"d/b": "2", "hand": "mine"}


class Killed(BaseException):
    """As a SIGKILL: nothing after it runs but what unwinds."""


STEPS = ["take", "intend", "done", "removed", "rename", "link", "unlink"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("late", [False, True])
def test_killed_at_any_step_and_merged_again(desk: Desk, monkeypatch: pytest.MonkeyPatch, step: str, late: bool) -> None:
    """Killed before or after each step, at its second time: places and book come together again."""
    dice = random.Random(f"{step} {late}")
    desk.tree.apply("w1", [desk.put("w1", f"f{i}", "1") for i in range(4)] + [desk.put("w1", "d/x", "1")])
    desk.tree.apply("w2", [desk.put("w2", f"f{i}", "2") for i in range(4)])
    changes = [desk.drop("w1", "f0"), desk.drop("w1", "f1"), desk.put("w1", "f2", "1!"), desk.put("w1", "f3", "1!")]
    changes += [desk.drop("w1", "d/x"), desk.put("w1", "n", "new")]
    holder: Any = {"rename": os, "link": os, "unlink": desk.treedir.beneath}.get(step, desk.tree._book)
    right, left = getattr(holder, step), [dice.randrange(2) if step in ("rename", "link", "unlink") else 0]

    def fatal(*values: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] < 0 and not late:
            raise Killed
        right(*values, **named)
        if left[0] < 0:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(holder, step, fatal)
        with pytest.raises(Killed):
            desk.tree.apply("w1", changes)
    desk.close()
    desk.open()
    result = desk.tree.merge_all(["w1", "w2"])
    assert desk.seen() == {"f0": "2", "f1": "2", "f2": "1!", "f3": "1!", "n": "new"}
    assert result.errors == []
    assert not [conflict for conflict in result.conflicts if not conflict.owner]
    assert [conflict.path for conflict in desk.tree.conflicts()] == ["f2", "f3"]
    assert list((desk.root / ".zcluster/stage").iterdir()) == []
    assert desk.tree.merge_all(["w1", "w2"]).placed == 0


def test_many_files_in_batches(desk: Desk) -> None:
    count = merged.CHANGES + merged.BATCH_FILES + 1
    for i in range(count):
        desk.put("w1", f"d{i % 7}/f{i}", str(i))
    assert desk.tree.merge_all(["w1"]).placed == count
    assert len(desk.seen()) == count
    assert desk.tree.merge_all(["w1"]).placed == 0
