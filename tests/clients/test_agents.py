"""``AsyncClient.agents``: each method is the call that it says it is; reports of any length, lists of any length."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from zcluster.clients import agents as agents_module
from zcluster.clients.agents import Agents, AsyncAgents
from zcluster.errors import UsageError


class Cluster:
    """Stands in for the client: answers in turn, and what was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, Any, str, float | None]] = []

    async def call(
        self, function: str, args: Mapping[str, Any] | None = None, *, target: str = "any", timeout: float | None = None
    ) -> Any:
        self.asked.append((function, args, target, timeout))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def blocking(cluster: Cluster) -> Agents:
    async def items(source: Any) -> list[Any]:
        return [item async for item in source]

    return Agents(AsyncAgents(cluster), asyncio.run, lambda source: iter(asyncio.run(items(source))))


LIST = {"filter": "", "select": None, "sort": "id", "limit": 100, "cursor": "", "count": False}


@pytest.mark.parametrize(
    ("call", "function", "args"),
    [
        (lambda a: a.list(), "list", LIST),
        (
            lambda a: a.list("x=1", select=("id",), sort="-name", limit=5, cursor="c", count=True),
            "list",
            {"filter": "x=1", "select": ["id"], "sort": "-name", "limit": 5, "cursor": "c", "count": True},
        ),
        (lambda a: a.count("x=1", by="status"), "count", {"filter": "x=1", "by": "status"}),
        (lambda a: a.show("a"), "show", {"id": "a"}),
        (lambda a: a.remove(["a", "b"]), "remove", {"ids": ["a", "b"], "filter": ""}),
        (lambda a: a.remove(filter="x=1"), "remove", {"ids": [], "filter": "x=1"}),
        (lambda a: a.move("a", "w"), "move", {"id": "a", "node": "w"}),
    ],
)
def test_each_method_is_a_call_of_the_master(call: Any, function: str, args: dict[str, Any]) -> None:
    cluster = Cluster({"answer": 1})
    assert call(blocking(cluster)) == {"answer": 1}
    assert cluster.asked == [(f"agents.{function}", args, "master", None)]


def test_each_goes_through_all_pages() -> None:
    cluster = Cluster({"items": [1, 2], "next": "c"}, {"items": [3], "next": None})
    assert list(blocking(cluster).each("x=1", select=["id"])) == [1, 2, 3]
    assert [args["cursor"] for _, args, _, _ in cluster.asked] == ["", "c"]


def test_a_long_report_is_several_calls_and_its_places_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents_module, "ROWS_PER_CALL", 2)
    fine = {"taken": 2, "refused": [], "refused_count": 0}
    bad = {"taken": 0, "refused": [{"index": 0, "id": "c", "code": "usage", "message": "no"}], "refused_count": 1}
    cluster = Cluster(fine, bad)
    told = blocking(cluster).report(({"id": id_} for id_ in "abc"), node="w1", timeout=3)
    assert told == {"taken": 2, "refused": [{"index": 2, "id": "c", "code": "usage", "message": "no"}], "refused_count": 1}
    assert [(args["rows"], target, timeout) for _, args, target, timeout in cluster.asked] == [
        ([{"id": "a"}, {"id": "b"}], "w1", 3), ([{"id": "c"}], "w1", 3),
    ]  # fmt: skip


def test_a_row_that_is_none_is_told_before_anything_is_sent() -> None:
    cluster = Cluster({})
    with pytest.raises(UsageError):
        blocking(cluster).report(["a"])  # type: ignore[list-item]
    assert cluster.asked == []
