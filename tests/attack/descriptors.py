"""File descriptors exhausted: a master that may have 256 of them, and more connections than that."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import zmq
from ground import Ground, Link, Shared, ground_of
from measured import Attack, at_most, none, some, told
from peers import Peer, dress

from zcluster import wire
from zcluster.bench.figures import Figure
from zcluster.keys import KeyFile

LIMIT = 256
CONNECTIONS = 600
RECOVER_S = 5
AGAIN_S = 0.02


@dataclass(frozen=True)
class Scale:
    seconds: float


SMALL, FULL = Scale(2.0), Scale(20.0)


def press(link: Link, address: str, key: str) -> int:
    """Open more connections than fit, plain ones and ones that authenticate, and open each again that is cut; returns how often
    one was opened."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    file, opened = KeyFile.read(Path(key)), 0
    known = [dress(context.socket(zmq.DEALER), file) for _ in range(100)]
    for each in known:
        each.connect(file.addresses[0])
    plain: list[socket.socket] = []
    link.say("pressing")
    while not link.told():
        for index, peer in enumerate(plain):
            with contextlib.suppress(BlockingIOError):
                with contextlib.suppress(ConnectionError):
                    if peer.recv(4096):
                        continue
                peer.close()
                plain[index] = _open(host, int(port))
                opened += 1
        for _ in range(min(50, CONNECTIONS - len(plain))):
            plain.append(_open(host, int(port)))
            opened += 1
        time.sleep(AGAIN_S)
    for peer in plain:
        peer.close()
    context.destroy(linger=0)
    return opened


def _open(host: str, port: int) -> socket.socket:
    peer = socket.socket()
    peer.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        peer.connect((host, port))
    return peer


def run(shared: Shared | None) -> Sequence[Figure]:
    scale = SMALL if shared else FULL
    with ground_of(shared) as ground:
        key, late = ground.key("presses"), ground.key("late", "worker")
        limited = ["/bin/sh", "-c", f'ulimit -n {LIMIT} && exec "$0" "$@"', sys.executable, "-m", "zcluster"]
        with ground.other_master(limited):
            return under_pressure(ground, scale, key, late)


def under_pressure(ground: Ground, scale: Scale, key: str, late: str) -> Sequence[Figure]:
    """What happens to existing peers, and to new ones."""
    honest = ground.honest()
    quiet = honest.quiet(scale.seconds / 2)
    presser = ground.attacker(press, ground.cluster.address, key)
    presser.hear()
    master = psutil.Process(ground.master_pid)
    with honest.measuring() as during:
        cpu = master.cpu_percent(scale.seconds)
        open_files = master.num_fds()
        joined_s = joins(late)
    presser.tell("end")
    opened, seen = presser.hear(), during()
    return [
        some("connections opened", opened, LIMIT),
        told("descriptors of the master meanwhile", open_files),
        told("CPU of the master meanwhile", cpu, "%"),
        none("existing peers: wrong or missing answers", seen.wrong + seen.failed),
        told("existing peers: p99 quiet", quiet.p(99) * 1e3, "ms"),
        told("existing peers: p99 meanwhile", seen.p(99) * 1e3, "ms"),
        some("events that tell of it (accept_failed)", len(ground.events("accept_failed"))),
        told("a new worker joins meanwhile", joined_s, "s"),
        at_most("a new worker joins after it", joins(late), RECOVER_S, "s"),
        none("nodes that died", ground.deaths),
    ]


def joins(key: str) -> float:
    """How long a worker takes to join that tries again and again; 60 when it does not."""
    began_s = time.monotonic()
    while (took_s := time.monotonic() - began_s) < 60:
        peer = Peer(key)
        peer.hello(slots=1, functions=[wire.FunctionInfo(name="late")])
        found = peer.receive(1.0)
        peer.close()
        if found is not None and isinstance(found[0], wire.Welcome):
            return time.monotonic() - began_s
    return took_s


ATTACK = Attack(
    "descriptors", "file descriptors exhausted (ulimit 256) by 700 connections that come again",
    "existing peers served, event, recovers", run,
)  # fmt: skip
