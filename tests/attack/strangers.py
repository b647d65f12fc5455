"""Peers that must not get in: keys that are wrong, missing or revoked, other mechanisms, a handshake recorded and sent again;
and a check of keys that is slow, or raises.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import zmq
from curve import Curve, frame, greeting, new_pair, properties, tcp
from ground import Ground, Link, Shared, ground_of, until
from measured import Attack, at_most, none, some, told
from peers import dress
from zmq.utils import z85

from zcluster import wire
from zcluster.bench.figures import Figure
from zcluster.config import Home
from zcluster.keys import KeyFile, KeyPair, Ring, generate

ANSWER_S = 1.0
HEAL_S = 5
FAULTY_MASTER = Path(__file__).with_name("faulty_zap.py")


@dataclass(frozen=True)
class Scale:
    rounds: int
    fault_s: float
    answer_s: float


SMALL, FULL = Scale(1, 0.5, 0.3), Scale(50, 5.0, 1.0)
HELLO = wire.encode(wire.Hello(versions=[1], instance="stranger"))


def gets_in(key: KeyFile, configure: Any = None, wait_s: float = ANSWER_S) -> bool:
    """Whether HELLO of ``key`` is answered."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    peer = context.socket(zmq.DEALER)
    if configure is None:
        dress(peer, key)
    else:
        configure(peer)
    peer.setsockopt(zmq.LINGER, 0)
    peer.connect(key.addresses[0])
    peer.send(HELLO)
    try:
        return bool(peer.poll(int(wait_s * 1000)))
    finally:
        peer.close()
        context.term()


def plain(peer: zmq.Socket[bytes]) -> None:
    peer.plain_username, peer.plain_password = b"admin", b"admin"


def raw_null(key: KeyFile, mechanism: bytes) -> bool:
    """A greeting of another mechanism, and HELLO behind it as if all were well; whether anything but an end comes back."""
    with contextlib.closing(tcp(key.addresses[0], ANSWER_S)) as peer, contextlib.suppress(ConnectionError, TimeoutError):
        ready = frame(4, b"\x05READY" + properties({"Socket-Type": b"DEALER", "Identity": b""}))
        peer.sendall(greeting(mechanism) + ready + frame(0, HELLO))
        got = bytearray()
        while part := peer.recv(65536):
            got += part
        return b"WELCOME" in bytes(got[64:])
    return False


def strangers(link: Link, key: str, revoked: str, rounds: int) -> tuple[int, int]:
    """Everyone who must not get in; returns how many tried, and how many did."""
    good, out, other = KeyFile.read(Path(key)), KeyFile.read(Path(revoked)), generate()
    tries: list[Callable[[], bool]] = [
        partial(gets_in, replace(good, pair=other)),
        partial(gets_in, replace(good, master_public=other.public)),
        partial(gets_in, out),
        partial(gets_in, good, lambda peer: None),
        partial(gets_in, good, plain),
        partial(raw_null, good, b"NULL"),
        partial(raw_null, good, b"PLAIN"),
        partial(raw_null, good, b"GSSAPI"),
        partial(raw_null, good, b"CURVE"),
        partial(anothers_key, good),
    ]
    accepted = 0
    for _ in range(rounds):
        accepted += sum(at_once(tries))
    return rounds * len(tries), accepted


def at_once(tries: Sequence[Callable[[], bool]]) -> list[bool]:
    """All of these at the same time: most of them wait for an answer that does not come."""
    with ThreadPoolExecutor(len(tries)) as pool:
        return list(pool.map(lambda each: each(), tries))


def anothers_key(key: KeyFile) -> bool:
    """The public key of an admitted one without its secret: all but the vouch is right."""
    stolen = Curve(key)
    stolen._pair = (stolen._pair[0], new_pair()[1])
    with contextlib.suppress(ConnectionError, TimeoutError, AssertionError):
        stolen.connect().send(HELLO)
        return bool(stolen.receive())
    return False


def replay(link: Link, key: str, rounds: int) -> tuple[int, int]:
    """Record a whole session of an admitted key on its way through a proxy, and send it again; returns how many replays there
    were, and how many were answered with more than a greeting and a WELCOME (of CURVE)."""
    good, replays, accepted = KeyFile.read(Path(key)), 0, 0
    for _ in range(rounds):
        recorded = record(good)
        parts = [recorded[:upto] for upto in (len(recorded), len(recorded) - 1, 64 + 202, 64)]
        tries = [partial(answered, good, part, wait=wait) for part in parts for wait in (False, True)]
        replays += len(tries)
        accepted += sum(at_once(tries))
    return replays, accepted


