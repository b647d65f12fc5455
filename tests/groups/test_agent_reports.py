"""What programs report of agents at a node, and what a master answers about them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from zcluster.brokers import agent_queries
from zcluster.brokers.agent_queries import AgentQueries
from zcluster.core.agents.row import Row, check_row
from zcluster.errors import InvalidArguments, NodeUnavailable, NoSuchAgent, NoSuchNode, TooLarge, UsageError
from zcluster.nodes import agentreports
from zcluster.nodes.agentreports import AgentReports
from zcluster.store.book_memory import MemoryBook
from zcluster.wire.agents import AgentOrder

NODES = {"master": "ready", "worker-1": "ready", "worker-2": "ready", "worker-3": "dead", "worker-4": "ready"}


class Orders:
    """Takes the orders that nodes would get."""

    def __init__(self) -> None:
        self.given: list[tuple[str, list[AgentOrder]]] = []

    def __call__(self, node: str, orders: list[AgentOrder]) -> None:
        self.given.append((node, orders))


async def reporting(make_place: Callable[..., Any], *alive: str, name: str = "worker-1") -> Any:
    place = make_place(name, "worker" if name != "master" else "master")
    await place.start(AgentReports(place.desk, lambda: frozenset((name, *alive))))
    return place


async def asking(make_place: Callable[..., Any]) -> tuple[Any, Orders]:
    place, orders = make_place(), Orders()
    await place.start(AgentQueries(place.desk, orders, NODES.get, lambda name: name != "worker-4"))
    return place, orders


# -- reports ------------------------------------------------------------------------------------------------------------


def test_reported_agents_belong_to_the_node(make_place: Callable[..., Any]) -> None:
    async def main() -> None:
        place = await reporting(make_place)
        told = await place.call("agents.report", rows=[{"id": "a", "labels": {"site": "ber"}, "status": "active"}, {"id": "b"}])
        assert told == {"taken": 2, "refused": [], "refused_count": 0}
        row = await place.book.get("a")
        assert (row.node, row.held, row.status, row.epoch, row.labels) == (
            "worker-1", "report", "active", 1_000_000, {"site": "ber"},
        )  # fmt: skip
        assert (row.first_seen, row.last_seen) == (1000.0, 1000.0)

    asyncio.run(main())


def test_who_was_never_heard_was_never_seen(make_place: Callable[..., Any]) -> None:
    async def main() -> None:
        place = await reporting(make_place)

        async def seen(row: dict[str, Any]) -> tuple[str, float, float]:
            assert (await place.call("agents.report", rows=[{"id": "a", **row}]))["taken"] == 1
            found = await place.book.get("a")
            return found.status, found.first_seen, found.last_seen

        assert await seen({}) == ("never", 0.0, 0.0)
        assert await seen({"name": "web"}) == ("never", 0.0, 0.0)
        assert await seen({"last_seen": 5.0}) == ("never", 0.0, 5.0), "what is said is kept"
        assert await seen({"status": "active"}) == ("active", 1000.0, 1000.0)
        place.now_s = 2000.0
        assert await seen({"status": "never"}) == ("never", 1000.0, 1000.0), "that it was heard is not forgotten"
        await place.book.put([Row(id="a", node="worker-2", held="session", status="disconnected", first_seen=3.0, last_seen=4.0)])
        assert await seen({}) == ("never", 3.0, 4.0)
        await place.book.put([Row(id="a", node="worker-2", held="session", status="disconnected", first_seen=3.0, last_seen=4.0)])
        assert await seen({"status": "active", "first_seen": 1.0}) == ("active", 3.0, 2000.0)

    asyncio.run(main())


def test_saying_the_same_again_changes_nothing(make_place: Callable[..., Any]) -> None:
    async def main() -> None:
        place = await reporting(make_place)
        row = {"id": "a", "name": "web", "status": "active", "labels": {"site": "ber"}}
        await place.call("agents.report", rows=[row])
        first = await place.book.get("a")
        _, upto, _ = await place.book.changed(0, 10)
        place.now_s = 2000.0
        assert (await place.call("agents.report", rows=[row]))["taken"] == 1
        assert await place.book.get("a") == first
        assert await place.book.changed(upto, 10) == ([], upto, False)
        await place.call("agents.report", rows=[{**row, "name": "db"}])
        changed, _, _ = await place.book.changed(upto, 10)
        assert [(each.id, each.name, each.last_seen, each.epoch) for each in changed] == [("a", "db", 2000.0, first.epoch)]

    asyncio.run(main())


def test_bad_rows_are_told_by_their_place_and_the_good_ones_kept(make_place: Callable[..., Any]) -> None:
    async def main() -> None:
        place = await reporting(make_place)
        long = {"k": "v" * 10_000}
        rows = [{"id": "-x"}, {"id": "good"}, {"name": "no id"}, {"id": "x", "labels": long}, {"id": "y", "port": 1}]
        told = await place.call("agents.report", rows=rows)
        assert (told["taken"], told["refused_count"]) == (1, 4)
        assert [each["index"] for each in told["refused"]] == [0, 2, 3, 4]
        assert all(each["message"] and each["code"] for each in told["refused"])
        assert place.told("agent_report_refused") == [{"rows": 5, "refused": 4}]
        assert [row.id for row in (await place.book.changed(0, 10))[0]] == ["good"]

    asyncio.run(main())


def test_an_id_that_comes_twice_counts_with_its_last_row(make_place: Callable[..., Any]) -> None:
    async def main() -> None:
        place = await reporting(make_place)
        assert (await place.call("agents.report", rows=[{"id": "a", "name": "1"}, {"id": "a", "name": "2"}]))["taken"] == 2
        assert (await place.book.get("a")).name == "2"

    asyncio.run(main())


def test_a_report_takes_nothing_that_a_live_session_holds(make_place: Callable[..., Any]) -> None:
    async def main() -> None:
        place = await reporting(make_place, "worker-1", name="master")
        await place.book.put(
            [
                Row(id="here", node="master", held="session", status="active", epoch=5),
                Row(id="there", node="worker-1", held="session", status="silent", epoch=5),
                Row(id="lost", node="worker-2", held="session", status="active", epoch=5),
                Row(id="newer", node="worker-1", held="report", status="active", epoch=2_000_000),
            ]
        )
        told = await place.call("agents.report", rows=[{"id": id_} for id_ in ("here", "there", "lost", "newer")])
        assert [(each["id"], each["code"]) for each in told["refused"]] == [
            ("here", "foreign"), ("there", "foreign"), ("newer", "late"),
        ]  # fmt: skip
        assert (await place.book.get("lost")).node == "master"
        assert (await place.book.get("here")).held == "session"

    asyncio.run(main())


def test_a_report_takes_nothing_of_a_session_whose_row_is_not_written_yet(make_place: Callable[..., Any]) -> None:
    async def main() -> None:
        place = make_place("worker-1", "worker")
        await place.start(AgentReports(place.desk, lambda: frozenset({"worker-1"}), lambda id_: id_ == "a"))
        told = await place.call("agents.report", rows=[{"id": "a"}, {"id": "b"}])
        assert (told["taken"], [each["code"] for each in told["refused"]]) == (1, ["foreign"])
        assert await place.book.get("a") is None

    asyncio.run(main())


def test_a_report_says_nothing_of_groups(make_place: Callable[..., Any]) -> None:
    async def main() -> None:
        place = await reporting(make_place, name="master")
        await place.call("agents.report", rows=[{"id": "a", "groups": ["web"]}])
        assert (await place.book.get("a")).groups == ["default"], "only the store says who is in which group"

    asyncio.run(main())


class Regrouping(MemoryBook):
    """A book in which an agent comes into a group after it was looked at."""

    async def get_many(self, ids: Sequence[str]) -> dict[str, Row]:
        found = await super().get_many(ids)
        await self.set_groups([("a", ["db"])], 2)
        return found


def test_a_report_does_not_undo_what_becomes_of_groups_meanwhile(make_place: Callable[..., Any]) -> None:
    async def main() -> None:
        book = Regrouping("b")
        await book.put([Row(id="a", node="master", status="active", groups=["web"])])
        place = make_place(book=book)
        await place.start(AgentReports(place.desk, lambda: frozenset({"master"})))
        await place.call("agents.report", rows=[{"id": "a", "name": "new"}])
        row = await MemoryBook.get_many(book, ["a"])
        assert (row["a"].name, row["a"].groups) == ("new", ["db"])

    asyncio.run(main())


def test_many_rows_are_looked_at_beside_the_loop(make_place: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[bool] = set()

    def look(fields: Mapping[str, Any]) -> Row:
        threads.add(threading.current_thread() is threading.main_thread())
        return check_row(fields)

    monkeypatch.setattr(agentreports, "check_row", look)

    async def main() -> None:
        place = await reporting(make_place)
        rows = [{"id": f"a{n}"} for n in range(agentreports.INLINE_ROWS + 1)] + [{"id": "-x"}]
        told = await place.call("agents.report", rows=rows)
        assert (told["taken"], [each["index"] for each in told["refused"]]) == (len(rows) - 1, [len(rows) - 1])
        assert threads == {False}

    asyncio.run(main())


class Overtaken(MemoryBook):
    """A book into which a worker's chunk comes just after rows were looked at."""

    def __init__(self, later: list[Row]) -> None:
        super().__init__()
        self.later = later

    async def get_many(self, ids: Sequence[str]) -> dict[str, Row]:
        found = await super().get_many(ids)
        await self.put(self.later)
        return found


