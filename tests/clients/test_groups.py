"""``AsyncClient.groups`` and ``AsyncClient.config``: each method is the call that it says it is."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from typing import Any

import pytest

from zcluster.clients import groups as groups_module
from zcluster.clients import liveconfig as config_module
from zcluster.clients.checks import MAX_TIMEOUT_S
from zcluster.clients.client import Client
from zcluster.clients.groups import LONG_S, AsyncGroups, Groups
from zcluster.clients.liveconfig import AsyncConfig, Config
from zcluster.errors import MasterLost, NotAllowed, UsageError

DONE: dict[str, Any] = {"changed": 1, "same": 0, "refused": [], "refused_count": 0}


class Cluster:
    """Stands in for the client: gives one answer, and tells what was asked."""

    def __init__(self, answer: Any = None, streams: list[Any] | None = None) -> None:
        self.answer, self.streams = answer, streams or []
        self.asked: list[tuple[str, Any, str, float | None]] = []

    async def call(
        self, function: str, args: Mapping[str, Any] | None = None, *, target: str = "any", timeout: float | None = None
    ) -> Any:
        self.asked.append((function, args, target, timeout))
        return self.answer

    async def stream(
        self, function: str, args: Mapping[str, Any] | None = None, *, target: str = "any", timeout: float | None = None
    ) -> AsyncIterator[Any]:
        self.asked.append((function, args, target, timeout))
        for item in self.streams.pop(0):
            if isinstance(item, BaseException):
                raise item
            yield item


Ask = Callable[[Any], Any]
NEW = {"new": False}
GROUPS: list[tuple[Ask, str, dict[str, Any], str, float | None, Any]] = [
    (lambda g: g.list(), "list", {}, "master", None, [1]),
    (lambda g: g.list(node="w", timeout=2.0), "list", {}, "w", 2.0, [1]),
    (lambda g: g.show("web", node="w"), "show", {"name": "web"}, "w", None, {"a": 1}),
    (lambda g: g.of("7"), "of", {"agent": "7"}, "master", None, {"a": 1}),
    (lambda g: g.create("web", comment="c"), "create", {"name": "web", "comment": "c"}, "master", None, {"a": 1}),
    (lambda g: g.delete("web"), "delete", {"name": "web"}, "master", LONG_S, {"a": 1}),
    (lambda g: g.add("web", ["7"]), "add", {"group": "web", "new": False, "agents": ["7"]}, "master", LONG_S, DONE),
    (lambda g: g.add("web", filter="f"), "add", {"group": "web", **NEW, "agents": [], "filter": "f"}, "master", LONG_S, DONE),
    (lambda g: g.remove("web", ["7"], timeout=3.0), "remove", {"group": "web", "agents": ["7"]}, "master", 3.0, DONE),
    (lambda g: g.set(["a"], ["7"], new=True), "set", {"groups": ["a"], "new": True, "agents": ["7"]}, "master", LONG_S, DONE),
    (
        lambda g: g.bulk(["7 a"]), "bulk", {"lines": ["7 a"], "first": 1, "new": False}, "master", LONG_S,
        {"changed": 1, "same": 0, "bad": [[1, "x"]], "bad_count": 1},
    ),
    (
        lambda g: g.bulk(["7"], op="add", group="web", new=True), "bulk",
        {"lines": ["7"], "first": 1, "new": True, "op": "add", "group": "web"}, "master", LONG_S,
        {"changed": 1, "same": 0, "bad": [], "bad_count": 0},
    ),
    (lambda g: g.files("web"), "files", {"group": "web"}, "master", None, [1]),
    (lambda g: g.put_file("web", "n", b"x"), "file_put", {"group": "web", "name": "n", "data": "eA=="}, "master", None, {"a": 1}),
    (lambda g: g.remove_file("web", "n"), "file_remove", {"group": "web", "name": "n"}, "master", None, {"a": 1}),
]  # fmt: skip
CONFIG: list[tuple[Ask, str, dict[str, Any], str, float | None, Any]] = [
    (lambda c: c.get("defaults"), "get", {"scope": "defaults", "effective": False}, "master", None, {"a": 1}),
    (
        lambda c: c.get("node/w", effective=True, timeout=2.0), "get", {"scope": "node/w", "effective": True}, "master", 2.0,
        {"a": 1},
    ),
    (lambda c: c.set("node/w", {"interval": 2}), "set", {"scope": "node/w", "values": {"interval": 2}}, "master", None, {"a": 1}),
    (
        lambda c: c.unset("node/w", "a", "b"), "unset", {"scope": "node/w", "keys": ["a", "b"], "everything": False}, "master",
        None, {"a": 1},
    ),
    (lambda c: c.history("defaults"), "history", {"scope": "defaults"}, "master", None, [1]),
    (lambda c: c.rollback("defaults", 2), "rollback", {"scope": "defaults", "version": 2}, "master", None, {"a": 1}),
    (lambda c: c.applied("w"), "applied", {}, "w", None, {"a": 1}),
]  # fmt: skip


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def iterate(source: Any) -> Iterator[Any]:
    with asyncio.Runner() as runner:
        yield runner.run(anext(source))
        runner.run(source.aclose())


@pytest.mark.parametrize(("ask", "function", "args", "target", "timeout_s", "answer"), GROUPS)
def test_each_method_of_groups_is_one_call(
    ask: Ask, function: str, args: dict[str, Any], target: str, timeout_s: float | None, answer: Any
) -> None:
    cluster, blocking = Cluster(answer), Cluster(answer)
    assert run(ask(AsyncGroups(cluster))) == ask(Groups(AsyncGroups(blocking), run)) == answer
    assert cluster.asked == blocking.asked == [(f"groups.{function}", args, target, timeout_s)]


@pytest.mark.parametrize(("ask", "function", "args", "target", "timeout_s", "answer"), CONFIG)
def test_each_method_of_config_is_one_call(
    ask: Ask, function: str, args: dict[str, Any], target: str, timeout_s: float | None, answer: Any
) -> None:
    cluster, blocking = Cluster(answer), Cluster(answer)
    assert run(ask(AsyncConfig(cluster))) == ask(Config(AsyncConfig(blocking), run, iterate)) == answer
    assert cluster.asked == blocking.asked == [(f"config.{function}", args, target, timeout_s)]


def test_the_blocking_ones_have_the_same_methods() -> None:
    for one, other in ((AsyncGroups, Groups), (AsyncConfig, Config)):
        assert {name for name in dir(one) if name[0] != "_"} == {name for name in dir(other) if name[0] != "_"}
    client = Client("nowhere")
    assert isinstance(client.groups, Groups)
    assert isinstance(client.config, Config)
    config = Config(AsyncConfig(Cluster({"items": [{"a": 1}], "next": None}, [[{"revision": 1}]])), run, iterate)
    assert config.scopes() == [{"a": 1}]
    assert list(config.watch()) == [{"revision": 1}]
    file = Groups(AsyncGroups(Cluster({"data": base64.b64encode(b"x").decode()})), run)
    assert file.get_file("web", "n") == b"x"


def test_many_agents_are_several_calls_whose_answers_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups_module, "AGENTS_PER_CALL", 2)
    monkeypatch.setattr(groups_module, "MAX_TOLD", 2)
    cluster = Cluster({"changed": 1, "same": 1, "refused": [{"agent": "x"}], "refused_count": 1})
    answer = run(AsyncGroups(cluster).add("web", (str(n) for n in range(5))))
    assert answer == {"changed": 3, "same": 3, "refused": [{"agent": "x"}] * 2, "refused_count": 3}
    assert [args["agents"] for _, args, _, _ in cluster.asked] == [["0", "1"], ["2", "3"], ["4"]]
    cluster = Cluster({"changed": 1, "same": 0, "bad": [[1, "x"]], "bad_count": 1})
    assert run(AsyncGroups(cluster).bulk(f"{n} web" for n in range(3))) == {
        "changed": 2, "same": 0, "bad": [[1, "x"]] * 2, "bad_count": 2,
    }  # fmt: skip
    assert [(args["first"], len(args["lines"])) for _, args, _, _ in cluster.asked] == [(1, 2), (3, 1)]


def test_wrong_types_are_usage_errors() -> None:
    cluster: Any = Cluster()
    groups, config = AsyncGroups(cluster), AsyncConfig(cluster)
    wrong: list[Any] = [
        groups.add("web", "7001"), groups.set("web", ["7"]), groups.show(5), groups.put_file("web", "n", "text"),  # type: ignore[arg-type]
        groups.list(node=5), config.get(5), config.set("defaults", [1]), config.applied(None),  # type: ignore[arg-type]
    ]  # fmt: skip
    for work in wrong:
        with pytest.raises(UsageError):
            run(work)
    assert cluster.asked == []


def test_watching_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_module, "AGAIN_S", 0.0)
    cluster = Cluster(streams=[[{"revision": 5}, MasterLost("away")], [], [{"revision": 6}], [NotAllowed("no longer")]])

    async def main() -> None:
        rows = AsyncConfig(cluster).watch("defaults")
        assert [(await anext(rows))["revision"], (await anext(rows))["revision"]] == [5, 6]
        with pytest.raises(NotAllowed):
            await anext(rows)

    run(main())
    assert [args["after"] for _, args, _, _ in cluster.asked] == [-1, 5, 5, 6]
    assert {(target, timeout) for _, _, target, timeout in cluster.asked} == {("master", MAX_TIMEOUT_S)}
