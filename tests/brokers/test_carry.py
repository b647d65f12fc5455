"""Carried clients at the master: who they are, what they may, and when they end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from zcluster.brokers import carry as module
from zcluster.brokers.carry import Carrying
from zcluster.core.carrying import HEADER_BYTES, Via
from zcluster.core.limits import MasterLimits
from zcluster.core.master import Master
from zcluster.core.peers import Identity
from zcluster.keys import may_call, may_send
from zcluster.wire import (
    Beat,
    Bye,
    Catalog,
    FunctionInfo,
    Hello,
    Message,
    Refusal,
    Replies,
    RequestGroup,
    Requests,
    ResultGroup,
    Results,
    Sealed,
    Status,
    Welcome,
    WireLimits,
    Work,
    decode,
    encode,
    frame_of,
)
from zcluster.wire.agents import Carry

FRAME_BYTES = 65_536
CLIENT = "c" * 40
ADMIN = "a" * 40
WORKER = Identity("w" * 40, "w1", "worker")


class Node:
    """A master, and a worker with a door that a test speaks for."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.master = Master("m", "test", 7, MasterLimits(), may_send, may_call, self.now)
        self.master.admission.grace_until_s = self.now
        self.ring = {
            CLIENT: Identity(CLIENT, "anna", "client"),
            ADMIN: Identity(ADMIN, "root", "admin"),
            WORKER.key: WORKER,
        }
        self.carry = Carrying(self.master, self.ring.get, WireLimits(frame_bytes=FRAME_BYTES))
        self.full = False
        """Whether the worker's pipe is full."""
        self.told: dict[int, list[Message]] = {}
        """What each connection was told."""
        self.ends: list[tuple[int, str]] = []
        self.others: list[Message] = []

    def worker(self, instance: str = "i") -> None:
        self.say(Hello(versions=[1], instance=instance, slots=8, functions=[FunctionInfo(name="f")]))

    def say(self, message: Message, *bodies: bytes) -> None:
        frame = encode(message, bodies)
        decoded, offset = decode(frame, WireLimits())
        self.master.receive("w1", WORKER, decoded, frame, offset, self.now)
        self.turn()

    def open(self, number: int, key: str = CLIENT) -> None:
        self.say(Carry(connection=number, op="open", key=key))

    def through(self, number: int, message: Message, *bodies: bytes) -> None:
        self.say(Carry(connection=number), encode(message, bodies))

    def client(self, number: int, key: str = CLIENT) -> Welcome:
        self.open(number, key)
        self.through(number, Hello(versions=[1], instance=f"i{number}"))
        return next(each for each in self.heard(number) if isinstance(each, Welcome))

    def turn(self) -> None:
        self.carry.look()
        for _ in range(64):
            for route, outgoing in self.master.take(self.now):
                if isinstance(route, Via):
                    self.carry.send(route, outgoing, self.now)
                elif self.full:
                    self.master.block(route, outgoing)
                else:
                    for message, bodies in outgoing:
                        self.hear(bytes(frame_of(message, bodies)))
            if not self.carry.look():
                return

    def hear(self, frame: bytes) -> None:
        message, offset = decode(frame, WireLimits())
        if not isinstance(message, Carry):
            self.others.append(message)
        elif message.op == "data":
            assert len(frame) <= FRAME_BYTES
            self.told.setdefault(message.connection, []).append(decode(frame[offset:], WireLimits())[0])
        else:
            self.ends.append((message.connection, message.op))

    def heard(self, number: int) -> list[Message]:
        return self.told.pop(number, [])

    def codes(self, number: int) -> list[str]:
        return [each.code for each in self.heard(number) if isinstance(each, Bye | Refusal)]

    def sessions(self) -> dict[Any, tuple[str, str]]:
        return {
            route: (peer.identity.name, peer.identity.role)
            for route, peer in self.master.roster.peers.items()
            if isinstance(route, Via)
        }


@pytest.fixture
def node() -> Node:
    made = Node()
    made.worker()
    return made


def via(node: Node, number: int) -> Via:
    return Via(node.master.roster.peers["w1"].no, number)


