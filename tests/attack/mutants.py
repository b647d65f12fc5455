"""Mutated messages from admitted keys: valid frames of every kind, spoiled, from a client, a worker and an agent at once."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import zmq
from ground import Ground, Honest, Latencies, Link, Shared, ground_of
from measured import MIB, Attack, at_most, none, ratio, some, told
from peers import Peer

from zcluster import wire
from zcluster.bench.figures import Figure
from zcluster.keys import may_send
from zcluster.net.monitor import LINK_EVENTS, read_event, watch
from zcluster.wire.rotation import NextKey, Rotated

GOLDEN = Path(__file__).parents[1] / "golden"
TOKENS = (
    b"[", b"]", b"{", b"}", b",", b":", b"-1", b"0", b"1e999", b"1" * 100, b"null", b"true", b'"', b'""', b"\xff", b"\0", b"{}",
    b"[" * 2000, b'"id"', b"9007199254740991", b"9007199254740992", b"\xed\xa0\x80",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    0, 1, -1, 2**53 - 1, 2**53, 255, 256, 4096, 1e-9, 1e308, True, None, "", "x" * 300, "worker-1", "master", "any", "*", "echo",
    "a\0b", "../x", "\u202e", [], {}, [0], [1] * 300, [[]], {"a": 1},
)  # fmt: skip
OWN_KEY = (bytes([Rotated.kind]), bytes([NextKey.kind]))
"""Kinds by which a peer gives itself another key: it would lock itself out, and the attack were over."""
ROLES = ("client", "worker", "agent")
TURN = 64
STUCK_S = 2.0
READ_S = 5.0
TRIES = 10
POOL = 100_000
"""So many different ones of each key; then they are sent again."""
REFUSED = ("malformed", "unsupported_version", "no_session", "refused_not_allowed", "refused_protocol_error")
"""Counters."""


@dataclass(frozen=True)
class Scale:
    messages: int
    """Of each key."""
    quiet_s: float


SMALL, FULL = Scale(4_000, 1.0), Scale(1_000_000, 10.0)


def seeds(role: str) -> list[bytes]:
    """The golden frames: each kind of message there is, well said; what ``role`` may say comes four times."""
    out = []
    for path in sorted(GOLDEN.glob("*.txt")):
        for block in path.read_text(encoding="utf-8").strip().split("\n\n"):
            frame = bytes.fromhex("".join(line for line in block.splitlines() if re.fullmatch(r"[0-9a-f]+", line)))
            kind = wire.KINDS[frame[wire.frames.KIND_AT]]
            out += [frame] * (4 if may_send(role, kind.__name__.upper()) else 1)
    return out


def mutate(chance: random.Random, frame: bytes, other: bytes) -> bytes:
    """``frame`` spoiled: half of the time one value of its header, so that it can be read; else its bytes."""
    return respell(chance, frame) if chance.random() < 0.5 else scramble(chance, frame, other)


def scramble(chance: random.Random, frame: bytes, other: bytes) -> bytes:
    """One to three places of ``frame`` replaced; half of the time the length of its header is made right again."""
    data = bytearray(frame)
    for _ in range(chance.randint(1, 3)):
        at = int(chance.random() * (len(data) + 1))
        end = at + chance.choice((0, 1, 1, 3, 8, len(data)))
        data[at:end] = chance.choice((b"", chance.randbytes(1), chance.randbytes(8), chance.choice(TOKENS), other[at : at + 64]))
    if len(data) > wire.frames.PREFIX_BYTES and chance.random() < 0.5:
        header = len(data) - wire.frames.PREFIX_BYTES
        data[:8] = frame[:4] + min(header, int.from_bytes(frame[4:8], "big")).to_bytes(4, "big")
    return bytes(data)


def respell(chance: random.Random, frame: bytes) -> bytes:
    """``frame`` with another value somewhere in its header, or without one."""
    end = wire.frames.PREFIX_BYTES + int.from_bytes(frame[4:8], "big")
    header = place = orjson.loads(frame[wire.frames.PREFIX_BYTES : end])
    while place:
        key = chance.choice([*place] if isinstance(place, dict) else range(len(place)))
        if isinstance(place[key], dict | list) and place[key] and chance.random() < 0.8:
            place = place[key]
        else:
            alike = [value for value in VALUES if type(value) is type(place[key])]
            place[key] = chance.choice(alike if alike and chance.random() < 0.8 else VALUES)
            break
    packed = orjson.dumps(header)
    return frame[:4] + len(packed).to_bytes(4, "big") + packed + frame[end:]


def mutants(role: str, count: int, seed: int) -> list[bytes]:
    """So many; made beforehand, so that an attacker's time is spent on sending."""
    chance, valid, out = random.Random(seed), seeds(role), list[bytes]()
    while len(out) < count:
        mutant = mutate(chance, chance.choice(valid), chance.choice(valid))
        if mutant[wire.frames.KIND_AT : wire.frames.KIND_AT + 1] not in OWN_KEY:
            out.append(mutant)
    return out


