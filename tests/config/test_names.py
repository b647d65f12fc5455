"""Names, and the nearest known word."""

from __future__ import annotations

import pytest

from zcluster.config import MAX_NAME_CHARS, name_fault, nearest


@pytest.mark.parametrize("name", ["a", "worker-1", "A.b_c", "0", "master", "_x", "x" * MAX_NAME_CHARS])
def test_good_names(name: str) -> None:
    assert name_fault(name) == ""


@pytest.mark.parametrize("name", ["", "-a", ".a", "a b", "a,b", "a*", "é", "a\n", "a/b", "x" * (MAX_NAME_CHARS + 1)])
def test_bad_names_say_what_is_expected(name: str) -> None:
    assert "expected a name" in name_fault(name)


@pytest.mark.parametrize("name", ["all", "any", "ALL", "Any"])
def test_targets_are_no_names(name: str) -> None:
    assert "reserved" in name_fault(name)


def test_the_nearest_word() -> None:
    assert nearest("wrker", ["worker", "client"]) == "worker"
    assert nearest("xyz", ["worker", "client"]) == ""
