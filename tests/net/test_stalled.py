"""Who sends bytes that never become messages, told from who is only slow."""

from __future__ import annotations

from zcluster.net.connections import Connections
from zcluster.net.descriptors import LOCAL
from zcluster.net.stalled import (
    FORGIVEN_BYTES,
    GROWTH_BYTES,
    LOOK_S,
    SHARE,
    SHORT_BYTES,
    SLACK_BYTES,
    SUBSCRIBER_BYTES,
    SUBSCRIBER_BYTES_PER_S,
    SUBSCRIBER_MOST_BYTES,
    UNREAD_GROWTH_BYTES,
    UNREAD_LOOKS,
    Growth,
    Stalled,
    wire_bytes,
)

FRAME_BYTES = 1000
BOUND_BYTES = 2 * FRAME_BYTES + SLACK_BYTES
MIB = 1 << 20


class Step:
    """A ROUTER with connections 1 to ``count``."""

    def __init__(self, count: int = 1, address: str = "10.0.0.1") -> None:
        self.received: dict[int, int | None] = {}
        self.unread: dict[int, int] = {}
        self.connections = Connections(self.received.get, 100, 100)
        self.stalled = Stalled(self, FRAME_BYTES)
        self.messages, self.dry, self.resident_bytes = 0, True, 0
        for fd in range(1, count + 1):
            self.received[fd] = None if address == LOCAL else 0
            self.connections.accepted(fd, fd, address, 0.0)
            self.connections.spoke(fd, f"K{fd}", b"%d" % fd)

    def received_bytes(self, fd: int) -> int | None:
        return self.received[fd]

    def unread_bytes(self, fd: int) -> int:
        return self.unread.get(fd, 0)

    def send(self, fd: int, length: int) -> None:
        self.received[fd] = (self.received[fd] or 0) + length

    def deliver(self, fd: int, length: int = FRAME_BYTES) -> None:
        self.connections.by_fd[fd].delivered_bytes += wire_bytes(length)
        self.messages += 1

    def look(self) -> list[int]:
        found = self.stalled.sessions(self.connections, self.messages, lambda: self.dry, self.resident_bytes)
        return [connection.fd for connection in found]


def test_what_a_frame_takes_on_the_wire() -> None:
    assert [wire_bytes(length) for length in (1, SHORT_BYTES, SHORT_BYTES + 1, 100_000)] == [36, 257, 265, 100_042]


def test_bytes_without_a_message_are_cut_beyond_the_bound_and_not_at_it() -> None:
    step = Step()
    step.send(1, BOUND_BYTES)
    assert step.look() == []
    step.send(1, 1)
    assert step.look() == [1]


def test_messages_that_arrive_are_no_unfinished_bytes() -> None:
    step = Step()
    for _ in range(1000):
        step.send(1, wire_bytes(100_000))
        step.deliver(1, 100_000)
        assert step.look() == []
    step.send(1, BOUND_BYTES)
    assert step.look() == [], "counted from the last one"
    step.send(1, 1)
    assert step.look() == [1]


def test_what_came_with_the_last_message_counts_too() -> None:
    step = Step()
    step.send(1, wire_bytes(100) + BOUND_BYTES + 1)
    step.deliver(1, 100)
    assert step.look() == [1]


def test_heartbeats_of_libzmq_add_up_to_nothing_between_messages() -> None:
    step = Step()
    for _ in range(100):
        step.send(1, wire_bytes(100) + FORGIVEN_BYTES - 1)
        step.deliver(1, 100)
        assert step.look() == []
    step.send(1, BOUND_BYTES)
    assert step.look() == []
    step.send(1, 1)
    assert step.look() == [1], "who says nothing else is not forgiven"


def test_the_beginning_of_a_message_that_was_forgiven_is_taken_back_when_it_arrives() -> None:
    step = Step()
    whole = wire_bytes(FORGIVEN_BYTES)
    step.send(1, wire_bytes(100) + FORGIVEN_BYTES - 1)
    step.deliver(1, 100)
    assert step.look() == []
    step.send(1, whole - FORGIVEN_BYTES + 1)
    step.deliver(1, FORGIVEN_BYTES)
    assert step.look() == []
    step.send(1, BOUND_BYTES + 1)
    assert step.look() == [1]


def test_what_libzmq_has_not_read_is_the_kernels() -> None:
    step = Step()
    step.send(1, 100 * MIB)
    step.unread[1] = 100 * MIB - BOUND_BYTES
    assert step.look() == []
    step.unread[1] -= 1
    assert step.look() == [1]


def test_while_there_is_more_to_read_a_whole_round_has_to_pass_first() -> None:
    step = Step(count=3)
    step.dry = False
    step.deliver(1)
    step.send(2, BOUND_BYTES + 1)
    assert step.look() == []
    assert step.stalled.suspects == 1
    step.deliver(1)
    step.deliver(3)
    assert step.look() == [], "two messages are no round of three"
    step.deliver(1)
    assert step.look() == [2]