def test_a_session_that_comes_while_a_report_is_decided_keeps_its_agent(make_place: Callable[..., Any]) -> None:
    async def main() -> None:
        orders = Orders()
        book = Overtaken([Row(id="a", node="worker-1", held="session", status="active", epoch=5)])
        place = make_place(book=book)
        await place.start(AgentReports(place.desk, lambda: frozenset({"master", "worker-1"}), order=orders))
        told = await place.call("agents.report", rows=[{"id": "a"}, {"id": "b"}])
        assert [(each["index"], each["code"]) for each in told["refused"]] == [(0, "foreign")]
        row = await place.book.get("a")
        assert (row.node, row.held, orders.given) == ("worker-1", "session", [])

    asyncio.run(main())


def test_who_loses_an_agent_to_a_report_at_the_master_is_told(make_place: Callable[..., Any]) -> None:
    async def main() -> None:
        place, orders = make_place(), Orders()
        await place.book.put([Row(id="a", node="worker-1", held="report", status="active", epoch=5)])
        await place.start(AgentReports(place.desk, lambda: frozenset({"master", "worker-1"}), order=orders))
        assert (await place.call("agents.report", rows=[{"id": "a", "status": "active"}]))["taken"] == 1
        assert (await place.book.get("a")).node == "master"
        assert orders.given == [
            ("worker-1", [AgentOrder(op="drop", id="a", epoch=1_000_000, held="report", node="master")])
        ]

    asyncio.run(main())


