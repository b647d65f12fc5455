"""What every book of agents does: the same tests for the one in memory and the one in SQLite."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from zcluster.core.agents.filter import Compare, parse
from zcluster.core.agents.row import Row
from zcluster.errors import StoreFailed, TooLarge, UsageError
from zcluster.store.book import AgentBook, Cursor, Took
from zcluster.store.book_memory import MemoryBook
from zcluster.store.book_sqlite import SqliteBook

Run = Callable[[Callable[[AgentBook], Awaitable[None]]], None]
NOW = 1_700_000_000.0


@pytest.fixture(params=["memory", "sqlite"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Runs a test with a book that is empty."""

    def with_book(test: Callable[[AgentBook], Awaitable[None]]) -> None:
        async def main() -> None:
            book: AgentBook = MemoryBook() if request.param == "memory" else await SqliteBook.open(tmp_path / "agents.db")
            try:
                await test(book)
            finally:
                await book.close()

        asyncio.run(main())

    return with_book


def said(id_: str, *, op: str = "put", epoch: int = 1, held: str = "session", **fields: Any) -> list[Any]:
    return [id_, op, epoch, held, {"status": "active", **fields}]


async def take(book: AgentBook, node: str, *rows: list[Any], base: int = 0, source: str = "", alive: str = "") -> Took:
    """A chunk of the node's only source, or one of another."""
    return await book.take(node, source or f"of {node}", base, base + 1, list(rows), frozenset(alive.split()))


async def ids(book: AgentBook, text: str, **more: Any) -> list[str]:
    return [row["id"] for row in (await book.find(parse(text, NOW), select=["id"], **more)).rows]


# -- rows and numbers -----------------------------------------------------------------------------------------------------


def test_a_row_comes_back_as_it_was_put(run: Run) -> None:
    async def test(book: AgentBook) -> None:
        row = Row(
            id="a:1", name="näme", address="10.0.0.1", version="Wazuh v4.9.0", os={"platform": "debian", "x": {"y": [1, None]}},
            node="w1", status="active", first_seen=1.5, last_seen=2.5, groups=["web", "db"], labels={"site": "ber", "a.b": ""},
            metrics={"cpu": 1.25, "on": True}, config="c", tree="t", epoch=7, held="session",
        )  # fmt: skip
        await book.put([row])
        assert await book.get("a:1") == row
        assert await book.get("b") is None
        assert await book.get_many(["b", "a:1"]) == {"a:1": row}

    run(test)


def test_an_agent_without_groups_is_in_default(run: Run) -> None:
    async def test(book: AgentBook) -> None:
        await book.put([Row(id="a")])
        row = await book.get("a")
        assert row is not None
        assert row.groups == ["default"]

    run(test)


def test_only_rows_that_change_get_numbers_and_the_newest_counts(run: Run) -> None:
    async def test(book: AgentBook) -> None:
        one = await book.put([Row(id="a"), Row(id="b"), Row(id="c")])
        assert [row.id for row in (await book.changed(0, 10))[0]] == ["a", "b", "c"]
        assert await book.put([Row(id="a"), Row(id="b")]) == one
        two = await book.update([("a", {"name": "n"}), ("b", {"name": ""}), ("nobody", {"name": "x"})])
        assert two > one
        rows, upto, more = await book.changed(one, 10)
        assert ([row.id for row in rows], upto, more) == (["a"], two, False)
        assert [row.id for row in (await book.changed(0, 10))[0]] == ["b", "c", "a"]

    run(test)


def test_changes_come_page_by_page(run: Run) -> None:
    async def test(book: AgentBook) -> None:
        last = await book.put([Row(id=f"a{number}") for number in range(5)])
        found: list[str] = []
        after, more = 0, True
        while more:
            rows, after, more = await book.changed(after, 2)
            found += [row.id for row in rows]
        assert found == [f"a{number}" for number in range(5)]
        assert after == last
        assert await book.changed(after, 2) == ([], last, False)

    run(test)


def test_what_does_not_go_up_gets_no_number(run: Run) -> None:
    async def test(book: AgentBook) -> None:
        last = await book.put([Row(id="a")])
        assert await book.update([("a", {"last_seen": 5.0, "first_seen": 1.0})]) == last
        await book.set_groups([("a", ["web"])], 3)
        row = await book.get("a")
        assert row is not None
        assert (row.last_seen, row.groups) == (5.0, ["web"])
        assert await book.changed(last, 10) == ([], last, False)

    run(test)


