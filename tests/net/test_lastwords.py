"""When the end of a connection is told."""

from __future__ import annotations

from zcluster.net.lastwords import LAST_WORDS_S, LastWords


def test_an_end_is_told_when_nothing_is_left_to_read() -> None:
    words = LastWords()
    assert not words
    words.ended(b"1", 10.0)
    words.ended(b"2", 10.1)
    assert words
    assert words.heard(False, 10.2) == []
    assert words.heard(True, 10.2) == [b"1", b"2"]
    assert not words
    assert words.heard(True, 10.3) == []


def test_an_end_does_not_wait_for_ever_and_a_second_notice_changes_nothing() -> None:
    words = LastWords()
    words.ended(b"1", 10.0)
    words.ended(b"2", 10.2)
    words.ended(b"1", 10.4)
    assert words.heard(False, 10.0 + LAST_WORDS_S) == [b"1"]
    assert words.heard(False, 10.1 + LAST_WORDS_S) == []
    assert words.heard(False, 10.3 + LAST_WORDS_S) == [b"2"]


def test_those_whose_time_is_not_over_are_not_looked_at_one_by_one() -> None:
    words, looked = LastWords(), []

    class Until(float):
        def __gt__(self, other: object) -> bool:
            looked.append(self)
            return True

    for number in range(100):
        words._until[b"%d" % number] = Until(10.0)
    assert words.heard(False, 1.0) == []
    assert len(looked) == 1
