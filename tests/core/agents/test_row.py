"""What a row may hold: at each limit, and one beyond."""

from __future__ import annotations

from typing import Any

import pytest

from zcluster.core.agents.row import (
    MAX_EPOCH,
    MAX_LABEL_KEY_CHARS,
    MAX_LABEL_VALUE_CHARS,
    MAX_LABELS,
    MAX_METRICS_BYTES,
    MAX_OS_BYTES,
    Row,
    check_row,
)
from zcluster.errors import InvalidArguments, TooLarge, UsageError


def sized(size: int) -> dict[str, str]:
    return {"x": "y" * (size - len('{"x":""}'))}


def test_what_is_absent_is_empty() -> None:
    assert check_row({"id": "a"}) == Row(id="a")


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "a" * 128},
        {"id": "Az09_:@.-"},
        {"name": "n" * 256, "address": "a" * 256, "version": "v" * 64, "config": "c" * 64, "tree": "t" * 64},
        {"name": "Ünïcode 日本"},
        {"labels": {f"{number:064}": "v" * MAX_LABEL_VALUE_CHARS for number in range(MAX_LABELS)}},
        {"os": sized(MAX_OS_BYTES), "metrics": sized(MAX_METRICS_BYTES)},
        {"os": {"path": "C:\\new\\table", "quote": '"', "n": None, "list": [1, 2.5, True]}},
        {"first_seen": 0, "last_seen": 1e12, "epoch": MAX_EPOCH, "held": "session", "status": "silent", "node": "w-1"},
        {"groups": [f"g{number}" for number in range(64)]},
    ],
)
def test_what_a_row_may_hold(fields: dict[str, Any]) -> None:
    row = check_row({"id": "a", **fields})
    assert {name: getattr(row, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("fields", "error", "place"),
    [
        ({"id": ""}, InvalidArguments, "id"),
        ({"id": "a" * 129}, InvalidArguments, "id"),
        ({"id": "-a"}, InvalidArguments, "id"),
        ({"id": ".a"}, InvalidArguments, "id"),
        ({"id": "a/b"}, InvalidArguments, "id"),
        ({"id": "a\n"}, InvalidArguments, "id"),
        ({"id": 5}, InvalidArguments, "id"),
        ({"nme": "x"}, InvalidArguments, "did you mean 'name'"),
        ({"x" * 10**7: "x"}, InvalidArguments, "no field"),
        ({"name": "n" * 257}, TooLarge, "name"),
        ({"version": "v" * 65}, TooLarge, "version"),
        ({"name": "a\x00"}, InvalidArguments, "name"),
        ({"address": "a\x9b"}, InvalidArguments, "address"),
        ({"name": None}, InvalidArguments, "name"),
        ({"labels": []}, InvalidArguments, "labels"),
        ({"labels": {"": "x"}}, InvalidArguments, "labels"),
        ({"labels": {"a b": "x"}}, InvalidArguments, "a b"),
        ({"labels": {"a=b": "x"}}, InvalidArguments, "a=b"),
        ({"labels": {"k" * (MAX_LABEL_KEY_CHARS + 1): "x"}}, TooLarge, "a key of 65"),
        ({"labels": {"site": "v" * (MAX_LABEL_VALUE_CHARS + 1)}}, TooLarge, r"labels\.site"),
        ({"labels": {"site": "v" * 10**7}}, TooLarge, r"labels\.site: 10000000 characters"),
        ({"labels": {"site": 5}}, InvalidArguments, r"labels\.site"),
        ({"labels": {"site": "a\u202eb"}}, InvalidArguments, r"labels\.site"),
        ({"labels": {str(number): "" for number in range(MAX_LABELS + 1)}}, TooLarge, "65 labels"),
        ({"os": sized(MAX_OS_BYTES + 1)}, TooLarge, "os: 2049 bytes"),
        ({"metrics": sized(MAX_METRICS_BYTES + 1)}, TooLarge, "metrics: 16385 bytes"),
        ({"metrics": {"x": 2**53}}, InvalidArguments, "metrics"),
        ({"metrics": {"x": object()}}, InvalidArguments, "metrics"),
        ({"metrics": {1: 1}}, InvalidArguments, "metrics"),
        ({"os": {"x": ["\x1b[2J"]}}, InvalidArguments, "os"),
        ({"os": {"a\u2028": 1}}, InvalidArguments, "os"),
        ({"os": {"x": "\\\n"}}, InvalidArguments, "os"),
        ({"os": {"platform": 5}}, InvalidArguments, r"os\.platform"),
        ({"os": "debian"}, InvalidArguments, "os"),
        ({"status": "here"}, InvalidArguments, "status"),
        ({"held": []}, InvalidArguments, "held"),
        ({"last_seen": -1}, InvalidArguments, "last_seen"),
        ({"last_seen": float("nan")}, InvalidArguments, "last_seen"),
        ({"first_seen": True}, InvalidArguments, "first_seen"),
        ({"epoch": MAX_EPOCH + 1}, InvalidArguments, "epoch"),
        ({"epoch": 1.0}, InvalidArguments, "epoch"),
        ({"node": "../w"}, InvalidArguments, "node"),
        ({"groups": "web"}, InvalidArguments, "groups"),
        ({"groups": ["../web"]}, InvalidArguments, "groups"),
        ({"groups": ["g"] * 65}, TooLarge, "groups"),
    ],
)
def test_what_it_may_not_is_refused_with_its_place(fields: dict[str, Any], error: type[UsageError], place: str) -> None:
    with pytest.raises(error, match=place) as caught:
        check_row({"id": "a", **fields})
    assert len(str(caught.value)) < 1000


def test_a_document_that_is_too_deep_is_refused() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = {"x": deep}
    with pytest.raises(InvalidArguments, match="metrics"):
        check_row({"id": "a", "metrics": deep})