def test_numbers_are_not_given_again_after_a_purge(run: Run) -> None:
    async def test(book: AgentBook) -> None:
        last = await book.put([Row(id="a"), Row(id="b")])
        assert await book.purge(["b", "b", "c"]) == 1
        assert await book.get("b") is None
        assert await book.put([Row(id="b")]) > last

    run(test)


def test_an_update_of_several_kinds_in_order(run: Run) -> None:
    async def test(book: AgentBook) -> None:
        await book.put([Row(id="a"), Row(id="b")])
        os = {"platform": "rhel"}
        await book.update([("a", {"version": "4.10"}), ("b", {"os": os, "groups": ["g"]}), ("a", {"version": "4.2"}), ("z", {})])
        assert await ids(book, "version<4.3 and version>4.1") == ["a"]
        assert await ids(book, "os.platform=rhel and group=g") == ["b"]

    run(test)


def test_an_update_of_one_nodes_rows_leaves_those_of_others(run: Run) -> None:
    async def test(book: AgentBook) -> None:
        await book.put([Row(id="a", node="w1"), Row(id="b", node="w2"), Row(id="c")])
        await book.update([(id_, {"name": "n"}) for id_ in "abcd"], of="w1")
        assert await ids(book, "name=n") == ["a"]

    run(test)


@pytest.mark.parametrize(
    ("row", "place"),
    [
        (Row(id="../x"), "id"),
        (Row(id="a", labels={"k": "v" * 257}), "labels.k"),
        (Row(id="a", labels={"k": "v" * 10**7}), "labels.k"),
        (Row(id="a", name="a\nb"), "name"),
        (Row(id="a", groups=["../g"]), "groups"),
        (Row(id="a", metrics={"x": "y" * 16_384}), "metrics"),
        (Row(id="a", os={"x": "\x1b[2J"}), "os"),
    ],
)
def test_a_row_beyond_its_bounds_changes_nothing(run: Run, row: Row, place: str) -> None:
    async def test(book: AgentBook) -> None:
        with pytest.raises(UsageError, match=place):
            await book.put([Row(id="good"), row])
        assert await book.changed(0, 10) == ([], 0, False)
        with pytest.raises(UsageError):
            await book.update([("a", {"nme": 1})])

    run(test)


def test_the_most_rows_of_one_call_and_one_more(run: Run) -> None:
    async def test(book: AgentBook) -> None:
        rows = [Row(id=str(number)) for number in range(10_001)]
        with pytest.raises(TooLarge):
            await book.put(rows)
        assert await book.put(rows[:-1]) >= 10_000
        with pytest.raises(TooLarge):
            await book.purge([row.id for row in rows])

    run(test)


# -- chunks ---------------------------------------------------------------------------------------------------------------


def test_a_chunk_is_taken_once(run: Run) -> None:
    async def test(book: AgentBook) -> None:
        took = await book.take("w1", "s", 0, 5, [said("a"), said("b")], frozenset({"w1"}))
        assert (took.cursor, took.taken, took.refused, took.drop, took.moved) == (Cursor("s", 5), 2, [], [], [])
        assert await book.cursor("w1") == Cursor("s", 5)
        again = await book.take("w1", "s", 0, 5, [said("a", name="old")], frozenset({"w1"}))
        late = await book.take("w1", "s", 7, 9, [said("c")], frozenset({"w1"}))
        assert (again, late) == (Took(Cursor("s", 5)), Took(Cursor("s", 5)))
        row = await book.get("a")
        assert row is not None
        assert (row.name, row.node, row.epoch, row.held, row.status) == ("", "w1", 1, "session", "active")
        assert await book.get("c") is None
        assert await book.cursor("w2") == Cursor()

    run(test)


def test_another_source_begins_at_0_and_what_it_does_not_say_is_disconnected(run: Run) -> None:
    async def test(book: AgentBook) -> None:
        await take(book, "w1", said("a"), said("b"))
        await take(book, "w2", said("c"))
        assert (await take(book, "w1", said("a"), base=1, source="new")).taken == 0
        assert (await take(book, "w1", said("a", epoch=2), source="new")).taken == 1
        rows = await book.get_many(["a", "b", "c"])
        assert [row.status for row in rows.values()] == ["active", "disconnected", "active"]

    run(test)


