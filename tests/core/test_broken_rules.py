"""A peer that breaks the protocol ends its own request, and nobody else's."""

from __future__ import annotations

import msgspec

from zcluster.core.catalog import MAX_CATALOG_BYTES
from zcluster.core.master import Master, MasterLimits
from zcluster.core.peers import INITIAL_ITEMS, Identity
from zcluster.errors import ERRORS
from zcluster.keys import may_call, may_send
from zcluster.wire import (
    Beat,
    Bye,
    Catalog,
    Credit,
    FunctionInfo,
    Grant,
    Hello,
    Message,
    Of,
    Refusal,
    Replies,
    RequestGroup,
    Requests,
    ResultGroup,
    Results,
    Status,
    Work,
)

WORKER = Identity("key-w", "worker-1", "worker")
CLIENT = Identity("key-c", "laptop", "client")


class Bench:
    """A master with a worker and a client, and what it says to each."""

    def __init__(self, functions: list[FunctionInfo]) -> None:
        self.master = Master("master", "zcluster", 1, MasterLimits(), may_send, may_call, 0.0)
        self.tell(b"w", WORKER, Hello(versions=[1], instance="a", slots=4, functions=functions))
        self.tell(b"c", CLIENT, Hello(versions=[1], instance="b"))
        self.said()

    def tell(self, route: bytes, identity: Identity, message: Message, body: bytes = b"") -> None:
        self.master.receive(route, identity, message, body, 0, 1.0)

    def said(self) -> dict[object, list[tuple[Message, bytes]]]:
        found = self.master.take(1.0)
        return {route: [(message, b"".join(bodies)) for message, bodies in outgoing] for route, outgoing in found}

    def call(self, function: str) -> int:
        """Call it on the worker; the leg that it got."""
        self.tell(b"c", CLIENT, Requests([RequestGroup(function, "worker-1", 5000, 5, 0, 1, [0])]))
        (work,) = [message for message, _ in self.said()[b"w"] if isinstance(message, Work)]
        return work.groups[0].first_leg

    def error(self) -> str:
        """The code of the error that the client was told."""
        ((message, body),) = self.said()[b"c"]
        assert isinstance(message, Replies)
        assert message.groups[0].status == Status.ERROR
        return str(msgspec.json.decode(body)["code"])


def test_an_item_beyond_its_credit_ends_the_request() -> None:
    bench = Bench([FunctionInfo(name="count", stream=True)])
    leg = bench.call("count")
    bench.tell(b"w", WORKER, Results([ResultGroup(leg, Status.ITEM, [1] * INITIAL_ITEMS)]), b"1" * INITIAL_ITEMS)
    ((replies, _),) = bench.said()[b"c"]
    assert isinstance(replies, Replies)
    assert sum(len(group.sizes) for group in replies.groups) == INITIAL_ITEMS
    bench.tell(b"w", WORKER, Results([ResultGroup(leg, Status.ITEM, [1])]), b"1")
    assert bench.error() == "protocol_error"


def test_granted_items_are_passed_on() -> None:
    bench = Bench([FunctionInfo(name="count", stream=True)])
    leg = bench.call("count")
    bench.tell(b"c", CLIENT, Credit(grants=[Grant(1, leg, Of.ITEMS, INITIAL_ITEMS + 1)]))
    items = INITIAL_ITEMS + 1
    bench.tell(b"w", WORKER, Results([ResultGroup(leg, Status.ITEM, [1] * items)]), b"1" * items)
    ((replies, _),) = bench.said()[b"c"]
    assert isinstance(replies, Replies)
    assert sum(len(group.sizes) for group in replies.groups) == items
    assert all(group.status == Status.ITEM for group in replies.groups)


def test_a_value_too_large_for_one_piece_ends_the_request() -> None:
    limit = MasterLimits().inline_bytes
    bench = Bench([FunctionInfo(name="f")])
    bench.tell(b"w", WORKER, Results([ResultGroup(bench.call("f"), Status.VALUE, [limit + 1])]), bytes(limit + 1))
    assert bench.error() == "protocol_error"


def test_a_value_at_the_limit_is_an_answer() -> None:
    limit = MasterLimits().inline_bytes
    bench = Bench([FunctionInfo(name="f")])
    bench.tell(b"w", WORKER, Results([ResultGroup(bench.call("f"), Status.VALUE, [limit])]), bytes(limit))
    ((replies, body),) = bench.said()[b"c"]
    assert isinstance(replies, Replies)
    assert (replies.groups[0].status, len(body)) == (Status.VALUE, limit)


def test_a_refusal_says_what_it_is_about() -> None:
    bench = Bench([])
    bench.tell(b"w", WORKER, Requests([RequestGroup("f", "any", 5000, 5, 0, 1, [0])]))
    ((refusal, _),) = bench.said()[b"w"]
    assert refusal == Refusal(code="not_allowed", about=Requests.kind, message="a worker may not send REQUESTS")


def test_a_beat_without_slots_changes_none() -> None:
    bench = Bench([])
    bench.tell(b"w", WORKER, Beat())
    assert bench.master.roster.nodes["worker-1"].slots == 4
    bench.tell(b"w", WORKER, Beat(slots=0))
    assert bench.master.roster.nodes["worker-1"].slots == 0


def test_the_catalog_stays_readable_however_many_functions_there_are() -> None:
    names = [f"{number:04}" + "é" * 120 for number in range(2000)]
    bench = Bench([FunctionInfo(name=name, idempotent=True) for name in names])
    bench.tell(b"c2", Identity("key-d", "other", "client"), Hello(versions=[1], instance="c"))
    (catalog,) = [message for message, _ in bench.said()[b"c2"] if isinstance(message, Catalog)]
    assert 0 < len(catalog.idempotent) < len(names)
    assert len(msgspec.json.encode(catalog.idempotent)) <= MAX_CATALOG_BYTES + 2


def test_a_closing_master_answers_before_it_says_bye() -> None:
    bench = Bench([FunctionInfo(name="f")])
    bench.call("f")
    bench.master.close(1.0)
    replies, bye = [message for message, _ in bench.said()[b"c"]]
    assert isinstance(replies, Replies)
    assert isinstance(bye, Bye)
    assert bye.code in ERRORS
