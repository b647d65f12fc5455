"""One client with very many requests waiting, and clients that flood, beside an honest one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import zmq
from ground import Link, Shared, ground_of, until
from measured import MIB, Attack, none, ratio, some, told
from peers import BEAT_S, Peer

from zcluster import wire
from zcluster.bench.figures import Figure

MEMBERS = 4096
BODY = b'{"value":1}'
SLEEP = b'{"seconds":3600}'
WEEK_MS = 86_400_000
FLOOD_WINDOW = 8
"""Messages of requests of a flooder that are not answered yet."""


@dataclass(frozen=True)
class Scale:
    waiting: int
    flooders: int
    seconds: float


SMALL, FULL = Scale(10_000, 2, 1.0), Scale(100_000, 4, 20.0)


def wait_in_line(link: Link, key: str, count: int) -> None:
    """Ask for ``count`` answers that take an hour each, and wait for them."""
    peer = Peer(key)
    peer.hello()
    peer.wait_for(wire.Welcome)
    for first in range(0, count, MEMBERS):
        members = min(MEMBERS, count - first)
        group = wire.RequestGroup("node.sleep", "worker-1", WEEK_MS, 5, 0, 1 + first, [len(SLEEP)] * members)
        peer.send(wire.Requests([group]), SLEEP * members)
    link.say("asked")
    while not link.told():
        peer.receive(BEAT_S)
        peer.beat()


def flood(link: Link, key: str) -> tuple[int, int]:
    """Ask and ask, as much as the master takes; returns how many answers came, and how many of them were errors."""
    peer = Peer(key)
    peer.hello()
    peer.wait_for(wire.Welcome)
    link.say("flooding")
    asked, answered, failed = 0, 0, 0
    while not link.told():
        if asked - answered < FLOOD_WINDOW * MEMBERS:
            group = wire.RequestGroup("echo", "worker-1", WEEK_MS, 5, 0, 1 + asked, [len(BODY)] * MEMBERS)
            try:
                peer.socket.send(wire.encode(wire.Requests([group]), [BODY * MEMBERS]), zmq.NOBLOCK)
                asked += MEMBERS
            except zmq.Again:
                peer.socket.poll(10)
        found = peer.receive(0 if asked - answered < FLOOD_WINDOW * MEMBERS else BEAT_S)
        while found is not None:
            if isinstance(found[0], wire.Replies):
                for group_of in found[0].groups:
                    answered += len(group_of.sizes)
                    failed += len(group_of.sizes) if group_of.status != wire.Status.VALUE else 0
            found = peer.receive(0)
        peer.beat()
    return answered, failed


def run(shared: Shared | None) -> Sequence[Figure]:
    scale = SMALL if shared else FULL
    with ground_of(shared) as ground:
        honest = ground.honest()
        quiet = honest.quiet(scale.seconds)
        with ground.watch() as watch:
            asked = ground.counters().get("requests", 0)
            waiter = ground.attacker(wait_in_line, ground.key("waiter"), scale.waiting)
            waiter.hear()
            until(lambda: ground.counters().get("requests", 0) >= asked + scale.waiting, "all wait")
            behind = honest.quiet(scale.seconds)
            flooders = [ground.attacker(flood, ground.key(f"flooder-{number}")) for number in range(scale.flooders)]
            for flooder in flooders:
                flooder.hear()
            with honest.measuring() as during:
                until(lambda: flooders[0].link.poll(scale.seconds) or True, "time passes")
            for flooder in flooders:
                flooder.tell("stop")
            answers = [flooder.hear() for flooder in flooders]
        seen = during()
        return [
            some("requests that waited", scale.waiting),
            some("answers to each flooder at least", min(answered for answered, _ in answers)),
            none("of the flooders' requests failed", sum(failed for _, failed in answers)),
            none("wrong or missing answers to an honest client", seen.wrong + seen.failed + behind.wrong + behind.failed),
            told("honest p99 quiet", quiet.p(99) * 1e3, "ms"),
            ratio("honest p99 behind those that wait", behind.p(99), quiet.p(99), 5),
            told("honest p50 beside the flood", seen.p(50) * 1e3, "ms"),
            told("honest p99 beside the flood", seen.p(99) * 1e3, "ms"),
            ratio("honest p99 beside the flood", seen.p(99), quiet.p(99), 5),
            told("memory of the master", watch.grown_bytes / MIB, "MiB"),
            none("nodes that died", ground.deaths),
        ]


ATTACK = Attack(
    "floods", "one client with 100,000 waiting requests and 4 that flood",
    "an honest client's p99 at most 5 x its quiet one", run,
)  # fmt: skip
