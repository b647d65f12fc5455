"""``AsyncClient.events``: pages, following, and going on after a loss."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from zcluster.clients import events as module
from zcluster.clients.events import MAX_SEQUENCE, read
from zcluster.errors import Busy, Draining, MasterLost, NotAllowed, TimedOut, Unreachable, UsageError, ZClusterError


def event(sequence: int, name: str = "join") -> dict[str, Any]:
    return {"sequence": sequence, "at_s": 1.0, "name": name, "level": "info", "fields": {}}


def head(after: int, log: str = "L") -> dict[str, Any]:
    return {"log": log, "after": after, "oldest": 1, "last": after}


class Link:
    """A link that is up after some looks, or refused then."""

    def __init__(self, up: bool, looks: int = 0, refused: ZClusterError | None = None) -> None:
        self._up, self._looks, self._refused = up, looks, refused

    @property
    def up(self) -> bool:
        self._looks -= 1
        return self._up and self._looks < 0

    @property
    def refused(self) -> ZClusterError | None:
        return self._refused if self._looks < 0 else None


class Cluster:
    """Stands in for the client: pages for calls, and for each stream what it yields, the last thing perhaps an error."""

    def __init__(self, *streams: list[Any], pages: list[dict[str, Any]] | None = None) -> None:
        self.streams = list(streams)
        self.pages = pages or []
        self.asked: list[dict[str, Any]] = []
        self.link: Link | None = Link(True)

    async def call(
        self, function: str, args: Mapping[str, Any] | None = None, *, target: str = "any", timeout: float | None = None
    ) -> Any:
        assert (function, target) == ("events.since", "master")
        self.asked.append(dict(args or {}))
        return self.pages.pop(0)

    async def stream(
        self, function: str, args: Mapping[str, Any] | None = None, *, target: str = "any", timeout: float | None = None
    ) -> AsyncIterator[Any]:
        assert (function, target) == ("events.follow", "master")
        self.asked.append(dict(args or {}))
        for item in self.streams.pop(0):
            if isinstance(item, ZClusterError):
                raise item
            yield item


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    monkeypatch.setattr(module, "PAUSE_MAX_S", 0.0)


def numbers(cluster: Cluster, **options: Any) -> list[int]:
    async def main() -> list[int]:
        return [found["sequence"] async for found in read(cluster, **options)]

    return asyncio.run(main())


def test_following_goes_on_behind_the_last_one_after_each_loss() -> None:
    cluster = Cluster(
        [head(7), event(8), event(9), MasterLost("gone")],
        [Unreachable("not yet")],
        [head(9), event(10), Draining("shutting down")],
        [Busy("many follow", retry_after_s=0.0)],
        [head(10), TimedOut("a day is over")],
        [head(10), event(11), NotAllowed("revoked")],
    )
    with pytest.raises(NotAllowed):
        numbers(cluster, names="join")
    assert [(asked["after"], asked.get("log")) for asked in cluster.asked] == [
        (None, None), (9, "L"), (9, "L"), (10, "L"), (10, "L"), (10, "L"),
    ]  # fmt: skip
    assert all(asked["names"] == ["join"] for asked in cluster.asked)


def test_where_it_begins_is_known_before_anything_happens() -> None:
    cluster = Cluster([head(7), MasterLost("gone")], [head(7), event(8)])
    assert numbers(cluster, since_s=5.0, limit=1) == [8]
    assert [(asked["after"], asked["since_s"]) for asked in cluster.asked] == [(None, 5.0), (7, None)]


def test_a_stream_that_ends_is_asked_for_again() -> None:
    assert numbers(Cluster([head(0), event(1)], [head(1), event(2)]), limit=2) == [1, 2]


def test_a_client_that_was_closed_ends_it() -> None:
    cluster = Cluster([head(0), Unreachable("the client was closed")])
    cluster.link = None
    with pytest.raises(Unreachable):
        numbers(cluster)


def test_it_waits_for_a_session_and_a_refused_key_ends_it() -> None:
    cluster = Cluster([head(0), MasterLost("gone")], [head(0), event(1)])
    cluster.link = Link(True, looks=3)
    assert numbers(cluster, limit=1) == [1]
    cluster = Cluster([head(0), MasterLost("gone")])
    cluster.link = Link(False, looks=3, refused=NotAllowed("revoked"))
    with pytest.raises(NotAllowed):
        numbers(cluster)


def page(*sequences: int, more: bool = False) -> dict[str, Any]:
    return {"log": "L", "events": [event(number) for number in sequences], "next": max(sequences, default=0), "more": more}


def test_what_is_past_comes_page_by_page() -> None:
    cluster = Cluster(pages=[page(1, 2, more=True), page(3)])
    assert numbers(cluster, after=0, follow=False) == [1, 2, 3]
    assert [(asked["after"], asked.get("log", "")) for asked in cluster.asked] == [(0, ""), (2, "L")]


def test_the_newest_are_one_page() -> None:
    cluster = Cluster(pages=[page(8, 9, more=True)])
    assert numbers(cluster, follow=False, limit=2) == [8, 9]
    assert [asked["limit"] for asked in cluster.asked] == [2]


def test_a_limit_ends_the_pages() -> None:
    cluster = Cluster(pages=[page(1, 2, more=True), page(3, more=True)])
    assert numbers(cluster, after=0, follow=False, limit=3) == [1, 2, 3]
    assert [asked["limit"] for asked in cluster.asked] == [3, 1]


@pytest.mark.parametrize(
    "options",
    [{"after": -1}, {"after": True}, {"after": "5"}, {"after": MAX_SEQUENCE + 1}, {"limit": 0}, {"limit": 1.5}, {"names": [5]}],
)
def test_wrong_arguments_are_usage_errors(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        numbers(Cluster(), **options)
