"""Crowds: connections that send garbage, that say nothing, and that authenticate and then say nothing. A new worker joins."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import zmq
from curve import frame, greeting, properties
from ground import Link, Shared, ground_of
from measured import Attack, at_most, none, ratio, some, told
from peers import Peer, dress

from zcluster import wire
from zcluster.bench.figures import Figure
from zcluster.keys import KeyFile
from zcluster.net.monitor import LINK_EVENTS, read_event, watch

CUT_S = 5
JOIN_S = 1
GRACE_S = 20.0
"""How long the attackers watch their connections."""
ADDRESSES = 8
"""127.0.0.x that they come from: one address has no more ports than a machine gives out."""
TURN = 200


@dataclass(frozen=True)
class Scale:
    garbage: int
    idle: int
    mute: int
    joins: int
    quiet_s: float


SMALL, FULL = Scale(150, 100, 20, 2, 0.3), Scale(10_000, 5_000, 500, 20, 5.0)


def rubbish(chance: Random) -> bytes:
    """What is no handshake, or the beginning of one that goes wrong."""
    return chance.choice(
        (
            lambda: b"GET / HTTP/1.1\r\nHost: master\r\n\r\n",
            lambda: b"\x16\x03\x01\x02\x00\x01" + chance.randbytes(500),
            lambda: chance.randbytes(chance.randint(1, 2000)),
            lambda: b"\xff" + bytes(8) + b"\x7f" + chance.randbytes(100),
            lambda: greeting() + chance.randbytes(300),
            lambda: greeting() + frame(4, b"\x05HELLO" + chance.randbytes(194)),
            lambda: greeting(b"NULL") + frame(4, b"\x05READY" + properties({"Socket-Type": b"DEALER"})),
            lambda: greeting()[: chance.randint(1, 63)],
            lambda: b"\x01\x00",
            lambda: frame(2, b"x")[:1] + b"\x7f\xff\xff\xff\xff\xff\xff\xff" + bytes(100),
        )
    )()


def crowd(link: Link, address: str, count: int, garbage: bool, number: int) -> tuple[int, int, float]:
    """Open ``count`` connections as fast as it goes and watch them end; returns how many there were, how many never ended,
    and how long the longest lasted (s)."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    chance, selector = Random(number), selectors.DefaultSelector()
    since: dict[int, float] = {}
    opened, longest_s = 0, 0.0
    link.say("ready")
    while opened < count or since:
        for _ in range(min(TURN, count - opened)):
            peer = socket.socket()
            peer.setblocking(False)
            peer.bind((f"127.0.0.{1 + opened % ADDRESSES}", 0))
            with contextlib.suppress(BlockingIOError):
                peer.connect((host, int(port)))
            opened += 1
            since[peer.fileno()] = time.monotonic()
            selector.register(peer, selectors.EVENT_READ | (selectors.EVENT_WRITE if garbage else 0))
        for key, events in selector.select(0.05):
            peer = key.fileobj  # type: ignore[assignment]
            if events & selectors.EVENT_WRITE:
                with contextlib.suppress(OSError):
                    peer.send(rubbish(chance))
                selector.modify(peer, selectors.EVENT_READ)
            elif _over(peer):
                longest_s = max(longest_s, time.monotonic() - since.pop(peer.fileno()))
                selector.unregister(peer)
                peer.close()
        if since and time.monotonic() - max(since.values()) > GRACE_S:
            break
    return opened, len(since), longest_s


def _over(peer: socket.socket) -> bool:
    try:
        return not peer.recv(65536)
    except BlockingIOError:
        return False
    except OSError:
        return True


