"""Subscriptions as memory: very many, on few connections and on many, and topics as long as they may be or far longer."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import zmq
from curve import Curve
from ground import Link, Shared, ground_of
from measured import MIB, Attack, at_most, none, some, told
from peers import dress

from zcluster.bench.figures import Figure
from zcluster.keys import KeyFile

TOPIC_BYTES = 340
"""Nearly the longest that is taken."""
HUGE_BYTES = 10 * MIB
PART = 100
CUT_S = 20.0


@dataclass(frozen=True)
class Scale:
    subscriptions: int
    connections: int


SMALL, FULL = Scale(2_000, 8), Scale(100_000, 400)


def subscribe_on_one(link: Link, key: str, count: int, topic_bytes: int) -> int:
    """``count`` topics on one connection after the other, as fast as they go; returns on how many it was cut."""
    cut, left = 0, count
    while left > 0:
        peer = Curve(KeyFile.read(Path(key)), "SUB", address=KeyFile.read(Path(key)).publish[0])
        try:
            peer.connect()
            while left > 0:
                peer.socket.sendall(b"".join(peer.message(topic(topic_bytes)) for _ in range(PART)))
                left -= PART
        except ConnectionError:
            cut += 1
        finally:
            peer.close()
    return cut


def topic(topic_bytes: int) -> bytes:
    """A subscription to something that nobody else subscribed."""
    return b"\x01" + secrets.token_bytes(topic_bytes)


def subscribe_on_many(link: Link, key: str, connections: int, each: int) -> int:
    """``each`` topics on every connection, all of them held; returns how many topics there were."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, connections + 10)
    file = KeyFile.read(Path(key))
    sockets = []
    for _ in range(connections):
        socket = dress(context.socket(zmq.SUB), file)
        for _ in range(each):
            socket.setsockopt(zmq.SUBSCRIBE, secrets.token_bytes(TOPIC_BYTES))
        socket.connect(file.publish[0])
        sockets.append(socket)
        time.sleep(0.002)
    link.say("subscribed")
    link.hear()
    for socket in sockets:
        socket.close()
    context.term()
    return connections * each


def one_huge(link: Link, key: str) -> float:
    """A topic of 10 MiB; returns after how many seconds it was cut."""
    file = KeyFile.read(Path(key))
    peer = Curve(file, "SUB", address=file.publish[0]).connect()
    began_s = time.monotonic()
    try:
        peer.socket.sendall(peer.message(b"\x01" + bytes(HUGE_BYTES)))
        assert peer.ended(CUT_S), "a topic of 10 MiB was taken"
    except ConnectionError:
        return time.monotonic() - began_s
    finally:
        peer.close()
    return time.monotonic() - began_s


def run(shared: Shared | None) -> Sequence[Figure]:
    scale = SMALL if shared else FULL
    with ground_of(shared) as ground:
        honest = ground.honest()
        key, grown = ground.key("subscriber", "worker"), {}
        with honest.measuring() as during:
            for size in (10, TOPIC_BYTES):
                with ground.watch() as watch:
                    cut = ground.attacker(subscribe_on_one, key, scale.subscriptions, size).hear(600.0)
                grown[f"{scale.subscriptions:,} topics of {size} B on one connection after the other"] = watch.grown_bytes
            each = scale.subscriptions // scale.connections
            with ground.watch() as watch:
                crowd = ground.attacker(subscribe_on_many, key, scale.connections, each)
                crowd.hear()
                time.sleep(2.0)
                crowd.tell("end")
                crowd.hear()
            grown[f"{each} topics of {TOPIC_BYTES} B on each of {scale.connections} connections"] = watch.grown_bytes
            with ground.watch() as watch:
                huge_s = ground.attacker(one_huge, key).hear()
            grown["a topic of 10 MiB"] = watch.grown_bytes
        seen = during()
        return [
            some("connections cut for subscribing too much", cut),
            *(at_most(f"memory of the master: {what}", bytes_ / MIB, 32, "MiB") for what, bytes_ in grown.items()),
            told("the topic of 10 MiB cut after", huge_s * 1e3, "ms"),
            told("honest longest", seen.longest_s * 1e3, "ms"),
            none("wrong or missing answers to an honest client", seen.wrong + seen.failed),
            none("nodes that died", ground.deaths),
        ]


ATTACK = Attack(
    "subscriptions", "10^5 subscriptions, on one connection after the other and on 400, and a topic of 10 MB, on the publisher",
    "memory +32 MiB at most", run,
)  # fmt: skip
