"""Names, sessions, and what is kept for those who are away."""

from __future__ import annotations

import pytest

from zcluster.core import notes as module
from zcluster.core.notes import (
    MAX_KEEP_S,
    MAX_KEPT_OF_NAME,
    MAX_TEXT_BYTES,
    WINDOW_NOTES,
    Kept,
    NoteBook,
    checked_keep,
    checked_name,
    checked_text,
)
from zcluster.errors import Busy, Conflict, TooLarge, UsageError

KEYS = {"alice", "bob", "carol"}


@pytest.fixture
def book() -> NoteBook:
    return NoteBook(100, KEYS.__contains__)


def keep(book: NoteBook, to: str, by: str = "alice", until_s: float = 1000.0, size: int = 10, ready: bool = True) -> Kept:
    note = Kept(book.next_id(), to, by, size, until_s, ready)
    book.add(note, 0.0)
    return note


@pytest.mark.parametrize("name", ["a", "A.b-c_9", "9", "_x", "x" * 64])
def test_a_name_that_is_one(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "-a", ".a", "a/b", "ä", "a\n", "all", "ANY", "a\x1b"])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(UsageError):
        checked_name(name)


def test_a_text_is_bounded_in_bytes() -> None:
    assert checked_text("x" * MAX_TEXT_BYTES) == MAX_TEXT_BYTES
    for text in ("x" * (MAX_TEXT_BYTES + 1), "é" * (MAX_TEXT_BYTES // 2 + 1)):
        with pytest.raises(TooLarge):
            checked_text(text)
    for text in ("", "\ud800"):
        with pytest.raises(UsageError):
            checked_text(text)


def test_a_message_is_kept_for_a_week_at_most() -> None:
    assert checked_keep(MAX_KEEP_S) == MAX_KEEP_S
    for keep_s in (MAX_KEEP_S + 1, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError):
            checked_keep(keep_s)


def test_the_name_of_a_key_is_that_keys(book: NoteBook) -> None:
    book.listen(1, "alice", "alice")
    book.listen(2, "alice", "alice")
    with pytest.raises(Conflict, match="another key"):
        book.listen(3, "alice", "bob")
    assert (book.sessions("alice"), book.sessions("bob")) == ([1, 2], [])


def test_another_name_belongs_to_the_first_key_as_long_as_it_listens(book: NoteBook) -> None:
    book.listen(1, "alice", "ops")
    book.listen(2, "alice", "ops")
    with pytest.raises(Conflict, match="alice"):
        book.listen(3, "bob", "ops")
    book.leave(1)
    with pytest.raises(Conflict):
        book.check_owner("ops", "bob")
    assert book.leave(2) == "ops"
    book.listen(3, "bob", "ops")
    assert book.sessions("ops") == [3]


def test_a_session_has_one_name(book: NoteBook) -> None:
    book.listen(1, "alice", "alice")
    book.listen(1, "alice", "ops")
    assert (book.sessions("alice"), book.sessions("ops"), book.name_of(1)) == ([], [1], "ops")
    with pytest.raises(Conflict):
        book.listen(1, "alice", "bob")
    assert book.name_of(1) == "ops"
    assert book.leave(1) == "ops"
    assert book.leave(1) == ""
    assert list(book.listeners()) == []


def test_a_name_that_becomes_a_keys_is_taken_from_others(book: NoteBook) -> None:
    book.listen(1, "alice", "dave")
    book.listen(2, "alice", "alice")
    assert book.turn_out("dave") == []
    KEYS.add("dave")
    try:
        assert book.turn_out("dave") == [1]
    finally:
        KEYS.discard("dave")
    assert (book.turn_out("dave"), book.turn_out("alice"), book.name_of(1), book.sessions("alice")) == ([], [], "", [2])


def test_a_kept_note_that_is_gone_is_confirmed_with_the_others(book: NoteBook) -> None:
    kept = [keep(book, "bob") for _ in range(3)]
    book.listen(1, "bob", "bob")
    book.due("bob", 0.0)
    book.drop(kept[1])
    assert book.confirmed(1, kept[2].id) == [kept[0], kept[2]]


def test_what_could_not_be_told_is_due_again(book: NoteBook) -> None:
    note = keep(book, "bob")
    book.listen(1, "bob", "bob")
    assert book.due("bob", 0.0) == (1, [note])
    book.untell(2)
    assert book.due("bob", 0.0) == (1, [])
    book.untell(1)
    assert book.due("bob", 0.0) == (1, [note])


def test_everybody_is_all_but_the_sender(book: NoteBook) -> None:
    for session, key, name in ((1, "alice", "alice"), (2, "alice", "ops"), (3, "bob", "bob"), (4, "bob", "bob")):
        book.listen(session, key, name)
    assert book.all_but("bob") == [1, 2]
    assert book.all_but("alice") == [2, 3, 4]
    assert book.all_but("nobody") == [1, 2, 3, 4]


def test_nobody_is_told_with_names_like_it(book: NoteBook) -> None:
    book.listen(1, "alice", "operator")
    assert "operator" in book.nobody("operators").hint
    assert "did you mean" not in book.nobody("zzz").hint


def test_what_is_kept_comes_in_order_to_one_session_and_is_forgotten_when_confirmed(book: NoteBook) -> None:
    kept = [keep(book, "bob") for _ in range(3)]
    assert book.due("bob", 0.0) == (0, [])
    book.listen(1, "bob", "bob")
    book.listen(2, "bob", "bob")
    assert book.due("bob", 0.0) == (1, kept)
    assert book.due("bob", 0.0) == (1, [])
    assert book.confirmed(2, kept[-1].id) == []
    assert book.confirmed(1, kept[1].id) == kept[:2]
    assert book.confirmed(1, kept[1].id) == []
    assert (book.kept_count, book.kept_bytes) == (1, 10)
    assert book.confirmed(1, kept[2].id + 1000) == kept[2:]
    assert book.kept_count == 0


def test_what_was_not_confirmed_waits_for_the_next_session(book: NoteBook) -> None:
    kept = [keep(book, "bob") for _ in range(2)]
    book.listen(1, "bob", "bob")
    book.listen(2, "bob", "bob")
    assert book.due("bob", 0.0) == (1, kept)
    book.confirmed(1, kept[0].id)
    book.leave(1)
    assert book.due("bob", 0.0) == (2, kept[1:])
    book.leave(2)
    assert [each.kept for each in book.listeners()] == [1]


def test_a_window_at_a_time(book: NoteBook) -> None:
    kept = [keep(book, "bob") for _ in range(WINDOW_NOTES + 2)]
    book.listen(1, "bob", "bob")
    assert book.due("bob", 0.0) == (1, kept[:WINDOW_NOTES])
    book.confirmed(1, kept[0].id)
    assert book.due("bob", 0.0) == (1, kept[WINDOW_NOTES : WINDOW_NOTES + 1])


def test_a_window_is_bounded_in_bytes_and_one_note_always_goes(book: NoteBook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW_BYTES", 15)
    kept = [keep(book, "bob", size=20), keep(book, "bob", size=10), keep(book, "bob", size=5), keep(book, "bob", size=5)]
    book.listen(1, "bob", "bob")
    for upto in ([0], [1, 2], [3]):
        notes = [kept[index] for index in upto]
        assert book.due("bob", 0.0) == (1, notes)
        book.confirmed(1, notes[-1].id)


def test_what_is_not_on_disk_yet_holds_back_what_is_behind_it(book: NoteBook) -> None:
    first, second = keep(book, "bob", ready=False), keep(book, "bob")
    book.listen(1, "bob", "bob")
    assert book.due("bob", 0.0) == (1, [])
    first.ready = True
    assert book.due("bob", 0.0) == (1, [first, second])


def test_what_could_not_be_kept_is_dropped(book: NoteBook) -> None:
    note = keep(book, "bob", ready=False)
    book.drop(note)
    book.drop(note)
    assert (book.kept_count, list(book.listeners())) == (0, [])


def test_time_ends_what_is_kept_but_not_what_was_told(book: NoteBook) -> None:
    short, long = keep(book, "bob", until_s=10.0), keep(book, "bob", until_s=20.0)
    book.listen(1, "bob", "bob")
    assert book.due("bob", 5.0) == (1, [short, long])
    book.expire(30.0)
    assert book.confirmed(1, long.id) == [short, long]
    other, later = keep(book, "carol", until_s=10.0), keep(book, "carol", until_s=20.0)
    book.expire(10.0)
    assert (book.kept_count, other.id) == (1, later.id - 1)
    book.listen(2, "carol", "carol")
    assert book.due("carol", 15.0) == (2, [later])


def test_kept_notes_are_bounded(book: NoteBook, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(MAX_KEPT_OF_NAME):
        keep(book, "bob")
    with pytest.raises(Busy, match="bob"):
        keep(book, "bob")
    monkeypatch.setattr(module, "MAX_KEPT_OF_SENDER", MAX_KEPT_OF_NAME + 1)
    keep(book, "carol")
    with pytest.raises(Busy, match="alice"):
        keep(book, "carol")
    monkeypatch.setattr(module, "MAX_KEPT", MAX_KEPT_OF_NAME + 2)
    keep(book, "carol", by="bob")
    with pytest.raises(Busy, match="too many"):
        keep(book, "dave", by="bob")
    assert [each.name for each in book.listeners()] == ["bob", "carol"]
    monkeypatch.setattr(module, "MAX_KEPT", 10**6)
    monkeypatch.setattr(module, "MAX_KEPT_BYTES", book.kept_bytes + 10)
    keep(book, "carol", by="bob")
    with pytest.raises(Busy, match="too many"):
        keep(book, "carol", by="bob")


def test_room_is_made_by_what_is_over(book: NoteBook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT_OF_NAME", 1)
    keep(book, "bob", until_s=5.0)
    book.add(Kept(book.next_id(), "bob", "alice", 1, 20.0), 6.0)
    assert book.kept_count == 1


def test_room_in_all_is_made_by_what_is_over_but_not_looked_for_each_time(
    book: NoteBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 2)
    keep(book, "bob", until_s=5.0)
    keep(book, "carol", until_s=6.5)
    later = [Kept(book.next_id(), "dave", "alice", 1, 20.0) for _ in range(2)]
    book.add(later[0], 6.0)
    with pytest.raises(Busy):
        book.add(later[1], 6.9)
    book.add(later[1], 7.0)
    assert [each.name for each in book.listeners()] == ["dave"]


def test_ids_grow_beyond_what_was_kept_before(book: NoteBook) -> None:
    assert book.next_id() == 101
    book.add(Kept(500, "bob", "alice", 1, 20.0), 0.0)
    assert book.next_id() == 501
