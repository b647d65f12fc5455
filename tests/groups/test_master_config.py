"""The functions ``config.*`` of a master."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from zcluster.brokers import liveconfig
from zcluster.brokers.liveconfig import MasterLiveConfig
from zcluster.core.peers import Event
from zcluster.errors import Busy, ConfigError, Conflict, Draining, NoSuchAgent, NoSuchGroup, NoSuchNode, NoSuchVersion, UsageError
from zcluster.store.interface import Put

Make = Callable[..., Any]


def run(make_place: Make, body: Callable[[Any], Awaitable[None]]) -> None:
    async def main() -> None:
        place = make_place()
        await place.agents("7001")
        await place.put("groups/name/web", {"files": []})
        await place.start(MasterLiveConfig(place.desk, lambda: {"master", "worker-1"}))
        await body(place)

    asyncio.run(main())


def test_set_replaces_the_keys_that_it_names(make_place: Make) -> None:
    async def body(place: Any) -> None:
        empty = {"scope": "node/worker-1", "values": {}, "version": 0, "at_s": None, "by": ""}
        assert await place.call("config.get", scope="node/worker-1") == empty
        first = await place.call("config.set", "eve", scope="node/worker-1", values={"interval": 2, "extra": {"a": 1}})
        assert first == {
            "scope": "node/worker-1", "values": {"interval": 2, "extra": {"a": 1}}, "version": 1, "at_s": 1000.0, "by": "eve",
        }  # fmt: skip
        second = await place.call("config.set", scope="node/worker-1", values={"extra": {"b": 2}})
        assert (second["values"], second["version"]) == ({"interval": 2, "extra": {"b": 2}}, 2)
        assert await place.call("config.get", scope="node/worker-1") == second
        again = await place.call("config.set", "bob", scope="node/worker-1", values={"interval": 2})
        assert again == second, "what changes nothing is no version"
        assert place.told("config_changed") == [
            {"scope": "node/worker-1", "version": 1, "keys": ["extra", "interval"], "by": "eve"},
            {"scope": "node/worker-1", "version": 2, "keys": ["extra"], "by": "admin"},
        ]

    run(make_place, body)


def test_unset_takes_keys_out(make_place: Make) -> None:
    async def body(place: Any) -> None:
        await place.call("config.set", scope="defaults", values={"interval": 2, "log_level": "debug", "metrics": []})
        assert (await place.call("config.unset", scope="defaults", keys=["interval"]))["values"] == {
            "log_level": "debug", "metrics": [],
        }  # fmt: skip
        with pytest.raises(ConfigError, match="defaults does not set interval"):
            await place.call("config.unset", scope="defaults", keys=["interval"])
        with pytest.raises(ConfigError, match="unknown key 'intervall'"):
            await place.call("config.unset", scope="defaults", keys=["intervall"])
        row = await place.call("config.unset", scope="defaults", everything=True)
        assert (row["values"], row["version"]) == ({}, 3)
        for args in ({}, {"keys": ["metrics"], "everything": True}):
            with pytest.raises(UsageError, match="name the keys, or say everything"):
                await place.call("config.unset", scope="defaults", **args)

    run(make_place, body)


@pytest.mark.parametrize(
    ("scope", "error"),
    [
        ("group/nope", NoSuchGroup), ("node/worker-2", NoSuchNode), ("agent/7002", NoSuchAgent), ("nonsense", UsageError),
        ("group/../x", UsageError),
    ],
)  # fmt: skip
def test_a_scope_is_of_something_that_there_is(make_place: Make, scope: str, error: type[Exception]) -> None:
    async def body(place: Any) -> None:
        before = await place.store.revision()
        for call, args in (
            ("get", {}), ("get", {"effective": True}), ("set", {"values": {"interval": 2}}), ("unset", {"everything": True}),
            ("history", {}), ("rollback", {"version": 1}),
        ):  # fmt: skip
            with pytest.raises(error) as caught:
                await place.call(f"config.{call}", scope=scope, **args)
            assert "--new" not in str(caught.value), "nothing here has that option"
        with pytest.raises(error):
            await anext(place.stream("config.watch", scope=scope))
        assert await place.store.revision() == before

    run(make_place, body)


@pytest.mark.parametrize("scope", ["defaults", "group/default", "group/web", "node/master", "node/worker-1", "agent/7001"])
def test_each_kind_of_scope_can_be_set(make_place: Make, scope: str) -> None:
    async def body(place: Any) -> None:
        assert (await place.call("config.set", scope=scope, values={"interval": 2}))["version"] == 1

    run(make_place, body)


def test_a_node_and_a_group_that_are_near_are_named(make_place: Make) -> None:
    async def body(place: Any) -> None:
        with pytest.raises(NoSuchNode) as node:
            await place.call("config.get", scope="node/worker-2")
        with pytest.raises(NoSuchGroup) as group:
            await place.call("config.get", scope="group/wbe")
        assert (node.value.hint, group.value.hint) == ("did you mean 'worker-1'?", "did you mean 'web'?")

    run(make_place, body)


@pytest.mark.parametrize("values", [{}, {"nope": 1}, {"interval": 0}, {"interval": 2, "metrics": "cpu"}])
def test_what_the_schema_does_not_allow_is_not_stored(make_place: Make, values: dict[str, Any]) -> None:
    async def body(place: Any) -> None:
        with pytest.raises(UsageError):
            await place.call("config.set", scope="defaults", values=values)
        assert await place.value("config/defaults") is None

    run(make_place, body)


def test_the_effective_values_say_where_they_are_from(make_place: Make) -> None:
    async def body(place: Any) -> None:
        await place.put("groups/of/7001", ["default", "web"])
        await place.call("config.set", scope="defaults", values={"interval": 10, "extra": {"a": 1}})
        await place.call("config.set", scope="group/web", values={"interval": 5, "extra": {"b": 2}})
        await place.call("config.set", scope="agent/7001", values={"metrics": ["cpu"]})
        found = await place.call("config.get", scope="agent/7001", effective=True)
        assert found["values"] == {"interval": 5, "extra": {"a": 1, "b": 2}, "metrics": ["cpu"]}
        assert found["from"] == {"interval": "group/web", "extra": "group/web", "metrics": "agent/7001"}
        assert (len(found["digest"]), found["left_out"]) == (32, [])
        assert (await place.call("config.get", scope="node/worker-1", effective=True))["from"] == {
            "interval": "defaults", "extra": "defaults",
        }  # fmt: skip
        assert (await place.call("config.get", scope="defaults", effective=True))["values"]["interval"] == 10

    run(make_place, body)


def test_history_and_rollback(make_place: Make) -> None:
    async def body(place: Any) -> None:
        for who, interval in (("eve", 2), ("bob", 3), ("eve", 4)):
            place.now_s += 1
            await place.call("config.set", who, scope="defaults", values={"interval": interval})
        rows = await place.call("config.history", scope="defaults")
        assert [(row["version"], row["values"]["interval"], row["by"], row["at_s"], row["current"]) for row in rows] == [
            (3, 4, "eve", 1003.0, True), (2, 3, "bob", 1002.0, False), (1, 2, "eve", 1001.0, False),
        ]  # fmt: skip
        back = await place.call("config.rollback", "bob", scope="defaults", version=1)
        assert (back["values"], back["version"], back["by"]) == ({"interval": 2}, 4, "bob")
        with pytest.raises(NoSuchVersion, match="defaults has no version 9"):
            await place.call("config.rollback", scope="defaults", version=9)
        assert await place.call("config.history", scope="node/worker-1") == []

    run(make_place, body)


def test_so_many_old_versions_are_kept(make_place: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveconfig, "HISTORY", 2)

    async def body(place: Any) -> None:
        for interval in range(1, 6):
            await place.call("config.set", scope="defaults", values={"interval": interval})
        rows = await place.call("config.history", scope="defaults")
        assert [row["version"] for row in rows] == [5, 4, 3]

    run(make_place, body)


def test_of_two_who_write_at_once_none_is_lost(make_place: Make) -> None:
    async def body(place: Any) -> None:
        apply = place.store.apply
        others = [b'{"values":{"metrics":["cpu"]},"version":7,"at_s":1,"by":"other"}']

        async def raced(ops: Any, *, expect: Any = ()) -> int:
            if others:
                await apply([Put("config/defaults", others.pop())])
            return int(await apply(ops, expect=expect))

        place.store.apply = raced
        row = await place.call("config.set", scope="defaults", values={"interval": 2})
        assert (row["values"], row["version"]) == ({"metrics": ["cpu"], "interval": 2}, 8)

    run(make_place, body)


def test_a_group_that_goes_meanwhile_gets_no_configuration(make_place: Make) -> None:
    async def body(place: Any) -> None:
        apply = place.store.apply
        going = [b'{"files":[],"going":true}']

        async def raced(ops: Any, *, expect: Any = ()) -> int:
            if going:
                await apply([Put("groups/name/web", going.pop())])
            return int(await apply(ops, expect=expect))

        place.store.apply = raced
        with pytest.raises(NoSuchGroup):
            await place.call("config.set", scope="group/web", values={"interval": 2})
        assert await place.value("config/group/web") is None

    run(make_place, body)


def test_a_change_that_always_conflicts_ends(make_place: Make) -> None:
    async def body(place: Any) -> None:
        async def never(ops: Any, *, expect: Any = ()) -> int:
            raise Conflict("somebody else")

        place.store.apply = never
        with pytest.raises(Busy, match="by others all the time"):
            await place.call("config.set", scope="defaults", values={"interval": 2})

    run(make_place, body)


def test_scopes_are_listed_in_pages(make_place: Make) -> None:
    async def body(place: Any) -> None:
        for scope in ("defaults", "group/web", "node/worker-1"):
            await place.call("config.set", scope=scope, values={"interval": 2})
        page = await place.call("config.scopes", limit=2)
        assert ([row["scope"] for row in page["items"]], page["next"]) == (["defaults", "group/web"], "group/web")
        page = await place.call("config.scopes", after=page["next"], limit=2)
        assert ([row["scope"] for row in page["items"]], page["next"]) == (["node/worker-1"], None)
        with pytest.raises(UsageError, match="1 to 1000 scopes"):
            await place.call("config.scopes", limit=1001)

    run(make_place, body)


def test_watching_tells_what_is_and_what_changes(make_place: Make) -> None:
    async def body(place: Any) -> None:
        await place.call("config.set", scope="group/web", values={"interval": 2})
        everything, one = place.stream("config.watch"), place.stream("config.watch", scope="defaults")
        first = await anext(everything)
        assert (first["scope"], first["version"]) == ("group/web", 1)
        waiting = asyncio.ensure_future(anext(one))
        await asyncio.sleep(0)
        await place.call("config.set", scope="group/web", values={"interval": 3})
        await place.call("config.set", scope="defaults", values={"interval": 4})
        assert (await anext(everything))["values"] == {"interval": 3}
        assert (await anext(everything))["scope"] == "defaults"
        row = await waiting
        assert (row["scope"], row["values"]) == ("defaults", {"interval": 4})
        again = place.stream("config.watch", after=first["revision"])
        assert (await anext(again))["values"] == {"interval": 3}, "nothing between is lost"

    run(make_place, body)


def test_watching_begins_anew_when_changes_are_forgotten(make_place: Make) -> None:
    async def body(place: Any) -> None:
        await place.call("config.set", scope="group/web", values={"interval": 2})
        for interval in (1, 2, 3):
            await place.call("config.set", scope="defaults", values={"interval": interval})
        await place.store.compact(0)
        for after in (1, 10_000):
            rows = place.stream("config.watch", after=after)
            assert [(await anext(rows))["scope"], (await anext(rows))["scope"]] == ["defaults", "group/web"]

    run(make_place, body)


def test_watchers_have_a_share_of_the_slots_and_go_when_the_master_ends(
    make_place: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[MasterLiveConfig] = []
    made = MasterLiveConfig.__init__

    def remember(part: MasterLiveConfig, *args: Any) -> None:
        made(part, *args)
        parts.append(part)

    monkeypatch.setattr(MasterLiveConfig, "__init__", remember)
    monkeypatch.setattr(liveconfig, "WATCHER_SHARE", 512)  # worker.slots is 512: one watcher

    async def body(place: Any) -> None:
        await place.call("config.set", scope="defaults", values={"interval": 2})
        first = place.stream("config.watch")
        await anext(first)
        with pytest.raises(Busy):
            await anext(place.stream("config.watch"))
        waiting = asyncio.ensure_future(anext(first))
        await asyncio.sleep(0)
        parts[0].heard(Event("master_draining", {}))
        with pytest.raises(Draining):
            await waiting
        assert parts[0]._watchers == 0

    run(make_place, body)
