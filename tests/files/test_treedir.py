"""Opening a tree: its marker, its lock, and what recovery does with what dead processes left."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zcluster.errors import Busy, ConfigError, ZClusterError
from zcluster.files import journal, treedir
from zcluster.files.treedir import PARTIAL_KEPT_S, PARTIALS_KEPT, TreeDir


def test_a_new_tree_is_made_with_its_parents(tmp_path: Path) -> None:
    root = tmp_path / "a/b/tree"
    tree = TreeDir(root, "etc", create=True)
    assert json.loads(tree.marker() or "") == {"schema": 1, "tree": "etc"}
    assert tree.marker_ok()
    assert tree.state() is None
    assert stat.S_IMODE((root / ".zcluster").stat().st_mode) == 0o700
    tree.close()
    assert TreeDir(root, "etc", create=False).marker_ok()


def test_a_missing_root_is_not_made_unasked(tmp_path: Path) -> None:
    with pytest.raises(ZClusterError) as caught:
        TreeDir(tmp_path / "none", "t", create=False)
    assert caught.value.hint
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ZClusterError):
        TreeDir(tmp_path / "file", "t", create=False)


def test_a_root_without_marker_stays_without_until_it_is_told(tmp_path: Path) -> None:
    """As after a disk was not mounted: nothing says that this is the tree."""
    tree = TreeDir(tmp_path, "t", create=False)
    assert tree.marker() is None
    assert not tree.marker_ok()
    tree.make_marker()
    assert tree.marker_ok()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"schema": 1}', b'{"tree": 3}', b"[" * 4000, b"x" * 4097])
def test_a_damaged_marker_is_no_marker_and_no_error(tmp_path: Path, content: bytes) -> None:
    TreeDir(tmp_path, "t", create=True).close()
    (tmp_path / ".zcluster/tree").write_bytes(content)
    tree = TreeDir(tmp_path, "t", create=False)
    assert not tree.marker_ok()
    tree.close()


def test_the_root_of_another_tree_is_refused(tmp_path: Path) -> None:
    TreeDir(tmp_path, "one", create=True).close()
    with pytest.raises(ConfigError, match="'one'"):
        TreeDir(tmp_path, "two", create=True)
    assert TreeDir(tmp_path, "one", create=False).marker_ok()


def test_a_symlinked_root_is_resolved_once(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "other").mkdir()
    os.symlink("real", tmp_path / "link")
    tree = TreeDir(tmp_path / "link", "t", create=True)
    assert tree.root == tmp_path / "real"
    (tmp_path / "link").unlink()
    os.symlink("other", tmp_path / "link")
    tree.recover()
    assert tree.marker_ok()
    assert os.listdir(tmp_path / "other") == []


def test_a_root_that_was_replaced_is_noticed(tmp_path: Path) -> None:
    tree = TreeDir(tmp_path / "tree", "t", create=True)
    assert tree.root_ok()
    (tmp_path / "tree").rename(tmp_path / "moved")
    assert not tree.root_ok()
    (tmp_path / "tree").mkdir()
    assert not tree.root_ok()
    assert not tree.marker_ok()


HOLDER = """
import sys, time
from pathlib import Path
from zcluster.files.treedir import TreeDir
tree = TreeDir(Path(sys.argv[1]), "t", create=True)
print("held", flush=True)
sys.stdin.read()
"""


def test_one_process_has_a_tree_until_it_ends_however_it_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Busy, match=f"pid {holder.pid}") as caught:
            TreeDir(tmp_path, "t", create=False)
        assert caught.value.hint
        holder.kill()
        holder.wait()
        tree = TreeDir(tmp_path, "t", create=False)
        assert (tmp_path / ".zcluster/lock").read_text() == f"{os.getpid()}\n"
    with pytest.raises(Busy):
        TreeDir(tmp_path, "t", create=False)
    tree.close()
    TreeDir(tmp_path, "t", create=False).close()


def test_opening_and_failing_leaves_no_open_files(tmp_path: Path) -> None:
    TreeDir(tmp_path, "one", create=True).close()
    before = len(os.listdir("/proc/self/fd"))
    for name in ("one", "two"):
        try:
            TreeDir(tmp_path, name, create=True).close()
        except ConfigError:
            assert name == "two"
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_link_in_the_place_of_our_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tree").mkdir()
    os.symlink("../elsewhere", tmp_path / "tree/.zcluster")
    with pytest.raises(ZClusterError):
        TreeDir(tmp_path / "tree", "t", create=True)
    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    TreeDir(tmp_path, "t", create=True).close()
    os.chown(tmp_path / ".zcluster", 1234, 1234)
    with pytest.raises(ZClusterError, match="user 1234"):
        TreeDir(tmp_path, "t", create=True)


def test_rights_of_others_are_taken_away(tmp_path: Path) -> None:
    TreeDir(tmp_path, "t", create=True).close()
    (tmp_path / ".zcluster").chmod(0o777)
    (tmp_path / ".zcluster/stage").chmod(0o777)
    TreeDir(tmp_path, "t", create=False).close()
    assert stat.S_IMODE((tmp_path / ".zcluster").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / ".zcluster/stage").stat().st_mode) == 0o700


def test_leftovers_of_every_kind_are_swept(tmp_path: Path) -> None:
    tree = TreeDir(tmp_path, "t", create=True)
    stage = tmp_path / ".zcluster/stage"
    (stage / "1234.1").write_bytes(b"x")
    (stage / "away.ff.0").write_bytes(b"x")
    os.symlink("/etc/passwd", stage / "1234.2")
    os.mkfifo(stage / "fifo")
    (stage / "dir/sub").mkdir(parents=True)
    (stage / "dir/sub/f").write_bytes(b"x")
    (stage / "part.dir").mkdir()
    (stage / "case.empty").mkdir()
    (stage / "case.full").mkdir()
    (stage / "case.full/mine").write_bytes(b"a user's file")
    (tmp_path / ".zcluster/state.00.tmp").write_bytes(b"torn")
    (tmp_path / ".zcluster/odd.tmp").mkdir()
    found = tree.recover()
    assert os.listdir(stage) == ["case.full"]
    assert (found.swept, found.partials, found.applied) == (8, 0, None)
    assert sorted(os.listdir(tmp_path / ".zcluster")) == ["lock", "odd.tmp", "stage", "tree"]
    assert tree.recover().swept == 0


def test_partial_files_are_kept_young_few_and_not_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = TreeDir(tmp_path, "t", create=True)
    stage = tmp_path / ".zcluster/stage"
    for number in range(PARTIALS_KEPT + 1):
        (stage / f"part.{number}").write_bytes(b"x" * 4096)
    now_s = max(path.stat().st_ctime for path in stage.iterdir())
    found = tree.recover(now_s)
    assert (found.partials, found.swept) == (PARTIALS_KEPT, 1)
    oldest_s = min(path.stat().st_ctime for path in stage.iterdir())
    assert tree.recover(oldest_s + PARTIAL_KEPT_S).partials == PARTIALS_KEPT
    monkeypatch.setattr(treedir, "PARTIAL_KEPT_BYTES", 3 * 4096)
    assert tree.recover(now_s).partials == 3
    monkeypatch.setattr(treedir, "PARTIAL_KEPT_BYTES", 1)
    assert tree.recover(now_s).partials == 1
    assert tree.recover(now_s + PARTIAL_KEPT_S + 1).partials == 0
    assert os.listdir(stage) == []


def test_distrusted_digests_are_bounded(tmp_path: Path) -> None:
    tree = TreeDir(tmp_path, "t", create=True)
    for number in range(treedir.MAX_DISTRUSTED):
        tree.distrust(number.to_bytes(16, "big"))
    assert len(tree.distrusted) == treedir.MAX_DISTRUSTED
    tree.distrust(b"one more")
    assert tree.distrusted == {b"one more"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> TreeDir:
    root = tmp_path_factory.mktemp("shared")
    (root / "f").write_bytes(b"precious")
    return TreeDir(root, "t", create=True)


def whole_journal(**changes: Any) -> bytes:
    lists = ("respelled", "away_files", "away_dirs", "make_dirs", "renames", "touches", "delete_files", "delete_dirs")
    fields: dict[str, Any] = {"version": 1, "token": b"t" * 16, "owner": None, "state": b"s"}
    return journal.encode(journal.Record(**{**fields, **{name: [] for name in lists}, **changes}))


@given(st.binary(max_size=400) | st.builds(lambda data: whole_journal(delete_files=["f"])[: len(data)], st.binary(max_size=80)))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_in_the_journal_never_raises_nor_touches_the_tree(shared: TreeDir, data: bytes) -> None:
    (shared.root / ".zcluster/journal").write_bytes(data)
    found = shared.recover()
    assert found.applied is None
    assert sorted(os.listdir(shared.root)) == [".zcluster", "f"]
    assert (shared.root / "f").read_bytes() == b"precious"
    assert not (shared.root / ".zcluster/journal").exists()


PATHS = st.sampled_from(["..", "../x", "/etc/passwd", "", ".zcluster/state", "none/x", "\0", "g"])


@given(PATHS, PATHS)
@settings(max_examples=60, deadline=None)
def test_a_whole_journal_with_hostile_paths_stays_inside(shared: TreeDir, one: str, two: str) -> None:
    before = sorted(os.listdir(shared.root.parent))
    data = whole_journal(
        token=os.urandom(16),
        respelled=[(one, two)],
        away_files=[one],
        away_dirs=[two],
        make_dirs=[(one, 0o755)],
        renames=[(one, [("s.1", "x")]), (two, [("s.2", "x")])],
        touches=[(one, False, 0o600, 1), (two, True, 0o700, 0)],
        delete_files=[two],
        delete_dirs=[one, two],
    )
    (shared.root / ".zcluster/journal").write_bytes(data)
    (shared.root / ".zcluster/stage/s.2").write_bytes(b"staged")
    shared.recover()
    assert sorted(os.listdir(shared.root.parent)) == before
    assert (shared.root / "f").read_bytes() == b"precious"
    assert shared.marker_ok()
    for path in shared.root.glob("g*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
