"""The way up, at the master: turns, bounds, who is alive, and how much is told."""

from __future__ import annotations

import pytest

from zcluster.core.agents import taking as taking_module
from zcluster.core.agents.rowcodec import CHUNK_BYTES
from zcluster.core.agents.sending import WINDOW
from zcluster.core.agents.taking import MAX_SINGLE, SHOWN, TELL_EVERY_S, Taking, Telling
from zcluster.errors import Busy, PeerError
from zcluster.wire.agents import Rows


def rows(base: int, upto: int = 0, *, more: bool = False, count: int = 1, raw_bytes: int = 2) -> Rows:
    return Rows(source="b", base=base, upto=upto or base + 1, count=count, more=more, raw_bytes=raw_bytes)


def taking(*sessions: tuple[int, str]) -> Taking:
    made = Taking("m", 3.0)
    for no, node in sessions:
        made.opened(no, node)
    return made


def taken(machine: Taking) -> list[tuple[str, int]]:
    out = []
    while (chunk := machine.next()) is not None:
        out.append((chunk.node, chunk.message.base))
        machine.done(chunk)
    return out


def test_workers_take_turns() -> None:
    machine = taking((1, "w1"), (2, "w2"), (3, "w3"))
    for base in range(3):
        machine.add(1, rows(base), b"[]")
    machine.add(2, rows(7), b"[]")
    machine.add(3, rows(8), b"[]")
    assert taken(machine) == [("w1", 0), ("w2", 7), ("w3", 8), ("w1", 1), ("w1", 2)]
    assert machine.waiting_bytes == 0


def test_one_more_than_the_window_is_refused() -> None:
    machine = taking((1, "w1"))
    for base in range(WINDOW):
        machine.add(1, rows(base), b"[]")
    with pytest.raises(PeerError, match="not acknowledged"):
        machine.add(1, rows(WINDOW), b"[]")
    chunk = machine.next()
    assert chunk is not None
    with pytest.raises(PeerError, match="not acknowledged"):
        machine.add(1, rows(WINDOW), b"[]")
    assert machine.done(chunk)
    machine.add(1, rows(WINDOW), b"[]")


def test_what_cannot_be_a_chunk_is_refused() -> None:
    machine = taking((1, "w1"))
    for message, body in ((rows(5, 4), b"[]"), (rows(0, raw_bytes=CHUNK_BYTES + 1), b"[]"), (rows(0), bytes(CHUNK_BYTES + 1025))):
        with pytest.raises(PeerError):
            machine.add(1, message, body)
    with pytest.raises(PeerError, match="no worker"):
        machine.add(2, rows(0), b"[]")


def test_all_workers_together_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking_module, "MAX_WAITING_BYTES", 10)
    machine = taking((1, "w1"), (2, "w2"))
    machine.add(1, rows(0), bytes(6))
    machine.add(2, rows(0), bytes(4))
    with pytest.raises(Busy):
        machine.add(2, rows(1), b"x")
    machine.closed(1, 0.0)
    assert machine.waiting_bytes == 4
    machine.add(2, rows(1), b"x")


def test_a_session_that_ends_takes_its_chunks_with_it() -> None:
    machine = taking((1, "w1"))
    machine.add(1, rows(0), b"[]")
    machine.add(1, rows(1), b"[]")
    chunk = machine.next()
    machine.closed(1, 0.0)
    machine.closed(1, 0.0)
    assert machine.next() is None
    assert chunk is not None
    assert not machine.done(chunk)


def test_a_node_is_alive_until_its_lease_is_over() -> None:
    machine = taking((1, "w1"))
    machine.expect(["m", "", "w1", "w2"], 10.0)
    assert machine.alive() == {"m", "w1", "w2"}
    assert (machine.gone(12.9), machine.next_deadline()) == ([], 13.0)
    assert machine.gone(13.0) == ["w2"]
    assert (machine.gone(99.0), machine.next_deadline()) == ([], float("inf"))
    machine.closed(1, 20.0)
    assert machine.session_of("w1") is None
    assert machine.alive() == {"m", "w1"}
    machine.opened(2, "w1")
    assert (machine.session_of("w1"), machine.gone(99.0)) == (2, [])
    machine.closed(2, 98.0)
    assert machine.gone(101.0) == ["w1"]
    assert machine.alive() == {"m"}


def test_the_end_of_an_older_session_is_not_the_end_of_the_node() -> None:
    machine = taking((1, "w1"), (2, "w1"))
    machine.closed(1, 0.0)
    assert (machine.session_of("w1"), machine.next_deadline()) == (2, float("inf"))


def test_what_was_refused_is_told_once_a_second() -> None:
    telling = Telling()
    telling.refused("w1", [])
    assert telling.next_deadline() == float("inf")
    telling.refused("w1", [(f"a{number}", "late") for number in range(9)])
    telling.refused("w1", [("b", "foreign")])
    [event] = telling.due(5.0)
    assert (event.name, event.level) == ("agent_refused", "warning")
    assert event.fields == {
        "node": "w1", "count": 10, "late": 9, "foreign": 1, "first": [f"a{number}" for number in range(SHOWN)],
    }  # fmt: skip
    telling.refused("w1", [("c", "late")])
    telling.refused("w2", [("d", "late")])
    assert [event.fields["node"] for event in telling.due(5.1)] == ["w2"]
    assert telling.next_deadline() == 5.0 + TELL_EVERY_S
    assert [event.fields["first"] for event in telling.due(5.0 + TELL_EVERY_S)] == [["c"]]


def test_few_moves_are_told_one_by_one() -> None:
    moves = [(f"a{number}", "w1", "w2") for number in range(MAX_SINGLE)]
    events = Telling().moved(moves)
    assert [event.name for event in events] == ["agent_moved"] * MAX_SINGLE
    assert events[0].fields == {"id": "a0", "from": "w1", "to": "w2"}
    [event] = Telling().moved([*moves, ("b", "w1", "w2")])
    assert (event.name, event.fields) == ("agents_moved", {"count": MAX_SINGLE + 1, "from": "w1", "to": "w2"})


def test_the_end_of_a_whole_sync_is_told() -> None:
    telling = Telling()
    assert telling.taken("w1", rows(4), 1.0) == []
    assert telling.taken("w1", rows(0, more=True, count=5), 1.0) == []
    [event] = telling.taken("w1", rows(5, count=3), 2.5)
    assert (event.name, event.fields) == ("agents_synced", {"node": "w1", "rows": 8, "seconds": 1.5})
    assert telling.taken("w1", rows(8), 3.0) == []
