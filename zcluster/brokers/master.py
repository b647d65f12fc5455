"""The master's process: the front's sockets, the core's machine, the master as a node, signals, and the ring.

Rules kept here:
- everything happens on the loop's thread; after each turn what the machine decided is sent, its events are logged and
  published, and the next deadline is set;
- the ring is looked at before each admission and at each look of the front, so a change takes effect at once;
- SIGTERM: no new requests, running ones may finish within session.drain_s, the rest is answered with an error, then BYE.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import orjson

from zcluster import __version__
from zcluster.brokers.admitted import Admitted, own_identity
from zcluster.brokers.carry import Carrying
from zcluster.brokers.cluster_functions import cluster_functions
from zcluster.brokers.info import MasterInfo
from zcluster.brokers.jobruns import JobRoute
from zcluster.brokers.locate import Locator
from zcluster.brokers.parts import DIGESTED, MasterSide, master_parts
from zcluster.brokers.records import Records
from zcluster.brokers.trees import MasterTrees
from zcluster.config import Home, Loaded, load, reload
from zcluster.core.carrying import Via
from zcluster.core.eventflood import Flood
from zcluster.core.master import Master
from zcluster.core.peers import LOCAL, Event
from zcluster.dapi.builtins import ResourceSampler, node_functions
from zcluster.dapi.loader import load_functions
from zcluster.dapi.node import NodeEnd
from zcluster.errors import EXIT_OK, PeerError, ZClusterError
from zcluster.keys import KeyFile, KeyPair, Ring, fingerprint, may_call, may_send
from zcluster.keys.rotation import OwnKey
from zcluster.net.context import new_context
from zcluster.net.front import Front, FrontKeys
from zcluster.net.reader import Alarm
from zcluster.nodes.data import NodeData, lock_data, open_data
from zcluster.nodes.desk import Desk, Part
from zcluster.nodes.limits import machine_limits
from zcluster.nodes.turnedaway import TurnedAway
from zcluster.process import Lifetime, OneProcess, run_daemon, set_level, start_logging
from zcluster.wire import VERSIONS, Hello, Message, WireLimits, decode

LAST_WORDS_MS = 500
LOCAL_ROUNDS = 16
"""How often in one turn the machine and its own node may answer each other before others get their turn."""


def serve(loaded: Loaded, *, ready: Callable[[MasterInfo], None] | None = None) -> int:
    """Run the master of the home in ``loaded`` until it is told to stop; returns its exit code.

    Args:
        loaded: its configuration; the home has been made (keys.init_home).
        ready: called when it listens.

    Raises:
        UsageError: the home is in use, an address cannot be bound, or a configured function is wrong.
        InvalidKey: the home's keys cannot be read.
    """
    home = Home.of(loaded.home)
    key_file = KeyFile.read(home.master_key)
    logger = start_logging(loaded.settings.log.level, loaded.settings.log.format, key_file.name)
    lock = OneProcess(home.run_dir / "master.lock")
    try:
        return run_daemon(MasterProcess(loaded, key_file, logger, ready).run())
    finally:
        lock.close()


class MasterProcess:
    """One master in the current event loop."""

    def __init__(
        self, loaded: Loaded, key_file: KeyFile, logger: logging.Logger, ready: Callable[[MasterInfo], None] | None = None
    ) -> None:
        home = Home.of(loaded.home)
        self._loaded = loaded
        self._logger = logger
        self._ready = ready
        self._key_file = key_file
        self._ring = Ring(home.ring_file)
        self._records = Records(home.data_dir, logger)
        self._me = own_identity(self._ring, key_file)
        self._admitted = Admitted(self._ring, self._me, logger, home.run_dir)
        self._sampler = ResourceSampler(home.path)
        functions = node_functions(key_file.name, "master", version=__version__, sampler=self._sampler)
        functions.update(load_functions(loaded.settings.functions.modules))
        self._functions = functions
        self._wire_limits = WireLimits(frame_bytes=loaded.settings.limits.frame_bytes)
        self._waking = True
        """Whether a flush is on its way; until the front is there nothing can be sent."""
        self._listening = False
        """From when the front is there to when it is closed."""
        self._sequences = {b"beat": 0, b"nodes": 0}
        self._flood = Flood()
        self._draining = False
        self._quiet, self._ending = asyncio.Event(), asyncio.Event()

    async def run(self) -> int:
        """Serve until told to stop."""
        settings = self._loaded.settings
        loop = self._loop = asyncio.get_running_loop()
        epoch = self._records.next_epoch()
        self._machine = Master(
            self._key_file.name, self._key_file.cluster, epoch, machine_limits(settings), may_send, may_call, loop.time(),
            software=__version__, expected=self._records.nodes(), rights=self._admitted.rights,
        )  # fmt: skip
        self._carry = Carrying(self._machine, self._admitted.identify, self._wire_limits)
        self._functions.update(cluster_functions(self._machine, loop.time, time.time()))
        self._trees = MasterTrees(self._machine, self._loaded, self._admitted.workers, self._wake, self._logger)
        self._functions.update(self._trees.functions())
        data_dir = Home.of(self._loaded.home).data_dir / "node"
        data = await open_data(data_dir, lock_data(data_dir), DIGESTED)
        self._locator = Locator(self._machine, data.book, data.store, self._wake)
        self._parts = self._make_parts(data)
        for part in self._parts:
            self._functions.update(part.functions())
        self._node = NodeEnd(
            self._key_file.name, self._functions, may_call, settings.limits, slots=settings.worker.slots,
            processes=settings.worker.processes, modules=settings.functions.modules, clock=loop.time, wake=self._wake,
            sampler=self._sampler, logger=self._logger, rights=self._admitted.rights, master=True,
        )  # fmt: skip
        for part in self._parts:
            await part.start()
        self._alarm = Alarm(loop, self._due)
        context = new_context()
        keys = FrontKeys(self._key_file.pair.public, self._key_file.pair.secret)
        turned_away = TurnedAway(
            self._machine.counters, self._note, self._admitted.name_of, loop.time, self._logger, unknown=self._side.on_unknown
        )
        self._front = Front(
            context, self, keys, settings.master.bind, settings.master.publish, settings.limits.frame_bytes, self._logger,
            turned_away, subscribes=self._admitted.may_subscribe,
            local=Home.of(self._loaded.home).bus_socket if settings.master.ipc else None,
        )  # fmt: skip
        lifetime = Lifetime(loop, self._reload)
        self._listening, self._waking = True, False
        self._join_myself()
        self._trees.start()
        self._admitted.applies()
        self._started(epoch)
        lifetime.ready(f"master of {self._key_file.cluster}, epoch {epoch}")
        await lifetime.stopped()
        await self._drain(lifetime)
        self._trees.close()
        self._listening, self._waking = False, True
        self._front.close(LAST_WORDS_MS)
        await self._locator.close()
        for part in reversed(self._parts):
            await part.close()
        await data.close()
        self._admitted.close()
        self._records.close()
        context.term()
        return EXIT_OK

    # -- the front's owner ------------------------------------------------------------------------------------------

    def front_message(self, route: bytes, public: str, data: bytes) -> None:
        identity = self._admitted.by_public.get(public) or self._admitted.identify(public)
        if identity is None:
            self._machine.counters.add("revoked_key")
            return
        try:
            message, offset = decode(data, self._wire_limits)
        except PeerError as error:
            self._machine.malformed(route, identity, error, self._loop.time())
            return
        self._machine.receive(route, identity, message, data, offset, self._loop.time())

    def front_malformed(self, route: bytes, public: str, reason: str) -> None:
        identity = self._admitted.identify(public)
        if identity is None:
            self._machine.counters.add("revoked_key")
        else:
            self._machine.malformed(route, identity, PeerError(reason), self._loop.time())

    def front_disconnected(self, route: bytes) -> None:
        self._machine.disconnected(route, self._loop.time())
        self._wake()

    def front_unblocked(self, route: bytes) -> None:
        self._machine.unblock(route)

    def front_turn_over(self) -> None:
        self._send_decided()

    def front_admits(self, public: str) -> bool:
        self._look_at_ring()
        return self._admitted.identify(public) is not None

    def front_has_session(self, route: bytes) -> bool:
        return route in self._machine.roster.peers

    def front_look(self) -> None:
        self._look_at_ring()

    # -- turns ------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if not self._waking:
            self._waking = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Send what was decided outside of the front's turns."""
        if self._listening:
            self._send_decided()
            self._front.sent()

    def _send_decided(self) -> None:
        """Send what was decided. The master's own node answers in the same turn, a bounded number of times."""
        self._waking = False
        now = self._loop.time()
        machine = self._machine
        if machine.trees.notices:
            self._trees.tell()
        self._carry.look()
        for _ in range(LOCAL_ROUNDS):
            for before in self._side.before_turn:
                before(now)
            for route, outgoing in machine.take(now):
                if isinstance(route, bytes):
                    self._send(route, outgoing)
                elif isinstance(route, JobRoute):
                    route.receive(outgoing, now)
                elif isinstance(route, Via):
                    self._carry.send(route, outgoing, now)
                else:
                    for message, bodies in outgoing:
                        self._node.receive(message, b"".join(bodies), 0)
            self._carry.cut_faulty(self._front, now)
            mine = self._node.take()
            if not self._carry.look() and not mine:
                break
            for message, bodies in mine:
                machine.receive(LOCAL, self._me, message, b"".join(bodies), 0, now)
        else:
            self._wake()
        if self._draining and not machine.dispatch.running and not machine.dispatch.waiting:
            self._quiet.set()
        if machine.admission.parking.questions:
            self._locator.ask()
        for turn_over in self._side.on_turn:
            turn_over()
        if machine.events:
            self._tell_events()
        self._alarm.set(machine.next_deadline())
        self._alarm.set(self._node.next_deadline())

    def _send(self, route: bytes, outgoing: list[tuple[Message, list[bytes | bytearray | memoryview]]]) -> None:
        for index, (message, bodies) in enumerate(outgoing):
            if not self._front.send(route, message, bodies):
                self._machine.block(route, outgoing[index + 1 :])
                return

    def _due(self) -> None:
        now = self._loop.time()
        try:
            self._machine.handle_deadline(now)
            self._node.handle_deadline(now)
        finally:
            # Whatever went wrong, time goes on for everything else.
            self._flush()

    def _beat_myself(self) -> None:
        if not self._listening:
            return
        self._loop.call_later(self._loaded.settings.session.heartbeat_s, self._beat_myself)
        agents = sum(1 for peer in self._machine.roster.peers.values() if peer.identity.role == "agent")
        beat = msgspec.structs.replace(self._node.beat(), agents=agents)
        self._machine.receive(LOCAL, self._me, beat, b"", 0, self._loop.time())
        self._publish(b"beat", {"cluster": self._machine.cluster, "epoch": self._machine.epoch})
        self._machine.events += self._flood.over(self._loop.time())
        self._flush()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _make_parts(self, data: NodeData) -> list[Part]:
        desk = Desk(
            name=self._machine.name, role="master", home=Home.of(self._loaded.home), loaded=lambda: self._loaded,
            clock=self._loop.time, wall_s=time.time, wake=self._wake, note=self._note, logger=self._logger,
            sampler=self._sampler, store=data.store, book=data.book, sessions=self._machine, ending=self._ending,
        )  # fmt: skip
        self._side = MasterSide(
            self._machine, self._ring, self._publish_frame, OwnKey(self._key_file, desk.home.master_key), self._rekey,
            self._locator.nodes_of, self._look_at_ring,
            lambda route: self._front.address_of(route) if isinstance(route, bytes) else "",
        )  # fmt: skip
        return master_parts(desk, self._side)

    def _rekey(self, pair: KeyPair) -> None:
        self._front.rekey(FrontKeys(pair.public, pair.secret))

    def _publish_frame(self, topic: bytes, frame: bytes) -> None:
        if self._listening:  # before that nobody could have subscribed
            self._front.publish(topic, frame)

    def _note(self, event: Event) -> None:
        self._machine.note(event)
        self._wake()

    def _join_myself(self) -> None:
        hello = Hello(
            versions=list(VERSIONS), software=__version__, instance=secrets.token_hex(8),
            slots=self._loaded.settings.worker.slots, functions=self._node.infos(),
        )  # fmt: skip
        self._machine.receive(LOCAL, self._me, hello, b"", 0, self._loop.time())
        self._beat_myself()

    def _look_at_ring(self) -> None:
        if not self._listening or not self._admitted.changed():
            return
        self._machine.keys_changed(self._admitted.still, self._loop.time())
        self._front.keys_changed(lambda public: self._admitted.identify(public) is not None)
        self._machine.forget_nodes(self._admitted.is_node)
        self._trees.nodes_changed()
        for tell in self._side.on_ring_change:
            tell()
        self._admitted.applies()
        self._logger.info("the ring changed", extra={"fields": {"keys": len(self._ring.entries)}})
        self._wake()

    def _tell_events(self) -> None:
        events, self._machine.events = self._flood.thinned(self._machine.events, self._loop.time()), []
        for event in events:
            level = logging.WARNING if event.level == "warning" else logging.INFO
            self._logger.log(level, event.name, extra={"fields": event.fields})
            for tell in self._side.on_event:
                tell(event)
            if event.name.startswith("node_"):
                self._publish_node(event)
        if any(event.name.startswith("node_") for event in events):
            self._records.save_nodes_later(self._machine.roster.remembered(self._machine.name))

    def _publish_node(self, event: Event) -> None:
        fields = event.fields
        state = fields.get("state") or event.name.removeprefix("node_")
        body = {"node": fields["name"], "role": fields.get("role", ""), "state": state, "reason": fields.get("reason", "")}
        self._publish(b"nodes", {**body, "at_s": round(time.time(), 3)})

    def _publish(self, topic: bytes, body: dict[str, Any]) -> None:
        """Publish with the topic's next number, by which a subscriber sees what it missed."""
        self._sequences[topic] += 1
        self._front.publish(topic, orjson.dumps({"sequence": self._sequences[topic], **body}))

    def _started(self, epoch: int) -> None:
        settings, key_file = self._loaded.settings, self._key_file
        mark = fingerprint(key_file.pair.public)
        info = MasterInfo(key_file.name, key_file.cluster, settings.master.bind, settings.master.publish, mark, epoch)
        fields = {"cluster": info.cluster, "bind": info.bind, "publish": info.publish, "key": mark, "epoch": epoch}
        self._logger.info("master listens", extra={"fields": fields})
        if self._ready is not None:
            self._ready(info)

    async def _drain(self, lifetime: Lifetime) -> None:
        self._note(Event("master_draining", {"running": self._machine.dispatch.running}))
        self._draining = True
        self._ending.set()
        self._machine.drain()
        self._node.refuse_new()
        self._flush()
        drain_s = self._loaded.settings.session.drain_s
        await lifetime.wait(asyncio.ensure_future(self._quiet.wait()), drain_s)
        self._node.close()
        self._flush()
        self._machine.close(self._loop.time())
        self._flush()
        await self._front.farewell()
        self._logger.info("master ends")

    def _reload(self) -> None:
        try:
            fresh = load(self._loaded.home, self._loaded.flags)
            outcome = reload(self._loaded.settings, fresh.settings)
        except ZClusterError as error:
            self._logger.error("the configuration was not applied, the old one stays: %s", error)
            return
        self._loaded = replace(self._loaded, settings=outcome.settings)
        set_level(outcome.settings.log.level)
        self._machine.apply(machine_limits(outcome.settings))
        self._node.apply(outcome.settings.limits)
        self._trees.apply(self._loaded)
        for part in self._parts:
            part.apply(self._loaded)
        fields = {"applied": list(outcome.applied), "needs_restart": list(outcome.needs_restart)}
        self._logger.info("configuration read again", extra={"fields": fields})
