"""What a copy does with each word of its source."""

from __future__ import annotations

import itertools

import pytest
from tablemodel import bucket_digests

from zcluster.core.tables.copy import (
    ASK_TIMEOUT_S,
    MAX_REPAIRS,
    MAX_TIMEOUT_DOUBLINGS,
    PAUSE_S,
    READ_AGAIN_S,
    SILENT_HEARTBEATS,
    Copy,
)
from zcluster.core.tables.digests import EMPTY_DIGEST, bucket_of, join_digests, table_digest
from zcluster.core.tables.state import CopyState, Effect, Noted, Replace, Save, Tell, read_state, state_bytes
from zcluster.errors import PeerError
from zcluster.wire.tables import Ask, Changes, Head, Page

DATA = {"t/a": b"1", "t/b": b"2"}
DIGESTS = bucket_digests(DATA.items())
OTHER = bucket_digests([("t/a", b"other")])
EMPTY = bucket_digests([])
HELD = CopyState(store="s", revision=5)


def head(revision: int = 5, store: str = "s", digests: list[bytes] = DIGESTS) -> Head:
    return Head(table="t", store=store, revision=revision, digest=table_digest(digests))


def changes(base: int, revision: int, store: str = "s") -> Changes:
    return Changes(table="t", store=store, base=base, revision=revision, raw_bytes=2)


def page(
    revision: int = 5, *, after: str = "", last: str = "", store: str = "s", buckets: tuple[int, ...] = (), more: bool = False
) -> Page:
    return Page(table="t", store=store, revision=revision, after=after, last=last, buckets=list(buckets), more=more, raw_bytes=2)


def copy(state: CopyState = HELD) -> Copy:
    """A copy with a session and nothing asked."""
    machine = Copy("t", state)
    assert asks(machine.link_up(1.0, 0.0)) == []
    return machine


def asks(effects: list[Effect]) -> list[str]:
    return [effect.ask.want for effect in effects if isinstance(effect, Tell)]


def asked(effects: list[Effect]) -> Ask:
    found = [effect.ask for effect in effects if isinstance(effect, Tell)]
    assert len(found) == 1
    return found[0]


def test_changes_that_join_are_saved_with_the_revision() -> None:
    machine = copy()
    effects = machine.changes(changes(3, 7), [(5, "t/a", b"old"), (6, "t/a", b"9"), (7, "t/b", None)], 1.0, answer=False)
    assert effects == [Save([("t/a", b"9"), ("t/b", None)], CopyState(store="s", revision=7))]


def test_changes_that_are_late_are_nothing() -> None:
    assert copy().changes(changes(3, 5), [(5, "t/a", b"9")], 1.0, answer=False) == []


def test_a_gap_is_asked_for_once() -> None:
    machine = copy()
    assert asked(machine.changes(changes(6, 7), [(7, "t/a", b"9")], 1.0, answer=False)).revision == 5
    assert machine.changes(changes(7, 8), [(8, "t/a", b"9")], 1.0, answer=False) == []
    assert machine.behind == 3
    effects = machine.changes(changes(5, 8), [(6, "t/c", b"1"), (8, "t/a", b"9")], 2.0, answer=True)
    assert effects == [Save([("t/c", b"1"), ("t/a", b"9")], CopyState(store="s", revision=8))]
    assert machine.agreed_s == 2.0


def test_an_answer_that_brings_nothing_is_not_asked_for_at_once() -> None:
    machine = copy()
    machine.changes(changes(6, 7), [], 1.0, answer=False)
    assert machine.changes(changes(5, 5), [], 1.0, answer=True) == []
    assert machine.next_deadline() == 1.0 + PAUSE_S
    assert asks(machine.handle_deadline(1.0 + PAUSE_S)) == ["changes"]


def test_an_equal_digest_costs_nothing_whatever_the_revision_and_store() -> None:
    machine = copy()
    assert machine.head(head(9), DIGESTS, 1.0, session=False) == []
    assert machine.state.revision == 9
    assert machine.head(head(2, "another"), DIGESTS, 1.0, session=True) == [Save([], CopyState(store="another", revision=2))]


def test_a_head_that_is_ahead_is_asked_for() -> None:
    assert asked(copy().head(head(9), OTHER, 1.0, session=False)) == Ask(table="t", store="s", want="changes", revision=5)


def test_a_late_head_is_nothing_but_on_a_session_it_is_looked_at() -> None:
    assert copy().head(head(4), OTHER, 1.0, session=False) == []
    assert asks(copy().head(head(4), OTHER, 1.0, session=True)) == ["changes"]


