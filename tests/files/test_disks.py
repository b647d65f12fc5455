"""Where the trees of a node may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zcluster.core.sync.effects import Close, Commit, Look, Looked, Number, Open, Opened, Piece, Read
from zcluster.core.sync.entry import content_digest
from zcluster.core.sync.plan import Plan
from zcluster.errors import NotAllowed, PeerError, UsageError, ZClusterError
from zcluster.files import sourceplace
from zcluster.files.disks import Disks, Layout
from zcluster.files.history import History
from zcluster.files.sourceplace import SourcePlace
from zcluster.wire.trees import TreeInfo

ONE, OTHER = ("one", ""), ("other", "")


def worker(home: Path, *roots: Path) -> Layout:
    own = home / "trees" / "web-1"
    return Layout(data=home / "data" / "sync" / "web-1", home=home, default_root=own, allowed=(own, *roots))


def info(tree: str = "one", path: str = "", **fields: Any) -> TreeInfo:
    return TreeInfo(tree=tree, path=path, **fields)


def disks(layout: Layout) -> Disks:
    layout.data.mkdir(parents=True, exist_ok=True)
    return Disks(layout, History(layout.data / "versions.db", 1, 0), keep=False, hint=lambda key: None)


def test_a_worker_has_trees_beneath_its_own_place(tmp_path: Path) -> None:
    layout = worker(tmp_path)
    assert layout.locate(ONE, info()) == tmp_path / "trees/web-1/one"
    assert layout.locate(ONE, info(path="trees/web-1/x/y")) == tmp_path / "trees/web-1/x/y"


@pytest.mark.parametrize("tree", ["../../../x", "a/b", "..", ".zcluster", "a\0"])
def test_a_tree_s_name_leads_nowhere(tree: str, tmp_path: Path) -> None:
    made = disks(worker(tmp_path))
    with pytest.raises(PeerError, match="cannot be called"):
        made.do(Open((tree, ""), info(tree, "trees/web-1/fine"), False))
    assert not list(tmp_path.rglob("*.cache"))


@pytest.mark.parametrize("path", ["/etc", "/srv/files-2", "trees/web-2/one", "trees", "../x", "trees/web-1/../../keys", "keys"])
def test_a_worker_refuses_other_places(path: str, tmp_path: Path) -> None:
    with pytest.raises(NotAllowed, match="lets trees be beneath"):
        worker(tmp_path, Path("/srv/files")).locate(ONE, info(path=path))


def test_a_worker_s_tree_roots_allow_more(tmp_path: Path) -> None:
    layout = worker(tmp_path / "home", tmp_path / "srv")
    assert layout.locate(ONE, info(path=str(tmp_path / "srv/one"))) == tmp_path / "srv/one"
    assert layout.locate(ONE, info(path=str(tmp_path / "srv"))) == tmp_path / "srv"


def test_a_link_does_not_lead_out_of_what_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "trees/web-1").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "trees/web-1/out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotAllowed):
        worker(tmp_path).locate(ONE, info(path="trees/web-1/out/one"))


@pytest.mark.parametrize("path", ["", "keys", "keys/private", "data", "data/sync/web-1", "run", "zcluster.toml"])
def test_a_worker_s_own_files_are_never_in_a_tree_however_wide_its_roots_are(path: str, tmp_path: Path) -> None:
    layout = worker(tmp_path, tmp_path, Path("/"))
    with pytest.raises(NotAllowed, match="overlaps the home's"):
        layout.locate(ONE, info(path=str(tmp_path / path)))
    with pytest.raises(NotAllowed, match="overlaps the home's"):
        layout.locate(ONE, info(path="/"))
    (tmp_path / "way").symlink_to(tmp_path / path)
    with pytest.raises(NotAllowed, match="overlaps the home's"):
        layout.locate(ONE, info(path="way"))
    assert layout.locate(ONE, info(path="files/one")) == tmp_path / "files/one"


def test_a_master_has_a_directory_for_each_worker_of_a_tree_that_comes_up(tmp_path: Path) -> None:
    layout = Layout(data=tmp_path / "data", home=tmp_path, default_root=tmp_path, allowed=None)
    assert layout.locate(("one", "web-1"), info(path="logs")) == tmp_path / "logs/web-1"
    assert layout.locate(ONE, info(path="/srv/one")) == Path("/srv/one")


def test_no_two_trees_of_a_node_overlap(tmp_path: Path) -> None:
    made = disks(worker(tmp_path, tmp_path / "srv"))
    assert isinstance(made.do(Open(ONE, info(path="srv/one"), False)), Opened)
    for path in ("srv/one", "srv/one/in", "srv"):
        with pytest.raises(UsageError, match="overlaps"):
            made.do(Open(OTHER, info("other", path), False))
    assert isinstance(made.do(Open(OTHER, info("other", "srv/one-2"), False)), Opened)
    assert made.open_places() == [ONE, OTHER]
    made.do(Close(ONE))
    made.do(Close(OTHER))
    assert isinstance(made.do(Open(OTHER, info("other", "srv/one/in"), False)), Opened)
    made.do(Close(OTHER))


def test_the_same_tree_may_be_opened_again(tmp_path: Path) -> None:
    made = disks(worker(tmp_path))
    for _ in range(2):
        assert isinstance(made.do(Open(ONE, info(), False)), Opened)
    assert isinstance(made.do(Look(ONE, None)), Looked)
    made.do(Close(ONE))


def test_what_is_not_open_is_an_error_and_no_new_directory(tmp_path: Path) -> None:
    made = disks(worker(tmp_path))
    for action in (Look(ONE, None), Commit(ONE, Plan(), 1, 1, b"", False)):
        with pytest.raises(ZClusterError, match="is not open here"):
            made.do(action)
    with pytest.raises(UsageError, match="is not open here"):
        made.place(ONE)
    assert not (tmp_path / "trees").exists()
    assert made.do(Close(ONE)) is None


def test_a_sink_does_nothing_that_a_source_does(tmp_path: Path) -> None:
    made = disks(worker(tmp_path))
    made.do(Open(ONE, info(), False))
    with pytest.raises(UsageError, match="a sink does no Number"):
        made.do(Number(ONE, 1, b"", 0, 0, 0, 0, 0, "change"))
    made.do(Close(ONE))
    made.do(Open(ONE, info(), True))
    with pytest.raises(UsageError, match="a source does no Commit"):
        made.do(Commit(ONE, Plan(), 1, 1, b"", False))
    made.do(Close(ONE))


def test_what_is_shared_among_sinks_is_bounded_also_for_pieces_without_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sourceplace, "SHARED_BYTES", 10_000)
    made = disks(worker(tmp_path))
    root = tmp_path / "trees/web-1/one"
    root.mkdir(parents=True)
    (root / "a").write_bytes(b"")
    made.do(Open(ONE, info(), True))
    digest = content_digest("xxh3_128", b"")
    for count in range(1, 20):
        parcels = made.do(Read(ONE, count, [Piece("a", digest, 0, 0)] * count))
        assert isinstance(parcels, list)
        assert parcels[0][0].sizes == [0] * count
    place = made.place(ONE)
    assert isinstance(place, SourcePlace)
    assert 0 < sum(map(len, place._shared)) < 10_000 / sourceplace.PIECE_COST_BYTES
    made.do(Close(ONE))
