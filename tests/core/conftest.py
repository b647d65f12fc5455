"""The master's machine with peers that a test speaks for, message by message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from zcluster.core.dispatch import QueueLimits
from zcluster.core.greeting import LOCAL
from zcluster.core.master import Master, MasterLimits
from zcluster.core.peers import Identity
from zcluster.core.roster import SessionLimits
from zcluster.keys import may_call, may_send
from zcluster.wire import (
    Chunk,
    FunctionInfo,
    Hello,
    Message,
    Replies,
    RequestGroup,
    Requests,
    ResultGroup,
    Results,
    Status,
    WireLimits,
    Work,
    decode,
    encode,
)

Sent = tuple[Message, bytes]


class Bus:
    """A master named ``m`` whose time is :attr:`now`."""

    def __init__(self, limits: MasterLimits, expected: dict[str, str] | None = None, grace: bool = False) -> None:
        self.now = 1000.0
        self.master = Master("m", "test", 7, limits, may_send, may_call, self.now, expected=expected)
        if not grace:
            self.master.admission.grace_until_s = self.now
        self.said: dict[Any, list[Sent]] = {}
        self.identities: dict[Any, Identity] = {}

    # -- in ---------------------------------------------------------------------------------------------------------

    def local(self, *functions: FunctionInfo | str, slots: int = 4) -> None:
        """The master's own node."""
        self.hello(LOCAL, Identity("key-m", "m", "master"), *functions, slots=slots)

    def worker(self, name: str, *functions: FunctionInfo | str, slots: int = 8, route: str = "", instance: str = "i") -> Any:
        """A worker says HELLO; returns its route."""
        return self.hello(route or name, Identity(f"key-{name}", name, "worker"), *functions, slots=slots, instance=instance)

    def client(self, name: str, role: str = "client", route: str = "", instance: str = "i") -> Any:
        """A client says HELLO; returns its route."""
        return self.hello(route or name, Identity(f"key-{name}", name, role), instance=instance)

    def hello(self, route: Any, identity: Identity, *functions: FunctionInfo | str, slots: int = 0, instance: str = "i") -> Any:
        """HELLO from ``route``."""
        infos = [FunctionInfo(name=function) if isinstance(function, str) else function for function in functions]
        self.identities[route] = identity
        self.send(route, Hello(versions=[1], instance=instance, slots=slots, functions=infos))
        return route

    def send(self, route: Any, message: Message, *bodies: bytes) -> None:
        """A message from ``route``, through the codec; then the master's turn."""
        frame = encode(message, bodies)
        decoded, offset = decode(frame, WireLimits())
        self.master.receive(route, self.identities[route], decoded, frame, offset, self.now)
        self.turn()

    def request(
        self, route: str, function: str, target: str, *bodies: bytes, id_: int = 1, timeout_s: float = 30.0, priority: int = 5,
        flags: int = 0, sizes: list[int] | None = None,
    ) -> None:  # fmt: skip
        """REQUESTS of one group."""
        bodies = bodies or (b"x",)
        group = RequestGroup(
            function, target, int(timeout_s * 1000), priority, flags, id_, sizes or [len(body) for body in bodies]
        )
        self.send(route, Requests([group]), *(() if sizes else bodies))

    def result(self, route: str, leg: int, body: bytes = b"ok", status: int = Status.VALUE, size: int | None = None) -> None:
        """RESULTS of one leg."""
        self.send(route, Results([ResultGroup(leg, status, [len(body) if size is None else size])]), body)

    def chunk(self, route: str, leg: int, offset: int, data: bytes, id_: int = 0) -> None:
        """A CHUNK."""
        self.send(route, Chunk(id_, leg, offset), data)

    def wait(self, seconds: float) -> None:
        """Time passes in one step."""
        self.now += seconds
        self.master.handle_deadline(self.now)
        self.turn()

    def turn(self) -> None:
        """What the master has to say is kept by route; what it has left over is admitted."""
        told = self.master.take(self.now)
        while self.master.backlog:
            told += self.master.take(self.now)
        for route, outgoing in told:
            for message, bodies in outgoing:
                frame = encode(message, bodies)
                decoded, offset = decode(frame, WireLimits())
                self.said.setdefault(route, []).append((decoded, frame[offset:]))

    # -- out --------------------------------------------------------------------------------------------------------

    def heard(self, route: Any, kind: type[Message] | None = None) -> list[Message]:
        """What ``route`` was told since the last time it was asked."""
        return [message for message, _ in self.said.pop(route, []) if kind is None or isinstance(message, kind)]

    def work(self, route: Any) -> list[tuple[int, int, bytes]]:
        """The legs that ``route`` was given: (leg, request id, body)."""
        out: list[tuple[int, int, bytes]] = []
        for message, data in self.said.pop(route, []):
            if isinstance(message, Work):
                offset = 0
                for group in message.groups:
                    for index, size in enumerate(group.sizes):
                        end = offset + (0 if group.flags & 1 else size)
                        out.append((group.first_leg + index, group.first_request + index, data[offset:end]))
                        offset = end
        return out

    def replies(self, route: Any) -> list[tuple[int, str, str]]:
        """The replies that ``route`` got: (request id, what, node), where what is a status, or an error's code."""
        names = {value: name for name, value in vars(Status).items() if name.isupper()}
        out: list[tuple[int, str, str]] = []
        for message, data in self.said.pop(route, []):
            if isinstance(message, Replies):
                offset = 0
                for group in message.groups:
                    id_ = group.first_id
                    for size in group.sizes:
                        end = offset + (0 if group.status == Status.LARGE_VALUE else size)
                        what = names[group.status]
                        if group.status == Status.ERROR:
                            what = msgspec.json.decode(data[offset:end])["code"]
                        elif group.status in (Status.VALUE, Status.ITEM):
                            what = f"{what} {data[offset:end].decode()}"
                        out.append((id_, what, group.node))
                        offset, id_ = end, id_ + (group.status != Status.ITEM)
        return out

    def events(self) -> list[str]:
        """The names of the events since the last time."""
        names = [event.name for event in self.master.events]
        self.master.events.clear()
        return names

    def count(self, name: str) -> int:
        """How often ``name`` was counted."""
        return self.master.counters.values.get(name, 0)

    def idle(self) -> bool:
        """Whether the master holds nothing of any request."""
        dispatch = self.master.dispatch
        return (
            not dispatch.running and not dispatch.waiting and not dispatch.waiting_bytes and not dispatch.gate.used_bytes
            and not any(peer.requests or peer.waiting for peer in self.master.roster.peers.values())
            and not any(node.by_caller or node.quick or node.running or node.queue for node in self.master.roster.nodes.values())
            and dispatch.next_deadline() is None
        )  # fmt: skip


def limits(session: dict[str, Any] | None = None, queue: dict[str, Any] | None = None, **others: Any) -> MasterLimits:
    """A master's limits; small sizes, so that tests reach them."""
    sizes = {"body_bytes": 10_000, "inline_bytes": 1000, "window_bytes": 2048, "transfer_bytes": 100_000, **others}
    return MasterLimits(SessionLimits(**{"chunk_bytes": 1024, **(session or {})}), QueueLimits(**(queue or {})), **sizes)


@pytest.fixture
def make_bus() -> Callable[..., Any]:
    """Make a Bus: ``make_bus(queue={...}, session={...}, expected=..., grace=True, **limits)``."""

    def make(*, expected: dict[str, str] | None = None, grace: bool = False, **others: Any) -> Bus:
        return Bus(limits(**others), expected, grace)

    return make


@pytest.fixture
def bus(make_bus: Callable[..., Any]) -> Any:
    """A Bus with limits that few tests reach."""
    return make_bus()
