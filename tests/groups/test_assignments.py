"""The master's ``groups.add``, ``remove``, ``set``, ``bulk``: what is stored, what the book has, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from zcluster.brokers import groups_edits
from zcluster.brokers.groups import MasterGroups
from zcluster.core.agents.filter import Compare
from zcluster.core.agents.row import Row
from zcluster.core.groups import MAX_OF_AGENT
from zcluster.errors import Busy, Conflict, InvalidArguments, NoSuchAgent, NoSuchGroup, StoreFailed, UsageError
from zcluster.store.interface import Delete, Put

Make = Callable[..., Any]


def run(make_place: Make, body: Callable[[Any], Awaitable[None]], agents: Sequence[str] = ("a", "b", "c")) -> None:
    async def main() -> None:
        place = make_place()
        await place.agents(*agents)
        part = MasterGroups(place.desk)
        await place.start(part)
        for name in ("web", "db"):
            await place.call("groups.create", name=name)
        place.events.clear()
        await body(place)
        await part.close()

    asyncio.run(main())


async def in_book(place: Any, group: str) -> list[str]:
    found = await place.book.find(Compare("groups", "=", group), select=["id"])
    return [row["id"] for row in found.rows]


def test_agents_come_into_a_group_and_leave_it(make_place: Make) -> None:
    async def body(place: Any) -> None:
        done = {"changed": 2, "same": 0, "refused": [], "refused_count": 0}
        assert await place.call("groups.add", group="web", agents=["a", "b"]) == done
        assert await place.value("groups/of/a") == ["default", "web"]
        assert await in_book(place, "web") == ["a", "b"], "the answer comes when filters agree with it"
        assert await place.call("groups.of", agent="a") == {"agent": "a", "groups": ["default", "web"], "assigned": True}
        assert await place.call("groups.of", agent="c") == {"agent": "c", "groups": ["default"], "assigned": False}
        again = await place.call("groups.add", group="web", agents=["a", "c"])
        assert (again["changed"], again["same"]) == (1, 1)
        assert (await place.call("groups.remove", group="web", agents=["a", "b", "c"]))["changed"] == 3
        assert await place.value("groups/of/a") is None, "who is in default alone has no key"
        assert await in_book(place, "web") == []
        assert await in_book(place, "default") == ["a", "b", "c"]

    run(make_place, body)


def test_set_says_all_groups_and_their_order(make_place: Make) -> None:
    async def body(place: Any) -> None:
        await place.call("groups.set", groups=["db", "web", "default"], agents=["a"])
        assert await place.value("groups/of/a") == ["db", "web", "default"]
        await place.call("groups.set", groups=[], agents=["a"])
        assert await place.value("groups/of/a") is None

    run(make_place, body)


def test_a_change_is_one_event_that_says_who(make_place: Make) -> None:
    async def body(place: Any) -> None:
        await place.call("groups.add", "eve", group="web", agents=["a"])
        await place.call("groups.add", "eve", group="web", agents=["a"])
        await place.call("groups.set", "eve", groups=["web", "db"], agents=["a", "b", "c"])
        assert place.told("group_changed") == [
            {"op": "add", "agents": 1, "by": "eve", "group": "web", "agent": "a"},
            {"op": "set", "agents": 3, "by": "eve", "group": "web,db"},
        ]

    run(make_place, body)


def test_who_is_not_known_is_refused_and_nothing_is_changed(make_place: Make) -> None:
    async def body(place: Any) -> None:
        await place.book.put([Row(id="gone", status="removed", epoch=7)])
        with pytest.raises(NoSuchAgent, match=r"there is no agent 'x' \(and 1 other\)") as added:
            await place.call("groups.add", group="web", agents=["a", "x", "gone"])
        assert "--new" in added.value.hint
        with pytest.raises(NoSuchAgent, match="and 2 others") as removed:
            await place.call("groups.remove", group="web", agents=["x", "y", "z"])
        with pytest.raises(NoSuchAgent) as asked:
            await place.call("groups.of", agent="x")
        assert removed.value.hint == asked.value.hint == "`zcluster agents ls` lists the agents", "neither has --new"
        with pytest.raises(NoSuchGroup, match="there is no group 'wbe'") as caught:
            await place.call("groups.add", group="wbe", agents=["a"])
        assert caught.value.hint == "did you mean 'web'?"
        with pytest.raises(NoSuchGroup):
            await place.call("groups.remove", group="none", agents=["a"])
        with pytest.raises(NoSuchGroup):
            await place.call("groups.set", groups=["web", "none"], agents=["a"])
        assert await place.value("groups/of/a") is None
        assert place.events == []

    run(make_place, body)


def test_new_agents_may_be_assigned_beforehand(make_place: Make) -> None:
    async def body(place: Any) -> None:
        await place.book.put([Row(id="gone", status="removed", epoch=7)])
        await place.call("groups.add", group="web", agents=["a", "x", "gone"], new=True)
        rows = await place.book.get_many(["a", "x", "gone"])
        assert {id_: (row.status, row.epoch, row.groups) for id_, row in rows.items()} == {
            "a": ("active", 0, ["default", "web"]),
            "x": ("never", 0, ["default", "web"]),
            "gone": ("never", 7, ["default", "web"]),
        }

    run(make_place, body)


@pytest.mark.parametrize(
    ("name", "args", "what"),
    [
        ("add", {"group": "../x", "agents": ["a"]}, "is no name for a group"),
        ("add", {"group": "web", "agents": ["../a"]}, "is no id of an agent"),
        ("add", {"group": "web"}, "name agents, or give a filter"),
        ("add", {"group": "web", "agents": ["a"], "filter": "id=a"}, "name agents, or give a filter"),
        ("add", {"group": "web", "filter": "id=a", "new": True}, "a filter finds no new agents"),
        ("add", {"group": "web", "filter": "  "}, "the filter is empty"),
        ("add", {"group": "web", "filter": "nonsense="}, "nonsense|filter"),
        ("set", {"groups": ["web", "web"], "agents": ["a"]}, "group web is named twice"),
        ("set", {"groups": [f"g{n}" for n in range(MAX_OF_AGENT + 1)], "agents": ["a"]}, "65 groups are too many"),
    ],
)
def test_what_is_asked_wrongly(make_place: Make, name: str, args: dict[str, Any], what: str) -> None:
    async def body(place: Any) -> None:
        with pytest.raises(UsageError, match=what):
            await place.call(f"groups.{name}", **args)

    run(make_place, body)


def test_more_agents_than_a_call_takes_are_refused(make_place: Make) -> None:
    async def body(place: Any) -> None:
        with pytest.raises(InvalidArguments, match="agents"):
            await place.call("groups.add", group="web", agents=["a"] * 100_001)

    run(make_place, body)


def test_an_agent_that_would_be_in_too_many_groups_stops_a_list_but_not_a_filter(make_place: Make) -> None:
    async def body(place: Any) -> None:
        await place.put("groups/of/b", [f"g{n}" for n in range(MAX_OF_AGENT)])
        with pytest.raises(UsageError, match="agent b: it would be in 65 groups"):
            await place.call("groups.add", group="web", agents=["a", "b"])
        assert await place.value("groups/of/a") is None
        answer = await place.call("groups.add", group="web", filter="status=active")
        assert (answer["changed"], answer["refused_count"], answer["refused"][0]["agent"]) == (2, 1, "b")

    run(make_place, body)


def test_a_filter_means_all_that_it_finds_page_by_page(make_place: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups_edits, "MAX_FOUND", 2)

    async def body(place: Any) -> None:
        await place.book.put([Row(id="gone", status="removed")])
        assert (await place.call("groups.add", group="web", filter="id~*"))["changed"] == 5
        assert await in_book(place, "web") == list("abcde")
        assert (await place.call("groups.remove", group="web", filter="groups=web and id!=a"))["changed"] == 4
        assert await in_book(place, "web") == ["a"]

    run(make_place, body, agents="abcde")


def test_a_long_list_is_several_commits(make_place: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups_edits, "CHUNK", 2)

    async def body(place: Any) -> None:
        before = await place.store.revision()
        answer = await place.call("groups.add", group="web", agents=list("abcde"))
        assert (answer["changed"], await place.store.revision() - before) == (5, 3)
        with pytest.raises(NoSuchAgent):
            await place.call("groups.add", group="db", agents=["a", "b", "nobody"])
        assert [each["agents"] for each in place.told("group_changed")] == [5, 2], "what was done is told, though it failed"

    run(make_place, body, agents="abcde")


def test_bulk_tells_bad_lines_by_number_and_does_the_others(make_place: Make) -> None:
    async def body(place: Any) -> None:
        lines = ["a web,db", "# comment", "", "b", "../c web", "c nope", "x web", "b default", "a db"]
        answer = await place.call("groups.bulk", lines=lines, first=11)
        assert (answer["changed"], answer["same"], answer["bad_count"]) == (1, 1, 4)
        assert [number for number, _ in answer["bad"]] == [14, 15, 16, 17]
        assert "there is no group 'nope'" in answer["bad"][2][1]
        assert "there is no agent 'x'" in answer["bad"][3][1]
        assert await place.value("groups/of/a") == ["db"], "the last line of an agent holds"
        assert (await place.call("groups.bulk", lines=["x web"], new=True))["changed"] == 1
        assert (await place.book.get("x")).status == "never"

    run(make_place, body)


def test_bulk_puts_the_agents_of_lines_into_a_group_and_takes_them_out(make_place: Make) -> None:
    async def body(place: Any) -> None:
        lines = ["a", "", "# comment", "  b ", "../c", "c d", "x", "y" * 200]
        answer = await place.call("groups.bulk", "eve", lines=lines, op="add", group="web", first=101)
        assert (answer["changed"], answer["same"], answer["bad_count"]) == (2, 0, 4)
        assert [number for number, _ in answer["bad"]] == [105, 106, 107, 108]
        assert "there is no agent 'x'" in answer["bad"][2][1]
        assert await in_book(place, "web") == ["a", "b"]
        assert place.told("group_changed") == [{"op": "add", "agents": 2, "by": "eve", "group": "web"}]
        answer = await place.call("groups.bulk", lines=["a", "../c", "x"], op="add", group="web", new=True)
        assert (answer["changed"], answer["same"], [number for number, _ in answer["bad"]]) == (1, 1, [2])
        answer = await place.call("groups.bulk", lines=["a", "nobody", "x"], op="remove", group="web")
        assert (answer["changed"], answer["bad"]) == (
            2, [[2, "agent nobody: there is no agent 'nobody' (`zcluster agents ls` lists the agents)"]],
        )  # fmt: skip
        assert await in_book(place, "web") == ["b"]

    run(make_place, body)


@pytest.mark.parametrize(
    ("args", "error", "what"),
    [
        ({"op": "add"}, UsageError, "is no name for a group"),
        ({"op": "add", "group": "wbe"}, NoSuchGroup, "there is no group 'wbe'"),
        ({"op": "remove", "group": "wbe"}, NoSuchGroup, "there is no group 'wbe'"),
        ({"op": "remove", "group": "web", "new": True}, UsageError, "only who is known can be taken out"),
        ({"op": "burn", "group": "web"}, InvalidArguments, "op"),
        ({"group": "web"}, UsageError, "each line names its groups"),
    ],
)
def test_bulk_that_is_asked_wrongly_changes_nothing(
    make_place: Make, args: dict[str, Any], error: type[Exception], what: str
) -> None:
    async def body(place: Any) -> None:
        before = await place.store.revision()
        with pytest.raises(error, match=what):
            await place.call("groups.bulk", lines=["a"], **args)
        assert await place.store.revision() == before

    run(make_place, body)


def test_bad_lines_are_listed_up_to_a_limit(make_place: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcluster.brokers.groups.MAX_TOLD", 3)

    async def body(place: Any) -> None:
        answer = await place.call("groups.bulk", lines=["bad"] * 5)
        assert (len(answer["bad"]), answer["bad_count"]) == (3, 5)

    run(make_place, body)


def test_two_who_write_at_once_both_succeed(make_place: Make) -> None:
    async def body(place: Any) -> None:
        other = groups_edits.EDITS
        apply = place.store.apply
        interfered: list[bool] = []

        async def raced(ops: Any, *, expect: Any = ()) -> int:
            if not interfered and any(isinstance(op, Put) and op.key == "groups/of/a" for op in ops):
                interfered.append(True)
                await apply([Put("groups/of/a", b'["db"]'), Put(other, b"{}")])
            return int(await apply(ops, expect=expect))

        place.store.apply = raced
        await place.call("groups.add", group="web", agents=["a"])
        assert await place.value("groups/of/a") == ["db", "web"], "it was read again and nothing of the other was lost"

    run(make_place, body)


def test_a_commit_that_always_conflicts_ends(make_place: Make) -> None:
    async def body(place: Any) -> None:
        async def never(ops: Any, *, expect: Any = ()) -> int:
            raise Conflict("somebody else")

        place.store.apply = never
        with pytest.raises(Busy, match="by others all the time"):
            await place.call("groups.add", group="web", agents=["a"])

    run(make_place, body)


def test_a_full_disk_changes_nothing_and_is_told(make_place: Make) -> None:
    async def body(place: Any) -> None:
        async def full(ops: Any, *, expect: Any = ()) -> int:
            raise StoreFailed("the disk is full")

        apply, place.store.apply = place.store.apply, full
        with pytest.raises(StoreFailed):
            await place.call("groups.add", group="web", agents=["a"])
        place.store.apply = apply
        assert place.events == []
        assert (await place.call("groups.add", group="web", agents=["a"]))["changed"] == 1

    run(make_place, body)


# -- the book follows ------------------------------------------------------------------------------------------------


def test_a_restarted_master_lets_the_book_catch_up(make_place: Make, until: Callable[..., Awaitable[None]]) -> None:
    async def main() -> None:
        place = make_place()
        await place.agents("a", "b")
        await place.put("groups/name/web", {})
        revision = await place.put("groups/of/a", ["web"])
        part = MasterGroups(place.desk)
        await place.start(part)
        await until(lambda: place.book._groups_revision >= revision)
        assert await in_book(place, "web") == ["a"]
        await part.close()

    asyncio.run(main())


@pytest.mark.parametrize("why", ["compacted", "another store"])
def test_a_book_that_cannot_catch_up_is_compared(make_place: Make, until: Callable[..., Awaitable[None]], why: str) -> None:
    async def main() -> None:
        place = make_place()
        await place.agents("a", "b", "c")
        await place.book.set_groups([("b", ["web"]), ("c", ["db"])], 1000 if why == "another store" else 0)
        for id_ in ("a", "x", "b"):
            await place.put(f"groups/of/{id_}", ["web"])
        revision = await place.store.apply([Delete("groups/of/b"), Put("groups/name/web", b"{}")])
        if why == "compacted":
            await place.store.compact(0)
        part = MasterGroups(place.desk)
        await place.start(part)
        await until(lambda: place.book._groups_revision == revision)
        assert (await in_book(place, "web"), await in_book(place, "db")) == (["a"], [])
        await place.agents("x")
        assert await in_book(place, "web") == ["a", "x"], "who was assigned before it was known"
        await part.close()

    asyncio.run(main())


def test_a_book_that_fails_for_a_while_is_told_again(
    make_place: Make, until: Callable[..., Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zcluster.brokers.groups_book.PAUSE_S", 0.0)

    async def body(place: Any) -> None:
        failures: list[Exception] = [StoreFailed("full"), RuntimeError("unforeseen")]
        set_groups = place.book.set_groups

        async def failing(groups: Any, revision: int) -> None:
            if failures:
                raise failures.pop()
            await set_groups(groups, revision)

        place.book.set_groups = failing
        await place.call("groups.add", group="web", agents=["a"])
        assert failures == []
        assert await in_book(place, "web") == ["a"]

    run(make_place, body)
