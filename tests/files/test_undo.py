"""What a version replaced is kept until it is not needed: by a second name, or as a copy, and gone after a restart."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from zcluster.core.sync.blocks import CHUNK_BYTES
from zcluster.core.sync.entry import Entry, encode_listing
from zcluster.core.sync.plan import Plan
from zcluster.errors import PeerError, ZClusterError
from zcluster.files.treedir import TreeDir
from zcluster.files.undo import Undoing

OLD = {"a": b"old a", "big": os.urandom(2 * CHUNK_BYTES + 5), "gone": b"goes", "stays": b"stays"}


class Copy:
    """A copy that holds OLD, and its manifest."""

    def __init__(self, bench: Any) -> None:
        self.bench = bench
        self.treedir: TreeDir = bench.open()
        bench.apply(self.treedir, OLD)
        self.entries: dict[str, Entry] = {path: bench.file(path, data) for path, data in OLD.items()}
        self.before = {"": encode_listing(self.entries.values())}

    def keep(self, plan: Plan | None = None) -> Undoing:
        new = self.bench.file("a", b"new")
        return Undoing(
            self.treedir, self.before,
            plan or Plan(fetch=[("a", new), ("big", new), ("fresh", new), ("d/new", new)], delete_files=["gone"]),
        )  # fmt: skip

    def replace(self) -> None:
        """What the version does."""
        self.bench.apply(self.treedir, {"a": b"new", "big": b"new", "fresh": b"new"}, delete_files=["gone"])

    def back(self, undoing: Undoing, *paths: str) -> None:
        staging = self.bench.staging(self.treedir)
        for path in paths:
            undoing.stage(staging, path, self.entries[path])
        fetch = [(path, self.entries[path]) for path in paths]
        assert not staging.commit(self.bench.steps(fetch=fetch, delete_files=["fresh"]), b"state").errors


@pytest.fixture
def copy(bench: Any) -> Copy:
    return Copy(bench)


def no_links(*_: Any, **__: Any) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False], ids=["links", "copies"])
def test_what_was_replaced_and_deleted_comes_back(copy: Copy, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    undoing = copy.keep()
    assert (os.stat(copy.bench.root / "a").st_nlink == 2) is links
    copy.replace()
    assert copy.bench.contents() == {"a": b"new", "big": b"new", "fresh": b"new", "stays": b"stays"}
    copy.back(undoing, "a", "big", "gone")
    assert copy.bench.contents() == OLD
    undoing.drop()
    assert copy.bench.staged() == []


def test_what_the_plan_leaves_alone_and_what_was_not_there_is_not_kept(copy: Copy) -> None:
    undoing = copy.keep()
    assert len(copy.bench.staged()) == 3
    with pytest.raises(ZClusterError, match="stays was not kept"):
        undoing.stage(copy.bench.staging(copy.treedir), "stays", copy.entries["stays"])
    undoing.drop()
    undoing.drop()
    assert copy.bench.staged() == []
    assert copy.bench.contents() == OLD


def test_a_file_that_is_gone_meanwhile_is_not_missed_before_it_is_needed(copy: Copy) -> None:
    (copy.bench.root / "gone").unlink()
    undoing = copy.keep()
    with pytest.raises(ZClusterError, match="gone was not kept"):
        undoing.stage(copy.bench.staging(copy.treedir), "gone", copy.entries["gone"])


@pytest.mark.parametrize("path", ["a", "big"])
def test_a_file_that_was_written_to_meanwhile_is_not_put_back_as_the_old_one(copy: Copy, path: str) -> None:
    undoing = copy.keep()
    with (copy.bench.root / path).open("r+b") as file:
        file.write(b"XX")
    with pytest.raises(PeerError):
        undoing.stage(copy.bench.staging(copy.treedir), path, copy.entries[path])


def test_two_files_of_the_same_content_are_kept_once(bench: Any) -> None:
    treedir = bench.open()
    bench.apply(treedir, {"a": b"same", "b": b"same"})
    before = {"": encode_listing([bench.file("a", b"same"), bench.file("b", b"same")])}
    Undoing(treedir, before, Plan(delete_files=["a", "b"]))
    assert len(bench.staged()) == 1


@pytest.mark.parametrize("full", ["link", "copy"])
def test_a_disk_that_is_full_leaves_nothing_behind_and_says_so(copy: Copy, full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    link, calls = os.link, [0]

    def linked(*args: Any, **fields: Any) -> None:
        calls[0] += 1
        if calls[0] == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        link(*args, **fields)

    def written(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", linked if full == "link" else no_links)
    monkeypatch.setattr("zcluster.files.durable.write_all", written)
    with pytest.raises(ZClusterError, match="what this version replaces cannot be kept: No space"):
        copy.keep()
    assert copy.bench.staged() == []
    assert copy.bench.contents() == OLD


def test_nothing_of_it_is_left_after_a_restart(copy: Copy) -> None:
    copy.keep()
    assert copy.bench.staged()
    copy.bench.close()
    copy.bench.open()
    assert copy.bench.staged() == []
    assert copy.bench.contents() == OLD
