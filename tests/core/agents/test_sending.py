"""The way up, at the worker: where the master's cursor is, there it goes on, and nothing is sent for nothing."""

from __future__ import annotations

from zcluster.core.agents.sending import (
    ANSWER_S,
    FIRST_PAUSE_S,
    FOREVER,
    GATHER_S,
    MAX_GENERATION,
    MAX_PAUSE_S,
    WINDOW,
    Reading,
    Sending,
)
from zcluster.wire.agents import Taken


class Book:
    """As much of a book as the machine hears of: numbered changes, one row each."""

    def __init__(self, last: int) -> None:
        self.last = last

    def read(self, sending: Sending, reading: Reading, rows: int = 1, now: float = 0.0) -> tuple[int, int] | None:
        """Read ``rows`` rows; the chunk that is to be sent."""
        upto = min(self.last, reading.after + rows)
        sent = sending.read(reading, upto, upto < self.last, max(0, upto - reading.after), now)
        return (reading.after, upto) if sent else None

    def all(self, sending: Sending, rows: int = 1, now: float = 0.0) -> list[tuple[int, int]]:
        """Everything that the machine wants to send now."""
        chunks = []
        while (reading := sending.next(now)) is not None:
            chunk = self.read(sending, reading, rows, now)
            chunks += [chunk] if chunk else []
        return chunks


def joined(upto: int = 0, source: str = "b", now: float = 0.0) -> Sending:
    """A sender in a session whose master has said what it has."""
    sending = Sending("b")
    sending.link_up()
    sending.taken(Taken(source=source, upto=upto), now)
    return sending


def test_nothing_is_sent_before_the_master_has_said_what_it_has() -> None:
    sending, book = Sending("b"), Book(3)
    sending.changed(0.0)
    assert (sending.next(1.0), sending.next_deadline()) == (None, FOREVER)
    sending.link_up()
    assert (sending.next(1.0), sending.next_deadline()) == (None, FOREVER)
    sending.taken(Taken(source="", upto=0), 1.0)
    assert book.all(sending, now=1.0) == [(0, 1), (1, 2), (2, 3)]


def test_at_most_a_window_is_under_way() -> None:
    sending, book = joined(), Book(WINDOW + 6)
    assert book.all(sending) == [(n, n + 1) for n in range(WINDOW)]
    assert sending.next(0.0) is None
    sending.taken(Taken(source="b", upto=1), 0.0)
    assert book.all(sending) == [(WINDOW, WINDOW + 1)]
    sending.taken(Taken(source="b", upto=4), 0.0)
    assert book.all(sending) == [(WINDOW + n, WINDOW + n + 1) for n in (1, 2, 3)]
    sending.taken(Taken(source="b", upto=WINDOW + 4), 0.0)
    assert book.all(sending, rows=5) == [(WINDOW + 4, WINDOW + 6)]
    assert not sending.current
    sending.taken(Taken(source="b", upto=WINDOW + 6), 0.0)
    assert (sending.current, sending.acked, sending.next_deadline()) == (True, WINDOW + 6, FOREVER)


def test_it_goes_on_at_the_masters_cursor() -> None:
    assert Book(9).all(joined(7)) == [(7, 8), (8, 9)]


def test_another_source_begins_at_0() -> None:
    assert Book(2).all(joined(7, source="older")) == [(0, 1), (1, 2)]


def test_an_empty_book_tells_a_master_that_knows_another_source() -> None:
    sending, book = joined(7, source="older"), Book(0)
    assert book.all(sending) == [(0, 0)]
    assert book.all(sending) == []
    sending.taken(Taken(source="b", upto=0), 0.0)
    assert (sending.current, sending.next(0.0), sending.next_deadline()) == (True, None, FOREVER)
    assert Book(0).all(joined(0, source="")) == []


def test_nothing_is_read_when_nothing_has_changed() -> None:
    sending, book = joined(3), Book(3)
    reading = sending.next(0.0)
    assert reading == Reading(3, reading.turn if reading else 0)
    assert reading is not None
    assert book.read(sending, reading) is None
    assert sending.current
    assert (sending.next(1e9), sending.next_deadline()) == (None, FOREVER)


def test_changes_are_gathered_when_nothing_is_under_way() -> None:
    sending, book = joined(3), Book(3)
    book.all(sending)
    sending.changed(10.0)
    book.last = 5
    assert (sending.next(10.0), sending.next_deadline()) == (None, 10.0 + GATHER_S)
    sending.changed(10.0 + GATHER_S / 2)
    assert sending.next_deadline() == 10.0 + GATHER_S
    assert book.all(sending, rows=9, now=10.0 + GATHER_S) == [(3, 5)]
    sending.changed(11.0)
    book.last = 6
    assert book.all(sending, now=11.0) == [(5, 6)]


