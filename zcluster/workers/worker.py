"""The worker's process: a link to the master, a node's end of the requests, and signals.

Rules kept here:
- it keeps trying to reach its master until it is told to stop; only a newer session of its key ends it;
- SIGTERM: the master is told, nothing new starts, what runs may finish within session.drain_s, the rest is answered
  with an error, then BYE;
- every request that it is given is answered or its session ends.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import replace

import msgspec
import zmq

from zcluster import __version__
from zcluster.config import Home, Loaded, load, reload
from zcluster.core.batch import Outgoing
from zcluster.core.doors import Candidate, of_master
from zcluster.core.eventflood import Flood
from zcluster.core.link import Link, LinkPolicy
from zcluster.core.peers import Event
from zcluster.core.transfer import Agreed
from zcluster.dapi.builtins import ResourceSampler, node_functions
from zcluster.dapi.loader import load_functions
from zcluster.dapi.node import NodeEnd
from zcluster.errors import EXIT_OK, ZClusterError
from zcluster.keys import KeyFile, fingerprint, may_call
from zcluster.keys.rotation import OwnKey
from zcluster.net.context import Socket, new_context
from zcluster.net.link import LinkDriver, Owner
from zcluster.net.reader import Alarm
from zcluster.net.rekeying import Rekeying
from zcluster.nodes.data import NodeData, open_data
from zcluster.nodes.desk import Desk, Part
from zcluster.process import Lifetime, run_daemon, set_level, start_logging
from zcluster.process.failpoints import failpoint
from zcluster.wire import VERSIONS, Beat, Bye, FunctionInfo, Hello, Message, Refusal, Welcome, WireLimits
from zcluster.workers.door import Door
from zcluster.workers.events import WorkerEvents
from zcluster.workers.handover import Knock, lock_or_replace
from zcluster.workers.parts import DIGESTED, worker_parts
from zcluster.workers.roles import WorkerRoles
from zcluster.workers.tables import WorkerTables
from zcluster.workers.trees import WorkerTrees
from zcluster.workers.uplink import Uplink

_random = secrets.SystemRandom()


def serve(loaded: Loaded, own: OwnKey, *, ready: Callable[[Welcome], None] | None = None) -> int:
    """Run a worker until it is told to stop; returns its exit code.

    Args:
        loaded: its configuration. own: who it is, and where its master is.
        ready: called at each admission by the master.
    """
    logger = start_logging(loaded.settings.log.level, loaded.settings.log.format, own.key_file.name)
    return run_daemon(Worker(loaded, own, logger, ready).run())


class Worker:
    """One worker in the current event loop."""

    def __init__(
        self, loaded: Loaded, own: OwnKey, logger: logging.Logger, ready: Callable[[Welcome], None] | None = None
    ) -> None:
        settings = loaded.settings
        self._loaded = loaded
        self._logger = logger
        self._ready = ready
        self._own = own
        self._key_file = key_file = own.key_file
        self._flood = Flood()
        self._error: ZClusterError | None = None
        self._welcome: Welcome | None = None
        self._ending = asyncio.Event()
        modules = settings.functions.modules
        sampler = ResourceSampler(loaded.home if loaded.home.is_dir() else loaded.home.parent)
        functions = node_functions(key_file.name, "worker", version=__version__, sampler=sampler)
        functions.update(load_functions(modules))
        self._functions = functions
        self._sampler = sampler

    async def run(self) -> int:
        """Serve until told to stop."""
        settings, key_file = self._loaded.settings, self._key_file
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._flushing = True
        self._lifetime = Lifetime(loop, self._reload)
        self._alarm = Alarm(loop, self._due)
        self._trees = WorkerTrees(key_file.name, self._loaded, self._wake, self._logger)
        self._functions.update(self._trees.functions())
        self.uplink = Uplink(self._wake)
        self._events = WorkerEvents(self.uplink, loop, loop.time, time.time)
        context = new_context()
        self._door = Door(self._loaded, key_file, self.uplink, self._wake, self._note, self._logger)
        data_dir = Home.of(self._loaded.home).data_dir / "nodes" / key_file.name
        data = await open_data(data_dir, await lock_or_replace(data_dir, lambda: self._knock(context)), DIGESTED)
        self._parts = self._make_parts(data)
        for part in self._parts:
            self._functions.update(part.functions())
        self._node = NodeEnd(
            key_file.name, self._functions, may_call, settings.limits, slots=settings.worker.slots,
            processes=settings.worker.processes, modules=settings.functions.modules, clock=loop.time, wake=self._wake,
            sampler=self._sampler, logger=self._logger,
        )  # fmt: skip
        self.uplink.attach(WorkerRoles(self._node.rights))
        self._door.open(context)
        self._driver = self._link(context, self._hello(settings.worker.slots, self._node.infos()), self, self._trees.receive_bulk)
        self._rekeying = Rekeying(self._own, self._driver, self._learnt, self._logger, self._rekeyed, failpoint)
        fields = {"key": fingerprint(key_file.pair.public), "functions": len(self._functions)}
        self._logger.info("worker starts", extra={"fields": fields})
        for part in self._parts:
            await part.start()
        self._flushing = False
        self._driver.start()
        self._lifetime.ready("no session yet")
        await self._lifetime.stopped()
        await self._drain(settings.session.drain_s)
        self._trees.close()
        self._rekeying.close()
        self._driver.close()
        self._door.close()
        for part in reversed(self._parts):
            await part.close()
        self._events.close()
        await data.close()
        context.term()
        return self._exit_code()

    def _hello(self, slots: int, functions: list[FunctionInfo]) -> Hello:
        return Hello(
            versions=list(VERSIONS), software=__version__, instance=secrets.token_hex(8), slots=slots, functions=functions,
            door=list(self._door.addresses), parts=["tables", "agents", "rights"],
        )  # fmt: skip

    def _link(
        self, context: zmq.Context[Socket], hello: Hello, owner: Owner, bulk: Callable[[memoryview], None] | None = None
    ) -> LinkDriver:
        settings, key_file, pair = self._loaded.settings, self._own.key_file, self._own.current
        times = settings.session
        policy = LinkPolicy(times.hello_timeout_s, times.reconnect_base_s, times.reconnect_max_s)
        return LinkDriver(
            context, Link(hello, self._places(key_file), policy), owner, public=pair.public, secret=pair.secret,
            master_public=key_file.master_public, jitter=_random.random, logger=self._logger,
            wire_limits=WireLimits(frame_bytes=settings.limits.frame_bytes), bulk=bulk,
        )  # fmt: skip

    def _places(self, key_file: KeyFile) -> list[Candidate]:
        return of_master(self._loaded.settings.worker.master or key_file.addresses, key_file.known)

    def _learnt(self, key_file: KeyFile) -> None:
        self._driver.redirect(self._places(key_file))

    def _rekeyed(self, overlap_s: float) -> None:
        for part in self._parts:
            if isinstance(part, WorkerTables):
                part.rekey()
        self._door.rekey_in(overlap_s, self._own.current)

    def _knock(self, context: zmq.Context[Socket]) -> LinkDriver:
        link = self._link(context, self._hello(0, []), Knock())
        link.start()
        return link

    def _make_parts(self, data: NodeData) -> list[Part]:
        desk = Desk(
            name=self._key_file.name, role="worker", home=Home.of(self._loaded.home), loaded=lambda: self._loaded,
            clock=self._loop.time, wall_s=time.time, wake=self._wake, note=self._note, logger=self._logger,
            sampler=self._sampler, store=data.store, book=data.book, sessions=self._door.machine, ending=self._ending,
        )  # fmt: skip
        return worker_parts(desk, self.uplink, self._door, self._own)

    def _note(self, noted: Event) -> None:
        for event in self._flood.thinned([noted], self._loop.time()):
            level = logging.WARNING if event.level == "warning" else logging.INFO
            self._logger.log(level, event.name, extra={"fields": event.fields})
            self._events.heard(event)

    # -- the link's owner -------------------------------------------------------------------------------------------

    def link_up(self, welcome: Welcome) -> None:
        fields = {"cluster": welcome.cluster, "master": welcome.master, "session": welcome.session}
        self._logger.info("joined", extra={"fields": fields})
        self._lifetime.status(f"session {welcome.session} with {welcome.master} of {welcome.cluster}")
        self._welcome = welcome
        self._rekeying.link_up()
        self._node.apply(self._agreed())
        self._trees.link_up(welcome)
        self.uplink.link_up(welcome)
        if self._ready is not None:
            self._ready(welcome)

    def link_down(self, error: ZClusterError, was_up: bool, retry_s: float) -> None:
        self._rekeying.link_down(error)
        self._node.session_lost()
        self._trees.link_down()
        self.uplink.link_down()
        level = logging.WARNING if was_up else logging.INFO
        self._logger.log(level, str(error), extra={"fields": {"retry_s": round(retry_s, 3)}})
        self._lifetime.status(f"no session: {error}")

    def link_ended(self, error: ZClusterError) -> None:
        self._error = error
        self._node.session_lost()
        self._trees.link_down()
        self.uplink.link_down()
        self._logger.error(str(error))
        self._lifetime.stop()

    def link_message(self, message: Message, data: bytes, offset: int) -> None:
        if isinstance(message, Refusal):
            self._logger.warning("the master refused a message: %s", message.message, extra={"fields": {"code": message.code}})
        if message.kind in Rekeying.kinds:
            self._rekeying.receive(message)
            return
        if self._trees.receive(message, data) or self.uplink.receive(message, data, offset):
            return
        self._node.receive(message, data, offset)
        if self._node.busy:
            self._alarm.set(self._node.next_deadline())

    def link_beat(self) -> Beat:
        return msgspec.structs.replace(self._node.beat(), trees=self._trees.held, agents=self._door.agents)

    def link_take(self) -> list[Outgoing]:
        return self._trees.take(self.uplink.take(self._node.take()))

    # -- inside -----------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        self._door.flush()
        self._driver.flush()
        if self._node.busy:  # what had waited for its turn has deadlines now
            self._alarm.set(self._node.next_deadline())

    def _due(self) -> None:
        self._node.handle_deadline(self._loop.time())
        self._driver.flush()
        self._alarm.set(self._node.next_deadline())

    async def _drain(self, drain_s: float) -> None:
        self._ending.set()
        if self._driver.up:
            self._logger.info("draining", extra={"fields": {"in_flight": self._node.in_flight}})
            self._driver.say(Bye(code="draining", message="the worker is shutting down", draining=True))
        await self._lifetime.wait(asyncio.ensure_future(self._node.drain(drain_s)), drain_s)
        self._node.close()
        self._driver.flush()
        self._logger.info("worker ends")

    def _agreed(self) -> Agreed:
        """The limits that hold: the master says how bodies travel, this worker how much memory they may take."""
        mine, welcome = self._loaded.settings.limits, self._welcome
        if welcome is None:
            return Agreed(mine.body_bytes, mine.inline_bytes, mine.chunk_bytes, mine.window_bytes, mine.transfer_bytes)
        body_bytes = min(mine.body_bytes, welcome.body_bytes)
        return Agreed(body_bytes, welcome.inline_bytes, welcome.chunk_bytes, welcome.window_bytes, mine.transfer_bytes)

    def _exit_code(self) -> int:
        return self._error.exit_code if self._error is not None else EXIT_OK

    def _reload(self) -> None:
        try:
            fresh = load(self._loaded.home, self._loaded.flags)
            outcome = reload(self._loaded.settings, fresh.settings)
        except ZClusterError as error:
            self._logger.error("the configuration was not applied, the old one stays: %s", error)
            return
        self._loaded = replace(self._loaded, settings=outcome.settings)
        set_level(outcome.settings.log.level)
        self._node.apply(self._agreed())
        self._trees.apply(self._loaded)
        self._door.apply(self._loaded)
        for part in self._parts:
            part.apply(self._loaded)
        fields = {"applied": list(outcome.applied), "needs_restart": list(outcome.needs_restart)}
        self._logger.info("configuration read again", extra={"fields": fields})
