"""A worker's door: agents have their sessions here, clients are carried to the master.

Rules kept here:
- the door proves itself with the worker's own key, and lets in only agents, clients and admins that the copy of the ring names;
  a key that leaves the copy has its sessions ended at once;
- an agent's frames are read here, by a machine of sessions that admits nothing but agents; a client's are carried unopened;
- the machine is there without a door too: parts attach to it all the same, and nobody comes;
- what is sent outside of the socket's turns leaves with the worker's next flush.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import zmq

from zcluster.config import Loaded, Settings, advertised_door
from zcluster.core.batch import Outgoing
from zcluster.core.carrying import CarryLimits, Cut, Effect, End, Forwarder, ToClient, ToMaster
from zcluster.core.limits import MasterLimits
from zcluster.core.master import Master
from zcluster.core.peers import Event, Identity
from zcluster.core.roster import AGENT_ROLE, SHARED_ROLES
from zcluster.errors import PeerError, Unreachable
from zcluster.keys import KeyFile, KeyPair, fingerprint, may_call, may_send_at_door
from zcluster.net.connections import FAULTS, TURNED_AWAY
from zcluster.net.context import Socket
from zcluster.net.front import Front, FrontKeys
from zcluster.net.reader import Alarm
from zcluster.nodes.directory import Directory
from zcluster.nodes.limits import machine_limits
from zcluster.nodes.turnedaway import TurnedAway
from zcluster.wire import Message, Welcome, WireLimits, decode
from zcluster.wire.agents import Carry, Doors
from zcluster.wire.rotation import NextKey
from zcluster.workers.nextkey import OwnNextKey
from zcluster.workers.uplink import Uplink

LAST_WORDS_MS = 500
ADMITTED = SHARED_ROLES | {AGENT_ROLE}
"""The roles that may come in."""


class Door:
    """One worker's door, in the current event loop.

    Args:
        loaded: the configuration; without ``worker.door`` nothing listens.
        wake: called when something is to be sent; the worker then calls :meth:`flush` soon.
        note: called with what has happened.
    """

    kinds = frozenset({Carry.kind, Doors.kind})

    def __init__(
        self, loaded: Loaded, key_file: KeyFile, uplink: Uplink, wake: Callable[[], None], note: Callable[[Event], None],
        logger: logging.Logger,
    ) -> None:  # fmt: skip
        settings = loaded.settings
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._settings = settings
        self._name, self._pair = key_file.name, key_file.pair
        self._uplink = uplink
        self._wake = wake
        self._note = note
        self._logger = logger
        self.machine = Master(key_file.name, key_file.cluster, 0, _limits(settings), may_send_at_door, may_call, loop.time())
        self.machine.roster.nodes.clear()  # there is no node behind this machine
        limits = settings.limits
        self._forwarder = Forwarder(
            CarryLimits(all_waiting_bytes=limits.outbox_bytes, frame_bytes=limits.frame_bytes), self.machine.counters
        )
        self._wire_limits = WireLimits(frame_bytes=limits.frame_bytes)
        self.directory = Directory()
        self.addresses: tuple[str, ...] = ()
        """What others are told; empty while there is no door."""
        self._ring: Mapping[str, Identity] = {}
        self._front: Front | None = None
        self._alarm = Alarm(loop, self._due)
        self._next_key = OwnNextKey(self.machine)
        self._rekeying: asyncio.TimerHandle | None = None
        uplink.attach(self)

    @property
    def agents(self) -> int:
        """How many agents have a session here."""
        return len(self.machine.roster.peers)

    def open(self, context: zmq.Context[Socket]) -> None:
        """Listen, where the configuration says so.

        Raises:
            UsageError: the address cannot be bound. ConfigError: worker.advertise is malformed.
        """
        worker = self._settings.worker
        if not worker.door:
            return
        keys = FrontKeys(self._pair.public, self._pair.secret)
        frame_bytes = self._settings.limits.frame_bytes
        turned_away = TurnedAway(
            self.machine.counters, self._note, self._name_of, self._loop.time, self._logger, "connection denied at the door",
            unknown=(self._unknown,),
        )  # fmt: skip
        self._front = front = Front(
            context, self, keys, worker.door, "", frame_bytes, self._logger, turned_away, setting="worker.door"
        )
        self.addresses = advertised_door(worker.door, front.port, worker.advertise, socket.gethostname())
        fields = {"door": worker.door, "port": front.port, "told": list(self.addresses)}
        what = "the door is open; it admits nobody until the ring has been copied from the master"
        self._logger.info(what, extra={"fields": fields})

    def rekey_in(self, delay_s: float, pair: KeyPair) -> None:
        """Prove itself with ``pair`` in ``delay_s``; until then with the older one, which is what most know."""
        if self._rekeying is not None:
            self._rekeying.cancel()
        self._rekeying = self._loop.call_later(delay_s, self._rekey, pair)
        if pair.public != self._pair.public:
            self._tell_agents(pair.public)

    def apply(self, loaded: Loaded) -> None:
        """The configuration file was read again."""
        self.machine.apply(_limits(loaded.settings))

    def ring_is(self, ring: Mapping[str, Identity]) -> None:
        """The copy of the ring is another: by public key, who has it."""
        self._ring = ring
        now = self._loop.time()
        admitted = set(ring.values())  # whatever key each came with: it may have two while it changes it
        self.machine.keys_changed(admitted.__contains__, now)
        self._perform(self._forwarder.keys_changed(self._is_client))
        if self._front is not None:
            self._send_decided()  # they are told before they are cut
            self._front.keys_changed(self.front_admits)
        self._wake()

    def flush(self) -> None:
        """Send what was decided outside of the socket's turns."""
        if self._front is not None:
            self._send_decided()
            self._front.sent()

    def close(self) -> None:
        """Say BYE to everyone and listen no more."""
        self._alarm.cancel()
        if self._rekeying is not None:
            self._rekeying.cancel()
        front = self._front
        if front is not None:
            self.machine.close(self._loop.time())
            self._perform(self._forwarder.master_down())
            self.flush()
            self._front = None
            front.close(LAST_WORDS_MS)

    # -- a part of the session with the master ----------------------------------------------------------------------

    def link_up(self, welcome: Welcome) -> None:
        self._forwarder.master_up(welcome.frame_bytes)

    def link_down(self) -> None:
        self._perform(self._forwarder.master_down())
        self._wake()

    def receive(self, message: Message, data: bytes, offset: int) -> None:
        match message:
            case Carry():
                self._perform(self._forwarder.received(message, data[offset:]))
                self._wake()
            case Doors():
                self.directory.set(message.doors)

    # -- the front's owner ------------------------------------------------------------------------------------------

    def front_message(self, route: bytes, public: str, data: bytes) -> None:
        identity = self._ring.get(public)
        if identity is None or identity.role not in ADMITTED:
            self.machine.counters.add("revoked_key")
        elif identity.role in SHARED_ROLES:
            self._perform(self._forwarder.frame(route, public, data, self._uplink.bulk_bytes))
        else:
            try:
                message, offset = decode(data, self._wire_limits)
            except PeerError as error:
                self.machine.malformed(route, identity, error, self._loop.time())
                return
            self.machine.receive(route, identity, message, data, offset, self._loop.time())

    def front_malformed(self, route: bytes, public: str, reason: str) -> None:
        identity = self._ring.get(public)
        if identity is None:
            self.machine.counters.add("revoked_key")
        else:
            self.machine.malformed(route, identity, PeerError(reason), self._loop.time())

    def front_disconnected(self, route: bytes) -> None:
        self.machine.disconnected(route, self._loop.time())
        self._perform(self._forwarder.gone(route))
        self._wake()

    def front_unblocked(self, route: bytes) -> None:
        self.machine.unblock(route)
        self._perform(self._forwarder.unblocked(route))

    def front_turn_over(self) -> None:
        self._send_decided()

    def front_admits(self, public: str) -> bool:
        identity = self._ring.get(public)
        return identity is not None and identity.role in ADMITTED

    def front_has_session(self, route: bytes) -> bool:
        return route in self.machine.roster.peers or route in self._forwarder

    def front_look(self) -> None:
        """What is looked at here is told by the worker: the ring's copy comes over its session."""

    # -- inside -----------------------------------------------------------------------------------------------------

    def _name_of(self, public: str) -> str:
        identity = self._ring.get(public)
        return "" if identity is None else identity.name

    def _unknown(self, _public: str, _address: str) -> str:
        return "" if self._ring else "the ring has not been copied from the master yet"

    def _is_client(self, public: str) -> bool:
        identity = self._ring.get(public)
        return identity is not None and identity.role in SHARED_ROLES

    def _tell_agents(self, public: str, *, now: bool = False) -> None:
        self._next_key.tell(NextKey(public=public, node=self._name, now=now))
        self._wake()

    def _rekey(self, pair: KeyPair) -> None:
        self._rekeying, self._pair = None, pair
        if self._front is not None:
            try:
                self._front.rekey(FrontKeys(pair.public, pair.secret))
            except Unreachable as error:
                self._logger.error("the door keeps its older key: %s", error)
            else:
                self._logger.info("the door has another key", extra={"fields": {"key": fingerprint(pair.public)}})
                self._tell_agents(pair.public, now=True)

    def _due(self) -> None:
        try:
            self.machine.handle_deadline(self._loop.time())
        finally:
            self.flush()

    def _send_decided(self) -> None:
        machine = self.machine
        for route, outgoing in machine.take(self._loop.time()):
            if isinstance(route, bytes):
                self._send(route, outgoing)
        for route in machine.refusing.take_cuts():
            if isinstance(route, bytes) and self._front is not None:
                self._front.cut(route, FAULTS)
        events, machine.events = machine.events, []
        for event in events:
            self._note(event)
        if machine.roster.peers:
            self._alarm.set(machine.next_deadline())

    def _send(self, route: bytes, outgoing: list[Outgoing]) -> None:
        front = self._front
        for index, (message, bodies) in enumerate(outgoing):
            if front is not None and not front.send(route, message, bodies):
                self.machine.block(route, outgoing[index + 1 :])
                return

    def _perform(self, effects: Iterable[Effect]) -> None:
        waiting = deque(effects)
        while waiting:
            effect = waiting.popleft()
            match effect:
                case ToMaster():
                    self._uplink.say(effect.message, effect.body)
                case ToClient(route=bytes() as route):
                    ended = self._forwarder.hold(route, effect.message)
                    if ended is not None:
                        waiting.extend(ended)
                    elif self._front is not None and not self._front.send(route, effect.message, []):
                        self._forwarder.blocked(route)
                case Cut(route=bytes() as route) if self._front is not None:
                    self._front.forget(route)
                case End(route=bytes() as route) if self._front is not None:
                    self._front.cut(route, TURNED_AWAY)


def _limits(settings: Settings) -> MasterLimits:
    """Only agents are here, so nothing has to be looked at more often than they speak."""
    limits = machine_limits(settings)
    return replace(limits, session=replace(limits.session, heartbeat_s=limits.session.agent_heartbeat_s))
