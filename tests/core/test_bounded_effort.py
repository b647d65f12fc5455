"""What one message, or one peer, can make the master do is bounded."""

from __future__ import annotations

from zcluster.core.admission import MAX_ANSWERED_AT_ONCE, MAX_SELECTIONS
from zcluster.core.batch import CONTROL_BYTES, Lanes
from zcluster.core.master import BLOCKED_MAX_S, Master, MasterLimits
from zcluster.core.peers import Identity
from zcluster.keys import may_call, may_send
from zcluster.wire import (
    Beat,
    Cancel,
    Catalog,
    Credit,
    FunctionInfo,
    Grant,
    Hello,
    Of,
    Replies,
    ReplyGroup,
    RequestGroup,
    Requests,
    Status,
)
from zcluster.wire.messages import RequestFlag

CLIENT = Identity("key-c", "laptop", "client")


def master(expected: int = 0) -> Master:
    nodes = {f"w{number}": "worker" for number in range(expected)}
    machine = Master("master", "zcluster", 1, MasterLimits(), may_send, may_call, 0.0, expected=nodes)
    machine.handle_deadline(10.0)
    machine.receive(b"c", CLIENT, Hello(versions=[1], instance="b"), b"", 0, 10.0)
    machine.take(10.0)
    return machine


def errors(machine: Master, now: float) -> list[tuple[int, str]]:
    """Each error of the client: its request, and the node that it is about (empty: the whole)."""
    found: list[tuple[int, str]] = []
    told = machine.take(now)
    while machine.backlog:
        told += machine.take(now)
    for _, outgoing in told:
        for message, _ in outgoing:
            if isinstance(message, Replies):
                for group in message.groups:
                    if group.status == Status.ERROR:
                        found += [(group.first_id + index, group.node) for index in range(len(group.sizes))]
    return found


def fan_outs(machine: Master, first_id: int, count: int, now: float) -> None:
    group = RequestGroup("f", "w*", 5000, 5, RequestFlag.FAN_OUT, first_id, [0] * count)
    machine.receive(b"c", CLIENT, Requests([group]), b"", 0, now)


def test_fan_outs_to_nodes_that_are_away_are_bounded_in_time() -> None:
    nodes = MAX_ANSWERED_AT_ONCE // 4
    machine = master(nodes)
    fan_outs(machine, 1, 10, 10.0)
    told = errors(machine, 10.0)
    assert sum(1 for _, node in told if node) == 5 * nodes, "four are at the limit, one more passes it"
    assert [id_ for id_, node in told if not node] == [6, 7, 8, 9, 10]
    fan_outs(machine, 11, 1, 10.2)
    assert len(errors(machine, 10.2)) == nodes, "later it goes on"


def test_targets_to_look_up_are_bounded() -> None:
    machine = master(1)
    groups = [
        RequestGroup("f", f"w0,{'w0,' * number}w0", 5000, 5, RequestFlag.FAN_OUT, number + 1, [0])
        for number in range(MAX_SELECTIONS + 1)
    ]
    machine.receive(b"c", CLIENT, Requests(groups), b"", 0, 10.0)
    told = errors(machine, 10.0)
    assert [id_ for id_, node in told if not node] == [MAX_SELECTIONS + 1]


def test_control_that_waits_counts() -> None:
    lanes: Lanes[ReplyGroup] = Lanes(Replies, 1000)
    lanes.control += [Beat()] * 3
    assert lanes.waiting_bytes == 3 * CONTROL_BYTES


def test_grants_and_cancels_that_wait_leave_together() -> None:
    lanes: Lanes[ReplyGroup] = Lanes(Replies, 1000)
    for upto in (5, 9, 7):
        lanes.add_grant(Grant(0, 1, Of.ITEMS, upto))
    lanes.add_grant(Grant(0, 2, Of.ITEMS, 3))
    lanes.add_cancel(4)
    lanes.add_cancel(5)
    assert [message for message, _ in lanes.take()] == [
        Credit(grants=[Grant(0, 1, Of.ITEMS, 9), Grant(0, 2, Of.ITEMS, 3)]),
        Cancel(ids=[4, 5]),
    ]


def test_what_is_put_back_keeps_its_order() -> None:
    lanes: Lanes[ReplyGroup] = Lanes(Replies, 1000)
    old, new = Catalog(idempotent=["f"]), Catalog(idempotent=[])
    lanes.put_back([(old, []), (Replies([]), [b"x"])])
    lanes.control.append(new)
    assert [message for message, _ in lanes.take()] == [old, new, Replies([])]


def test_a_peer_that_takes_nothing_is_let_go() -> None:
    machine = master()
    machine.receive(b"c", CLIENT, Beat(), b"", 0, 10.0)
    ((route, outgoing),) = machine.take(10.0)
    machine.block(route, outgoing)
    for second in range(1, int(BLOCKED_MAX_S) + 2):
        machine.receive(b"c", CLIENT, Beat(), b"", 0, 10.0 + second)
        machine.handle_deadline(10.0 + second)
        machine.take(10.0 + second)
        here = b"c" in machine.roster.peers
        assert here == (second <= BLOCKED_MAX_S)
    assert machine.counters.values["slow_reader"] == 1


def test_nodes_without_a_key_are_forgotten() -> None:
    machine = master(3)
    machine.forget_nodes(lambda name: name in ("master", "w1"))
    assert list(machine.roster.nodes) == ["master", "w1"]


def test_another_nodes_declaration_does_not_deny_a_function() -> None:
    machine = master()
    for name, role in (("w1", "client"), ("w2", "nobody")):
        hello = Hello(versions=[1], instance="a", slots=1, functions=[FunctionInfo(name="f", role=role)])
        machine.receive(name.encode(), Identity(f"key-{name}", name, "worker"), hello, b"", 0, 10.0)
    machine.take(10.0)
    for id_, target in enumerate(("w1", "w2", "any"), 1):
        machine.receive(b"c", CLIENT, Requests([RequestGroup("f", target, 5000, 5, 0, id_, [0])]), b"", 0, 10.0)
    assert [id_ for id_, _ in errors(machine, 10.0)] == [2]
