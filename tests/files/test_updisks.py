"""The places of files that go up: merged copies and what they share, and workers' own files among those of a copy."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from zcluster.config.sync import EXTRA, SyncSettings, TreeSettings
from zcluster.core.sync.effects import Close, Look, Looked, Open, Opened
from zcluster.core.sync.entry import decode_listing
from zcluster.errors import Busy, NotAllowed, UsageError, ZClusterError
from zcluster.files.declare import declare_all
from zcluster.files.disks import Disks, Layout
from zcluster.files.history import History
from zcluster.files.mergedplace import MergedRoot
from zcluster.files.treedir import TreeDir
from zcluster.wire.trees import TreeInfo

SYNC = asdict(SyncSettings())


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def merged_root(tmp_path: Path) -> tuple[MergedRoot, Path, Path]:
    """A merged directory, and where the copies of two workers are."""
    root = MergedRoot(tmp_path / "logs", "logs")
    copies = tmp_path / "logs" / ".zcluster" / "workers"
    return root, copies / "one", copies / "two"


def test_whoever_waits_is_told_when_another_ones_merge_lets_it_in(tmp_path: Path) -> None:
    root, one, two = merged_root(tmp_path)
    told: list[str] = []
    for name in ("one", "two"):
        root.join(name, lambda name=name: told.append(name))  # type: ignore[misc]
    write(one / "a", "first")
    write(two / "a", "second")
    root.merge("one", None, {})
    root.merge("two", None, {})
    conflicts, count = root.conflicts("two")
    assert ([(each.path, each.owner) for each in conflicts], count) == ([("a", "one")], 1)
    assert root.conflicts("one") == ((), 0)
    assert told == []
    (one / "a").unlink()
    root.merge("one", None, {})
    assert told == ["two"]
    assert root.conflicts("two") == ((), 0)
    assert (tmp_path / "logs" / "a").read_text() == "second"


def test_the_merged_directory_is_let_go_with_its_last_copy(tmp_path: Path) -> None:
    root, _, _ = merged_root(tmp_path)
    root.join("one", lambda: None)
    root.join("two", lambda: None)
    assert not root.leave("one")
    with pytest.raises(Busy):
        TreeDir(tmp_path / "logs", "logs", create=False)
    assert root.leave("two")
    TreeDir(tmp_path / "logs", "logs", create=False).close()


class Node:
    """The disks of a node; ``worker``: as they are on a worker."""

    def __init__(self, home: Path, *, worker: bool, merged: frozenset[str] = frozenset()) -> None:
        self.home = home
        data = home / "data"
        data.mkdir(parents=True)
        own = home / "trees" / "w"
        layout = Layout(data, home, own if worker else home, (own,) if worker else None, merged)
        self.hints: list[tuple[str, str]] = []
        self.disks = Disks(layout, History(data / "h.db", 1, 0), keep=False, hint=self.hints.append)

    def open(self, tree: str, worker: str = "", *, source: bool = False, path: str = "", **rules: object) -> Looked:
        info = TreeInfo(tree=tree, path=path, **rules)  # type: ignore[arg-type]
        opened = self.disks.do(Open((tree, worker), info, source))
        assert isinstance(opened, Opened)
        return opened.looked

    def close(self) -> None:
        for key in self.disks.open_places():
            self.disks.do(Close(key))


def names(looked: Looked) -> list[str]:
    return [entry.name for entry in decode_listing(looked.mine[""])]


def test_a_new_or_lost_copy_takes_nothing_out_of_the_merged_directory(tmp_path: Path) -> None:
    node = Node(tmp_path, worker=False, merged=frozenset({"logs"}))
    root = MergedRoot(tmp_path / "files", "logs")
    root.join("w", lambda: None)
    copy = tmp_path / "files" / ".zcluster" / "workers" / "w"
    write(copy / "a", "a")
    root.merge("w", None, {})
    root.leave("w")
    shutil.rmtree(copy)
    node.open("logs", "w", path="files", direction="up", hash="blake2b_256")
    looked = node.disks.do(Look(("logs", "w"), None))
    assert isinstance(looked, Looked)
    assert looked.files == 0
    assert (tmp_path / "files" / "a").read_text() == "a"
    node.close()
    TreeDir(tmp_path / "files", "logs", create=False).close()


def test_copies_of_one_merged_tree_are_open_together_and_other_trees_are_apart(tmp_path: Path) -> None:
    node = Node(tmp_path, worker=False, merged=frozenset({"logs"}))
    for worker in ("one", "two"):
        node.open("logs", worker, path="files", direction="up", hash="blake2b_256")
    with pytest.raises(UsageError, match="overlaps"):
        node.open("other", "one", path="files/sub", direction="up", hash="blake2b_256")
    node.disks.do(Close(("logs", "one")))
    node.disks.do(Close(("logs", "two")))
    node.open("other", "one", path="files/sub", direction="up", hash="blake2b_256")
    node.close()


def test_a_merged_directory_that_is_in_use_can_be_opened_later(tmp_path: Path) -> None:
    node = Node(tmp_path, worker=False, merged=frozenset({"logs"}))
    elsewhere = TreeDir(tmp_path / "files", "logs", create=True)
    with pytest.raises(Busy):
        node.open("logs", "one", path="files", direction="up", hash="blake2b_256")
    elsewhere.close()
    node.open("logs", "one", path="files", direction="up", hash="blake2b_256")
    node.close()


def test_own_files_of_a_copy_are_read_beside_it_whichever_is_opened_first(tmp_path: Path) -> None:
    for number, first_extra in enumerate((False, True)):
        node = Node(tmp_path / str(number), worker=True)
        root = node.home / "trees" / "w" / "rules"
        if first_extra:
            assert names(node.open("rules.extra", source=True, direction="up", include=["*.own"], hash="blake2b_256")) == []
            assert not (root / ".zcluster").exists(), "the view writes nothing"
        node.open("rules", extra_valid=["*.own"])
        write(root / "a.own", "mine")
        write(root / "b.conf", "not mine")
        looked = node.open("rules.extra", source=True, direction="up", include=["*.own"], hash="blake2b_256")
        assert names(looked) == ["a.own"]
        assert looked.marker_ok
        again = node.disks.do(Look(("rules.extra", ""), None))
        assert isinstance(again, Looked)
        assert again.root == looked.root
        node.close()


def test_no_other_pair_may_share_a_directory(tmp_path: Path) -> None:
    node = Node(tmp_path, worker=True)
    shared = "trees/w/here"
    node.open("rules", path=shared)
    with pytest.raises(UsageError, match="overlaps"):
        node.open("other.extra", source=True, path=shared, direction="up", hash="blake2b_256")
    with pytest.raises(UsageError, match="overlaps"):
        node.open("other", path=shared + "/sub")
    with pytest.raises(UsageError, match="overlaps"):
        node.open("rules.extra", source=True, path=shared + "/sub", direction="up", hash="blake2b_256")
    with pytest.raises(NotAllowed):
        node.open("rules.extra", source=True, path="keys", direction="up", hash="blake2b_256")
    node.open("rules.extra", source=True, path=shared, direction="up", hash="blake2b_256")
    node.close()


def test_what_could_not_be_opened_is_in_nobodys_way(tmp_path: Path) -> None:
    node = Node(tmp_path, worker=True)
    (tmp_path / "trees" / "w").mkdir(parents=True)
    (tmp_path / "trees" / "w" / "x").write_text("a file")
    with pytest.raises(ZClusterError):
        node.open("x")
    (tmp_path / "trees" / "w" / "x").unlink()
    node.open("y", path="trees/w/x")
    node.close()


def test_extra_valid_of_a_down_tree_implies_a_tree_that_goes_up() -> None:
    trees = [
        TreeSettings("rules", "/srv/rules", "/srv/w", extra_valid=("local/",), exclude=("*.tmp",), on_change=("a",), mode="600"),
        TreeSettings("plain", "/srv/plain"),
        TreeSettings("logs", "/srv/logs", direction="up", extra_valid=("note",)),
    ]
    found = declare_all(map(asdict, trees), SYNC, Path("/home/data/sync/extra"))
    assert list(found) == ["rules", "rules" + EXTRA, "plain", "logs"]
    implied = found["rules.extra"]
    assert (implied.info.direction, implied.info.path, implied.local.path) == ("up", "/srv/w", "/home/data/sync/extra/rules")
    assert (implied.info.include, implied.info.exclude, implied.info.extra_valid) == (["local/"], ["*.tmp"], [])
    assert (implied.info.hash, implied.info.symlinks, implied.info.max_bytes) == ("blake2b_256", "refuse", SYNC["up_bytes"])
    assert (implied.info.on_change, implied.local.on_change, implied.info.mode, implied.keep) == ([], [], -1, "per-worker")
    assert found["rules"].info.on_change == ["a"]
