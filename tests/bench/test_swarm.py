"""When a swarm is complete; its real sockets are in tests/system."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from zcluster.bench.swarm import SimulatedWorker, Swarm, SwarmConfig
from zcluster.errors import SessionReplaced, Unreachable

Run = Callable[[Callable[[Callable[[], float]], Any]], Any]
EMPTY = SwarmConfig("tcp://127.0.0.1:1", "", [])


def test_a_swarm_is_up_when_all_are_up_in_a_new_session(run_virtual: Run) -> None:
    async def main(_clock: Callable[[], float]) -> list[float]:
        swarm = Swarm(EMPTY)
        one, two = SimulatedWorker(swarm), SimulatedWorker(swarm)
        swarm.workers += [one, two]
        one.up_at_s, two.up_at_s = 8.0, 3.0
        waiting = asyncio.ensure_future(swarm.all_up(5.0))
        await asyncio.sleep(1)
        assert not waiting.done()  # two's session is the one from before
        two.link_down(Unreachable("gone"), True, 0.1)
        swarm.changed()
        assert two.up_at_s == 0.0
        two.up_at_s = 7.0
        swarm.changed()
        up = await waiting
        swarm.close()
        return up.up_at_s

    assert run_virtual(main) == [7.0, 8.0]


def test_a_link_that_ended_for_good_ends_the_wait(run_virtual: Run) -> None:
    async def main(_clock: Callable[[], float]) -> None:
        swarm = Swarm(EMPTY)
        worker = SimulatedWorker(swarm)
        swarm.workers.append(worker)
        waiting = asyncio.ensure_future(swarm.all_up(0.0))
        await asyncio.sleep(1)
        worker.link_ended(SessionReplaced("a newer one"))
        try:
            await waiting
        finally:
            swarm.close()

    with pytest.raises(SessionReplaced):
        run_virtual(main)
