"""The agent's process: one agent of this host, or many simulated ones for load tests.

Rules kept here:
- SIGTERM and SIGINT: BYE, and the end; what the agent keeps is written first;
- a real agent uses asyncio's own loop and imports little: it is a guest on its host;
- simulated agents share one context, one I/O thread and one measurement; they keep nothing on disk and take no files;
- when the process may not open enough files for all of them, it says so before it begins.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zcluster.agents.agent import Agent, Surroundings, Told
from zcluster.agents.host import host_name, system
from zcluster.agents.shared import SharedFiles
from zcluster.agents.state import AgentState
from zcluster.core.link import LinkPolicy
from zcluster.errors import EXIT_OK, UsageError, ZClusterError
from zcluster.files.durable import disk_error
from zcluster.keys import KeyFile, fingerprint
from zcluster.keys.rotation import OwnKey
from zcluster.net.context import new_context
from zcluster.nodes.sampling import Sampler
from zcluster.process import Lifetime, set_level, start_logging

POLICY = LinkPolicy(hello_timeout_s=5.0, reconnect_base_s=0.2, reconnect_max_s=5.0)
FLEET_POLICY = LinkPolicy(hello_timeout_s=20.0, reconnect_base_s=0.5, reconnect_max_s=10.0)
MONITORED_AT_MOST = 500
"""Simulated agents of which each has a monitor, and sees a broken connection at once; of more, silence tells."""
FILES_EACH, FILES_MONITORED, FILES_SPARE = 2, 4, 100
"""Descriptors of one agent (libzmq: its connection and its mailbox; with a monitor two more), and of the process."""
SAMPLE_KEPT_S = 1.0
NO_SESSION = "no session yet, or no longer"
START_TURN = 20
START_EVERY_S = 0.02


@dataclass(frozen=True)
class AgentOptions:
    """How an agent is started."""

    nodes: Sequence[str] = ()
    labels: dict[str, str] = field(default_factory=dict)
    state_dir: Path | None = None
    files_dir: Path | None = None
    log_level: str = "info"
    log_format: str = "auto"


def serve(own: OwnKey, options: AgentOptions) -> int:
    """Run one agent until it is told to stop; returns its exit code."""
    logger = start_logging(options.log_level, options.log_format, own.key_file.name)
    return _run(_one(own, options, logger))


def simulate(key_files: Sequence[KeyFile], options: AgentOptions) -> int:
    """Run an agent for each of ``key_files`` in this process; returns its exit code.

    Raises:
        UsageError: the process may not open enough files for so many.
    """
    logger = start_logging(options.log_level, options.log_format, "agents")
    monitored = len(key_files) <= MONITORED_AT_MOST
    check_descriptors(len(key_files), monitored)
    return _run(_many(key_files, options, logger, monitored))


def check_descriptors(count: int, monitored: bool) -> None:
    """Raises UsageError when ``count`` agents need more descriptors than this process may have."""
    need = count * (FILES_MONITORED if monitored else FILES_EACH) + FILES_SPARE
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most != resource.RLIM_INFINITY and need > most:
        raise UsageError(
            f"{count} agents need {need} file descriptors, and this process may have {most}",
            hint=f"raise the limit (ulimit -Hn {need}), or run them in several processes",
        )


def _run(main: Coroutine[Any, Any, int]) -> int:
    gc.freeze()
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(main)


class _Ends:
    """What ended for good."""

    def __init__(self, lifetime: Lifetime, count: int) -> None:
        self.error: ZClusterError | None = None
        self._lifetime = lifetime
        self._left = count

    def ended(self, _name: str, error: ZClusterError) -> None:
        self.error = error
        self._left -= 1
        if self._left == 0:
            self._lifetime.stop()


def _lifetime(logger: logging.Logger) -> Lifetime:
    note = "an agent has no configuration file: its node tells it its configuration"
    return Lifetime(asyncio.get_running_loop(), lambda: logger.info(note))


async def _one(own: OwnKey, options: AgentOptions, logger: logging.Logger) -> int:
    lifetime = _lifetime(logger)
    ends = _Ends(lifetime, 1)
    context = new_context()
    state = AgentState(options.state_dir, logger)
    files = _files(options, logger)
    held = files.held(state.kept.files) if files is not None else {}
    if files is None or not files.has_config():
        state.kept.extra = ""
    sampler = Sampler(options.state_dir if options.state_dir is not None and options.state_dir.is_dir() else Path("/"))
    around = Surroundings(
        context, sampler, logger, POLICY, system(), ends.ended, level=lambda level: set_level(level or options.log_level),
        changed=lambda: lifetime.status(f"session with {agent.node}" if agent.node else NO_SESSION),
    )  # fmt: skip
    agent = Agent(around, own, Told(options.nodes, host_name(), options.labels), state, files)
    fields = {"key": fingerprint(own.current.public), "state": options.state_dir, "files": options.files_dir}
    logger.info("agent starts", extra={"fields": fields})
    agent.start(held)
    lifetime.ready(NO_SESSION)
    await lifetime.stopped()
    agent.close()
    await agent.finished()
    await state.finish()
    if files is not None:
        files.close()
    context.term()
    logger.info("agent ends")
    return ends.error.exit_code if ends.error is not None else EXIT_OK


def _files(options: AgentOptions, logger: logging.Logger) -> SharedFiles | None:
    if options.files_dir is None:
        return None
    try:
        return SharedFiles(options.files_dir)
    except OSError as error:
        logger.warning(str(disk_error(f"{options.files_dir} cannot be used: this agent takes no files", error)))
        return None


async def _many(key_files: Sequence[KeyFile], options: AgentOptions, logger: logging.Logger, monitored: bool) -> int:
    loop, lifetime = asyncio.get_running_loop(), _lifetime(logger)
    ends = _Ends(lifetime, len(key_files))
    context = new_context()
    quiet = logging.getLogger("zcluster.simulated")
    quiet.setLevel(logging.ERROR)
    agents: list[Agent] = []
    soon = False

    def report() -> None:
        nonlocal soon
        soon = False
        nodes: dict[str, int] = {}
        for agent in agents:
            nodes[agent.node or "none"] = nodes.get(agent.node or "none", 0) + 1
        logger.info("agents", extra={"fields": dict(sorted(nodes.items()))})

    def changed() -> None:
        nonlocal soon
        if not soon:
            soon = True
            loop.call_later(1.0, report)

    around = Surroundings(
        context, Sampler(Path("/"), keep_s=SAMPLE_KEPT_S), quiet, FLEET_POLICY, system(), ends.ended,
        level=lambda _level: None, changed=changed, monitored=monitored,
    )  # fmt: skip
    logger.info("agents start", extra={"fields": {"count": len(key_files), "monitored": monitored}})
    for number, key_file in enumerate(key_files, 1):
        told = Told(options.nodes, key_file.name, options.labels)
        agents.append(Agent(around, OwnKey(key_file), told, AgentState(None, logger), None))
        agents[-1].start()
        if number % START_TURN == 0:
            await asyncio.sleep(START_EVERY_S)
    lifetime.ready(f"{len(agents)} simulated agents")
    await lifetime.stopped()
    for agent in agents:
        agent.close()
    context.term()
    logger.info("agents end")
    return ends.error.exit_code if ends.error is not None else EXIT_OK