def test_claims_without_a_source_move_no_cursor(run: Run) -> None:
    async def test(book: AgentBook) -> None:
        await take(book, "m", said("a"))
        took = await book.take("m", "", 0, 0, [said("b", held="report")], frozenset({"m"}))
        assert (took.taken, took.cursor) == (1, Cursor("of m", 1))
        row = await book.get("a")
        assert row is not None
        assert row.status == "active"

    run(test)


def test_the_newest_session_has_the_agent_and_the_other_node_is_told(run: Run) -> None:
    async def test(book: AgentBook) -> None:
        await take(book, "w1", said("a", epoch=5, first_seen=10.0, last_seen=50.0))
        took = await take(book, "w2", said("a", epoch=6, first_seen=20.0, last_seen=40.0))
        assert (took.taken, took.moved, took.drop) == (1, [("a", "w1", "w2")], [])
        late = await take(book, "w1", said("a", epoch=5, name="late"), said("b"), base=1)
        assert (late.taken, late.refused, late.drop, late.cursor.upto) == (1, [("a", "late")], ["a"], 2)
        row = await book.get("a")
        assert row is not None
        assert (row.node, row.name, row.first_seen, row.last_seen) == ("w2", "", 10.0, 50.0)

    run(test)


def test_a_report_does_not_take_a_live_agent_of_a_live_node(run: Run) -> None:
    async def test(book: AgentBook) -> None:
        await take(book, "w1", said("a"))
        took = await take(book, "w2", said("a", epoch=99, held="report"), alive="w1 w2")
        assert (took.refused, took.drop) == ([("a", "foreign")], ["a"])
        took = await take(book, "w2", said("a", epoch=99, held="report"), base=1, alive="w2")
        assert took.moved == [("a", "w1", "w2")]

    run(test)


def test_gone_removes_only_what_is_the_nodes_own(run: Run) -> None:
    async def test(book: AgentBook) -> None:
        await take(book, "w1", said("a", epoch=3))
        took = await take(book, "w2", said("a", op="gone", epoch=3), said("x", op="gone"))
        assert (took.taken, took.refused, took.drop) == (0, [], [])
        took = await take(book, "w1", said("a", op="gone", epoch=4), base=1)
        assert took.taken == 1
        row = await book.get("a")
        assert row is not None
        assert (row.status, row.epoch) == ("removed", 4)
        late = await take(book, "w1", said("a", epoch=4), base=2)
        assert late.refused == [("a", "late")]
        assert (await take(book, "w1", said("a", epoch=5), base=3)).taken == 1

    run(test)


@pytest.mark.parametrize(
    "broken",
    [
        ["../a", "put", 1, "session", {}],
        ["a", "put", 1, "session", {"status": "here"}],
        ["a", "put", 1, "stolen", {}],
        ["a", "put", -1, "session", {}],
        ["a", "eat", 1, "session", {}],
        ["a", "put", 1, "session", {"labels": {"k": "v" * 257}}],
        ["a", "put", 1, "session", {"labels": {"a b": "v"}}],
        ["a", "put", 1, "session", {"labels": {"a=b": "v"}}],
        ["a", "put", 1, "session", {"labels": {f"k{number}": "" for number in range(65)}}],
        ["a", "put", 1, "session", {"labels": {"k": 1}}],
        ["a", "put", 1, "session", {"name": "a\x1b[2J"}],
        ["a", "put", 1, "session", {"name": "a\u202eb"}],
        ["a", "put", 1, "session", {"name": "a\x9bb"}],
        ["a", "put", 1, "session", {"name": "a\x7fb"}],
        ["a", "put", 1, "session", {"os": {"platform": 1}}],
        ["a", "put", 1, "session", {"os": {"x": "y" * 2048}}],
        ["a", "put", 1, "session", {"metrics": {"x": "y" * 16_384}}],
        ["a", "put", 1, "session", {"metrics": {"x": 2**63}}],
        ["a", "put", 1, "session", {"last_seen": -1}],
        ["a", "put", 1, "session", []],
        ["a", "put"],
        [],
    ],
)
def test_a_broken_row_is_refused_alone(run: Run, broken: list[Any]) -> None:
    async def test(book: AgentBook) -> None:
        took = await take(book, "w1", said("b"), broken, said("c"))
        assert (took.taken, [reason for _, reason in took.refused], took.drop) == (2, ["invalid"], [])
        assert list(await book.get_many(["a", "b", "c"])) == ["b", "c"]
        assert await book.cursor("w1") == Cursor("of w1", 1)

    run(test)


