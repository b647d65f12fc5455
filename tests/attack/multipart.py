"""Endless multipart: frames that never end, within one message, after a proper HELLO.

libzmq hands a message over when its last frame is there, so that its bounds of messages and of their size do not hold here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from curve import Curve
from ground import Link, Shared, ground_of
from measured import MIB, Attack, at_most, none, some, told

from zcluster import wire
from zcluster.bench.figures import Figure
from zcluster.keys import KeyFile

STEP_BYTES = 256 * 1024


@dataclass(frozen=True)
class Scale:
    pours: Sequence[tuple[int, bool]]
    """The size of one frame (many small ones cost libzmq a structure each, large ones their bytes), and whether it has said
    HELLO."""
    prepared_bytes: int
    """Encrypted before it begins: the attacker is not slowed down by its own arithmetic."""
    enough_s: float
    """When an attacker gives up, if nobody stops it."""


SMALL = Scale([(0, True), (60_000, True), (1_000_000, False)], 2 * MIB, 3.0)
FULL = Scale([(size, hello) for size in (0, 1000, 60_000, 1_000_000) for hello in (True, False)], 16 * MIB, 10.0)


def pour(link: Link, key: str, size: int, prepared_bytes: int, enough_s: float, hello: bool) -> tuple[float, int]:
    """Frames without an end, as fast as they go; returns when it was cut after that (s), and how many bytes had left."""
    peer = Curve(KeyFile.read(Path(key))).connect()
    if hello:
        peer.send(wire.encode(wire.Hello(versions=[1], instance="endless")))
        peer.receive()
    body, ready = bytes(size), bytearray()
    while len(ready) < prepared_bytes:
        ready += peer.message(body, more=True)
    link.say("ready")
    link.hear()
    sent, began_s = 0, time.monotonic()
    peer.socket.settimeout(enough_s)
    try:
        while time.monotonic() - began_s < enough_s:
            if sent < len(ready):
                burst = bytes(ready[sent : sent + STEP_BYTES])
            else:
                burst = b"".join(peer.message(body, more=True) for _ in range(1 + STEP_BYTES // (size + 200)))
            peer.socket.sendall(burst)
            sent += len(burst)
    except (ConnectionError, TimeoutError):
        return time.monotonic() - began_s, sent
    return time.monotonic() - began_s, sent


def run(shared: Shared | None) -> Sequence[Figure]:
    scale = SMALL if shared else FULL
    with ground_of(shared) as ground:
        honest = ground.honest()
        longest_s, most_sent, failed, grown = 0.0, 0, 0, 0
        for number, (size, hello) in enumerate(scale.pours):
            key = ground.key(f"endless-{number}")
            attacker = ground.attacker(pour, key, size, scale.prepared_bytes, scale.enough_s, hello)
            attacker.hear()
            with ground.watch() as watch, honest.measuring() as during:
                attacker.tell("pour")
                cut_s, sent = attacker.hear()
            longest_s, most_sent, failed = max(longest_s, cut_s), max(most_sent, sent), failed + during().failed
            grown = max(grown, watch.grown_bytes)
        cuts = len(ground.events("connection_cut"))
        return [
            at_most("cut after at most", longest_s * 1e3, 200, "ms"),
            at_most("memory of the master", grown / MIB, 128, "MiB"),
            told("most that one had sent by then", most_sent / MIB, "MiB"),
            some("events that tell of it", cuts, len(scale.pours)),
            none("requests of an honest client that failed", failed),
            none("nodes that died", ground.deaths),
        ]


ATTACK = Attack(
    "multipart", "endless multipart from an admitted key (frames of 0 B to 1 MB, with and without a session)",
    "cut within 200 ms, memory +128 MiB at most", run,
)  # fmt: skip
