"""Names of joiners, the strangers that wait, and what a joiner tries."""

from __future__ import annotations

import pytest

from zcluster.config.names import name_fault
from zcluster.core.joining import (
    LONGEST_WAIT_S,
    MAX_STRANGERS,
    MAX_STRANGERS_OF_ADDRESS,
    Joiner,
    Strangers,
    Try,
    as_name,
    free_name,
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("web-1", "web-1"), ("web 1.example", "web-1.example"), ("-x", "x"), (".hidden", "hidden"), ("..", "worker"),
        ("", "worker"), ("all", "worker"), ("ANY", "worker"), ("ä\n\x1b[31m", "31m"), ("x" * 80, "x" * 64), ("_", "_"),
    ],
)  # fmt: skip
def test_any_text_becomes_a_name(text: str, name: str) -> None:
    assert as_name(text, "worker") == name
    assert not name_fault(name)


@pytest.mark.parametrize(
    ("wish", "taken", "name"),
    [
        ("w", (), "w"), ("w", ("w",), "w-2"), ("w", ("w", "w-2", "w-3"), "w-4"), ("master", (), "master-2"), ("All", (), "All-2"),
        ("x" * 64, ("x" * 64,), "x" * 62 + "-2"),
        ("x" * 64, ("x" * 64, *(f"{'x' * 62}-{number}" for number in range(2, 10))), "x" * 61 + "-10"),
    ],
)  # fmt: skip
def test_a_wish_that_is_taken_gets_a_number(wish: str, taken: tuple[str, ...], name: str) -> None:
    assert free_name(wish, taken) == name
    assert not name_fault(name)


def test_a_stranger_is_news_once_and_its_tries_are_counted() -> None:
    strangers = Strangers()
    assert strangers.tried("k", "10.0.0.1", 5.0)
    assert not strangers.tried("k", "10.0.0.2", 9.0)
    (stranger,) = strangers.all
    assert (stranger.address, stranger.first_s, stranger.last_s, stranger.tries) == ("10.0.0.2", 5.0, 9.0, 2)
    strangers.forget("k")
    strangers.forget("k")
    assert strangers.all == []
    assert strangers.tried("k", "10.0.0.1", 10.0)


def test_one_address_pushes_out_its_own_tries() -> None:
    strangers = Strangers()
    strangers.tried("honest", "10.0.0.1", 0.0)
    for number in range(MAX_STRANGERS_OF_ADDRESS):
        strangers.tried(f"k{number}", "10.0.0.9", 1.0)
    assert len(strangers) == MAX_STRANGERS_OF_ADDRESS + 1
    strangers.tried("one more", "10.0.0.9", 2.0)
    known = {each.public for each in strangers.all}
    assert len(known) == MAX_STRANGERS_OF_ADDRESS + 1
    assert "honest" in known
    assert "k0" not in known


def test_the_addresses_of_one_machine_are_one() -> None:
    strangers = Strangers()
    strangers.tried("honest", "10.0.0.1", 0.0)
    for number in range(MAX_STRANGERS):
        strangers.tried(f"k{number}", f"2001:db8::{number:x}", 1.0, "2001:db8:0:0")
    assert len(strangers) == MAX_STRANGERS_OF_ADDRESS + 1
    assert strangers.all[0].public == "honest"
    assert strangers.all[-1].address == f"2001:db8::{MAX_STRANGERS - 1:x}"
    for each in strangers.all:
        strangers.forget(each.public)
    assert strangers.tried("k0", "2001:db8::1", 2.0, "2001:db8:0:0")


def test_many_addresses_push_out_the_one_that_has_been_quiet_for_longest() -> None:
    strangers = Strangers()
    for number in range(MAX_STRANGERS):
        strangers.tried(f"k{number}", f"10.0.{number}.1", 0.0)
    strangers.tried("k0", "10.0.0.1", 1.0)
    strangers.tried("new", "10.1.0.1", 2.0)
    known = {each.public for each in strangers.all}
    assert len(known) == MAX_STRANGERS
    assert {"k0", "new"} <= known
    assert "k1" not in known


def test_a_fresh_key_asks_with_the_token_and_gives_up_when_that_is_refused() -> None:
    joiner = Joiner(has_token=True, fresh=True, give_up_after_s=60.0, now=0.0)
    assert joiner.first() == Try(True, 0.0)
    assert joiner.refused() is None


def test_an_older_key_asks_for_itself_first_and_then_with_the_token() -> None:
    joiner = Joiner(has_token=True, fresh=False, give_up_after_s=60.0, now=0.0)
    assert joiner.first() == Try(False, 0.0)
    assert joiner.refused() == Try(True, 0.0)
    assert joiner.refused() is None


def test_an_answer_that_is_lost_costs_no_use_of_the_token() -> None:
    joiner = Joiner(has_token=True, fresh=True, give_up_after_s=60.0, now=0.0)
    after = joiner.unanswered(1.0)
    assert after is not None
    assert not after.with_token
    assert joiner.refused() == Try(True, 0.0)
    assert joiner.unanswered(60.0) is None


def test_who_waits_to_be_accepted_never_gives_up_and_asks_ever_more_rarely() -> None:
    joiner = Joiner(has_token=False, fresh=False, give_up_after_s=60.0, now=0.0)
    waits = []
    for number in range(40):
        after = joiner.unanswered(1000.0 * number) if number % 2 else joiner.refused()
        assert after is not None
        assert not after.with_token
        waits.append(after.after_s)
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_WAIT_S
