"""Hostile peers with admitted keys, on real sockets: honest ones beside them are served as if nothing were.

Rules kept here: a hostile peer is a raw DEALER of pyzmq in a thread of its own; an honest one is an AsyncClient. All waits
have a deadline and end at a fact (an answer, a counter), never after a fixed time.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
import zmq

from zcluster import wire
from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient
from zcluster.errors import NodeLost, TimedOut
from zcluster.keys import KeyFile

PATIENCE_S = 60.0
POLL_S = 0.02
BEAT_S = 0.25
LIMITS = wire.WireLimits()
MUTANTS = 100_000
TOKENS = (b"[", b"]", b"-1", b"99999999999999999999", b"1e999", b"null", b'"', b"\xff", b"{}")
GROWTH_BYTES = 64 * 1024 * 1024
FLOOD_MESSAGES, MEMBERS = 25, 4096
FLOOD = FLOOD_MESSAGES * MEMBERS
BODY = b'{"value":1}'


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(workers=1) as running:
        yield running


class Raw:
    """A DEALER with an admitted key, for one thread: it sends any bytes, and beats only when told to."""

    def __init__(self, key_path: Path) -> None:
        key = KeyFile.read(key_path)
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RECONNECT_IVL, -1)
        self.socket.setsockopt(zmq.SNDTIMEO, int(PATIENCE_S * 1000))
        self.socket.curve_publickey = key.pair.public.encode()
        self.socket.curve_secretkey = key.pair.secret.encode()
        self.socket.curve_serverkey = key.master_public.encode()
        self.socket.connect(key.addresses[0])
        self.beat_due_s = time.monotonic() + BEAT_S

    def send(self, message: wire.Message, *bodies: bytes) -> None:
        self.socket.send(wire.encode(message, bodies))

    def receive(self, wait_s: float = PATIENCE_S) -> tuple[wire.Message, bytes] | None:
        """The next message and its bodies; None when none comes in time."""
        if not self.socket.poll(int(wait_s * 1000)):
            return None
        frame = self.socket.recv()
        message, start = wire.decode(frame, LIMITS)
        return message, frame[start:]

    def wait_for(self, kind: type[Any], code: str = "") -> Any:
        """The next message of a kind (and with a code), all others thrown away."""
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            found = self.receive(deadline_s - time.monotonic())
            if found is not None and isinstance(found[0], kind) and getattr(found[0], "code", "") == code:
                return found[0]
        raise AssertionError(f"no {kind.__name__} {code} came")

    def beat(self, slots: int | None = None) -> None:
        if time.monotonic() >= self.beat_due_s:
            self.send(wire.Beat(slots=slots))
            self.beat_due_s = time.monotonic() + BEAT_S

    def close(self) -> None:
        self.socket.close()
        self.context.term()


@asynccontextmanager
async def beside(run: Callable[[threading.Event], None]) -> AsyncIterator[asyncio.Task[None]]:
    """``run`` in a thread; told to stop at the end, when what it raised is raised."""
    stop = threading.Event()
    task = asyncio.create_task(asyncio.to_thread(run, stop))
    try:
        yield task
    finally:
        stop.set()
        await asyncio.wait_for(task, PATIENCE_S)


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not await condition():
        assert time.monotonic() < deadline_s, what
        await asyncio.sleep(POLL_S)


async def wait_for_node(client: AsyncClient, name: str) -> None:
    async def ready() -> bool:
        return any(node["name"] == name and node["state"] == "ready" for node in await client.nodes())

    await until(ready, f"{name} is not ready")


async def counter(client: AsyncClient, name: str) -> int:
    return int((await client.status())["counters"].get(name, 0))


async def wait_for_growth(client: AsyncClient, name: str, before: int) -> None:
    async def grew() -> bool:
        return await counter(client, name) > before

    await until(grew, f"{name} does not grow")


def seeds() -> list[bytes]:
    group = wire.RequestGroup("echo", "any", 1000, 5, 0, 1, [len(BODY), len(BODY)])
    large = wire.RequestGroup("echo", "any", 1000, 5, 1, 900, [200_000])
    return [
        wire.encode(wire.Requests([group]), [BODY, BODY]),
        wire.encode(wire.Requests([large])),
        wire.encode(wire.Hello(versions=[1], instance="mutant", software="hostile")),
        wire.encode(wire.Credit(grants=[wire.Grant(1, 1, 1, 65536), wire.Grant(2, 2, 2, 64)])),
        wire.encode(wire.Chunk(1, 1, 0), [b"x" * 64]),
        wire.encode(wire.Beat(slots=4, load=0.5)),
    ]


def mutate(chance: random.Random, frame: bytes) -> bytes:
    data = bytearray(frame)
    for _ in range(chance.randint(1, 3)):
        at = chance.randint(0, len(data))
        end = at + chance.choice([0, 1, 1, chance.randint(2, 8), len(data)])
        data[at:end] = chance.choice([b"", chance.randbytes(1), chance.randbytes(8), chance.choice(TOKENS), data[: at // 2]])
    return bytes(data)


def send_mutants(key: Path, seed: int) -> None:
    """All of them, with a new HELLO whenever one of them has ended the session; returns when the master has read the last."""
    raw, chance, valid = Raw(key), random.Random(seed), seeds()
    hello = wire.Hello(versions=[1], instance="mutant")
    try:
        raw.send(hello)
        raw.wait_for(wire.Welcome)
        for _ in range(MUTANTS):
            raw.socket.send(mutate(chance, chance.choice(valid)))
            while (found := raw.receive(0)) is not None:
                if isinstance(found[0], wire.Bye):
                    raw.send(hello)
        # No mutant has two frames, so the refusal of these comes behind all others.
        raw.socket.send_multipart([b"the", b"last"])
        while "2 frames" not in raw.wait_for(wire.Refusal, "protocol_error").message:
            continue
    finally:
        raw.close()


async def mutated_frames_cost_nothing(cluster: LocalCluster) -> None:
    key = cluster.new_key("mutant", "client")
    async with AsyncClient(key=cluster.client_key) as honest:
        assert await honest.call("echo", {"value": -1}) == -1
        master = psutil.Process(cluster.pids["master"])
        before_bytes, malformed = master.memory_info().rss, await counter(honest, "malformed")
        async with beside(lambda stop: send_mutants(key, 1)) as sending:
            answered = 0
            while not sending.done():
                assert await honest.call("echo", {"value": answered}, timeout=PATIENCE_S) == answered
                answered += 1
        grown_bytes = master.memory_info().rss - before_bytes
        assert answered > 100
        assert await counter(honest, "malformed") - malformed > MUTANTS // 4
    assert grown_bytes <= GROWTH_BYTES, f"{grown_bytes} bytes more"


def never_read(key: Path, stop: threading.Event) -> None:
    raw = Raw(key)
    try:
        raw.send(wire.Hello(versions=[1], instance="stuck", slots=8, functions=[wire.FunctionInfo(name="stuck")]))
        while not stop.wait(BEAT_S / 2):
            raw.beat(slots=8)
    finally:
        raw.close()


async def a_worker_that_never_reads_holds_only_its_own_calls(cluster: LocalCluster) -> None:
    key = cluster.new_key("stuck-worker", "worker")
    async with AsyncClient(key=cluster.client_key) as client, beside(lambda stop: never_read(key, stop)):
        await wait_for_node(client, "stuck-worker")
        text = "x" * 32_768
        stuck = [asyncio.create_task(client.call("stuck", {"n": n, "text": text}, timeout=3.0)) for n in range(32)]
        echoes = [client.call("echo", {"value": n}, target="worker-1", timeout=PATIENCE_S) for n in range(2000)]
        assert await asyncio.wait_for(asyncio.gather(*echoes), PATIENCE_S) == list(range(2000))
        ends = await asyncio.wait_for(asyncio.gather(*stuck, return_exceptions=True), PATIENCE_S)
        assert {type(end) for end in ends} <= {TimedOut, NodeLost}, ends


class Liar:
    """Answers each call of `mirror` with its arguments, and says much else: everything a second time, held ones only
    after their CANCEL, and results of legs that were never its own."""

    def __init__(self, key: Path) -> None:
        self.raw = Raw(key)
        self.chance = random.Random(2)
        self.held: set[int] = set()
        self.last_leg = 0
        self.late = 0

    def run(self, stop: threading.Event) -> None:
        try:
            functions = [wire.FunctionInfo(name="mirror")]
            self.raw.send(wire.Hello(versions=[1], instance="liar", slots=4096, functions=functions))
            while not stop.is_set():
                self.raw.beat(slots=4096)
                found = self.raw.receive(BEAT_S / 2)
                if found is not None and isinstance(found[0], wire.Work):
                    self.work(found[0], found[1])
                elif found is not None and isinstance(found[0], wire.Cancel):
                    self.cancel(found[0])
        finally:
            self.raw.close()

    def value(self, leg: int, body: bytes) -> None:
        self.raw.send(wire.Results([wire.ResultGroup(leg, wire.Status.VALUE, [len(body)])]), body)

    def work(self, work: wire.Work, bodies: bytes) -> None:
        offset = 0
        for group in work.groups:
            for leg, size in enumerate(group.sizes, group.first_leg):
                body = bodies[offset : offset + size]
                offset += size
                self.last_leg = max(self.last_leg, leg)
                if b'"hold":true' in body.replace(b" ", b""):
                    self.held.add(leg)
                    continue
                self.value(leg, body)
                self.value(leg, b'"duplicate"')
                self.forge()

    def forge(self) -> None:
        # Legs grow, so one below the last that is not held is another node's, or has been answered.
        self.value(self.last_leg + 1_000_000, b'"forged"')
        for _ in range(4):
            leg = self.chance.randint(0, self.last_leg)
            if leg not in self.held:
                self.value(leg, b'"forged"')

    def cancel(self, cancel: wire.Cancel) -> None:
        for leg in cancel.ids:
            self.held.discard(leg)
            self.value(leg, b'"late"')
            self.late += 1


async def identity(client: AsyncClient, n: int) -> None:
    """One pair of calls that run at the same time, one on the liar, one on worker-1: each gets its own value."""
    mine, beside_it = await asyncio.gather(
        client.call("mirror", {"n": n, "hold": False}, timeout=PATIENCE_S),
        client.call("echo", {"value": f"echo {n}"}, target="worker-1", timeout=PATIENCE_S),
    )
    assert mine == {"n": n, "hold": False}
    assert beside_it == f"echo {n}"


async def results_that_nobody_asked_for_reach_nobody(cluster: LocalCluster) -> None:
    liar = Liar(cluster.new_key("liar", "worker"))
    async with AsyncClient(key=cluster.client_key) as client, beside(liar.run):
        await wait_for_node(client, "liar")
        stray = await counter(client, "stray_result")
        for first in range(0, 2000, 100):
            timeouts = [PATIENCE_S] + [0.2] * 9
            held = [asyncio.create_task(client.call("mirror", {"hold": True}, timeout=timeout)) for timeout in timeouts]
            await asyncio.wait_for(asyncio.gather(*[identity(client, n) for n in range(first, first + 100)]), PATIENCE_S)
            held[0].cancel()
            ends = await asyncio.wait_for(asyncio.gather(*held, return_exceptions=True), PATIENCE_S)
            assert [type(end) for end in ends] == [asyncio.CancelledError] + [TimedOut] * 9, ends
        await wait_for_growth(client, "stray_result", stray + 2000)
        assert await client.call("mirror", {"n": "last"}, timeout=PATIENCE_S) == {"n": "last"}
    assert liar.late > 0


class Flooder:
    """Asks FLOOD times at once, and counts the answers."""

    def __init__(self, key: Path) -> None:
        self.raw = Raw(key)
        self.answers = 0
        self.failed = 0

    def run(self, stop: threading.Event) -> None:
        try:
            self.raw.send(wire.Hello(versions=[1], instance="flooder"))
            self.raw.wait_for(wire.Welcome)
            for number in range(FLOOD_MESSAGES):
                group = wire.RequestGroup("echo", "worker-1", 600_000, 5, 0, 1 + number * MEMBERS, [len(BODY)] * MEMBERS)
                self.raw.send(wire.Requests([group]), BODY * MEMBERS)
            while self.answers < FLOOD and not stop.is_set():
                self.raw.beat()
                found = self.raw.receive(BEAT_S)
                if found is not None and isinstance(found[0], wire.Replies):
                    for reply in found[0].groups:
                        self.answers += len(reply.sizes)
                        self.failed += len(reply.sizes) if reply.status != wire.Status.VALUE else 0
            self.raw.send(wire.Bye())
        finally:
            self.raw.close()


async def a_flood_does_not_delay_another_client(cluster: LocalCluster) -> None:
    flooder = Flooder(cluster.new_key("flooder", "client"))
    async with AsyncClient(key=cluster.client_key) as client:
        asked = await counter(client, "requests")
        async with beside(flooder.run) as flooding:
            await wait_for_growth(client, "requests", asked + FLOOD)
            assert await client.call("echo", {"value": "one"}, target="worker-1", timeout=PATIENCE_S) == "one"
            answered_before = flooder.answers
            await asyncio.wait_for(asyncio.shield(flooding), PATIENCE_S)
    assert answered_before < FLOOD // 2
    assert (flooder.answers, flooder.failed) == (FLOOD, 0)


FAULTS = [
    mutated_frames_cost_nothing, a_worker_that_never_reads_holds_only_its_own_calls,
    results_that_nobody_asked_for_reach_nobody, a_flood_does_not_delay_another_client,
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: str(fault.__name__))
def test_honest_peers_beside(cluster: LocalCluster, fault: Callable[[LocalCluster], Coroutine[Any, Any, None]]) -> None:
    before = cluster.pids
    asyncio.run(fault(cluster))
    assert cluster.pids == before


def too_many() -> bytes:
    group = wire.RequestGroup("echo", "any", 1000, 5, 0, 1, [0] * 4096)
    return wire.encode(wire.Requests([group, wire.RequestGroup("echo", "any", 1000, 5, 0, 5000, [0])]))


def long_header() -> bytes:
    header = b'{"pad":"' + b"x" * LIMITS.header_bytes + b'"}'
    return wire.encode(wire.Beat())[:4] + len(header).to_bytes(4, "big") + header


@pytest.mark.parametrize(
    "frames", [[b"", b"x"], [wire.encode(wire.Beat())] * 2, [b""] * 1000, [too_many()], [long_header()], [b""]]
)
def test_a_message_of_the_wrong_shape_is_refused(cluster: LocalCluster, frames: list[bytes]) -> None:
    async def body() -> None:
        async with AsyncClient(key=cluster.client_key) as honest:
            malformed = await counter(honest, "malformed")
            await asyncio.to_thread(refused)
            assert await counter(honest, "malformed") == malformed + 1
            assert await honest.call("echo", {"value": 1}) == 1

    def refused() -> None:
        raw = Raw(cluster.client_key)
        try:
            raw.send(wire.Hello(versions=[1], instance="shapes"))
            raw.wait_for(wire.Welcome)
            raw.socket.send_multipart(frames)
            raw.wait_for(wire.Refusal, "protocol_error")
            raw.send(wire.Beat())
            raw.wait_for(wire.Beat)
        finally:
            raw.close()

    asyncio.run(body())


@pytest.mark.parametrize("frames", [[b"x" * (LIMITS.frame_bytes + 1)], [b"", b"x" * (LIMITS.frame_bytes + 1)]])
def test_an_oversize_frame_cuts_its_own_connection_only(cluster: LocalCluster, frames: list[bytes]) -> None:
    async def body() -> None:
        raw = Raw(cluster.client_key)
        try:
            raw.send(wire.Hello(versions=[1], instance="oversize"))
            await asyncio.to_thread(raw.wait_for, wire.Welcome)
            async with AsyncClient(key=cluster.client_key) as honest:
                closed = await counter(honest, "event_session_closed")
                raw.socket.send_multipart(frames)
                await wait_for_growth(honest, "event_session_closed", closed)
                assert await honest.call("echo", {"value": 1}) == 1
        finally:
            raw.close()

    asyncio.run(body())