def record(key: KeyFile) -> bytes:
    """What a peer says from its greeting to its HELLO."""
    said = bytearray()
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_proxy, args=(listener, key.addresses[0], said), daemon=True).start()
    through = replace(key, addresses=(f"tcp://127.0.0.1:{listener.getsockname()[1]}",))
    assert gets_in(through), "the honest session that is recorded"
    return bytes(said)


def _proxy(listener: socket.socket, address: str, said: bytearray) -> None:
    peer, _ = listener.accept()
    master = tcp(address, 30)
    back = threading.Thread(target=_pump, args=(master, peer, bytearray()), daemon=True)
    back.start()
    _pump(peer, master, said)
    for each in (master, listener):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


def _pump(source: socket.socket, sink: socket.socket, said: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            said += data
            sink.sendall(data)


def answered(key: KeyFile, recorded: bytes, *, wait: bool) -> bool:
    """Whether a replay gets further than the first answer, which everyone gets who knows the master's public key."""
    got = bytearray()
    with contextlib.closing(tcp(key.addresses[0], ANSWER_S)) as peer, contextlib.suppress(ConnectionError, TimeoutError):
        for start, end in ((0, 64), (64, 266), (266, len(recorded))) if wait else ((0, len(recorded)),):
            peer.sendall(recorded[start:end])
            if wait:
                got += peer.recv(65536)
        while part := peer.recv(65536):
            got += part
    return b"\x05READY" in got or b"\x07MESSAGE" in got


def run(shared: Shared | None) -> Sequence[Figure]:
    scale = SMALL if shared else FULL
    with ground_of(shared) as ground:
        good, revoked = ground.key("good"), ground.key("revoked")
        Ring(Home.of(ground.cluster.home).ring_file).revoke("revoked")
        honest = ground.honest()
        before = ground.counters()
        with honest.measuring() as during:
            tried, accepted = ground.attacker(strangers, good, revoked, scale.rounds).hear(3600)
            replays, replayed = ground.attacker(replay, good, scale.rounds).hear(3600)
        after, seen = ground.counters(), during()
        refused = after.get("zap_denied", 0) - before.get("zap_denied", 0)
        broken = faults_of_zap(ground, scale)
        return [
            some("strangers that tried", tried),
            told("of them denied by the check of keys", refused),
            some("recorded handshakes sent again", replays),
            none("sessions or answers that any of them got", accepted + replayed),
            none("wrong or missing answers to an honest client", seen.wrong + seen.failed),
            none("strangers let in while the check of keys is slow or raises", sum(let_in for let_in, _ in broken)),
            *(
                at_most(f"an admitted key gets in again after the check of keys {what}", healed_s, HEAL_S, "s")
                for what, (_, healed_s) in zip(("was slow", "raised"), broken, strict=True)
            ),
        ]


def faults_of_zap(ground: Ground, scale: Scale) -> list[tuple[int, float]]:
    """Have the master's check of keys go wrong for a while, in each way; how many strangers got in, and how long it took to
    heal."""
    good = KeyFile.read(Path(ground.key("patient")))
    stranger = replace(good, pair=KeyPair(*_pair()))
    flag = ground.cluster.home.parent / "fault-of-zap"
    found = []
    with ground.other_master([sys.executable, str(FAULTY_MASTER), str(flag)]):
        for fault in ("slow", "raises"):
            flag.write_text(fault)
            let_in, over_s = 0, time.monotonic() + scale.fault_s
            while time.monotonic() < over_s:
                let_in += gets_in(stranger, wait_s=scale.answer_s)
                gets_in(good, wait_s=scale.answer_s)
            flag.unlink()
            healed_s = until(lambda: gets_in(good), "an admitted key gets in again")
            found.append((let_in + gets_in(stranger, wait_s=scale.answer_s), healed_s))
    return found


def _pair() -> tuple[str, str]:
    public, secret = new_pair()
    return z85.encode(public).decode(), z85.encode(secret).decode()


ATTACK = Attack(
    "strangers", "wrong, missing, revoked key, another's key, NULL, PLAIN, replayed handshake; ZAP slow or raising",
    "0 messages accepted; it heals within 5 s", run,
)  # fmt: skip
