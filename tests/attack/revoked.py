"""A key that is revoked while it is connected, by sessions and by subscriptions, and goes on sending: again and again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import zmq
from ground import Link, Shared, ground_of
from measured import Attack, at_most, none, some, told
from peers import Peer, dress

from zcluster import wire
from zcluster.bench.figures import Figure
from zcluster.config import Home
from zcluster.keys import KeyFile, Ring
from zcluster.net.monitor import LINK_EVENTS, read_event, watch

CONNECTIONS = 3
"""Of each kind."""
CUT_MS = 100
GIVE_UP_S = 10.0
AFTER_S = 0.3
"""How long it goes on trying after the cut."""
BODY = b'{"value":1}'


@dataclass(frozen=True)
class Scale:
    rounds: int


SMALL, FULL = Scale(4), Scale(100)


class Doomed:
    """One key with its connections, all of which send or listen until they are cut."""

    def __init__(self, key: KeyFile) -> None:
        self.key = key
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.peers = [Peer(key, self.context) for _ in range(CONNECTIONS)]
        self.subscribers = [self._subscriber() for _ in range(CONNECTIONS)]
        self.monitors = [watch(self.context, each, LINK_EVENTS) for each in self._sockets()]
        self.open = set(range(len(self.monitors)))
        self.ended_s: dict[int, float] = {}
        self.sent: dict[int, float] = {}
        """When each request left, by its number."""
        self.answered: set[int] = set()
        self.heard_s: list[float] = []
        self._next = 1

    def start(self) -> None:
        """Open the sessions, and wait until the subscriptions hear something."""
        for peer in self.peers:
            peer.hello()
            peer.wait_for(wire.Welcome)
        for subscriber in self.subscribers:
            assert subscriber.poll(60_000), "nothing is published"

    def turn(self) -> None:
        """Send one request on each session, and look what came and what ended."""
        now = time.monotonic()
        for peer in self.peers:
            group = wire.RequestGroup("echo", "worker-1", 5000, 5, 0, self._next, [len(BODY)])
            try:
                peer.socket.send(wire.encode(wire.Requests([group]), [BODY]), zmq.NOBLOCK)
                self.sent[self._next] = now
                self._next += 1
            except zmq.Again:
                pass
            while (found := peer.receive(0)) is not None:
                if isinstance(found[0], wire.Replies):
                    self.answered |= {group.first_id for group in found[0].groups if group.status == wire.Status.VALUE}
        for subscriber in self.subscribers:
            while subscriber.poll(0):
                subscriber.recv_multipart()
                self.heard_s.append(time.monotonic())
        for index in sorted(self.open):
            found_event = read_event(self.monitors[index])
            if found_event is not None and found_event[0] in (int(zmq.EVENT_DISCONNECTED), int(zmq.EVENT_CLOSED)):
                self.ended_s[index] = time.monotonic()
                self.open.discard(index)

    def close(self) -> None:
        """End it all."""
        for socket in self._sockets():
            socket.disable_monitor()
            socket.close(linger=0)
        for monitor in self.monitors:
            monitor.close(linger=0)
        self.context.term()

    def _sockets(self) -> list[zmq.Socket[bytes]]:
        return [*(peer.socket for peer in self.peers), *self.subscribers]

    def _subscriber(self) -> zmq.Socket[bytes]:
        socket = dress(self.context.socket(zmq.SUB), self.key)
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(self.key.publish[0])
        return socket


def live_on(link: Link, key: str) -> tuple[float, float, int, int]:
    """Live until revoked, and after it; tells when it was ready; returns when the last session and the last subscription were
    cut (s of the clock), and how many requests that left, and publications that came, after all that were accepted."""
    doomed = Doomed(KeyFile.read(Path(key)))
    doomed.start()
    link.say("ready")
    while not link.told():
        doomed.turn()
        time.sleep(0.001)
    revoked_s = link.hear()
    while doomed.open and time.monotonic() - revoked_s < GIVE_UP_S:
        doomed.turn()
    last_s = time.monotonic()
    while time.monotonic() - last_s < AFTER_S:
        doomed.turn()
        time.sleep(0.001)
    never = revoked_s + GIVE_UP_S
    sessions_s = max(doomed.ended_s.get(index, never) for index in range(CONNECTIONS))
    subscriptions_s = max(doomed.ended_s.get(index, never) for index in range(CONNECTIONS, 2 * CONNECTIONS))
    late = [number for number in doomed.answered if doomed.sent[number] > revoked_s + CUT_MS / 1000]
    heard = [at_s for at_s in doomed.heard_s if at_s > revoked_s + CUT_MS / 1000]
    doomed.close()
    return sessions_s, subscriptions_s, len(late), len(heard)


def again(link: Link, key: KeyFile) -> int:
    """Come again with a key that is out; returns how many answers it got."""
    peer = Peer(key, send_s=0.2)
    try:
        peer.hello()
        return 1 if peer.receive(0.5) is not None else 0
    except zmq.Again:
        return 0
    finally:
        peer.close()


def run(shared: Shared | None) -> Sequence[Figure]:
    scale = SMALL if shared else FULL
    with ground_of(shared, settings={"session.heartbeat_s": 0.05}) as ground:
        ring = Ring(Home.of(ground.cluster.home).ring_file)
        sessions, subscriptions, late, heard, returned = [], [], 0, 0, 0
        for number in range(scale.rounds):
            key = ground.key(f"doomed-{number}")
            child = ground.attacker(live_on, key)
            child.hear()
            began_s = time.monotonic()
            ring.revoke(f"doomed-{number}")
            child.tell(began_s)
            sessions_s, subscriptions_s, late_now, heard_now = child.hear()
            sessions.append(sessions_s - began_s)
            subscriptions.append(subscriptions_s - began_s)
            late, heard = late + late_now, heard + heard_now
            child.end()
            if number % 10 == 0:
                gone = KeyFile.read(Path(key))
                Path(key).unlink()
                ground.key(f"doomed-{number}")
                returned += ground.attacker(again, gone).hear()
        return [
            some("keys revoked", len(sessions)),
            at_most("slowest cut of a session (ROUTER)", max(sessions) * 1e3, CUT_MS, "ms"),
            at_most("slowest cut of a subscription (XPUB)", max(subscriptions) * 1e3, CUT_MS, "ms"),
            told("median cut", sorted(sessions)[len(sessions) // 2] * 1e3, "ms"),
            none("requests accepted, publications heard after that", late + heard),
            none("answers to a revoked key that came again, when its name had another key", returned),
            none("nodes that died", ground.deaths),
        ]


ATTACK = Attack(
    "revoked", "a live key revoked, 100 times, with three sessions and three subscriptions each that go on sending",
    "cut within 100 ms (ROUTER and XPUB), 0 later messages accepted", run,
)  # fmt: skip