def test_a_report_has_a_limit(make_place: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agentreports, "MAX_ROWS", 3)

    async def main() -> None:
        place = await reporting(make_place)
        rows = [{"id": f"a{n}"} for n in range(4)]
        assert (await place.call("agents.report", rows=rows[:3]))["taken"] == 3
        with pytest.raises(TooLarge):
            await place.call("agents.report", rows=rows)

    asyncio.run(main())


# -- questions ----------------------------------------------------------------------------------------------------------


def test_a_list_is_a_page_of_what_the_filter_means(make_place: Callable[..., Any]) -> None:
    async def main() -> None:
        place, _ = await asking(make_place)
        await place.agents("a", "b", "c", labels={"site": "ber"})
        await place.agents("d")
        page = await place.call("agents.list", filter="labels.site=ber", limit=2, count=True, select=["id", "labels.site"])
        assert page["items"] == [{"id": "a", "labels.site": "ber"}, {"id": "b", "labels.site": "ber"}]
        assert page["total"] == 3
        rest = await place.call("agents.list", filter="labels.site=ber", limit=2, cursor=page["next"], select=["id"])
        assert (rest["items"], rest["next"], rest["total"]) == ([{"id": "c"}], None, None)
        with pytest.raises(UsageError):
            await place.call("agents.list", filter="labels.site==ber")
        with pytest.raises(InvalidArguments):
            await place.call("agents.list", limit=10_001)

    asyncio.run(main())