def test_fields_that_a_newer_node_says_and_those_that_are_not_its_own_do_not_count(run: Run) -> None:
    async def test(book: AgentBook) -> None:
        await take(book, "w1", said("a", colour="red", node="w9", groups=["x"], name='a "quoted" \\ näme'))
        row = await book.get("a")
        assert row is not None
        assert (row.node, row.groups, row.name) == ("w1", ["default"], 'a "quoted" \\ näme')

    run(test)


def test_of_an_agent_that_is_twice_in_a_chunk_the_last_word_counts(run: Run) -> None:
    async def test(book: AgentBook) -> None:
        assert (await take(book, "w1", said("a", name="1"), said("b"), said("a", name="2"))).taken == 2
        row = await book.get("a")
        assert row is not None
        assert row.name == "2"

    run(test)


# -- questions ------------------------------------------------------------------------------------------------------------


async def fill(book: AgentBook) -> None:
    await book.put([
        Row(id="a1", name="web-1", version="4.10.1", os={"platform": "debian", "version": "12"}, node="w1", status="active",
            last_seen=NOW - 5, labels={"site": "ber", "rack": "9"}, metrics={"cpu": 50, "disk": {"root": 0.5}}, groups=["web"]),
        Row(id="a2", name="web-2", version="4.9.0", os={"platform": "debian", "version": "9"}, node="w2", status="active",
            last_seen=NOW - 3600, labels={"site": "muc", "rack": "10"}, metrics={"cpu": 7.5, "on": True}, groups=["db", "web"]),
        Row(id="a3", name="db-1", version="", os={}, node="w1", status="disconnected", last_seen=0.0, metrics={"cpu": "high"}),
        Row(id="a4", name="x", version="Wazuh v4.9", os={"platform": "rhel"}, node="", status="never", groups=["default", "db"]),
    ])  # fmt: skip


QUESTIONS = [
    ("", "a1 a2 a3 a4"),
    ("status=active", "a1 a2"),
    ("not status=active", "a3 a4"),
    ("status!=active and node=w1", "a3"),
    ("status=active or status=never", "a1 a2 a4"),
    ("os.platform=debian and labels.site=ber", "a1"),
    ("os.platform~'d*'", "a1 a2"),
    ("version<4.10", "a2 a4"),
    ("version=4.9", "a2 a4"),
    ("version>=4.9.0", "a1 a2 a4"),
    ("version~'Wazuh*'", "a4"),
    ("version=''", "a3"),
    ("os.version>10", "a1"),
    ("labels.rack<10", "a1"),
    ("labels.rack<=10", "a1 a2"),
    ("labels.site=''", "a3 a4"),
    ("labels.site!=ber", "a2 a3 a4"),
    ("not labels.site~'*u*'", "a1 a3 a4"),
    ("metrics.cpu>7", "a1 a2"),
    ("metrics.cpu=50.0", "a1"),
    ("metrics.cpu=high", "a3"),
    ("metrics.on=true", "a2"),
    ("metrics.disk.root<1", "a1"),
    ("metrics.disk=''", "a1 a2 a3 a4"),
    ("group=web", "a1 a2"),
    ("groups=default", "a3 a4"),
    ("group!=default", "a1 a2"),
    ("group~'d*'", "a2 a3 a4"),
    ("group~'w?b'", "a1 a2"),
    ("last_seen<10m", "a1"),
    ("last_seen>10m", "a2"),
    ("last_seen=never", "a3 a4"),
    ("last_seen!=never", "a1 a2"),
    ("id=a3", "a3"),
    ("id=a3 and status=active", ""),
    ("name~'*-1' and (group=web or not node=w9)", "a1 a3"),
    ("group=nobody or id~'*2'", "a2"),
    ("epoch=0 and held=report", "a1 a2 a3 a4"),
    ("name='%' or name='_' or name~'%'", ""),
]


