"""``zcluster keys rotate`` against a cluster of plain data."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from zcluster.errors import Busy

ROW = {"name": "w1", "state": "rotated", "old": "SHA256:A", "new": "SHA256:B", "until": "2026-11-21T15:27:56+00:00"}
Zcluster = Callable[..., Any]


def test_the_owner_of_a_key_is_asked_for_another(cluster: Any, zcluster: Zcluster) -> None:
    cluster.value = ROW
    ran = zcluster("keys", "rotate", "w1", "--overlap", "2h")
    assert ran.code == 0
    assert cluster.asked == [("call", "keys.rotate", {"name": "w1", "overlap_s": 7200.0, "now": False}, {"target": "master"})]
    assert [line.split()[0] for line in ran.out.splitlines()] == ["name", "state", "old", "new", "until"]
    assert ran.err == ""
    assert json.loads(zcluster("keys", "rotate", "w1", "-o", "json").out) == {"schema": 1, **ROW}


def test_who_is_away_is_told_so(cluster: Any, zcluster: Zcluster) -> None:
    cluster.value = {**ROW, "state": "wanted", "new": "", "until": ""}
    ran = zcluster("keys", "rotate", "w1")
    assert [line.split()[0] for line in ran.out.splitlines()] == ["name", "state", "old"]
    assert "w1 is away" in ran.err


@pytest.mark.parametrize("words", [("--master-key",), ("head",)])
def test_the_master_s_own_key(cluster: Any, zcluster: Zcluster, words: tuple[str, ...]) -> None:
    cluster.link = SimpleNamespace(master="head")
    cluster.value = {**ROW, "name": "head", "state": "rotating", "away": ["anna", "w7"], "away_count": 2}
    ran = zcluster("keys", "rotate", *words, "--now")
    assert cluster.asked[0][2] == {"name": "head", "overlap_s": 600.0, "now": True}
    assert "anna, w7" in ran.out
    assert "2 owners" in ran.err


def test_without_a_name_it_is_the_command_s_own(cluster: Any, zcluster: Zcluster) -> None:
    wanted: list[float] = []

    async def rotate_key(overlap_s: float) -> dict[str, Any]:
        wanted.append(overlap_s)
        return ROW

    cluster.rotate_key = rotate_key
    assert zcluster("keys", "rotate", "--overlap", "30s").code == 0
    assert (wanted, cluster.asked) == ([30.0], [])


@pytest.mark.parametrize("words", [("w1", "--master-key"), ("--now",), ("w1", "--overlap", "soon"), ("a", "b"), ("",)])
def test_what_makes_no_sense_is_a_usage_error(cluster: Any, zcluster: Zcluster, words: tuple[str, ...]) -> None:
    assert zcluster("keys", "rotate", *words).code == 2
    assert cluster.asked == []


def test_an_error_is_one_line(cluster: Any, zcluster: Zcluster) -> None:
    cluster.value = Busy("the key 'w1' was rotated a moment ago", hint="rotate it again after that")
    ran = zcluster("keys", "rotate", "w1")
    assert ran.code == 1
    assert len(ran.err.splitlines()) == 1
