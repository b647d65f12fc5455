"""An agent without a node: what it logs while it looks for one."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
import zmq

from zcluster.agents.agent import Agent, Surroundings, Told
from zcluster.agents.state import AgentState
from zcluster.core.doors import KnownNode
from zcluster.core.link import LinkPolicy
from zcluster.errors import Unreachable
from zcluster.keys import KeyFile, generate
from zcluster.keys.rotation import OwnKey
from zcluster.nodes.sampling import Sampler

DOOR = "tcp://127.0.0.1:1"


def test_only_the_last_key_that_an_address_may_have_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        logger = logging.getLogger("test.agent")
        caplog.set_level(logging.DEBUG, logger.name)
        context = zmq.Context()
        around = Surroundings(context, Sampler(Path()), logger, LinkPolicy(), {}, lambda name, error: None, lambda level: None)
        nodes = tuple(KnownNode(f"worker-{number}", generate().public, ()) for number in (1, 2))
        key_file = KeyFile("web-17", "agent", "lab", generate(), generate().public, (), (), nodes)
        agent = Agent(around, OwnKey(key_file), Told((DOOR,), "web-17"), AgentState(None, logger), None)
        for _ in range(4):  # the master's key, worker-1's, worker-2's; and all again
            agent.link_down(Unreachable("ended the connection during the handshake"), False, 0.1)
        agent.close()
        await agent.finished()
        context.term()

    asyncio.run(main())
    levels = [record.levelname for record in caplog.records if "handshake" in record.message]
    assert levels == ["DEBUG", "DEBUG", "INFO", "DEBUG"]