def test_another_store_is_read_page_by_page() -> None:
    machine = copy()
    assert asked(machine.head(head(9, "x"), OTHER, 1.0, session=True)) == Ask(table="t", store="x", want="page")
    assert not machine.state.ready
    effects = machine.page(page(9, last="t/a", store="x"), [(3, "t/a", b"1")], 1.0)
    assert isinstance(effects[0], Noted)
    assert effects[1] == Replace("", "t/a", (), [("t/a", b"1")], CopyState(store="x", revision=9, until=9, after="t/a"))
    assert asked(effects).after == "t/a"
    assert machine.changes(changes(9, 10, "x"), [(10, "t/a", b"2")], 1.0, answer=False) == []
    effects = machine.page(page(12, after="t/a", store="x"), [(3, "t/b", b"1")], 1.0)
    assert effects[0] == Replace("t/a", "", (), [("t/b", b"1")], CopyState(store="x", revision=9, until=12))
    assert not machine.state.ready
    assert asked(effects) == Ask(table="t", store="x", want="changes", revision=9)
    machine.changes(changes(9, 11, "x"), [(10, "t/a", b"2")], 1.0, answer=True)
    assert not machine.state.ready
    machine.changes(changes(11, 12, "x"), [], 1.0, answer=True)
    assert machine.state.ready


def test_one_page_is_everything() -> None:
    machine = copy(CopyState())
    machine.head(head(9), EMPTY, 1.0, session=True)
    effects = machine.page(page(9), [(3, "t/a", b"1")], 1.0)
    assert asks(effects) == []
    assert machine.state == CopyState(store="s", revision=9, until=9)
    assert machine.state.ready


def test_a_page_as_the_answer_for_changes_begins_the_reading() -> None:
    machine = copy()
    assert asks(machine.head(head(9), OTHER, 1.0, session=False)) == ["changes"]
    assert asked(machine.page(page(9, last="t/a"), [(3, "t/a", b"1")], 1.0)).after == "t/a"


def test_pages_that_were_not_asked_for_or_are_late_are_nothing() -> None:
    machine = copy()
    assert machine.page(page(9), [], 1.0) == []
    machine.head(head(9, "x"), OTHER, 1.0, session=True)
    assert machine.page(page(9, after="t/q", store="x"), [], 1.0) == []
    machine.page(page(9, last="t/m", store="x"), [], 1.0)
    assert machine.page(page(9, last="t/a", store="x"), [], 1.0) == []
    assert machine.state.after == "t/m"
    assert machine.page(page(9, after="t/m", store="y"), [], 1.0) == []
    assert machine.page(page(9, store="x", buckets=(1,)), [], 1.0) == []


def test_a_difference_at_the_same_revision_is_repaired_by_bucket() -> None:
    machine = copy()
    effects = machine.head(head(), OTHER, 1.0, session=False)
    assert effects[-1] == Tell(Ask(table="t", store="s", want="repair", revision=5), join_digests(OTHER))
    assert not machine.state.ready, "a copy that differs is in doubt"
    bucket = bucket_of("t/a")
    effects = machine.page(page(5, buckets=(bucket,), more=True), [(3, "t/a", b"1")], 1.0)
    assert effects == [Replace("", "", (bucket,), [("t/a", b"1")], CopyState(store="s", revision=5, until=5, doubt=True))]
    other = bucket_of("t/b")
    effects = machine.page(page(5, buckets=(other,)), [(3, "t/b", b"2")], 1.0)
    assert asks(effects) == []
    assert machine.head(head(), DIGESTS, 2.0, session=False) == [Save([], CopyState(store="s", revision=5))]
    assert machine.state.ready


@pytest.mark.parametrize(("late", "low", "high"), [(4, 4, 5), (5, 5, 5), (6, 5, 6)])
def test_a_bucket_of_another_revision_is_made_good_by_the_changes_since(late: int, low: int, high: int) -> None:
    machine = copy()
    machine.head(head(), OTHER, 1.0, session=False)
    effects = machine.page(page(late, buckets=(bucket_of("t/a"),)), [], 1.0)
    assert machine.state == CopyState(store="s", revision=low, until=high, doubt=True)
    assert asks(effects) == (["changes"] if low < high else [])


def test_repairs_that_do_not_help_end_in_reading_everything_each_time_later() -> None:
    machine, now, reads = copy(), 1.0, list[float]()
    while len(reads) < 4:
        now += 1.0
        effects = machine.head(head(), OTHER, now, session=False)
        if asks(effects) == ["repair"]:
            machine.page(page(5, buckets=(1,)), [], now)
        elif asks(effects) == ["page"]:
            reads.append(now)
            machine.page(page(5), [], now)
        else:
            assert now < reads[-1] + READ_AGAIN_S * 2.0 ** len(reads)
    assert reads[0] == 2.0 + MAX_REPAIRS
    gaps = [after - before for before, after in itertools.pairwise(reads)]
    assert gaps == [READ_AGAIN_S, 2 * READ_AGAIN_S, 4 * READ_AGAIN_S]


