"""What an agent says, how often, and to which node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from zcluster.core.agents.keeping import (
    MARGIN,
    MARGIN_SHARE,
    Facts,
    Keeper,
    NodeChoice,
    beats_of,
    next_epoch,
    tree_digest,
)
from zcluster.core.doors import Candidate, KnownKeys, KnownNode
from zcluster.errors import UsageError
from zcluster.wire.agents import Door, Keep
from zcluster.wire.trees import MAX_ID

FACTS = Facts("h", "10.0.0.1", "1", {"platform": "debian"}, {"site": "ber"}, {"cpu": {"percent": 1.0}}, "", "")
KEYS = KnownKeys("M")
A, B, C = "tcp://a:1", "tcp://b:1", "tcp://c:1"


def door(node: str, address: str, agents: int = 0) -> Door:
    return Door(node=node, public=f"key-{node}", addresses=[address], agents=agents)


def choice(*given: str, fallback: tuple[str, ...] = (A,), draws: tuple[float, ...] = (), keys: KnownKeys = KEYS) -> NodeChoice:
    """A choice whose draws are those, then 0."""
    rest: Iterator[float] = iter(draws)
    return NodeChoice(given, keys, fallback, lambda: next(rest, 0.0))


# -- KEEP -----------------------------------------------------------------------------------------------------------


def test_the_first_keep_says_everything_and_the_next_only_what_changed() -> None:
    keeper = Keeper()
    first = keeper.keep(FACTS, 10.0)
    assert first == Keep(
        full=True, interval_s=10.0, name="h", address="10.0.0.1", version="1", os={"platform": "debian"}, labels={"site": "ber"},
        metrics={"cpu": {"percent": 1.0}}, config="", tree="",
    )  # fmt: skip
    assert keeper.keep(FACTS, 10.0) == Keep()
    hot = replace(FACTS, metrics={"cpu": {"percent": 99.0}})
    assert keeper.keep(hot, 10.0) == Keep(metrics={"cpu": {"percent": 99.0}})
    assert keeper.keep(hot, 2.0) == Keep(interval_s=2.0)
    assert keeper.keep(replace(hot, labels={}), 2.0) == Keep(labels={})


def test_a_new_session_says_everything_again() -> None:
    keeper = Keeper()
    keeper.keep(FACTS, 10.0)
    keeper.forget()
    assert keeper.keep(FACTS, 10.0).full


@pytest.mark.parametrize(
    ("interval_s", "heartbeat_s", "expected"),
    [(10.0, 10.0, (10.0, 1)), (0.5, 10.0, (0.5, 1)), (15.0, 10.0, (7.5, 2)), (3600.0, 10.0, (10.0, 360))],
)
def test_beats_are_at_most_a_heartbeat_apart(interval_s: float, heartbeat_s: float, expected: tuple[float, int]) -> None:
    assert beats_of(interval_s, heartbeat_s) == expected


def test_a_session_s_number_grows_whatever_the_clock_does() -> None:
    assert next_epoch(0, 1000) == 1000
    assert next_epoch(1000, 1000) == 1001
    assert next_epoch(5000, 10) == 5001
    assert next_epoch(MAX_ID, 10) == MAX_ID


def test_the_digest_of_files_is_that_of_the_set() -> None:
    assert tree_digest([]) == ""
    assert tree_digest([("a", "1"), ("b", "2")]) == tree_digest([("b", "2"), ("a", "1")])
    assert tree_digest([("a", "1")]) != tree_digest([("a", "2")])


# -- the choice of a node -------------------------------------------------------------------------------------------


def test_given_addresses_are_tried_in_a_drawn_order() -> None:
    both = (A, B)
    assert choice(*both, fallback=both, draws=(0.9, 0.1)).next() == Candidate(B, "M")
    picked = choice(*both, fallback=both, draws=(0.1, 0.9))
    assert [picked.next(), picked.next()] == [Candidate(A, "M"), Candidate(B, "M")]
    assert picked.next().address in (A, B)


def test_an_address_whose_key_is_known_comes_before_one_whose_key_is_not() -> None:
    assert choice(A, B, draws=(0.9, 0.1)).next() == Candidate(A, "M")


def test_of_two_drawn_nodes_the_less_loaded_comes_first() -> None:
    picked = choice(A, B, draws=(0.1, 0.9))
    picked.learn([door("a", A, 10), door("b", B, 3)])
    assert [picked.next(), picked.next()] == [Candidate(B, "key-b"), Candidate(A, "key-a")]


def test_an_unknown_address_is_tried_with_each_key_and_the_key_file_s_addresses_in_between() -> None:
    keys = KnownKeys("M", (KnownNode("w1", "K1"),))
    picked = choice(B, C, draws=(0.1, 0.9), keys=keys)
    assert not picked.guessing
    tried = [(picked.next(), picked.guessing) for _ in range(5)]
    assert tried == [
        (Candidate(B, "M"), True), (Candidate(C, "M"), True), (Candidate(A, "M"), False),
        (Candidate(B, "K1"), False), (Candidate(C, "K1"), False),
    ]  # fmt: skip


def test_the_key_that_worked_is_the_one_from_then_on() -> None:
    keys = KnownKeys("M", (KnownNode("w1", "K1"),))
    picked = choice(B, fallback=(), keys=keys)
    assert [picked.next(), picked.next()] == [Candidate(B, "M"), Candidate(B, "K1")]
    picked.joined("w1")
    assert picked.next() == Candidate(B, "K1")
    assert picked.next() == Candidate(B, "K1")


def test_a_master_whose_key_is_being_rotated_is_tried_with_both() -> None:
    picked = choice(A, keys=KnownKeys("M", (KnownNode("w1", "K1"),), "M2"))
    assert [picked.next() for _ in range(3)] == [Candidate(A, "M"), Candidate(A, "M2"), Candidate(A, "M")]
    picked.next()
    picked.joined("master")
    assert [picked.next() for _ in range(2)] == [Candidate(A, "M2"), Candidate(A, "M")]
    picked.know(KnownKeys("M2"))
    picked.leave("master")
    assert [picked.next() for _ in range(2)] == [Candidate(A, "M2")] * 2


def test_a_door_whose_key_is_being_rotated_is_tried_with_both() -> None:
    following = Door(node="w1", public="K1", next="K2", addresses=[B])
    picked = choice(B, fallback=(), keys=KnownKeys("M"))
    picked.learn([following])
    assert [picked.next() for _ in range(2)] == [Candidate(B, "K1"), Candidate(B, "K2")]
    picked.joined("w1")
    assert [picked.next() for _ in range(2)] == [Candidate(B, "K1"), Candidate(B, "K2")]
    assert picked.go("w1")
    assert [picked.next() for _ in range(2)] == [Candidate(B, "K1"), Candidate(B, "K2")]
    by_file = choice(B, fallback=(), keys=KnownKeys("M", (KnownNode("w1", "K1", (B,), "K2"),)))
    assert [by_file.next() for _ in range(2)] == [Candidate(B, "K1"), Candidate(B, "K2")]


def test_the_node_that_was_lost_comes_last() -> None:
    picked = choice(A, B, C)
    picked.learn([door("a", A), door("b", B), door("c", C)])
    assert picked.leave("a")
    assert [picked.next().address for _ in range(3)] == [B, C, A]
    picked.leave("b")
    assert [picked.next().address for _ in range(3)][-1] == B


def test_the_only_node_is_tried_again_when_it_was_lost() -> None:
    picked = choice(A)
    picked.learn([door("a", A)])
    assert not picked.leave("a")
    assert picked.next().address == A


def test_a_named_node_that_nobody_knows_is_asked_for_at_the_master() -> None:
    picked = choice("w1@tcp://b:1")
    assert picked.next() == Candidate(A, "M")
    picked.joined("master")
    picked.learn([door("master", A, 1), door("w1", B)])
    assert picked.settle("master")
    assert picked.next() == Candidate(B, "key-w1")
    with pytest.raises(UsageError):
        choice("w1@tcp://b:1", fallback=()).next()


def test_an_agent_at_a_node_that_it_was_not_given_goes_to_one_that_it_was() -> None:
    picked = choice(B)
    assert [picked.next() for _ in range(2)] == [Candidate(B, "M"), Candidate(A, "M")]
    picked.joined("master")
    picked.learn([door("master", A, 1), door("w1", B, 500)])
    assert picked.settle("master")
    assert picked.next() == Candidate(B, "key-w1")
    assert not picked.settle("w1")


@pytest.mark.parametrize(
    ("here", "there", "moves"),
    [(MARGIN, 0, False), (MARGIN + 1, 0, True), (100, 100 - 100 // MARGIN_SHARE, False), (100, 99 - 100 // MARGIN_SHARE, True)],
)
def test_it_moves_once_after_a_join_when_the_difference_is_clear(here: int, there: int, moves: bool) -> None:
    picked = choice(A, B, draws=(0.1, 0.9))
    picked.next()
    picked.joined("a")
    picked.learn([door("a", A, here), door("b", B, there)])
    assert picked.settle("a") is moves
    picked.learn([door("a", A, 10_000), door("b", B, 0)])
    assert not picked.settle("a")
    picked.leave("b")
    assert picked.settle("a")


def test_nothing_is_settled_before_the_doors_are_known() -> None:
    picked = choice(A, B)
    assert not picked.settle("a")
    picked.learn([door("c", C)])
    assert not picked.settle("a")
    picked.learn([door("a", A, 50), door("b", B, 0)])
    assert picked.settle("a")


def test_nodes_that_were_not_given_are_left_alone() -> None:
    picked = choice(A)
    picked.next()
    picked.joined("a")
    picked.learn([door("a", A, 500), door("b", B, 0)])
    assert not picked.settle("a")


def test_an_order_to_go_names_any_node_whose_door_is_known() -> None:
    picked = choice(A)
    assert not picked.go("b")
    picked.add([door("b", B)])
    assert picked.go("b")
    assert picked.next() == Candidate(B, "key-b")
    assert [each.node for each in picked.doors] == ["b"]
    assert not picked.settle("b")