class Sender(Peer):
    """A peer that sees when it is cut, and has another connection at once."""

    def __init__(self, key: str, about: dict[str, Any]) -> None:
        self._about = about
        self._ends: zmq.Socket[bytes] | None = None
        super().__init__(key, send_s=STUCK_S)
        self.hello(**about)

    def connect(self) -> None:
        super().connect()
        self._ends = watch(self.context, self.socket, LINK_EVENTS)

    def again(self) -> None:
        self.leave()
        self.connect()
        self.hello(**self._about)

    def close(self) -> None:
        self.leave()
        self.context.term()

    def leave(self) -> None:
        self.socket.disable_monitor()
        self.socket.close()
        if self._ends is not None:
            self._ends.close()

    def over(self) -> bool:
        """Whether it was cut."""
        while self._ends is not None and (found := read_event(self._ends)) is not None:
            if found[0] != int(zmq.EVENT_HANDSHAKE_SUCCEEDED):
                return True
        return False

    def greet_again(self) -> None:
        """Read what has come, and say HELLO when the session is over."""
        over = False
        while (found := self.receive(0)) is not None:
            over = over or isinstance(found[0], wire.Bye)
        if over:
            self.hello(epoch=0, **self._about)


def send_mutants(link: Link, key: str, role: str, count: int, seed: int) -> int:
    """All of them, with a new HELLO whenever one of them has ended the session, and another connection whenever it was cut.

    Returns when the master has read the last: how often it was cut.
    """
    about: dict[str, Any] = {}
    if role == "worker":
        about = {"slots": 16, "functions": [wire.FunctionInfo(name="mutant")], "parts": ["tables", "agents"]}
    pool, sent = mutants(role, min(count, POOL), seed), 0
    link.say("ready")
    link.hear()
    peer = Sender(key, about)
    peer.wait_for(wire.Welcome)
    cuts = 0
    while sent < count:
        try:
            for _ in range(min(TURN, count - sent)):
                peer.socket.send(pool[sent % POOL])
                sent += 1
            peer.greet_again()
            cut = peer.over()
        except zmq.Again:
            cut = True
        if cut:
            cuts += 1
            peer.again()
    link.say("sent")
    prove_read(peer)
    peer.close()
    return cuts


def prove_read(peer: Sender) -> None:
    """Return when the master has read all that was sent before: no mutant has two frames, and it answers in order."""
    for _ in range(TRIES):
        with contextlib.suppress(zmq.Again, AssertionError):
            peer.socket.send_multipart([b"the", b"last"])
            while "2 frames" not in peer.wait_for(wire.Refusal, wait_s=READ_S).message:
                continue
            return
        # It was cut, and what it had sent last is gone with it.
        peer.again()
    raise AssertionError("the master does not answer")


@dataclass(frozen=True)
class Seen:
    """What a round has shown: its attackers send, one after the other or all at once."""

    cuts: int
    refused: int
    grown_bytes: int
    faults: int
    """Wrong or missing answers to an honest client."""
    during: Latencies


def attack(ground: Ground, honest: Honest, role_count: Sequence[tuple[str, int]]) -> Seen:
    """One attacker of each role sends so many, all at once."""
    attackers = [
        ground.attacker(send_mutants, ground.key(f"mutant-{role}-{len(role_count)}", role), role, count, number)
        for number, (role, count) in enumerate(role_count)
    ]
    for attacker in attackers:
        assert attacker.hear(3600.0) == "ready"
    before = ground.counters()
    with ground.watch() as memory, honest.measuring() as during:
        for attacker in attackers:
            attacker.tell("go")
        for attacker in attackers:
            assert attacker.hear(3600.0) == "sent"
        cuts = sum(attacker.hear() for attacker in attackers)
    seen, after = during(), ground.counters()
    refused = sum(after.get(name, 0) - before.get(name, 0) for name in REFUSED)
    return Seen(cuts, refused, memory.grown_bytes, seen.wrong + seen.failed, seen)


def run(shared: Shared | None) -> Sequence[Figure]:
    scale = SMALL if shared else FULL
    with ground_of(shared) as ground:
        honest = ground.honest()
        quiet = honest.quiet(scale.quiet_s)
        rounds = {f"a {role}'s": attack(ground, honest, [(role, scale.messages)]) for role in ROLES}
        rounds["all three at once"] = together = attack(ground, honest, [(role, scale.messages // len(ROLES)) for role in ROLES])
        seen = rounds.values()
        worst = max((each for each in seen if each is not together), key=lambda each: each.during.p(99))
        return [
            some("mutated messages of each key", scale.messages),
            told("messages refused", sum(each.refused for each in seen)),
            told("connections cut for them", sum(each.cuts for each in seen)),
            none("nodes that died", ground.deaths),
            at_most("memory of the master", max(each.grown_bytes for each in seen) / MIB, 64, "MiB"),
            none("wrong or missing answers to an honest client", sum(each.faults for each in seen)),
            told("honest p99 quiet", quiet.p(99) * 1e3, "ms"),
            *(told(f"honest p99, {whose}", each.during.p(99) * 1e3, "ms") for whose, each in rounds.items()),
            ratio("honest p99, the worst of the three keys", worst.during.p(99), quiet.p(99), 5),
            told("honest p99, all three at once", ratio("", together.during.p(99), quiet.p(99), 1).value, "x"),
        ]


ATTACK = Attack(
    "mutants", "10^6 mutated messages from an admitted key (each kind of message; a client's, a worker's, an agent's, all three)",
    "master alive, memory +64 MiB at most, honest p99 at most 5 x", run,
)  # fmt: skip
