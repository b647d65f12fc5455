"""From the configuration's trees to the rules of both ends: what is bounded for workers, and what extra_valid implies."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from zcluster.config.sync import EXTRA, SyncSettings, TreeSettings
from zcluster.core.sync.blocks import CHUNK_BYTES
from zcluster.files.declare import FRAME_ROOM_BYTES, MIN_CHUNK_BYTES, chunk_bytes, declare, declare_all

SYNC = asdict(SyncSettings(up_files=100, up_bytes=5000))
NEEDED: dict[str, Any] = {"name": "site", "path": "/srv/site", "workers": "web*"}


def tree(**fields: Any) -> dict[str, Any]:
    return asdict(TreeSettings(**NEEDED | fields))


@pytest.mark.parametrize(
    ("frame_bytes", "chunk"),
    [
        (0, MIN_CHUNK_BYTES),
        (FRAME_ROOM_BYTES + 2 * MIN_CHUNK_BYTES - 1, MIN_CHUNK_BYTES),
        (FRAME_ROOM_BYTES + 2 * MIN_CHUNK_BYTES, 2 * MIN_CHUNK_BYTES),
        (FRAME_ROOM_BYTES + CHUNK_BYTES, CHUNK_BYTES),
        (1 << 30, CHUNK_BYTES),
    ],
)  # fmt: skip
def test_a_piece_fits_its_frame_with_room_for_the_rest(frame_bytes: int, chunk: int) -> None:
    assert chunk_bytes(frame_bytes) == chunk


def test_each_end_has_its_own_place_and_the_same_rules() -> None:
    found = declare(tree(worker_path="/w", exclude=("x",), mode="0640", delete_share=0.25), SYNC)
    assert (found.local.path, found.info.path, found.workers) == ("/srv/site", "/w", "web*")
    for info in (found.local, found.info):
        assert (info.tree, info.exclude, info.mode, info.delete_share) == ("site", ["x"], 0o640, 0.25)
    assert declare(tree(mode="keep"), SYNC).info.mode == -1


@pytest.mark.parametrize(("failure", "rollback"), [("report", False), ("rollback", True)])
def test_what_becomes_of_a_failed_command_is_told(failure: str, rollback: bool) -> None:
    assert declare(tree(on_change=("reload",), on_change_failure=failure), SYNC).info.rollback is rollback


def test_a_tree_of_the_master_is_not_bounded_by_what_workers_may_have() -> None:
    info = declare(tree(symlinks="copy", max_files=7000), SYNC).info
    assert (info.hash, info.symlinks, info.max_files, info.max_bytes) == ("xxh3_128", "copy", 7000, 0)


@pytest.mark.parametrize(("own", "most"), [(99, 99), (100, 100), (101, 100)])
def test_a_tree_of_workers_is_bounded_and_named_by_what_cannot_be_forged(own: int, most: int) -> None:
    info = declare(tree(direction="up", symlinks="copy", max_files=own), SYNC).info
    assert (info.hash, info.symlinks, info.max_files, info.max_bytes) == ("blake2b_256", "refuse", most, 5000)


def test_what_workers_may_have_of_their_own_comes_up_as_a_tree_without_commands() -> None:
    settings = tree(extra_valid=("*.log",), worker_path="/w", on_change=("reload",), on_change_failure="rollback", mode="0640")
    found = declare_all([settings], SYNC, Path("/data/extra"))
    assert list(found) == ["site", "site" + EXTRA]
    down, up = found.values()
    assert down.info.extra_valid == ["*.log"]
    assert (up.info.direction, up.info.include, up.info.extra_valid) == ("up", ["*.log"], [])
    assert (up.info.path, up.local.path, up.workers) == ("/w", "/data/extra/site", "web*")
    assert (up.info.on_change, up.info.rollback, up.info.mode, up.info.owner) == ([], False, -1, "")
    assert (up.info.hash, up.info.max_files, up.info.max_bytes) == ("blake2b_256", 100, 5000)


@pytest.mark.parametrize("fields", [{}, {"direction": "up", "extra_valid": ("*.log",)}])
def test_nothing_else_is_implied(fields: dict[str, Any]) -> None:
    assert list(declare_all([tree(**fields)], SYNC, Path("/data"))) == ["site"]