def test_a_carried_client_has_a_session_like_any_other(node: Node) -> None:
    assert node.client(1).name == "anna"
    node.through(1, Beat())
    assert node.heard(1) == [Beat()]
    node.through(1, Requests([RequestGroup("f", "any", 1000, 5, 0, 1, [2])]), b"hi")
    [work] = [each for each in node.others if isinstance(each, Work)]
    assert (work.groups[0].caller, work.groups[0].role) == ("anna", "client")
    node.say(Results([ResultGroup(work.groups[0].first_leg, Status.VALUE, [2])]), b"ok")
    [replies] = node.heard(1)
    assert isinstance(replies, Replies)
    assert replies.groups[0].node == "w1"


def test_an_admin_is_a_client_at_a_door(node: Node) -> None:
    assert (node.client(1, ADMIN).name, node.sessions()[via(node, 1)]) == ("root", ("root", "client"))


def test_a_worker_cannot_use_up_the_sessions_of_a_key(node: Node) -> None:
    most = node.master.limits.session.max_sessions_per_key
    for number in range(1, most + 1):
        node.client(number, ADMIN)
    node.open(most + 1, ADMIN)
    node.through(most + 1, Hello(versions=[1], instance="one too many"))
    assert node.codes(most + 1) == ["busy"]
    hello = Hello(versions=[1], instance="direct")
    node.master.receive(b"direct", node.ring[ADMIN], hello, encode(hello), 0, node.now)
    assert node.master.roster.peers[b"direct"].identity.role == "admin"


@pytest.mark.parametrize("key", [WORKER.key, "x" * 40])
def test_a_key_that_is_no_clients_is_refused(node: Node, key: str) -> None:
    node.open(1, key)
    assert node.codes(1) == ["not_allowed"]
    assert node.ends == [(1, "closed")]
    node.through(1, Hello(versions=[1], instance="i"))
    assert node.sessions() == {}


def test_a_key_is_looked_up_for_each_frame(node: Node) -> None:
    node.client(1)
    del node.ring[CLIENT]
    node.through(1, Beat())
    assert node.codes(1) == ["not_allowed"]
    assert node.sessions() == {}
    assert node.ends == [(1, "closed")]


def test_a_number_is_opened_once(node: Node) -> None:
    node.open(1)
    node.open(1)
    assert [each.about for each in node.others if isinstance(each, Refusal)] == [Carry.kind]


def test_frames_of_a_connection_that_is_not_open_are_dropped(node: Node) -> None:
    node.through(5, Hello(versions=[1], instance="i"))
    assert node.sessions() == {}
    assert node.told == {}


def test_the_end_of_a_connection_ends_its_session(node: Node) -> None:
    node.client(1)
    node.client(2)
    node.say(Carry(connection=1, op="closed"))
    assert list(node.sessions()) == [via(node, 2)]
    node.say(Carry(connection=1, op="closed"))


def test_the_end_of_the_workers_session_ends_all(node: Node) -> None:
    node.client(1)
    node.client(2)
    node.master.disconnected("w1", node.now)
    node.turn()
    assert node.sessions() == {}
    node.worker("again")
    node.through(1, Beat())
    assert node.sessions() == {}


def test_connections_of_a_worker_are_bounded(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)
    for number in (1, 2, 3):
        node.open(number)
    assert node.ends == [(3, "full")]
    node.say(Carry(connection=1, op="closed"))
    node.open(4)
    assert node.ends == [(3, "full")]


@pytest.mark.parametrize(("frame", "code"), [
    (b"nonsense", "protocol_error"), (encode(Carry(connection=1)), "not_allowed"), (encode(Results([])), "not_allowed"),
])  # fmt: skip
def test_what_makes_no_sense_is_told_to_its_connection_only(node: Node, frame: bytes, code: str) -> None:
    node.client(1)
    node.say(Carry(connection=1), frame)
    assert node.codes(1) == [code]
    assert len(node.sessions()) == 1
    assert not [each for each in node.others if isinstance(each, Refusal)]


def test_only_a_worker_carries(node: Node) -> None:
    frame = encode(Carry(connection=1, op="open", key=CLIENT))
    hello = Hello(versions=[1], instance="x")
    other = Identity(CLIENT, "anna", "client")
    node.master.receive("c", other, hello, encode(hello), 0, node.now)
    message, offset = decode(frame, WireLimits())
    node.master.receive("c", other, message, frame, offset, node.now)
    node.turn()
    assert [each.code for each in node.others if isinstance(each, Refusal)] == ["not_allowed"]