@pytest.mark.parametrize(("text", "expected"), QUESTIONS)
def test_a_filter_finds(run: Run, text: str, expected: str) -> None:
    async def test(book: AgentBook) -> None:
        await fill(book)
        found = await book.find(parse(text, NOW), select=["id"], count=True)
        assert [row["id"] for row in found.rows] == expected.split()
        assert found.total == len(expected.split())
        assert await book.count(parse(text, NOW)) == {"": len(expected.split())}

    run(test)


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("id", "a1 a2 a3 a4"),
        ("-id", "a4 a3 a2 a1"),
        ("status", "a1 a2 a3 a4"),
        ("-status", "a4 a3 a2 a1"),
        ("version", "a3 a2 a4 a1"),
        ("-last_seen", "a1 a2 a4 a3"),
        ("labels.site", "a3 a4 a1 a2"),
        ("metrics.cpu", "a2 a1 a4 a3"),
        ("-metrics.cpu", "a3 a4 a1 a2"),
        ("os.platform", "a3 a1 a2 a4"),
    ],
)
@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5])
def test_pages_in_any_order(run: Run, sort: str, expected: str, limit: int) -> None:
    async def test(book: AgentBook) -> None:
        await fill(book)
        found: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            page = await book.find(select=["id"], sort=sort, limit=limit, cursor=cursor)
            assert 0 < len(page.rows) <= limit
            found += [row["id"] for row in page.rows]
            cursor = page.next
        assert found == expected.split()

    run(test)


def test_an_answer_has_what_was_selected(run: Run) -> None:
    async def test(book: AgentBook) -> None:
        await fill(book)
        select = ["name", "os.platform", "labels.rack", "metrics.disk", "metrics.on", "groups", "os"]
        found = await book.find(parse("id=a1 or id=a3", NOW), select=select)
        assert found.rows == [
            {"name": "web-1", "os.platform": "debian", "labels.rack": "9", "metrics.disk": {"root": 0.5}, "metrics.on": None,
             "groups": ["web"], "os": {"platform": "debian", "version": "12"}},
            {"name": "db-1", "os.platform": None, "labels.rack": None, "metrics.disk": None, "metrics.on": None,
             "groups": ["default"], "os": {}},
        ]  # fmt: skip
        whole = (await book.find(parse("id=a2", NOW))).rows[0]
        assert list(whole)[:4] == ["id", "name", "address", "version"]
        assert (whole["groups"], whole["metrics"]) == (["db", "web"], {"cpu": 7.5, "on": True})

    run(test)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("status", {"active": 2, "disconnected": 1, "never": 1}),
        ("node", {"w1": 2, "w2": 1, "": 1}),
        ("groups", {"web": 2, "db": 2, "default": 2}),
        ("os.platform", {"debian": 2, "": 1, "rhel": 1}),
        ("labels.site", {"ber": 1, "muc": 1, "": 2}),
        ("version", {"4.10.1": 1, "4.9.0": 1, "": 1, "Wazuh v4.9": 1}),
        ("metrics.cpu", {"50": 1, "7.5": 1, "high": 1, "": 1}),
    ],
)
def test_counts_by_a_field(run: Run, by: str, expected: dict[str, int]) -> None:
    async def test(book: AgentBook) -> None:
        await fill(book)
        assert await book.count(by=by) == expected
        assert await book.count(parse("id=a2", NOW), by="groups") == {"web": 1, "db": 1}

    run(test)


def test_more_values_than_are_told_apart_are_an_error(run: Run) -> None:
    async def test(book: AgentBook) -> None:
        await book.put([Row(id=str(number)) for number in range(10_000)])
        assert len(await book.count(by="id")) == 10_000
        await book.put([Row(id="one-more")])
        with pytest.raises(TooLarge, match="more than 10000 values"):
            await book.count(by="id")

    run(test)