def test_counts(make_place: Callable[..., Any]) -> None:
    async def main() -> None:
        place, _ = await asking(make_place)
        await place.agents("a", "b")
        await place.book.update([("b", {"status": "silent"})])
        assert await place.call("agents.count") == {"total": 2, "by": {}}
        assert await place.call("agents.count", by="status") == {"total": 2, "by": {"active": 1, "silent": 1}}
        assert (await place.call("agents.count", filter="status=active"))["total"] == 1

    asyncio.run(main())


def test_show_tells_everything_or_that_there_is_none(make_place: Callable[..., Any]) -> None:
    async def main() -> None:
        place, _ = await asking(make_place)
        await place.agents("a", labels={"site": "ber"})
        row = await place.call("agents.show", id="a")
        assert (row["id"], row["groups"], row["labels"]) == ("a", ["default"], {"site": "ber"})
        with pytest.raises(NoSuchAgent):
            await place.call("agents.show", id="b")

    asyncio.run(main())


# -- orders -------------------------------------------------------------------------------------------------------------


def test_removing_marks_the_row_and_tells_its_node(make_place: Callable[..., Any]) -> None:
    async def main() -> None:
        place, orders = await asking(make_place)
        await place.agents("a", "b", epoch=7)
        assert await place.call("agents.remove", ids=["a"]) == {"removed": ["a"]}
        row = await place.book.get("a")
        assert (row.status, row.epoch) == ("removed", 7)
        assert orders.given == [("worker-1", [AgentOrder(op="remove", id="a", epoch=7)])]
        assert await place.call("agents.remove", ids=["a"]) == {"removed": []}
        assert place.told("agents_removed") == [{"count": 1, "by": "admin", "agents": ["a"]}]
        assert await place.call("agents.remove", filter="id=b") == {"removed": ["b"]}

    asyncio.run(main())


def claim(id_: str, epoch: int) -> tuple[str, str, int, str, dict[str, Any]]:
    return (id_, "put", epoch, "session", {"status": "active"})


@pytest.mark.parametrize("epoch", [7, 2_000_000])
def test_a_removed_agent_comes_back_by_its_next_session_whatever_its_clock_says(
    make_place: Callable[..., Any], epoch: int
) -> None:
    async def main() -> None:
        place, _ = await asking(make_place)
        await place.agents("a", held="session", epoch=epoch)
        await place.call("agents.remove", ids=["a"])
        took = await place.book.take("worker-1", "", 0, 0, [claim("a", epoch)], frozenset({"worker-1"}))
        assert took.refused == [("a", "late")], "what was on its way still"
        took = await place.book.take("worker-1", "", 0, 0, [claim("a", epoch + 1)], frozenset({"worker-1"}))
        assert (took.taken, took.refused) == (1, [])

    asyncio.run(main())


def test_a_moved_agent_may_connect_anywhere_whatever_its_clock_says(make_place: Callable[..., Any]) -> None:
    async def main() -> None:
        place, _ = await asking(make_place)
        await place.book.put([Row(id="a", node="worker-1", held="session", status="disconnected", epoch=7)])
        await place.call("agents.move", id="a", node="master")
        took = await place.book.take("worker-2", "", 0, 0, [claim("a", 8)], frozenset({"worker-1", "worker-2"}))
        assert (took.taken, took.refused) == (1, [])

    asyncio.run(main())


def test_a_removed_agent_is_not_moved(make_place: Callable[..., Any]) -> None:
    async def main() -> None:
        place, orders = await asking(make_place)
        await place.book.put([Row(id="a", node="worker-1", status="removed", epoch=7)])
        with pytest.raises(NoSuchAgent, match="removed"):
            await place.call("agents.move", id="a", node="worker-2")
        assert orders.given == []

    asyncio.run(main())