def test_full_is_not_for_a_worker_to_say(node: Node) -> None:
    node.say(Carry(connection=1, op="full"))
    assert [each.about for each in node.others if isinstance(each, Refusal)] == [Carry.kind]


def test_a_worker_whose_pipe_is_full_blocks_what_it_carries_until_it_takes_something(node: Node) -> None:
    node.client(1)
    node.full = True
    node.through(1, Beat())
    assert node.master.roster.peers["w1"].blocked
    node.through(1, Beat())
    assert node.master.roster.peers[via(node, 1)].blocked
    assert node.heard(1) == []
    node.full = False
    node.master.unblock("w1")
    node.turn()
    assert node.heard(1) == [Beat(), Beat()]
    assert not node.master.roster.peers[via(node, 1)].blocked


@pytest.mark.parametrize("full", [False, True])
def test_what_many_clients_wait_for_does_not_end_the_session_of_their_worker(node: Node, full: bool) -> None:
    for number in range(1, 11):
        node.client(number)
    outbox_bytes = 4 * HEADER_BYTES + 20_000
    node.master.apply(replace(node.master.limits, outbox_bytes=outbox_bytes))
    said = Sealed(encode(Refusal(code="busy", about=0, message="x" * 3000)))
    node.full = full
    for number in range(1, 11):
        for _ in range(3):
            node.master.tell(node.master.roster.peers[via(node, number)], said)
    node.turn()
    worker = node.master.roster.peers["w1"]
    assert worker.lanes.waiting_bytes < outbox_bytes / 2
    node.now += 2
    node.master.handle_deadline(node.now)
    assert len(node.sessions()) == 10
    node.full = False
    node.master.unblock("w1")
    node.turn()
    assert [len(node.heard(number)) for number in range(1, 11)] == [3] * 10


def test_a_worker_that_ends_while_it_is_blocked_leaves_nothing(node: Node) -> None:
    node.client(1)
    node.full = True
    node.through(1, Beat())
    node.through(1, Beat())
    node.master.disconnected("w1", node.now)
    node.turn()
    assert node.sessions() == {}


@pytest.mark.parametrize(("extra", "fits"), [(0, True), (1, False)])
def test_an_answer_that_does_not_fit_ends_the_session_with_a_reason(node: Node, extra: int, fits: bool) -> None:
    node.client(1)
    frame = encode(Beat())
    large = Sealed(frame + bytes(FRAME_BYTES - HEADER_BYTES - len(frame) + extra))
    if fits:
        node.carry.send(via(node, 1), [(large, [])], node.now)
        assert len(node.sessions()) == 1
    else:
        node.carry.send(via(node, 1), [(large, []), (Beat(), [])], node.now)
        node.turn()
        assert node.codes(1) == ["too_large"]
        assert node.sessions() == {}


def test_a_catalog_that_does_not_fit_is_left_out(node: Node) -> None:
    node.client(1)
    catalog = Catalog(idempotent=["f" * 128] * (FRAME_BYTES // 128))
    node.carry.send(via(node, 1), [(catalog, []), (Beat(), [])], node.now)
    node.turn()
    assert node.heard(1) == [Beat()]


def test_who_sends_too_many_faulty_messages_is_turned_away_and_its_worker_is_not(node: Node) -> None:
    node.master.apply(replace(node.master.limits, faults=3))
    node.client(1)
    node.heard(1)
    for _ in range(4):
        node.say(Carry(connection=1), b"nonsense")
    assert node.codes(1) == ["protocol_error"] * 3 + ["busy"]
    for route in node.master.refusing.take_cuts():
        assert isinstance(route, Via)
        node.carry.cut(route, node.now)
        node.carry.cut(route, node.now)  # twice is once
    assert node.carry.look(), "what it has said leaves in this turn"
    node.turn()
    assert node.ends == [(1, "closed")]
    assert (node.sessions(), list(node.master.roster.peers)) == ({}, ["w1"])
    node.say(Carry(connection=1), b"more")
    assert node.codes(1) == []
    node.client(2, ADMIN)
    assert len(node.sessions()) == 1