def mute(link: Link, key: str, count: int) -> tuple[int, int, float]:
    """Authenticate ``count`` times and say nothing; what is returned is as of crowd."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 4 * count + 10)
    file = KeyFile.read(Path(key))
    link.say("ready")
    sockets, monitors, since, in_s = [], {}, {}, 0
    for index in range(count):
        peer = dress(context.socket(zmq.DEALER), file)
        monitors[index] = watch(context, peer, LINK_EVENTS)
        peer.connect(file.addresses[0])
        sockets.append(peer)
    longest_s, begin_s = 0.0, time.monotonic()
    while monitors and time.monotonic() - begin_s < GRACE_S:
        for index in list(monitors):
            while index in monitors and (found := read_event(monitors[index])) is not None:
                if found[0] == int(zmq.EVENT_HANDSHAKE_SUCCEEDED):
                    since[index], in_s = time.monotonic(), in_s + 1
                else:
                    longest_s = max(longest_s, time.monotonic() - since.get(index, time.monotonic()))
                    sockets[index].disable_monitor()
                    monitors.pop(index).close()
        time.sleep(0.01)
    left = len(monitors)
    context.destroy(linger=0)
    return in_s, left, longest_s


def join(link: Link, keys: list[str]) -> list[float]:
    """One new worker after the other joins, and tries again as a worker does; returns how long each took."""
    link.say("ready")
    link.hear()
    took = []
    for key in keys:
        began_s = time.monotonic()
        while True:
            peer = Peer(key)
            peer.hello(slots=4, functions=[wire.FunctionInfo(name="joined")])
            found = peer.receive(2.0)
            if found is not None and isinstance(found[0], wire.Welcome):
                break
            peer.close()
        took.append(time.monotonic() - began_s)
        peer.close()
        time.sleep(0.1)
    return took


def run(shared: Shared | None) -> Sequence[Figure]:
    scale = SMALL if shared else FULL
    with ground_of(shared) as ground:
        honest = ground.honest()
        quiet = honest.quiet(scale.quiet_s)
        joiner = ground.attacker(join, [ground.key(f"new-{number}", "worker") for number in range(scale.joins)])
        joiner.hear()
        addresses = (ground.cluster.address, ground.cluster.publish_address)
        crowds = [ground.attacker(crowd, address, scale.garbage // 2, True, n) for n, address in enumerate(addresses)]
        crowds += [ground.attacker(crowd, address, scale.idle // 2, False, n) for n, address in enumerate(addresses)]
        crowds += [ground.attacker(mute, ground.key("mute"), scale.mute)]
        for each in crowds:
            each.hear()
        with honest.measuring() as during:
            joiner.tell("join")
            joins = joiner.hear(600)
            ends = [each.hear(600) for each in crowds]
        seen = during()
        (opened_1, left_1, s_1), (opened_2, left_2, s_2) = ends[0], ends[1]
        (idle_1, left_3, s_3), (idle_2, left_4, s_4) = ends[2], ends[3]
        spoken, left_5, mute_s = ends[4]
        return [
            some("connections with garbage", opened_1 + opened_2, scale.garbage),
            some("idle connections", idle_1 + idle_2, scale.idle),
            some("connections that authenticated and said nothing", spoken),
            at_most("longest that garbage stayed", max(s_1, s_2), CUT_S, "s"),
            at_most("longest that an idle connection stayed", max(s_3, s_4), CUT_S, "s"),
            at_most("longest that a mute connection stayed", mute_s, CUT_S, "s"),
            none("connections that were never cut", left_1 + left_2 + left_3 + left_4 + left_5),
            some("new workers that joined meanwhile", len(joins), scale.joins),
            at_most("slowest of them", max(joins), JOIN_S, "s"),
            told("median of them", sorted(joins)[len(joins) // 2], "s"),
            none("wrong or missing answers to an honest client", seen.wrong + seen.failed),
            told("honest p99 under attack", seen.p(99) * 1e3, "ms"),
            told("that is, of its quiet one", ratio("", seen.p(99), quiet.p(99), 1).value, "x"),
            none("nodes that died", ground.deaths),
        ]


ATTACK = Attack(
    "crowds", "10,000 garbage and 5,000 idle connections; 500 that authenticate and never say HELLO",
    "a new worker joins within 1 s; cut within 5 s", run,
)  # fmt: skip