def test_removing_what_is_not_there_or_nothing_or_too_much(
    make_place: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_queries, "MAX_AT_ONCE", 2)

    async def main() -> None:
        place, orders = await asking(make_place)
        await place.agents("a", "b", "c")
        for wrong, error in (({}, UsageError), ({"ids": ["a"], "filter": "id=a"}, UsageError), ({"ids": ["a", "z"]}, NoSuchAgent),
                             ({"filter": "id=z"}, NoSuchAgent), ({"filter": "status=active"}, TooLarge)):  # fmt: skip
            with pytest.raises(error):
                await place.call("agents.remove", **wrong)
        assert orders.given == []
        assert (await place.call("agents.count", filter="status=active"))["total"] == 3

    asyncio.run(main())


def test_moving_a_live_agent_is_an_order_to_its_node(make_place: Callable[..., Any]) -> None:
    async def main() -> None:
        place, orders = await asking(make_place)
        await place.agents("a", held="session", epoch=7)
        assert await place.call("agents.move", id="a", node="worker-2") == {"id": "a", "node": "worker-2", "moved": True}
        assert orders.given == [("worker-1", [AgentOrder(op="move", id="a", node="worker-2")])]
        assert (await place.book.get("a")).node == "worker-1"
        assert (await place.call("agents.move", id="a", node="worker-1"))["moved"] is False

    asyncio.run(main())


def test_moving_a_reported_agent_gives_it_to_the_node(make_place: Callable[..., Any]) -> None:
    async def main() -> None:
        place, orders = await asking(make_place)
        await place.agents("a", epoch=7, name="printer")
        await place.call("agents.move", id="a", node="worker-2")
        assert (await place.book.get("a")).node == "worker-2"
        (first, [drop]), (second, [adopt]) = orders.given
        assert (first, drop.op, drop.id) == ("worker-1", "drop", "a")
        assert (second, adopt.op, adopt.row["name"], adopt.row["status"]) == ("worker-2", "adopt", "printer", "active")
        assert drop.epoch == adopt.epoch == (await place.book.get("a")).epoch > 7

    asyncio.run(main())


def test_moving_to_where_it_cannot_be(make_place: Callable[..., Any]) -> None:
    async def main() -> None:
        place, orders = await asking(make_place)
        await place.agents("a")
        for node, error in (("worker-9", NoSuchNode), ("worker-3", NodeUnavailable)):
            with pytest.raises(error):
                await place.call("agents.move", id="a", node=node)
        with pytest.raises(NoSuchAgent):
            await place.call("agents.move", id="z", node="worker-2")
        await place.book.put([Row(id="b", node="worker-3", held="session", status="active", epoch=3)])
        with pytest.raises(NodeUnavailable):
            await place.call("agents.move", id="b", node="worker-2")
        assert orders.given == []

    asyncio.run(main())


def test_a_live_agent_is_not_sent_to_where_there_is_no_door(make_place: Callable[..., Any]) -> None:
    async def main() -> None:
        place, orders = await asking(make_place)
        await place.agents("a", held="session", epoch=7)
        with pytest.raises(UsageError, match="no door"):
            await place.call("agents.move", id="a", node="worker-4")
        assert orders.given == []

    asyncio.run(main())


def test_a_removed_agent_is_forgotten_after_its_time(make_place: Callable[..., Any]) -> None:
    async def main() -> None:
        place = make_place()
        queries = AgentQueries(place.desk, Orders(), NODES.get, lambda name: True)
        place.now_s = agent_queries.REMOVED_KEPT_S + 5000.0
        await place.book.put(
            [
                Row(id="long-ago", node="w", status="removed", epoch=4_999_999),
                Row(id="lately", node="w", status="removed", epoch=5_000_001),
                Row(id="live", node="w", status="active", epoch=1),
            ]
        )
        assert await queries.purge() == 1
        assert list(await place.book.get_many(["long-ago", "lately", "live"])) == ["lately", "live"]

    asyncio.run(main())


def test_a_report_removes_nothing(make_place: Callable[..., Any]) -> None:
    async def main() -> None:
        place = await reporting(make_place)
        told = await place.call("agents.report", rows=[{"id": "a", "status": "removed"}])
        assert (told["taken"], told["refused"][0]["code"]) == (0, "usage")

    asyncio.run(main())
