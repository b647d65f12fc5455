"""A cluster whose configuration declares a tree, for real; and the bench on it, short: that it measures is judged, not what."""

from __future__ import annotations

import asyncio
import importlib.util
import tomllib
from pathlib import Path

import pytest

from zcluster.bench import syncworks
from zcluster.bench.cluster import LocalCluster
from zcluster.bench.sync import SyncOptions, run_sync
from zcluster.bench.synced import tree_config
from zcluster.bench.syncworks import WORKS

NEEDS_SYNC = pytest.mark.skipif(
    importlib.util.find_spec("zcluster.files.__main__") is None, reason="the nodes of this version have no sync process"
)


def test_configuration_and_place_of_a_cluster(tmp_path: Path) -> None:
    config = tree_config(tmp_path / 'a "quoted" tree')

    async def look() -> None:
        async with LocalCluster(0, config=config, parent=tmp_path) as cluster:
            assert cluster.home.parent.parent == tmp_path
            told = tomllib.loads((cluster.home / "zcluster.toml").read_text())
            assert told["sync"]["tree"] == [{"name": "bench", "path": str(tmp_path / 'a "quoted" tree')}]

    asyncio.run(look())
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bench that does not wait for the machine to calm down."""
    monkeypatch.setattr(syncworks, "SETTLE_S", 0.0)
    monkeypatch.setattr(syncworks, "BASELINE_S", 0.1)


@NEEDS_SYNC
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("work", list(WORKS))
def test_the_works_on_a_real_cluster(tmp_path: Path, work: str) -> None:
    options = SyncOptions(
        works=(work,), files=50, size_bytes=100, workers=2, rounds=2, changes=5, duration_s=0.5, directory=tmp_path
    )
    [result] = run_sync(options, print).works
    if result.contenders:
        assert len(result.contenders[0].runs) == 2
        assert result.contenders[0].seconds > 0
        assert (result.contenders[0].wire_bytes or 1) > 0
    assert {figure.met for figure in result.figures} == {None}
    assert list(tmp_path.iterdir()) == []
