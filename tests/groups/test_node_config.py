"""The live configuration of a node, the settings of agents, and a worker's answers about groups, from a store."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from zcluster.core.liveconfig import MAX_EXTRA_BYTES, METRICS
from zcluster.errors import NoSuchGroup, StoreFailed
from zcluster.nodes import agentsettings, following
from zcluster.nodes.agentsettings import StoredSettings
from zcluster.nodes.liveconfig import LiveConfig
from zcluster.store.interface import Delete
from zcluster.workers.groups import WorkerGroups

Make = Callable[..., Any]
Until = Callable[[Callable[[], Any]], Awaitable[None]]


def values(**said: Any) -> dict[str, Any]:
    return {"values": said, "version": 1, "at_s": 0, "by": "admin"}


# -- a node's own ----------------------------------------------------------------------------------------------------


def test_a_node_applies_what_is_set_at_once_and_says_so(make_place: Make, until: Until) -> None:
    async def main() -> None:
        place = make_place("worker-1", "worker")
        await place.put("config/defaults", values(interval=5))
        part = LiveConfig(place.desk)
        heard: list[tuple[float, float]] = []
        part.on_change(lambda old, new: heard.append((old.interval, new.interval)))
        await place.start(part)
        assert (part.current.interval, part.current.metrics) == (5.0, METRICS)
        await place.put("config/node/worker-1", values(interval=2, metrics=["cpu"], extra={"secret": 1}))
        await until(lambda: part.current.interval == 2.0)
        assert part.current.metrics == ("cpu",)
        assert heard == [(10.0, 5.0), (5.0, 2.0)]
        told = place.told("config_applied")[-1]
        assert told == {
            "node": "worker-1", "old": {"interval": 5}, "digest": part.current.digest,
            "new": {"interval": 2, "metrics": ["cpu"], "extra": "12 bytes"},
        }  # fmt: skip
        applied = await asyncio.to_thread(place.functions["config.applied"].run, b"")
        assert b'"interval":2.0' in applied
        await place.store.apply([Delete("config/node/worker-1")])
        await until(lambda: part.current.interval == 5.0)
        await part.close()

    asyncio.run(main())


def test_what_concerns_others_changes_nothing(make_place: Make, until: Until) -> None:
    async def main() -> None:
        place = make_place("worker-1", "worker")
        part = LiveConfig(place.desk)
        await place.start(part)
        for scope in ("node/worker-2", "group/web", "agent/7"):
            await place.put(f"config/{scope}", values(interval=1))
        await place.put("config/defaults", values(log_level="info"))
        await until(lambda: part.current.log_level == "info")
        assert [told["new"] for told in place.told("config_applied")] == [{"log_level": "info"}]
        await part.close()

    asyncio.run(main())


@pytest.mark.parametrize("bad", [b"no json", b"{}", b'{"values":{"interval":"x"}}', b'{"values":3}', b"[]"])
def test_a_record_that_is_broken_changes_nothing(make_place: Make, until: Until, bad: bytes, caplog: Any) -> None:
    from zcluster.store.interface import Put

    async def main() -> None:
        place = make_place("worker-1", "worker")
        await place.put("config/defaults", values(interval=5))
        part = LiveConfig(place.desk)
        await place.start(part)
        await place.store.apply([Put("config/node/worker-1", bad)])
        await until(lambda: "cannot be read" in caplog.text)
        assert part.current.interval == 5.0
        await place.put("config/node/worker-1", values(interval=6))
        await until(lambda: part.current.interval == 6.0)
        await part.close()

    asyncio.run(main())


def test_the_level_of_the_log_follows(make_place: Make, until: Until) -> None:
    logger = logging.getLogger("zcluster")
    before = logger.level

    async def main() -> None:
        place = make_place("worker-1", "worker")
        part = LiveConfig(place.desk)
        await place.start(part)
        await place.put("config/defaults", values(log_level="error"))
        await until(lambda: logger.level == logging.ERROR)
        logger.setLevel(logging.INFO)
        part.apply(place.desk.loaded())
        assert logger.level == logging.ERROR, "reading the file again does not undo it"
        await place.store.apply([Delete("config/defaults")])
        await until(lambda: logger.level == logging.INFO)
        await part.close()

    try:
        asyncio.run(main())
    finally:
        logger.setLevel(before)


def test_a_store_that_fails_or_forgets_is_followed_again(make_place: Make, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PAUSE_S", 0.0)

    async def main() -> None:
        place = make_place()
        heard: list[Any] = []
        failures: list[Exception] = [StoreFailed("broken"), RuntimeError("unforeseen")]

        async def take(changes: Any) -> None:
            heard.append(None if changes is None else [change.key for change in changes])
            if changes is not None and failures:
                raise failures.pop()

        task = asyncio.ensure_future(following.follow(place.store, "a/", take, place.desk.logger, pause_s=0.0))
        for n in range(3):
            await until(lambda: heard and heard[-1] is None)  # it has begun again, and reads for itself
            await place.put(f"a/{n}", n)
            await until(lambda: len(heard) >= 2 * len(place.store._entries))
        assert heard == [None, ["a/0"], None, ["a/1"], None, ["a/2"]]
        await place.store.close()
        await task

    asyncio.run(main())


# -- settings of agents ----------------------------------------------------------------------------------------------


class Heard:
    """What the door was told."""

    def __init__(self) -> None:
        self.calls: list[Sequence[str] | None] = []

    def __call__(self, ids: Sequence[str] | None) -> None:
        self.calls.append(ids)


def with_settings(make_place: Make, body: Callable[[Any, StoredSettings, Heard], Awaitable[None]]) -> None:
    async def main() -> None:
        place = make_place("worker-1", "worker")
        await place.put("config/defaults", values(interval=10, extra={"a": 1}))
        await place.put("config/group/web", values(interval=5, extra={"b": 2}))
        await place.put("groups/name/web", {"files": [{"name": "r", "digest": "d1", "size": 3}]})
        await place.put("groups/file/d1", {"data": base64.b64encode(b"one").decode()})
        await place.put("groups/of/7", ["default", "web"])
        part, heard = StoredSettings(place.desk), Heard()
        part.on_change(heard)
        await place.start(part)
        for _ in range(20):
            await asyncio.sleep(0)
        heard.calls.clear()
        await body(place, part, heard)
        await part.close()

    asyncio.run(main())


def test_an_agent_gets_its_groups_their_configuration_and_files(make_place: Make) -> None:
    async def body(place: Any, part: StoredSettings, heard: Heard) -> None:
        found = await part.of("7")
        assert (found.groups, found.config) == (["default", "web"], {"interval": 5, "extra": {"a": 1, "b": 2}})
        assert [(file.name, file.digest, file.size) for file in found.files] == [("r", "d1", 3)]
        other = await part.of("8")
        assert (other.groups, other.config, other.files) == (["default"], {"interval": 10, "extra": {"a": 1}}, [])
        assert found.digest != other.digest == (await part.of("9")).digest
        await place.put("config/agent/8", values(metrics=["cpu"]))
        assert (await part.of("8")).config == {"interval": 10, "extra": {"a": 1}, "metrics": ["cpu"]}
        assert await part.file("d1") == await part.file("d1") == b"one"
        assert await part.file("none") is None

    with_settings(make_place, body)


def test_a_change_is_told_of_the_agents_that_it_concerns(make_place: Make, until: Until) -> None:
    async def body(place: Any, part: StoredSettings, heard: Heard) -> None:
        for id_ in ("7", "8", "9"):
            await part.of(id_)
        part.forget("9")
        for key, value, told in (
            ("config/group/web", values(interval=4), ["7"]),
            ("groups/name/web", {"files": []}, ["7"]),
            ("config/agent/8", values(interval=1), ["8"]),
            ("groups/of/8", ["web"], ["8"]),
            ("config/group/default", values(interval=3), ["7"]),
            ("config/defaults", values(interval=3), None),
        ):
            await place.put(key, value)
            await until(lambda: heard.calls)
            assert heard.calls == [told], key
            heard.calls.clear()
            assert (await part.of("7")).groups == ["default", "web"]
            await part.of("8")
        for key in (
            "config/agent/9",
            "groups/of/9",
            "groups/of/stranger",
            "config/node/worker-1",
            "config/group/x",
            "groups/file/y",
        ):
            await place.put(key, values() if "config" in key else ["x"])
        await place.put("groups/of/7", ["web"])
        await until(lambda: heard.calls)
        assert heard.calls == [["7"]], "nobody else was told"
        assert (await part.of("7")).groups == ["web"]

    with_settings(make_place, body)


def test_an_answer_is_never_of_before_the_change(make_place: Make, until: Until) -> None:
    async def body(place: Any, part: StoredSettings, heard: Heard) -> None:
        get_many = place.store.get_many
        changed: list[bool] = []

        async def slow(keys: Sequence[str]) -> Any:
            found = await get_many(keys)
            if not changed:
                changed.append(True)
                generation = part._generation
                await place.put("config/group/web", values(interval=1))
                await until(lambda: part._generation > generation)
            return found

        place.store.get_many = slow
        assert (await part.of("7")).config["interval"] == 1
        assert (await part.of("7")).config["interval"] == 1

    with_settings(make_place, body)


def test_what_is_too_much_together_is_left_out_and_told(make_place: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcluster.core.groups.MAX_FILES_OF_AGENT", 0)

    async def body(place: Any, part: StoredSettings, heard: Heard) -> None:
        await place.put("config/agent/7", values(extra={"c": "x" * (MAX_EXTRA_BYTES - 10)}))
        found = await part.of("7")
        assert (found.config["extra"], found.files) == ({"a": 1, "b": 2}, [])
        assert place.told("config_left_out") == [{"agent": "7", "groups": ["default", "web"], "scopes": ["agent/7"]}]
        assert place.told("shared_files_left_out") == [{"groups": ["default", "web"], "files": 1}]

    with_settings(make_place, body)


def test_what_is_remembered_is_bounded(make_place: Make, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, limit in (("MAX_KNOWN", 2), ("BASES", 1), ("FILES", 1)):
        monkeypatch.setattr(agentsettings, name, limit)

    async def body(place: Any, part: StoredSettings, heard: Heard) -> None:
        await place.put("groups/file/d2", {"data": ""})
        for id_ in ("7", "8", "9"):
            await part.of(id_)
        assert (list(part._known), len(part._bases)) == (["8", "9"], 1)
        assert (await part.file("d1"), await part.file("d2"), len(part._files)) == (b"one", b"", 1)
        await place.put("config/group/web", values(interval=1))
        await until(lambda: heard.calls)
        assert heard.calls == [None], "who was forgotten may be concerned"
        heard.calls.clear()
        await place.put("groups/of/7", ["web"])
        await until(lambda: heard.calls)
        assert heard.calls == [["7"]]

    with_settings(make_place, body)


# -- a worker's answers ----------------------------------------------------------------------------------------------


class Copies:
    """Stands in for the tables of a worker."""

    def copy_age(self, table: str) -> tuple[int, float | None]:
        assert table == "groups"
        return 42, 1.23456


def test_a_worker_answers_from_its_copy_and_says_how_old_it_is(make_place: Make) -> None:
    async def main() -> None:
        place = make_place("worker-1", "worker")
        await place.start(WorkerGroups(place.desk, Copies()))
        age = {"node": "worker-1", "age_s": 1.235, "revision": 42}
        assert [row["name"] for row in await place.call("groups.list")] == ["default"]
        await place.put("groups/name/web", {"comment": "c", "by": "eve", "files": [{"name": "r", "digest": "d", "size": 3}]})
        await place.put("groups/of/a", ["web", "default"])
        await place.put("groups/of/b", ["web"])
        rows = await place.call("groups.list")
        assert [(row["name"], row["agents"], row["files"]) for row in rows] == [("default", None, 0), ("web", 2, 1)]
        assert {**rows[1], **age} == rows[1]
        await place.put("config/group/web", values(interval=2))
        shown = await place.call("groups.show", name="web")
        assert (shown["agents"], shown["config"], shown["age_s"]) == (2, {"interval": 2}, 1.235)
        await place.store.apply([Delete("groups/of/a")])
        assert (await place.call("groups.show", name="web"))["agents"] == 1
        assert await place.call("groups.of", agent="b") == {"agent": "b", "groups": ["web"], "assigned": True, **age}
        assert (await place.call("groups.of", agent="x"))["groups"] == ["default"]
        with pytest.raises(NoSuchGroup):
            await place.call("groups.show", name="none")
        await place.put("groups/of/c", ["web"])
        await place.put("other", 1)
        await place.store.compact(0)
        assert (await place.call("groups.show", name="web"))["agents"] == 2

    asyncio.run(main())