def test_a_master_that_stood_still_cuts_nobody_whose_messages_wait() -> None:
    step = Step(count=2)
    step.dry = False
    for _ in range(60):
        step.send(2, wire_bytes(MIB))  # nothing of it was read meanwhile
    assert step.look() == []
    for _ in range(20):
        step.deliver(2, MIB)
        step.deliver(1)
        assert step.look() == [], "it delivers in each round"
    assert step.stalled.suspects == 1
    for _ in range(40):
        step.deliver(2, MIB)
    step.dry = True
    assert step.look() == []
    assert step.stalled.suspects == 0


def test_a_suspect_that_delivers_has_another_round() -> None:
    step = Step(count=2)
    step.dry = False
    step.send(1, 3 * BOUND_BYTES)
    assert step.look() == []
    step.deliver(1)
    step.deliver(2)
    assert step.look() == []
    step.deliver(2)
    assert step.look() == [], "its round begins with the last look"
    step.deliver(2)
    assert step.look() == [1]


def test_who_was_cut_is_not_looked_at_again() -> None:
    step = Step()
    step.send(1, BOUND_BYTES + 1)
    step.connections.by_fd[1].cut = True
    assert step.look() == []


def test_a_unix_socket_is_cut_that_has_unread_bytes_and_delivers_nothing_while_memory_grows() -> None:
    step = Step(address=LOCAL)
    step.unread[1] = 5
    assert [step.look() for _ in range(UNREAD_LOOKS)] == [[]] * UNREAD_LOOKS, "memory does not grow"
    step.resident_bytes = UNREAD_GROWTH_BYTES - 1
    assert step.look() == []
    step.resident_bytes += 1
    step.unread[1] = 0
    assert step.look() == [], "what it sent may have been its last"
    assert step.stalled.suspects == 1
    step.unread[1] = 5
    assert step.look() == [1]


def test_a_unix_socket_that_delivers_or_is_idle_is_left_alone() -> None:
    step = Step(address=LOCAL)
    for _ in range(5 * UNREAD_LOOKS):
        step.resident_bytes += UNREAD_GROWTH_BYTES
        assert step.look() == []
    assert step.stalled.suspects == 0
    step.unread[1] = 5
    for _ in range(5 * UNREAD_LOOKS):
        step.resident_bytes += UNREAD_GROWTH_BYTES
        step.deliver(1)
        assert step.look() == []
        assert step.look() == []


def subscribers(step: Step, now: float) -> list[int]:
    return [connection.fd for connection in step.stalled.subscribers(step.connections, now)]


def test_a_subscriber_says_little_and_may_ask_whether_we_are_there() -> None:
    step = Step()
    step.send(1, SUBSCRIBER_BYTES)
    assert subscribers(step, 0.0) == []
    step.send(1, 1)
    assert subscribers(step, 0.0) == [1]
    assert subscribers(step, 1.0) == []
    step.send(1, 3600 * SUBSCRIBER_BYTES_PER_S)
    assert subscribers(step, 3600.0) == [1]
    assert subscribers(step, 3601.0) == []
    step.deliver(1, 100)
    step.send(1, wire_bytes(100))
    assert subscribers(step, 3601.0) == [], "subscriptions are messages"


def test_a_subscriber_that_dribbles_is_found_in_the_end() -> None:
    step = Step()
    ever_s = 1e9
    step.send(1, SUBSCRIBER_MOST_BYTES)
    assert subscribers(step, ever_s) == []
    step.send(1, 1)
    assert subscribers(step, ever_s) == [1]


def test_a_subscriber_by_a_unix_socket_has_no_number() -> None:
    assert subscribers(Step(address=LOCAL), 0.0) == []


def test_looks_follow_the_growth_of_memory() -> None:
    growth = Growth()
    assert growth.due(100 * MIB, suspects=False, now=0.0), "the first one"
    growth.looked(100 * MIB, 0.0, 0.0)
    assert not growth.due(100 * MIB + GROWTH_BYTES - 1, suspects=False, now=1.0)
    assert growth.due(100 * MIB + GROWTH_BYTES, suspects=False, now=1.0)
    assert not growth.due(50 * MIB, suspects=False, now=1.0)
    assert growth.due(50 * MIB + GROWTH_BYTES, suspects=False, now=1.0), "from the lowest since"
    assert growth.due(50 * MIB, suspects=True, now=1.0)
    assert growth.due(50 * MIB, suspects=False, now=LOOK_S), "and now and then"


def test_looks_take_a_share_of_the_time_unless_somebody_is_suspected() -> None:
    growth = Growth()
    growth.looked(0, took_s=0.01, now=10.0)
    until_s = 10.0 + 0.01 * SHARE
    assert not growth.due(GROWTH_BYTES * 10, suspects=False, now=until_s - 0.01)
    assert growth.due(GROWTH_BYTES * 10, suspects=True, now=until_s - 0.01)
    assert growth.due(GROWTH_BYTES * 10, suspects=False, now=until_s)