def test_what_cannot_be_asked_is_the_callers_error(run: Run) -> None:
    async def test(book: AgentBook) -> None:
        await fill(book)
        page = await book.find(limit=1, sort="name")
        assert page.next is not None
        wrong: list[dict[str, Any]] = [
            {"limit": 0}, {"limit": 10_001}, {"sort": "nme"}, {"sort": "labels"}, {"sort": "groups"}, {"select": ["nme"]},
            {"select": ["id"] * 65}, {"cursor": page.next}, {"cursor": page.next, "sort": "-name"}, {"cursor": "x"},
            {"cursor": "ä", "sort": "name"}, {"cursor": page.next + "A" * 4096, "sort": "name"},
            {"where": Compare("nme", "=", "x")}, {"where": Compare("labels.a", "<<", "x")},  # type: ignore[arg-type]
            {"select": ['labels.a"b']},
        ]  # fmt: skip
        for question in wrong:
            with pytest.raises(UsageError):
                await book.find(**question)
        with pytest.raises(UsageError):
            await book.count(by="last_seen")
        assert len((await book.find(limit=10_000, select=[])).rows) == 4

    run(test)


def test_a_page_goes_on_where_the_last_one_ended_whatever_changed(run: Run) -> None:
    async def test(book: AgentBook) -> None:
        await fill(book)
        page = await book.find(select=["id"], limit=2)
        assert page.next is not None
        await book.purge(["a2"])
        await book.put([Row(id="a0"), Row(id="a25")])
        rest = await book.find(select=["id"], limit=5, cursor=page.next)
        assert [row["id"] for row in rest.rows] == ["a25", "a3", "a4"]

    run(test)


# -- nodes and groups -----------------------------------------------------------------------------------------------------


def test_the_nodes_of_agents_and_of_groups(run: Run) -> None:
    async def test(book: AgentBook) -> None:
        await fill(book)
        assert await book.nodes_of(["a1", "a2", "a4", "zz", "../", "\udc80"]) == {"a1": "w1", "a2": "w2"}
        assert await book.nodes_of_group("web") == ["w1", "w2"]
        assert await book.nodes_of_group("default") == ["w1"]
        assert await book.nodes_of_group("nobody") == []
        await book.update([("a2", {"status": "removed"})])
        assert await book.nodes_of(["a2"]) == {}
        assert await book.nodes_of_group("web") == ["w1"]

    run(test)


def test_groups_are_known_before_and_after_the_row(run: Run) -> None:
    async def test(book: AgentBook) -> None:
        assert await book.groups_revision() == 0
        await book.set_groups([("a", ["web", "db"]), ("b", ["db", "db"])], 7)
        assert await book.groups_revision() == 7
        await take(book, "w1", said("a"), said("b"))
        assert await ids(book, "group=db") == ["a", "b"]
        await book.purge(["a"])
        await book.put([Row(id="a", node="w1")])
        row = await book.get("a")
        assert row is not None
        assert row.groups == ["web", "db"]
        await book.set_groups([("a", ["db"]), ("b", [])], 8)
        assert await ids(book, "group=web") == []
        assert await ids(book, "group=default") == ["b"]
        with pytest.raises(UsageError):
            await book.set_groups([("a", ["../x"])], 9)
        assert await book.groups_revision() == 8

    run(test)


def test_a_dead_nodes_agents_are_disconnected_and_come_back_with_it(run: Run) -> None:
    async def test(book: AgentBook) -> None:
        rows = [said("a", last_seen=1.0), said("s", status="silent", last_seen=2.0), said("d", status="disconnected"), said("m")]
        await take(book, "w1", *rows)
        await take(book, "w2", said("o"))
        assert await book.node_gone("w1", 99.0) == 3
        known = await book.get_many(["a", "s", "d", "o"])
        assert [row.status for row in known.values()] == ["disconnected"] * 3 + ["active"]
        assert [row.last_seen for row in known.values()] == [99.0, 2.0, 0.0, 0.0]
        assert await book.node_gone("w1", 100.0) == 0
        await take(book, "w2", said("m", epoch=2, status="disconnected"), base=1)
        last = await book.update([("a", {"status": "disconnected"})])
        assert await book.node_back("w1") == 1
        known = await book.get_many(["a", "s", "d", "m"])
        assert [row.status for row in known.values()] == ["disconnected", "silent", "disconnected", "disconnected"]
        assert [row.id for row in (await book.changed(last, 10))[0]] == ["s"]
        assert await book.node_back("w1") == 0

    run(test)


def test_a_book_that_is_closed_says_so(run: Run) -> None:
    async def test(book: AgentBook) -> None:
        await book.close()
        await book.close()
        with pytest.raises(StoreFailed, match="closed"):
            await book.get("a")
        with pytest.raises(StoreFailed, match="closed"):
            await book.put([Row(id="a")])

    run(test)
