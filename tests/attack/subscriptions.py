"""Subscriptions as memory: very many, on few connections and on many, and topics as long as they may be or far longer."""

from __future__ import annotations

import contextlib
import secrets
import selectors
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import zmq
from curve import Curve
from ground import Link, Shared, ground_of
from measured import MIB, Attack, at_most, none, some, told
from peers import dress

from zcluster.bench.figures import Figure
from zcluster.keys import KeyFile
from zcluster.net.subscribers import MAX_CONNECTIONS_PER_KEY

TOPIC_BYTES = 340
"""Nearly the longest that is taken."""
HUGE_BYTES = 10 * MIB
PART = 100
CUT_S = 20.0
TRIES = 20


@dataclass(frozen=True)
class Scale:
    subscriptions: int
    connections: int
    keys: int
    """Of how many admitted keys: one has few connections."""


SMALL, FULL = Scale(2_000, 8, 2), Scale(100_000, 400, 25)


def subscribe_on_one(link: Link, keys: list[str], count: int, topic_bytes: int) -> int:
    """``count`` topics on one connection after the other, as fast as they go; returns on how many it was cut."""
    cut, left, files = 0, count, cycle([KeyFile.read(Path(key)) for key in keys])
    while left > 0:
        file = next(files)
        peer = Curve(file, "SUB", address=file.publish[0])
        with contextlib.closing(peer), contextlib.suppress(ConnectionError):
            peer.connect()
            with counted(ConnectionError) as ended:
                while left > 0:
                    peer.socket.sendall(b"".join(peer.message(topic(topic_bytes)) for _ in range(PART)))
                    left -= PART
            cut += ended()
    return cut


@contextlib.contextmanager
def counted(kind: type[Exception]) -> Iterator[Callable[[], int]]:
    """Ends with what is raised of ``kind``; what is given tells whether it was."""
    raised = 0
    try:
        yield lambda: raised
    except kind:
        raised = 1


def topic(topic_bytes: int) -> bytes:
    """A subscription to something that nobody else subscribed."""
    return b"\x01" + secrets.token_bytes(topic_bytes)


def subscribe_on_many(link: Link, keys: list[str], connections: int, each: int) -> int:
    """``each`` topics on every connection, all of them held; returns how many topics there were."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, connections + 10)
    sockets = []
    for _, file in zip(range(connections), cycle([KeyFile.read(Path(key)) for key in keys]), strict=False):
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


def subscribe_all_at_once(link: Link, keys: list[str], connections: int, each: int) -> int:
    """Connections that say what an honest one says, and then, all at the same moment, ``each`` topics; returns how many."""
    peers, selector = [], selectors.DefaultSelector()
    for _, file in zip(range(connections), cycle([KeyFile.read(Path(key)) for key in keys]), strict=False):
        peer = patient(file)
        peer.socket.setblocking(False)
        topics = b"".join(peer.message(topic(TOPIC_BYTES)) for _ in range(each))
        selector.register(peer.socket, selectors.EVENT_WRITE, [memoryview(topics)])
        peers.append(peer)
    link.say("ready")
    link.hear()
    while selector.get_map():
        for key, _ in selector.select():
            (left,) = key.data
            try:
                key.data[0] = left = left[key.fileobj.send(left) :]  # type: ignore[union-attr]
            except BlockingIOError:
                continue
            except ConnectionError:
                left = memoryview(b"")  # it was cut
            if not left:
                selector.unregister(key.fileobj)
    link.say("subscribed")
    link.hear()
    for peer in peers:
        peer.close()
    return connections * each


def patient(file: KeyFile) -> Curve:
    """A subscriber that has subscribed to one thing; few of a key are let in at a time."""
    deadline_s = time.monotonic() + 4 * CUT_S
    while True:
        peer = Curve(file, "SUB", address=file.publish[0])
        try:
            peer.connect()
            peer.send(b"\x01nodes")
            return peer
        except ConnectionError:
            peer.close()
            assert time.monotonic() < deadline_s, "a subscriber is not let in"
            time.sleep(0.5)


def one_huge(link: Link, key: str) -> float:
    """A topic of 10 MiB; returns after how many seconds it was cut."""
    file = KeyFile.read(Path(key))
    for _ in range(TRIES):
        peer = Curve(file, "SUB", address=file.publish[0])
        with contextlib.suppress(ConnectionError):
            peer.connect()
            break
    began_s = time.monotonic()
    with contextlib.closing(peer), contextlib.suppress(ConnectionError):
        peer.socket.sendall(peer.message(b"\x01" + bytes(HUGE_BYTES)))
        assert peer.ended(CUT_S), "a topic of 10 MiB was taken"
    return time.monotonic() - began_s


def run(shared: Shared | None) -> Sequence[Figure]:
    scale = SMALL if shared else FULL
    with ground_of(shared) as ground:
        honest = ground.honest()
        keys = [ground.key(f"subscriber-{number}", "worker") for number in range(scale.keys)]
        key, grown = ground.key("huge-subscriber", "worker"), {}
        with honest.measuring() as during:
            for size in (10, TOPIC_BYTES):
                with ground.watch() as watch:
                    cut = ground.attacker(subscribe_on_one, keys, scale.subscriptions, size).hear(600.0)
                grown[f"{scale.subscriptions:,} topics of {size} B on one connection after the other"] = watch.grown_bytes
            each = scale.subscriptions // scale.connections
            with ground.watch() as watch:
                crowd = ground.attacker(subscribe_on_many, keys, scale.connections, each)
                crowd.hear()
                time.sleep(2.0)
                crowd.tell("end")
                crowd.hear()
            grown[f"{each} topics of {TOPIC_BYTES} B on each of {scale.connections} connections"] = watch.grown_bytes
            at_once = min(scale.connections, len(keys[:2]) * MAX_CONNECTIONS_PER_KEY)
            crowd = ground.attacker(subscribe_all_at_once, keys[:2], at_once, each)
            crowd.hear()
            with ground.watch() as watch:
                crowd.tell("go")
                crowd.hear()
                time.sleep(2.0)
                crowd.tell("end")
                crowd.hear()
            grown[f"the same on {at_once} of two keys at the same moment, after one topic each"] = watch.grown_bytes
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
    "subscriptions",
    "10^5 subscriptions: on one connection after the other, on 400, by two keys at once; a topic of 10 MB, on the publisher",
    "memory +32 MiB at most", run,
)  # fmt: skip
