"""The table of connections: who has to go, and who not. No sockets: descriptors are numbers."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from zcluster.net.connections import NEWCOMER_S, SESSION_S, Connection, Connections, Expected, group

HANDSHAKE_BYTES = 300


class Table(Connections):
    """Connections whose bytes are said by the test."""

    def __init__(self, newcomers: int = 100, per_address: int = 100) -> None:
        self.bytes: dict[int, int] = {}
        super().__init__(self.bytes.get, newcomers, per_address)

    def come(self, fd: int, address: str = "10.0.0.1", now: float = 0.0) -> list[int]:
        return fds(self.accepted(fd, fd + 1000, address, now))


def fds(connections: Iterable[Connection]) -> list[int]:
    return [connection.fd for connection in connections]


def test_who_has_said_nothing_has_its_time_and_no_more() -> None:
    table = Table()
    table.come(1, now=0.0)
    table.come(2, now=1.0)
    table.come(3, now=0.5)
    table.spoke(3, "K", b"r3")
    assert fds(table.silent(NEWCOMER_S - 0.01)) == []
    assert fds(table.silent(NEWCOMER_S)) == [1]
    assert fds(table.silent(NEWCOMER_S)) == [], "each is cut once"
    assert fds(table.silent(1000.0)) == [2]
    assert table.newcomers == 0
    assert [connection.cut for connection in table] == [True, True, False]


def test_who_has_spoken_needs_a_session() -> None:
    table = Table()
    for fd, route in ((1, b"in"), (2, b"out")):
        table.come(fd, now=0.0)
        table.spoke(fd, "K", route)
    sessions = {b"in"}
    has = sessions.__contains__
    assert fds(table.without_session(has, SESSION_S - 0.01)) == []
    assert fds(table.without_session(has, SESSION_S)) == [2], "from its start, when it never had one"
    assert fds(table.without_session(has, 1000.0)) == []
    sessions.clear()
    assert fds(table.without_session(has, 2000.0)) == [], "from when it was seen to be over, when it had one"
    assert fds(table.without_session(has, 2000.0 + SESSION_S - 0.01)) == []
    sessions.add(b"in")
    assert fds(table.without_session(has, 3000.0)) == [], "a new session in time keeps it"
    sessions.clear()
    assert fds(table.without_session(has, 4000.0)) == []
    assert fds(table.without_session(has, 4000.0 + SESSION_S)) == [1]


def test_a_newcomer_is_not_asked_for_its_session() -> None:
    table = Table()
    table.come(1)
    assert fds(table.without_session(lambda route: False, 1000.0)) == []


def test_keys_that_are_out_lose_all_their_connections_and_nobody_else_does() -> None:
    table = Table()
    for fd, public in ((1, "out"), (2, "in"), (3, "out"), (4, "")):
        table.come(fd)
        if public:
            table.spoke(fd, public, b"%d" % fd)
    admitted = {"in"}.__contains__
    assert fds(table.of_other_keys(admitted, newcomers=False)) == [1, 3]
    assert fds(table.of_other_keys(admitted, newcomers=False)) == []
    assert fds(table.of_other_keys(admitted, newcomers=True)) == [4]
    assert fds(table.of_other_keys(admitted, newcomers=True)) == []


@pytest.mark.parametrize(("count", "gone"), [(3, []), (4, [0])])
def test_newcomers_of_an_address_are_bounded_and_the_oldest_goes(count: int, gone: list[int]) -> None:
    table = Table(per_address=3)
    assert [fd for each in range(count) for fd in table.come(each)] == gone
    assert table.come(50, "10.0.0.2") == [], "another address has its own bound"


@pytest.mark.parametrize(("count", "gone"), [(5, []), (6, [0])])
def test_newcomers_in_all_are_bounded(count: int, gone: list[int]) -> None:
    table = Table(newcomers=5, per_address=80)
    assert [fd for each in range(count) for fd in table.come(each, f"10.0.0.{each}")] == gone


def test_an_address_with_more_than_its_share_pays_for_the_crowd_itself() -> None:
    table = Table(newcomers=5, per_address=16)  # a share is 2
    table.come(0, "10.0.0.1")
    for fd in (1, 2, 3, 4):
        table.come(fd, "10.6.6.6")
    assert table.come(5, "10.6.6.6") == [1]
    assert table.come(6, "10.0.0.2") == [0], "who has less costs the oldest of all"


def test_who_goes_on_with_the_handshake_is_spared_while_others_are_idle() -> None:
    table = Table(per_address=3)
    for fd in (1, 2, 3):
        table.come(fd)
    table.bytes[1] = HANDSHAKE_BYTES
    assert table.come(4) == [2]
    table.bytes.update(dict.fromkeys((3, 4, 5, 6), HANDSHAKE_BYTES))
    table.bytes[5] = 64
    assert table.come(5) == [5], "a greeting alone spares nobody"
    assert table.come(6) == [1], "and among those that all go on it is the oldest"


def test_room_is_made_by_the_oldest_newcomers() -> None:
    table = Table()
    for fd in (1, 2, 3):
        table.come(fd)
    table.spoke(1, "K")
    assert fds(table.oldest(1)) == [2]
    assert fds(table.oldest(9)) == [3]
    assert fds(table.oldest(9)) == []


def test_a_descriptor_that_is_used_again_is_another_connection() -> None:
    table = Table()
    table.come(1, now=0.0)
    table.spoke(1, "K", b"r")
    table.come(1, now=3.0)
    (connection,) = table
    assert (connection.public, connection.since_s, connection.route) == ("", 3.0, b"")
    assert table.newcomers == 1


def test_ends_are_taken_note_of_once() -> None:
    table = Table()
    table.come(1)
    gone = table.ended(1)
    assert gone is not None
    assert gone.fd == 1
    assert table.ended(1) is None
    assert table.spoke(1, "K") is None
    assert (len(table), table.newcomers) == (0, 0)
    assert table.come(1) == []


def test_nothing_is_left_of_a_crowd_that_has_gone() -> None:
    table = Table()
    for fd in range(50):
        table.come(fd, f"10.0.0.{fd}")
    for fd in range(50):
        table.ended(fd)
    assert (len(table), table.newcomers) == (0, 0)
    assert not table._of_address


@pytest.mark.parametrize(
    ("address", "of"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("local", "local"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2"),
        ("2001:db8::1", "2001:db8:0:0"),
        ("2001:db8:0:0:9::1", "2001:db8:0:0"),
        ("fe80::1%eth0", "fe80:0:0:0"),
        ("::1", ":0:0:0"),
    ],
)
def test_an_ipv6_host_is_its_network(address: str, of: str) -> None:
    assert group(address) == of


def test_a_key_that_was_let_in_and_has_not_spoken_may_be_any_newcomer() -> None:
    expected = Expected()
    admitted = {"in"}.__contains__
    expected.admitted("in", 0.0)
    assert not expected.any_other(admitted, 0.0)
    expected.admitted("out", 0.0)
    expected.admitted("out", 0.0)
    expected.spoke("out")
    assert expected.any_other(admitted, 0.0), "the other one of its two has not"
    expected.spoke("out")
    expected.spoke("out")
    assert not expected.any_other(admitted, 0.0)
    expected.admitted("out", 1.0)
    assert expected.any_other(admitted, 10.9)
    assert not expected.any_other(admitted, 11.0), "by then it has spoken or was cut"
