"""What targets mean."""

from __future__ import annotations

import pytest

from zcluster.core.targets import MAX_GLOB_CHARS, MAX_GLOBS, MAX_PARTS, globs_in, is_single, select
from zcluster.errors import NoSuchNode, UsageError

NAMES = ["m", "w1", "w2", "db-1"]


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        ("all", NAMES),
        ("master", ["m"]),
        ("w1", ["w1"]),
        ("w*", ["w1", "w2"]),
        ("w[2-9]", ["w2"]),
        ("?", ["m"]),
        ("w2,w1", ["w1", "w2"]),
        ("w2, w*", ["w1", "w2"]),
        ("master,db-*", ["m", "db-1"]),
        ("w1,all", NAMES),
    ],
)
def test_a_target_means_each_node_once_in_their_order(target: str, meant: list[str]) -> None:
    assert select(target, NAMES, "m") == meant


@pytest.mark.parametrize("target", ["", "w3", "x*", "w1,", "w1,w3", "W1", "al", "w1,,w2", "[", "any1"])
def test_what_matches_nothing_is_no_such_node(target: str) -> None:
    with pytest.raises(NoSuchNode):
        select(target, NAMES, "m")


def test_all_of_nobody_is_nobody_and_not_an_error() -> None:
    assert select("all", [], "m") == []


def test_which_targets_mean_one_node() -> None:
    assert all(map(is_single, ("any", "master", "w1", "")))
    assert not any(map(is_single, ("all", "w*", "w?", "w[1]", "a,b", ",")))


def test_a_list_has_a_bound() -> None:
    assert select(",".join(["w1"] * MAX_PARTS), NAMES, "m") == ["w1"]
    with pytest.raises(UsageError, match=str(MAX_PARTS + 1)):
        select(",".join(["w1"] * (MAX_PARTS + 1)), NAMES, "m")


def test_globs_have_bounds() -> None:
    assert select(",".join(["w*"] * MAX_GLOBS), NAMES, "m") == ["w1", "w2"]
    with pytest.raises(UsageError, match="globs"):
        select(",".join(["w*"] * (MAX_GLOBS + 1)), NAMES, "m")
    assert select("*" * MAX_GLOB_CHARS, NAMES, "m") == NAMES
    with pytest.raises(UsageError, match="globs"):
        select("*" * (MAX_GLOB_CHARS + 1), NAMES, "m")


def test_globs_are_counted() -> None:
    assert [globs_in(target) for target in ("w1", "w*", "w*,x?,y", "all")] == [0, 1, 2, 0]