def test_what_is_not_answered_is_asked_again_each_time_later() -> None:
    machine = copy()
    machine.head(head(9), OTHER, 0.0, session=False)
    now, waited = 0.0, list[float]()
    for _ in range(5):
        machine._heard_s = 1e9  # what is published arrives
        due = machine.next_deadline()
        assert due is not None
        assert machine.handle_deadline(due - 0.001) == []
        assert asks(machine.handle_deadline(due)) == ["changes"]
        waited.append(due - now)
        now = due
    assert waited == [ASK_TIMEOUT_S * 2.0 ** min(n, MAX_TIMEOUT_DOUBLINGS) for n in range(5)]


def test_silence_is_asked_about() -> None:
    machine = copy()
    machine.head(head(), DIGESTS, 0.0, session=True)
    assert machine.next_deadline() == SILENT_HEARTBEATS * 1.0
    assert asks(machine.handle_deadline(3.0)) == ["changes"]


def test_an_empty_table_wants_no_publications_and_asks_nothing() -> None:
    machine = copy(CopyState())
    machine.head(head(3, digests=EMPTY), EMPTY, 0.0, session=True)
    assert not machine.wants_publications
    assert machine.next_deadline() is None
    assert asks(machine.head(head(4), EMPTY, 9.0, session=True)) == ["changes"]
    assert machine.wants_publications


def test_a_new_session_asks_anew_and_without_one_nothing_is_asked() -> None:
    machine = copy()
    machine.head(head(9), OTHER, 0.0, session=False)
    machine.link_down()
    assert machine.head(head(10), OTHER, 1.0, session=False) == []
    assert machine.next_deadline() is None
    assert asks(machine.link_up(1.0, 2.0)) == ["changes"]


def test_what_was_not_saved_is_asked_for_again() -> None:
    machine = copy()
    machine.changes(changes(5, 7), [(7, "t/a", b"9")], 1.0, answer=False)
    machine.restore(HELD, 1.0)
    assert machine.handle_deadline(1.0) == []
    assert asked(machine.handle_deadline(1.0 + PAUSE_S)).revision == 5


def test_an_answer_that_cannot_be_read_is_asked_for_again_later() -> None:
    machine = copy()
    machine.head(head(9), OTHER, 0.0, session=False)
    machine.broken(0.0)
    assert machine.handle_deadline(PAUSE_S / 2) == []
    assert asks(machine.handle_deadline(PAUSE_S)) == ["changes"]


def test_hearing_publications_asks_for_what_was_missed_before() -> None:
    assert asks(copy().listening(1.0)) == ["changes"]


@pytest.mark.parametrize(
    ("message", "items"),
    [
        (changes(5, 4), []),
        (changes(5, 6), [(5, "t/a", b"1")]),
        (changes(5, 6), [(7, "t/a", b"1")]),
        (changes(5, 9), [(8, "t/a", b"1"), (7, "t/a", b"1")]),
    ],
)
def test_changes_that_make_no_sense_change_nothing(message: Changes, items: list[tuple[int, str, bytes | None]]) -> None:
    machine = copy()
    with pytest.raises(PeerError):
        machine.changes(message, items, 1.0, answer=False)
    assert machine.state == HELD


@pytest.mark.parametrize(
    ("message", "items"),
    [
        (page(5, after="t/b", last="t/a"), []),
        (page(5), [(5, "t/b", b"1"), (5, "t/a", b"1")]),
        (page(5), [(5, "t/a", b"1"), (5, "t/a", b"1")]),
        (page(5), [(5, "t/a", None)]),
        (page(5), [(6, "t/a", b"1")]),
        (page(5, after="t/a"), [(5, "t/a", b"1")]),
        (page(5, last="t/a"), [(5, "t/b", b"1")]),
        (page(5, buckets=((bucket_of("t/a") + 1) % 1024,)), [(5, "t/a", b"1")]),
    ],
)
def test_pages_that_make_no_sense_change_nothing(message: Page, items: list[tuple[int, str, bytes | None]]) -> None:
    machine = copy()
    machine.head(head(9), OTHER, 1.0, session=False)
    with pytest.raises(PeerError):
        machine.page(message, items, 1.0)
    assert machine.state == HELD


def test_the_state_survives_its_file() -> None:
    for state in (CopyState(), HELD, CopyState(store="s", revision=3, until=9, after="t/x", doubt=True, at_s=1.5)):
        assert read_state(state_bytes(state)) == state
    assert read_state(None) == CopyState()
    assert read_state(b"{broken") == CopyState()
    assert read_state(b'{"store": 5}') == CopyState()


def test_what_a_copy_does_has_a_name() -> None:
    machine = copy()
    assert machine.doing == "following"
    machine.head(head(9), OTHER, 1.0, session=False)
    assert machine.doing == "asking"
    machine.page(page(9, last="t/a"), [], 1.0)
    assert machine.doing == "reading"
    machine = copy()
    machine.head(head(), OTHER, 1.0, session=False)
    assert machine.doing == "repairing"
    assert table_digest(EMPTY) == EMPTY_DIGEST