def test_a_change_during_a_reading_is_read_too() -> None:
    sending, book = joined(), Book(1)
    reading = sending.next(0.0)
    assert reading is not None
    assert sending.next(0.0) is None
    sending.changed(0.0)
    assert book.read(sending, reading) == (0, 1)
    book.last = 2
    assert book.all(sending, now=GATHER_S) == [(1, 2)]


def test_what_was_read_before_the_master_spoke_again_is_not_sent() -> None:
    sending, book = joined(5), Book(9)
    reading = sending.next(0.0)
    assert reading is not None
    sending.link_down()
    sending.link_up()
    sending.taken(Taken(source="b", upto=2), 0.0)
    assert book.read(sending, reading) is None
    assert book.all(sending, rows=9) == [(2, 9)]


def test_a_cursor_elsewhere_moves_it_back_or_ahead() -> None:
    sending, book = joined(5), Book(9)
    assert book.all(sending) == [(5, 6), (6, 7), (7, 8), (8, 9)]
    sending.taken(Taken(source="b", upto=3), 0.0)
    assert book.all(sending, rows=9) == [(3, 9)]
    sending.taken(Taken(source="b", upto=6), 0.0)
    assert (sending.acked, book.all(sending, rows=9)) == (6, [(6, 9)])
    sending.taken(Taken(source="b", upto=9), 0.0)
    sending.taken(Taken(source="other", upto=99), 0.0)
    assert book.all(sending, rows=9) == [(0, 9)]


def test_what_was_not_taken_is_sent_again_after_longer_and_longer_pauses_one_chunk_at_first() -> None:
    sending, book, now, pause_s = joined(), Book(WINDOW + 5), 0.0, FIRST_PAUSE_S
    assert len(book.all(sending)) == WINDOW
    for _ in range(12):
        sending.taken(Taken(source="b", upto=0), now)
        sending.taken(Taken(source="b", upto=0), now)
        assert sending.next(now) is None
        assert sending.next_deadline() == now + pause_s
        now += pause_s
        assert book.all(sending, now=now) == [(0, 1)]
        pause_s = min(2 * pause_s, MAX_PAUSE_S)
    assert pause_s == MAX_PAUSE_S
    sending.taken(Taken(source="b", upto=1), now)
    assert len(book.all(sending, now=now)) == WINDOW
    sending.taken(Taken(source="b", upto=1), now)
    assert sending.next_deadline() == now + FIRST_PAUSE_S


def test_a_taken_that_does_not_come_is_not_waited_for_for_ever() -> None:
    sending, book = joined(), Book(1)
    book.all(sending, now=5.0)
    assert sending.next_deadline() == 5.0 + ANSWER_S
    sending.handle_deadline(5.0 + ANSWER_S - 0.1)
    assert book.all(sending, now=5.0 + ANSWER_S - 0.1) == []
    sending.handle_deadline(5.0 + ANSWER_S)
    assert sending.next_deadline() == 5.0 + ANSWER_S + FIRST_PAUSE_S
    assert book.all(sending, now=6.0 + ANSWER_S) == [(0, 1)]


def test_a_book_that_cannot_be_read_is_tried_again() -> None:
    sending, book = joined(), Book(1)
    assert sending.next(0.0) is not None
    sending.failed(0.0)
    assert sending.next_deadline() == FIRST_PAUSE_S
    assert book.all(sending, now=FIRST_PAUSE_S) == [(0, 1)]


def test_a_new_session_forgets_pauses() -> None:
    sending, book = joined(), Book(1)
    sending.failed(0.0)
    sending.link_up()
    sending.taken(Taken(source="b", upto=0), 0.1)
    assert book.all(sending, now=0.1) == [(0, 1)]


def test_a_book_that_was_put_back_from_a_copy_gets_another_name() -> None:
    sending, book = joined(100), Book(7)
    reading = sending.next(0.0)
    assert reading is not None
    assert not sending.read(reading, 7, False, 0, 0.0)
    assert sending.source == "b+1"
    assert book.all(sending, rows=9) == [(0, 7)]
    sending.taken(Taken(source="b+1", upto=7), 0.0)
    assert sending.current
    again = joined(7, source="b+1")
    assert (again.source, Book(9).all(again, rows=9)) == ("b+1", [(7, 9)])
    reading = joined(100, source=f"b+{MAX_GENERATION}").next(0.0)
    assert reading == Reading(100, reading.turn if reading else 0)
    last = joined(100, source=f"b+{MAX_GENERATION}")
    reading = last.next(0.0)
    assert reading is not None
    last.read(reading, 7, False, 0, 0.0)
    assert last.source == "b+1"
    assert joined(7, source="b+1x").source == joined(7, source="b+0").source == "b"


def test_numbers_without_rows_are_no_news() -> None:
    sending = joined(3)
    reading = sending.next(0.0)
    assert reading is not None
    assert not sending.read(reading, 8, False, 0, 0.0)
    sending.changed(0.0)
    assert sending.next(1.0) == Reading(3, reading.turn)
