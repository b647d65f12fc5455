"""``AsyncClient.sync``: each method is the call that it says it is, and waiting ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

import pytest

from zcluster.clients import sync as sync_module
from zcluster.clients.client import Client
from zcluster.clients.sync import MAX_VERSION, WAIT_S, AsyncSync, Sync, checked_version, news, unsettled, why
from zcluster.errors import NotAllowed, TimedOut, UsageError


def row(worker: str = "w1", tree: str = "t", **rest: Any) -> dict[str, Any]:
    return {"worker": worker, "tree": tree, "state": "current", "version": 3, "target": 3, "reason": "", "error": "", **rest}


class Cluster:
    """Stands in for the client: answers in turn (the last one again and again), and what was asked."""

    def __init__(self, **answers: list[Any]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, Any, str, float | None]] = []

    async def call(
        self, function: str, args: Mapping[str, Any] | None = None, *, target: str = "any", timeout: float | None = None
    ) -> Any:
        self.asked.append((function, args, target, timeout))
        waiting = self.answers.get(function.removeprefix("sync."), [[]])
        answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_FIRST_S", "LOOK_MAX_S", "WATCH_S"):
        monkeypatch.setattr(sync_module, name, 0.0)


CALLS: list[tuple[Callable[[Any], Any], str, dict[str, Any], str, float | None]] = [
    (lambda s: s.status(), "status", {"tree": "", "worker": ""}, "master", None),
    (lambda s: s.status("t", "w1", timeout=2.0), "status", {"tree": "t", "worker": "w1"}, "master", 2.0),
    (lambda s: s.trees(), "trees", {}, "master", None),
    (lambda s: s.diff("w1"), "diff", {"tree": ""}, "w1", None),
    (lambda s: s.diff("w1", "t", timeout=9), "diff", {"tree": "t"}, "w1", 9),
    (lambda s: s.verify("w1", "t"), "verify", {"tree": "t"}, "w1", WAIT_S),
    (lambda s: s.verify("w1", timeout=5), "verify", {"tree": ""}, "w1", 5),
    (lambda s: s.now("t"), "now", {"tree": "t"}, "master", None),
    (lambda s: s.pause("t", "w1"), "pause", {"tree": "t", "worker": "w1"}, "master", None),
    (lambda s: s.resume(), "resume", {"tree": "", "worker": ""}, "master", None),
    (lambda s: s.confirm("t"), "confirm", {"tree": "t", "worker": ""}, "master", None),
    (lambda s: s.history("t"), "history", {"tree": "t"}, "master", None),
    (lambda s: s.show(7), "show", {"version": 7, "tree": ""}, "master", None),
    (lambda s: s.rollback(7, "t"), "rollback", {"version": 7, "tree": "t"}, "master", None),
]


@pytest.mark.parametrize(("ask", "function", "args", "target", "timeout_s"), CALLS)
def test_each_method_is_one_call(
    ask: Callable[[Any], Any], function: str, args: dict[str, Any], target: str, timeout_s: float | None
) -> None:
    cluster = Cluster(**{function: [{"answer": 1}]})
    assert asyncio.run(ask(AsyncSync(cluster))) == {"answer": 1}
    assert cluster.asked == [(f"sync.{function}", args, target, timeout_s)]


def test_the_blocking_one_has_the_same_methods() -> None:
    def run(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run(work)

    def iterate(source: Any) -> Iterator[Any]:
        with asyncio.Runner() as runner:
            yield runner.run(anext(source))
            runner.run(source.aclose())

    for ask, function, args, target, timeout_s in CALLS:
        cluster = Cluster(**{function: [{"answer": 1}]})
        assert ask(Sync(AsyncSync(cluster), run, iterate)) == {"answer": 1}
        assert cluster.asked == [(f"sync.{function}", args, target, timeout_s)]
    blocking = Sync(AsyncSync(Cluster(status=[[row()]])), run, iterate)
    assert next(iter(blocking.watch())) == row()
    assert next(iter(blocking.settling())) == [row()]
    public = {name for name in dir(AsyncSync) if not name.startswith("_")}
    assert public == {name for name in dir(Sync) if not name.startswith("_")}
    assert isinstance(Client("nowhere").sync, Sync)


@pytest.mark.parametrize("worker", ["", "any", "all", "w*", "w1,w2", None, 5])
def test_diff_and_verify_are_for_one_worker(worker: Any) -> None:
    cluster = Cluster()
    for method in (AsyncSync(cluster).diff, AsyncSync(cluster).verify):
        with pytest.raises(UsageError, match="worker"):
            asyncio.run(method(worker))
    assert cluster.asked == []


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1", None, MAX_VERSION + 1])
def test_a_version_is_a_number_from_1_on(version: Any) -> None:
    with pytest.raises(UsageError, match="version is a whole number"):
        asyncio.run(AsyncSync(Cluster()).show(version))
    with pytest.raises(UsageError, match="version is a whole number"):
        asyncio.run(AsyncSync(Cluster()).rollback(version))
    assert checked_version(MAX_VERSION) == MAX_VERSION


def test_wrong_types_are_usage_errors() -> None:
    calls = AsyncSync(Cluster())
    for work in (calls.status(5), calls.pause("t", None), calls.confirm(""), calls.confirm(None), calls.diff("w1", 5)):  # type: ignore[arg-type]
        with pytest.raises(UsageError):
            asyncio.run(work)


def test_an_error_of_the_cluster_is_the_callers() -> None:
    with pytest.raises(NotAllowed):
        asyncio.run(AsyncSync(Cluster(confirm=[NotAllowed("an admin key is needed")])).confirm("t"))


def test_waiting_ends_when_every_reachable_worker_is_current() -> None:
    cluster = Cluster(
        now=[{"trees": ["t"]}],
        trees=[[{"name": "t", "direction": "down", "version": 4}]],
        status=[
            [row(), row("w2", state="pulling", target=4), row("w3", state="away")],
            [row(version=4), row("w2", state="applying", target=4), row("w3", state="away")],
            [row(version=4), row("w2", version=4), row("w3", state="away")],
            [],
        ],
    )
    found = asyncio.run(AsyncSync(cluster).now(wait=True))
    assert found == {"trees": ["t"], "workers": [row(version=4), row("w2", version=4), row("w3", state="away")]}
    assert [function for function, *_ in cluster.asked] == ["sync.now", "sync.trees", *["sync.status"] * 3]


def test_a_stale_current_is_not_taken_for_done() -> None:
    old, new = row(version=3), row(version=4)
    assert unsettled([old], {"t": 4}) == [old]
    assert unsettled([new], {"t": 4}) == []
    assert unsettled([old], {}) == [], "an up tree's version is its worker's"


@pytest.mark.parametrize(
    ("state", "waits"),
    [
        ("waiting", True),
        ("pulling", True),
        ("applying", True),
        ("failed", True),
        ("held", False),
        ("paused", False),
        ("away", False),
    ],
)
def test_what_waiting_may_help_is_waited_for(state: str, waits: bool) -> None:
    assert bool(unsettled([row(state=state)], {"t": 1})) is waits


def test_waiting_ends_at_its_deadline_and_says_why() -> None:
    late = [row(f"w{index}", state="failed", reason="no space left", error="") for index in range(4)]
    cluster = Cluster(now=[{"trees": ["t"]}], trees=[[]], status=[late])
    with pytest.raises(TimedOut, match=r"4 of 4 are not current in time: w0 t: failed, no space left; w1 t") as caught:
        asyncio.run(AsyncSync(cluster).now(wait=True, timeout=1e-9))
    assert "w3" not in caught.value.message
    with pytest.raises(UsageError, match="timeout"):
        asyncio.run(AsyncSync(cluster).now(wait=True, timeout=-1))


def test_watching_tells_what_is_new_what_changed_and_what_is_gone() -> None:
    async def watch(count: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async for each in AsyncSync(cluster).watch():
            found.append(each)
            if len(found) == count:
                break
        return found

    pulling = row(state="pulling", target=4, bytes_behind=10)
    cluster = Cluster(
        status=[
            [row(), row("w2")],
            [row(), row("w2")],
            [pulling, row("w2")],
            [{**pulling, "bytes_behind": 5}, row("w2")],
            [pulling],
        ]
    )
    gone = {**row("w2"), "state": "gone", "reason": "no longer listed"}
    assert asyncio.run(watch(4)) == [row(), row("w2"), pulling, gone]
    assert len(cluster.answers["status"]) == 1


def test_a_row_that_comes_back_is_news_again() -> None:
    known: dict[tuple[str, str], dict[str, Any]] = {}
    assert news([row()], known) == [row()]
    assert [each["state"] for each in news([], known)] == ["gone"]
    assert news([], known) == []
    assert news([row()], known) == [row()]


def test_the_reason_and_the_error_in_one_text() -> None:
    assert why(row(reason="a", error="b")) == "a; last error: b"
    assert why(row(reason="a", error="a")) == "a"
    assert why(row(error="b")) == "b"
    assert why({"reason": None}) == ""
