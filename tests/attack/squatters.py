"""Peers that claim to be others: routing ids of the master's own making and of others, names, functions; and very many
reconnects while they do, each of which must reach who it is, and nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from curve import Curve
from ground import Link, Shared, ground_of
from measured import Attack, none, some, told
from peers import LIMITS, Peer

from zcluster import wire
from zcluster.bench.figures import Figure
from zcluster.clients import AsyncClient
from zcluster.errors import ZClusterError
from zcluster.keys import KeyFile
from zcluster.wire.agents import Doors, Settings

FIRST_RAND = 1_804_289_383
"""What rand() gives first in a process that was not seeded: where libzmq's own ids would begin."""
HELD = 200
"""Connections of the squatter that are open at once."""
EXPECTED = (wire.Welcome, wire.Beat, wire.Catalog, wire.Refusal, wire.Bye, Doors, Settings)
"""What a peer hears that has asked for nothing; the last two are for agents."""


@dataclass(frozen=True)
class Scale:
    claims: int
    reconnects: int


SMALL, FULL = Scale(60, 60), Scale(3_000, 1_000)


def claimed() -> Iterator[bytes]:
    """Ids to claim, without an end: libzmq's next ones, names, and those that were claimed already."""
    number = 0
    while True:
        number += 1
        yield b"\0" + struct.pack(">I", FIRST_RAND + number)
        yield b"\0" + struct.pack("<I", FIRST_RAND + number)
        yield b"\0" + secrets.token_bytes(4)
        yield b"\0\0\0\0" + bytes([number % 256])
        yield (b"worker-1", b"master", b"honest-0", b"squatter", b"\0", b"x" * 255)[number % 6]


def squat(link: Link, key: str, count: int) -> tuple[int, int, int]:
    """Claim ids, say HELLO as a worker that has every function, hold the connections; returns how many were claimed, how many
    got a session, and how many messages came that were for somebody else."""
    file, held = KeyFile.read(Path(key)), []
    ids, opened, foreign = claimed(), 0, 0
    functions = [wire.FunctionInfo(name=name) for name in ("echo", "node.info", "cluster.nodes", "stolen")]
    parts = ["tables", "agents"]
    hello = wire.encode(wire.Hello(versions=[1], instance="worker-1", slots=4096, functions=functions, parts=parts))
    for _ in range(count):
        with contextlib.suppress(ConnectionError, TimeoutError):
            peer = Curve(file, routing_id=next(ids), patience_s=10).connect()
            peer.send(hello)
            held.append(peer)
            opened += 1
        if len(held) > HELD:
            foreign += heard(held.pop(0))
    link.say("claimed")
    link.hear()
    foreign += sum(map(heard, held))
    return count, opened, foreign


def heard(peer: Curve) -> int:
    """End the connection; how many messages it had got that were not for it."""
    foreign = 0
    peer.socket.settimeout(0.02)
    with contextlib.suppress(ConnectionError, TimeoutError):
        while True:
            message, _ = wire.decode(peer.receive(), LIMITS)
            foreign += not isinstance(message, EXPECTED)
    peer.close()
    return foreign


def reconnect(link: Link, key: str, count: int) -> tuple[int, int]:
    """Connect, ask something that nobody else asks, leave without a word; returns answers, and answers to others."""
    answers, foreign = 0, 0
    for number in range(count):
        peer = Peer(key)
        peer.hello()
        own = secrets.token_hex(16)
        body = b'{"value":"%s"}' % own.encode()
        peer.wait_for(wire.Welcome)
        peer.send(wire.Requests([wire.RequestGroup("echo", "worker-1", 60_000, 5, 0, 1 + number, [len(body)])]), body)
        found = None
        while found is None or not isinstance(found[0], wire.Replies):
            found = peer.receive()
            assert found is not None, "no answer"
            foreign += not isinstance(found[0], (*EXPECTED, wire.Replies))
        group = found[0].groups[0]
        answers += 1
        foreign += (group.first_id, found[1]) != (1 + number, b'"%s"' % own.encode())
        peer.close()
    return answers, foreign


def fight(link: Link, key: str, seconds: float) -> int:
    """A second worker with the key of one that runs, which ends when it is told that another has its place: again and again;
    returns how often it got it."""
    had, over_s = 0, time.monotonic() + seconds
    while time.monotonic() < over_s:
        peer = Peer(key)
        peer.hello(slots=8, functions=[wire.FunctionInfo(name="mine")])
        had += isinstance(peer.wait_for(wire.Welcome, wire.Bye, wire.Refusal), wire.Welcome)
        peer.close()
    return had


def call_beside(link: Link, key: str) -> tuple[int, int, int]:
    """Calls of an honest client to a worker whose name nobody squats; returns answers, wrong answers, errors."""
    return asyncio.run(_call_beside(link, Path(key)))


async def _call_beside(link: Link, key: Path) -> tuple[int, int, int]:
    answers = wrong = errors = 0
    async with AsyncClient(key=key, timeout=30) as client:
        link.say("ready")
        while not link.told():
            own = secrets.token_hex(16)
            try:
                wrong += await client.call("echo", {"value": own}, target="worker-1") != own
                answers += 1
            except ZClusterError:
                errors += 1
    return answers, wrong, errors


def run(shared: Shared | None) -> Sequence[Figure]:
    scale = SMALL if shared else FULL
    with ground_of(shared) as ground:
        ground.key("squatted", "worker")
        ground.cluster.start_worker("squatted")
        asyncio.run(ground.cluster.wait_ready("squatted"))
        beside = ground.attacker(call_beside, ground.key("beside"))
        beside.hear()
        squatters = [ground.attacker(squat, ground.key(f"squatter-{role}", role), scale.claims) for role in ("client", "agent")]
        fighter = ground.attacker(fight, str(ground.cluster.key_file("squatted")), 1.0)
        answers, foreign = ground.attacker(reconnect, ground.key("reconnects"), scale.reconnects).hear(3600)
        claims = opened = others = 0
        for squatter in squatters:
            assert squatter.hear(3600) == "claimed"
        for squatter in squatters:
            squatter.tell("end")
            claimed_now, opened_now, others_now = squatter.hear()
            claims, opened, others = claims + claimed_now, opened + opened_now, others + others_now
        had = fighter.hear()
        beside.tell("end")
        calls, wrong, errors = beside.hear()
        return [
            some("routing ids claimed", claims),
            told("of them on connections that were taken in", opened),
            some("reconnects that were answered", answers, scale.reconnects),
            some("times that another process took the place of a worker by its key", had),
            some("calls of an honest client meanwhile", calls),
            none("aborts of the master or of a worker", ground.aborts),
            none("messages to the wrong peer", others + foreign + wrong),
            none("calls of an honest client that failed", errors),
        ]


ATTACK = Attack(
    "squatters", "routing ids claimed (libzmq's own next ones too), names and functions squatted, 1,000 reconnects",
    "0 aborts, 0 messages to the wrong peer", run,
)  # fmt: skip
