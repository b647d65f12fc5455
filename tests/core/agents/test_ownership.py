"""Whose an agent is: each rule, and that the order in which claims come does not matter."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcluster.core.agents.ownership import Holding, decide, epoch_after

BOTH = frozenset({"w1", "w2"})


def by_session(node: str, epoch: int) -> Holding:
    return Holding(node, epoch, "session", "active")


def by_report(node: str, epoch: int) -> Holding:
    return Holding(node, epoch, "report", "disconnected")


@pytest.mark.parametrize(
    ("current", "claim", "alive", "expected"),
    [
        (None, by_report("w1", 0), "", "accepted"),
        (Holding("", 9, "report", "never"), by_session("w1", 1), "", "accepted"),
        (by_session("w1", 9), by_session("w1", 1), "", "accepted"),
        (by_session("w1", 5), by_session("w2", 6), "w1 w2", "accepted"),
        (by_session("w1", 5), by_session("w2", 4), "w2", "late"),
        (by_session("w1", 5), by_session("w2", 5), "", "late"),
        (by_session("w2", 5), by_session("w1", 5), "", "accepted"),
        (by_session("w1", 5), by_report("w2", 9), "w1", "foreign"),
        (by_session("w1", 5), by_report("w2", 9), "w2", "accepted"),
        (by_session("w1", 5), by_report("w2", 5), "", "late"),
        (Holding("w1", 5, "session", "disconnected"), by_report("w2", 6), "w1", "accepted"),
        (Holding("w1", 5, "session", "silent"), by_report("w2", 6), "w1", "foreign"),
        (by_report("w1", 5), by_report("w2", 6), "w1", "accepted"),
        (by_report("w1", 5), by_report("w2", 5), "w1", "late"),
        (by_report("w1", 9), by_session("w2", 5), "w1", "accepted"),
        (by_report("w1", 9), Holding("w2", 5, "session", "disconnected"), "w1", "late"),
        (Holding("w1", 5, "session", "removed"), by_session("w1", 5), "w1", "late"),
        (Holding("w1", 5, "session", "removed"), by_session("w2", 6), "w1", "accepted"),
        (Holding("w1", 5, "session", "removed"), by_report("w1", 6), "w1", "accepted"),
    ],
)
def test_a_claim(current: Holding | None, claim: Holding, alive: str, expected: str) -> None:
    assert decide(current, claim, frozenset(alive.split())) == expected


CLAIMS = st.lists(st.builds(by_session, st.sampled_from(["w1", "w2", "w3"]), st.integers(1, 4)), min_size=1, max_size=5)


def owner_after(claims: tuple[Holding, ...]) -> tuple[str, int]:
    current: Holding | None = None
    for claim in claims:
        if decide(current, claim, BOTH) == "accepted":
            current = claim._replace(epoch=epoch_after(current, claim))
    assert current is not None
    return current.node, current.epoch


@given(CLAIMS)
def test_in_whatever_order_sessions_are_told_the_same_node_has_the_agent(claims: list[Holding]) -> None:
    assert len({owner_after(order) for order in permutations(claims)}) == 1


@given(CLAIMS, st.data())
def test_claims_that_are_told_again_change_nothing(claims: list[Holding], data: st.DataObject) -> None:
    again = data.draw(st.permutations(claims * 2))
    assert owner_after(tuple(again)) == owner_after(tuple(claims))


@given(CLAIMS)
def test_the_newest_session_has_it(claims: list[Holding]) -> None:
    assert owner_after(tuple(claims))[1] == max(claim.epoch for claim in claims)
