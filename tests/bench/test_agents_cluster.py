"""The works of ``zcluster bench agents`` and ``bench groups`` on real clusters, as small as they go."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from zcluster.bench import agentsfleet, agentslive, agentsworks, groups
from zcluster.bench.agents import GROUPS, WORKS, AgentsOptions, run_agents
from zcluster.bench.agentsfleet import Fleet, until
from zcluster.bench.report import render
from zcluster.errors import TimedOut, ZClusterError


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bench that does not wait for the machine to calm down."""
    for module, name in (
        (agentsworks, "SETTLE_S"), (agentsworks, "ACKNOWLEDGED_S"), (agentslive, "SETTLE_S"), (agentslive, "ALONE_S"),
        (groups, "PAUSE_S"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, 0.0)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("work", [*WORKS, GROUPS.name])
def test_the_works(tmp_path: Path, work: str) -> None:
    said: list[str] = []
    options = AgentsOptions((work,), agents=120, workers=2, rounds=1, duration_s=0.3, directory=tmp_path)
    result = run_agents(options, said.append)
    assert said
    assert list(tmp_path.iterdir()) == []
    assert result.name == ("groups" if work == GROUPS.name else "agents")
    assert {figure.name.split(":")[0] for figure in result.figures} == {work}
    assert {figure.met for figure in result.figures} <= {None, True}
    assert all(figure.value >= 0 for figure in result.figures)
    assert work in render(result)
    assert '"bench"' in render(result, "json")


def test_what_never_comes_is_an_error() -> None:
    async def never() -> bool:
        return False

    with pytest.raises(TimedOut, match="nobody came after 0 s"):
        asyncio.run(until(never, "nobody came", 0.0))


def test_a_worker_that_ends_early_ends_the_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agentsfleet, "READY_S", 30.0)

    async def look() -> None:
        async with Fleet(tmp_path) as fleet:
            fleet.add_worker("worker-1")
            fleet.cluster.kill("worker-1")
            await fleet.synced(["worker-1"])

    with pytest.raises(ZClusterError, match="worker-1 ended early"):
        asyncio.run(look())
    assert list(tmp_path.iterdir()) == []
