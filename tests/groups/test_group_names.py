"""Groups made and removed on the master, and their shared files."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from zcluster.agents.shared import CONFIG_NAME
from zcluster.brokers import groups_names
from zcluster.brokers.groups import MasterGroups
from zcluster.core import groups as rules
from zcluster.errors import Conflict, NoSuchFile, NoSuchGroup, StoreFailed, TooLarge, UsageError

Make = Callable[..., Any]
Until = Callable[[Callable[[], Any]], Awaitable[None]]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def digest_of(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def run(make_place: Make, body: Callable[[Any], Awaitable[None]]) -> None:
    async def main() -> None:
        place = make_place()
        await place.agents("a", "b", "c")
        part = MasterGroups(place.desk)
        await place.start(part)
        await body(place)
        await part.close()

    asyncio.run(main())


def test_default_is_always_there(make_place: Make) -> None:
    async def body(place: Any) -> None:
        rows = await place.call("groups.list")
        assert [(row["name"], row["agents"]) for row in rows] == [("default", 3)]
        assert (await place.call("groups.show", name="default"))["agents"] == 3
        with pytest.raises(UsageError, match="'default' cannot be removed"):
            await place.call("groups.delete", name="default")
        with pytest.raises(Conflict, match="'default' is always there"):
            await place.call("groups.create", name="default")

    run(make_place, body)


def test_a_group_is_made_and_listed(make_place: Make) -> None:
    async def body(place: Any) -> None:
        row = await place.call("groups.create", "eve", name="web", comment="web servers")
        assert row == {
            "name": "web", "agents": 0, "files": 0, "comment": "web servers", "created_s": 1000.0, "by": "eve", "removing": False,
        }  # fmt: skip
        await place.call("groups.add", group="web", agents=["a", "b"])
        rows = await place.call("groups.list")
        assert [(each["name"], each["agents"]) for each in rows] == [("default", 3), ("web", 2)]
        shown = await place.call("groups.show", name="web")
        assert (shown["agents"], shown["files"], shown["config"]) == (2, [], {})
        assert place.told("group_created") == [{"group": "web", "by": "eve"}]
        with pytest.raises(Conflict, match="there is a group 'web' already"):
            await place.call("groups.create", name="web")
        with pytest.raises(NoSuchGroup) as caught:
            await place.call("groups.show", name="wbe")
        assert "web" in caught.value.hint

    run(make_place, body)


@pytest.mark.parametrize("name", ["../../etc", "a/b", ".x", "-x", "a\nb", "", "x" * 65])
def test_no_group_gets_a_name_that_is_a_path(make_place: Make, name: str) -> None:
    async def body(place: Any) -> None:
        before = await place.store.revision()
        for call, args in (
            ("create", {"name": name}),
            ("delete", {"name": name}),
            ("remove", {"group": name, "agents": ["a"]}),
            ("show", {"name": name}),
            ("files", {"group": name}),
        ):
            with pytest.raises(UsageError, match="is no name for a group"):
                await place.call(f"groups.{call}", **args)
        assert await place.store.revision() == before

    run(make_place, body)


@pytest.mark.parametrize("comment", ["x" * 257, "a\nb", "\x1b[2J"])
def test_a_comment_is_one_short_line(make_place: Make, comment: str) -> None:
    async def body(place: Any) -> None:
        with pytest.raises(UsageError, match="comment is one line"):
            await place.call("groups.create", name="web", comment=comment)

    run(make_place, body)


def test_there_are_so_many_groups_and_no_more(make_place: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_GROUPS", 3)

    async def body(place: Any) -> None:
        await place.call("groups.create", name="a")
        await place.call("groups.create", name="b")
        with pytest.raises(TooLarge, match="there are 3 groups already"):
            await place.call("groups.create", name="c")

    run(make_place, body)


def test_a_removed_group_leaves_nothing(make_place: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups_names, "CHUNK", 1)

    async def body(place: Any) -> None:
        for name in ("web", "db"):
            await place.call("groups.create", name=name)
            await place.call("groups.file_put", group=name, name="shared", data=b64(b"same"))
        await place.call("groups.file_put", group="web", name="own", data=b64(b"own"))
        await place.call("groups.add", group="web", agents=["a", "b"])
        await place.call("groups.add", group="db", agents=["b"])
        await place.put("groups/of/unknown", ["web"])
        await place.put("config/group/web", {"values": {}, "version": 2, "at_s": 0, "by": "x"})
        await place.put("confighistory/group/web/000000001", {})
        assert await place.call("groups.delete", "eve", name="web") == {"name": "web", "agents": 3}
        for key in (
            "groups/name/web",
            "config/group/web",
            "confighistory/group/web/000000001",
            "groups/of/a",
            "groups/of/unknown",
        ):
            assert await place.value(key) is None, key
        assert await place.value("groups/of/b") == ["default", "db"]
        assert await place.value(f"groups/file/{digest_of(b'own')}") is None
        assert await place.value(f"groups/file/{digest_of(b'same')}") is not None, "another group has it"
        assert place.told("group_removed") == [{"group": "web", "agents": 3, "by": "eve"}]
        with pytest.raises(NoSuchGroup):
            await place.call("groups.delete", name="web")

    run(make_place, body)


def test_while_a_group_goes_nobody_comes_into_it(make_place: Make, monkeypatch: pytest.MonkeyPatch, until: Until) -> None:
    monkeypatch.setattr(groups_names, "RETRY_S", 0.0)

    async def body(place: Any) -> None:
        await place.call("groups.create", name="web")
        await place.call("groups.add", group="web", agents=["a"])
        scan, failures = place.store.scan, [True] * 3

        async def failing(prefix: str, **rest: Any) -> Any:
            if prefix == "groups/of/" and failures:
                failures.pop()
                raise StoreFailed("the disk is full")
            return await scan(prefix, **rest)

        place.store.scan = failing
        removing = asyncio.ensure_future(place.call("groups.delete", name="web"))
        await until(lambda: len(failures) < 3)
        with pytest.raises(NoSuchGroup):
            await place.call("groups.add", group="web", agents=["b"])
        with pytest.raises(NoSuchGroup, match="is being removed"):
            await place.call("groups.files", group="web")
        with pytest.raises(Conflict, match="is being removed"):
            await place.call("groups.create", name="web")
        assert (await place.call("groups.list"))[1]["removing"] is True
        assert (await removing)["agents"] == 1

    run(make_place, body)


def test_a_removal_that_was_interrupted_goes_on(make_place: Make, until: Until) -> None:
    async def main() -> None:
        place = make_place()
        await place.put("groups/name/web", {"files": [], "going": True})
        await place.put("groups/of/a", ["web"])
        part = MasterGroups(place.desk)
        await place.start(part)
        await until(lambda: place.told("group_removed"))
        assert await place.value("groups/name/web") is None
        assert await place.value("groups/of/a") is None
        await part.close()

    asyncio.run(main())


def test_who_stops_waiting_does_not_stop_the_removal(make_place: Make, until: Until) -> None:
    async def body(place: Any) -> None:
        await place.call("groups.create", name="web")
        await place.call("groups.add", group="web", agents=["a"])
        waiting = asyncio.ensure_future(place.call("groups.delete", name="web"))
        await until(lambda: b"going" in place.store._entries["groups/name/web"].value)
        waiting.cancel()
        await until(lambda: place.told("group_removed"))
        assert await place.value("groups/of/a") is None

    run(make_place, body)


# -- shared files ----------------------------------------------------------------------------------------------------


def test_a_file_is_shared_replaced_and_removed(make_place: Make) -> None:
    async def body(place: Any) -> None:
        await place.call("groups.create", name="web")
        told = await place.call("groups.file_put", "eve", group="web", name="rules.conf", data=b64(b"one"))
        assert told == {"name": "rules.conf", "digest": digest_of(b"one"), "size": 3}
        assert await place.call("groups.files", group="web") == [told]
        assert (await place.call("groups.file_get", group="web", name="rules.conf"))["data"] == b64(b"one")
        revision = await place.store.revision()
        await place.call("groups.file_put", group="web", name="rules.conf", data=b64(b"one"))
        assert await place.store.revision() == revision, "the same again changes nothing"
        await place.call("groups.file_put", group="web", name="rules.conf", data=b64(b"two"))
        assert await place.value(f"groups/file/{digest_of(b'one')}") is None
        await place.call("groups.file_remove", group="web", name="rules.conf")
        assert await place.value(f"groups/file/{digest_of(b'two')}") is None
        assert await place.call("groups.files", group="web") == []
        for call in ("file_get", "file_remove"):
            with pytest.raises(NoSuchFile, match="shares no file"):
                await place.call(f"groups.{call}", group="web", name="rules.conf")
        assert place.told("group_changed")[0] == {"group": "web", "file": "rules.conf", "op": "put", "by": "eve"}

    run(make_place, body)


def test_default_can_share_files_too(make_place: Make) -> None:
    async def body(place: Any) -> None:
        assert await place.call("groups.files", group="default") == []
        await place.call("groups.file_put", group="default", name="motd", data=b64(b""))
        assert [row["files"] for row in await place.call("groups.list")] == [1]

    run(make_place, body)


def test_a_content_that_two_names_have_stays_until_the_last_is_gone(make_place: Make) -> None:
    async def body(place: Any) -> None:
        for name in ("x", "y"):
            await place.call("groups.file_put", group="default", name=name, data=b64(b"same"))
        await place.call("groups.file_remove", group="default", name="x")
        assert await place.value(f"groups/file/{digest_of(b'same')}") is not None
        await place.call("groups.file_remove", group="default", name="y")
        assert await place.value(f"groups/file/{digest_of(b'same')}") is None

    run(make_place, body)


def test_no_shared_file_has_the_name_of_the_agents_configuration(make_place: Make) -> None:
    async def body(place: Any) -> None:
        with pytest.raises(UsageError, match=r"cannot be called 'config\.json'") as caught:
            await place.call("groups.file_put", group="default", name=CONFIG_NAME, data="")
        assert "--name" in caught.value.hint
        assert await place.call("groups.files", group="default") == []

    run(make_place, body)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "a\nb", "a\0"])
def test_a_shared_file_has_a_plain_name(make_place: Make, name: str) -> None:
    async def body(place: Any) -> None:
        with pytest.raises(UsageError, match="is no name for a shared file"):
            await place.call("groups.file_put", group="default", name=name, data="")

    run(make_place, body)


def test_a_shared_file_has_a_size_and_is_base64(make_place: Make) -> None:
    async def body(place: Any) -> None:
        await place.call("groups.file_put", group="default", name="x", data=b64(b"x" * rules.MAX_FILE_BYTES))
        for more in (1, 2, 3, 1000):
            with pytest.raises(TooLarge, match="too large to be shared"):
                await place.call("groups.file_put", group="default", name="x", data=b64(b"x" * (rules.MAX_FILE_BYTES + more)))
        for data in ("!", "A", "ä"):
            with pytest.raises(UsageError, match="is base64"):
                await place.call("groups.file_put", group="default", name="x", data=data)

    run(make_place, body)


def test_what_is_shared_in_all_is_bounded(make_place: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(place: Any) -> None:
        await place.call("groups.create", name="web")

        async def put(group: str, name: str, data: bytes) -> None:
            await place.call("groups.file_put", group=group, name=name, data=b64(data))

        monkeypatch.setattr(rules, "MAX_FILES", 2)
        await put("web", "1", b"a")
        await put("web", "2", b"b")
        with pytest.raises(TooLarge, match="has 2 shared files already"):
            await put("web", "3", b"c")
        monkeypatch.setattr(rules, "MAX_FILES_TOTAL", 3)
        await put("default", "1", b"a")
        with pytest.raises(TooLarge, match="would share 4 files"):
            await put("default", "2", b"a")
        monkeypatch.setattr(rules, "MAX_FILES_TOTAL_BYTES", 3)
        await put("default", "1", b"c")
        with pytest.raises(TooLarge, match="files of 4 bytes"):
            await put("default", "1", b"cc")

    run(make_place, body)
