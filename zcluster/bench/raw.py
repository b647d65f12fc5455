"""The plain pyzmq program that a user would write instead of zcluster, as the measure of it.

A client's DEALER, a ROUTER that forwards by name, a worker's DEALER; CURVE on; one request a message; blocking sockets;
each its own process. No permissions, deadlines, retries, liveness, queues or errors: what it does not do costs it nothing.
It is the fastest simple form: the router does nothing but look a name up and pass the frames on.

Rules kept here:
- nothing of zcluster runs in these processes but the counting of latencies;
- both loops have the same meaning as in :mod:`zcluster.bench.loops`.
"""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Iterator
from itertools import cycle

import msgspec
import zmq

from zcluster.bench.child import Ready, read_line, say_line
from zcluster.bench.rounds import GRACE_S, RoundResult, RoundSpec, result_of
from zcluster.bench.stats import Histogram, Recorder
from zcluster.errors import TimedOut

HIGH_WATER = 200_000
"""More than is ever in flight: a ROUTER drops what does not fit."""
SILENCE_MS = 30_000


class RawConfig(msgspec.Struct, frozen=True):
    """The first line that each of the three programs gets."""

    public: str
    secret: str = ""
    """Of the router only."""
    port: int = 0
    workers: tuple[str, ...] = ()
    """The names of all workers (client), its own name alone (worker)."""
    size_bytes: int = 0


def router(config: RawConfig) -> None:
    """Forwards [name, id, body] of a client to the worker of that name, and [client, id, body] of a worker back."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sock = context.socket(zmq.ROUTER)
    sock.setsockopt(zmq.SNDHWM, HIGH_WATER)
    sock.setsockopt(zmq.RCVHWM, HIGH_WATER)
    sock.curve_server = True
    sock.curve_publickey = config.public.encode()
    sock.curve_secretkey = config.secret.encode()
    port = sock.bind_to_random_port("tcp://127.0.0.1")
    say_line(Ready(port))
    workers: dict[bytes, bytes] = {}
    routes: set[bytes] = set()
    while True:
        frames = sock.recv_multipart()
        if len(frames) == 2:  # a worker tells its name
            workers[frames[1]] = frames[0]
            routes.add(frames[0])
        elif frames[0] in routes:
            sock.send_multipart(frames[1:])
        elif frames[1] in workers:
            sock.send_multipart([workers[frames[1]], frames[0], frames[2], frames[3]])


def worker(config: RawConfig) -> None:
    """Tells its name, then sends each request back."""
    sock = _dealer(config)
    sock.send(config.workers[0].encode())
    say_line(Ready())
    while True:
        sock.send_multipart(sock.recv_multipart())


def client(config: RawConfig) -> None:
    """Makes the load of the rounds that the parent asks for."""
    sock = _dealer(config)
    sock.setsockopt(zmq.RCVTIMEO, SILENCE_MS)
    load = _Load(sock, config)
    load.wait_for_workers(config.workers)
    say_line(Ready())
    while (spec := read_line(RoundSpec)) is not None:
        say_line(load.open_loop(spec) if spec.rate > 0 else load.closed_loop(spec))


def _dealer(config: RawConfig) -> zmq.Socket[bytes]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sock = context.socket(zmq.DEALER)
    sock.setsockopt(zmq.SNDHWM, HIGH_WATER)
    sock.setsockopt(zmq.RCVHWM, HIGH_WATER)
    sock.setsockopt(zmq.LINGER, 0)
    sock.curve_serverkey = config.public.encode()
    sock.curve_publickey, sock.curve_secretkey = zmq.curve_keypair()
    sock.connect(f"tcp://127.0.0.1:{config.port}")
    return sock


class _Load:
    """One client's requests: an id and a start time for each, taken out by its answer."""

    def __init__(self, sock: zmq.Socket[bytes], config: RawConfig) -> None:
        self.sock = sock
        self.body = b"x" * config.size_bytes
        self.targets: Iterator[bytes] = cycle([name.encode() for name in config.workers])
        self.began: dict[bytes, float] = {}
        self.next_id = 0
        self.wrong = 0

    def send(self, began_s: float) -> None:
        """Sends the next request; ``began_s`` is when its latency starts."""
        self.next_id += 1
        request = self.next_id.to_bytes(8, "little")
        self.began[request] = began_s
        self.sock.send_multipart((next(self.targets), request, self.body))

    def wait_for_workers(self, names: tuple[str, ...]) -> None:
        """Returns when each worker has answered; the router drops what comes before a worker has told its name."""
        self.sock.setsockopt(zmq.RCVTIMEO, 50)
        for name in names:
            while True:
                self.sock.send_multipart((name.encode(), b"hello", b""))
                try:
                    self.sock.recv_multipart()
                    break
                except zmq.Again:
                    continue
        while self.sock.poll(200):  # answers to the hellos that were late
            self.sock.recv_multipart()
        self.sock.setsockopt(zmq.RCVTIMEO, SILENCE_MS)

    def closed_loop(self, spec: RoundSpec) -> RoundResult:
        """``in_flight`` requests under way until the window's end."""
        now, began, sock, body = time.monotonic, self.began, self.sock, self.body
        recorder = Recorder()
        recorder.start()
        until_s = spec.start_at_s + spec.window_s
        self.wrong = 0
        for _ in range(spec.in_flight):
            self.send(now())
        while began:
            request, answer = sock.recv_multipart()
            now_s = now()
            took_s = now_s - began.pop(request)
            if now_s < until_s:
                if now_s >= spec.start_at_s:
                    if answer == body:
                        recorder.record(took_s)
                    else:
                        self.wrong += 1
                self.send(now())
            if not self.next_id & 0xFFFF:
                recorder.settle()
        return result_of(recorder.histogram(), spec.window_s, self.errors())

    def open_loop(self, spec: RoundSpec) -> RoundResult:
        """Requests by timetable, at most ``in_flight`` under way; latency from the due time."""
        now, interval_s = time.monotonic, 1.0 / spec.rate
        index, end = -int(spec.warm_up_s * spec.rate), int(spec.window_s * spec.rate)
        until_s = last_s = spec.start_at_s + spec.window_s
        histogram = Histogram()
        unsent = self.wrong = 0
        while index < end or self.began:
            while index < end and len(self.began) < spec.in_flight and spec.start_at_s + index * interval_s <= now():
                self.send(spec.start_at_s + index * interval_s)
                index += 1
            if index < end and now() > until_s + GRACE_S:
                first, unsent, index = index, end - index, end
                waited_s = [now() - (spec.start_at_s + i * interval_s) for i in (first, end - 1)]
                histogram.record_ramp_s(waited_s[0], waited_s[1], unsent)
            free = index < end and len(self.began) < spec.in_flight
            answered_s, began_s, right = self.receive(spec.start_at_s + index * interval_s if free else now() + 1.0)
            if now() > until_s + GRACE_S + SILENCE_MS / 1000:
                raise TimedOut("the raw worker stopped answering", hint="look at its log")
            if began_s >= spec.start_at_s:
                last_s = max(last_s, answered_s)
                if right:
                    histogram.record_s(answered_s - began_s)
        return result_of(histogram, last_s - spec.start_at_s, self.errors(), unsent)

    def receive(self, due_s: float) -> tuple[float, float, bool]:
        """The next answer: when it came, when its request began, whether it is right; (0, -1, False) at ``due_s``."""
        try:
            request, answer = self.sock.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            # select() waits for microseconds, zmq's poll for milliseconds. The descriptor is edge-triggered: the
            # failed recv just before has armed it.
            select.select([self.sock.FD], [], [], max(0.0, min(due_s - time.monotonic(), 1.0)))
            return 0.0, -1.0, False
        now_s = time.monotonic()
        right = answer == self.body
        self.wrong += not right
        return now_s, self.began.pop(request), right

    def errors(self) -> dict[str, int]:
        """The wrong answers of the round, as a round's result tells them."""
        return {"wrong_answer": self.wrong} if self.wrong else {}


def main() -> None:
    """``python -m zcluster.bench.raw router|worker|client``."""
    config = read_line(RawConfig)
    if config is not None:
        {"router": router, "worker": worker, "client": client}[sys.argv[1]](config)


if __name__ == "__main__":
    main()
