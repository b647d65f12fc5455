"""Agents at a node's door."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from doorstep import WALL_S, Doorstep

from zcluster.core.agents.ownership import latest_epoch
from zcluster.core.agents.row import MAX_LABEL_VALUE_CHARS, Row
from zcluster.errors import StoreFailed
from zcluster.nodes import tasks
from zcluster.nodes.agentdoor import METRICS_EVERY_S, PIECE_BYTES, REFUSED_EVERY_S
from zcluster.store.book_memory import MemoryBook
from zcluster.wire import Bye, Refusal, Welcome
from zcluster.wire.agents import AgentOrder, Door, Doors, Grab, Keep, Settings, Shared, SharedFile

FULL = Keep(
    full=True, interval_s=10.0, name="host", address="10.0.0.1", version="4.9", os={"platform": "debian"},
    labels={"site": "ber"}, metrics={"cpu": {"percent": 1.0}}, config="", tree="",
)  # fmt: skip


def run(test: Callable[[Doorstep], Awaitable[None]], book: Any = None) -> None:
    async def main() -> None:
        async with Doorstep(book) as step:
            await test(step)

    asyncio.run(main())


async def row(step: Doorstep, id_: str = "a") -> Row:
    await step.written()
    found = await step.book.get(id_)
    assert isinstance(found, Row)
    return found


def test_an_agent_that_joins_has_a_row_and_is_told_settings_and_doors() -> None:
    async def test(step: Doorstep) -> None:
        step.doors = [Door(node="n", public="k", addresses=["tcp://n:1"], agents=1)]
        step.join("a", 7)
        step.keep("a", FULL)
        found = await row(step)
        assert (found.node, found.status, found.held, found.epoch) == ("n", "active", "session", 7)
        assert (found.name, found.labels, found.metrics) == ("host", {"site": "ber"}, {"cpu": {"percent": 1.0}})
        assert found.first_seen == found.last_seen == WALL_S + 1000
        assert next(type(each) for each, _ in step.said["a"]) is Welcome
        assert step.heard("a", Doors) == [Doors(doors=step.doors)]
        assert step.heard("a", Settings) == [Settings(digest="none", groups=["default"])]
        assert step.names() == ["agent_active"]
        assert step.door.count == 1
        assert step.door.live("a") == {"cpu": {"percent": 1.0}}

    run(test)


def test_who_is_no_agent_has_no_row() -> None:
    async def test(step: Doorstep) -> None:
        step.join("c", role="client")
        await step.written()
        assert await step.book.get("c") is None
        assert step.door.count == 0

    run(test)


def test_metrics_are_kept_here_and_go_into_the_row_once_in_a_while() -> None:
    async def test(step: Doorstep) -> None:
        step.join("a")
        step.keep("a", FULL)
        await step.written()
        step.now += METRICS_EVERY_S - 1
        step.keep("a", Keep(metrics={"cpu": {"percent": 2.0}}))
        assert (await row(step)).metrics == {"cpu": {"percent": 1.0}}
        assert step.door.live("a") == {"cpu": {"percent": 2.0}}
        step.now += 1
        step.keep("a", Keep(metrics={"cpu": {"percent": 3.0}}))
        assert (await row(step)).metrics == {"cpu": {"percent": 3.0}}
        step.keep("a", Keep(labels={"site": "muc"}, metrics={"cpu": {"percent": 4.0}}))
        found = await row(step)
        assert (found.labels, found.metrics) == ({"site": "muc"}, {"cpu": {"percent": 4.0}})

    run(test)


def test_labels_beyond_their_bound_are_refused_as_a_whole_and_the_agent_lives() -> None:
    async def test(step: Doorstep) -> None:
        step.join("a")
        step.keep("a", FULL)
        await step.written()
        step.names()
        step.pass_time(21.0)
        step.keep("a", Keep(name="other", labels={"x": "y" * (MAX_LABEL_VALUE_CHARS + 1)}))
        found = await row(step)
        assert (found.name, found.labels, found.status) == ("host", {"site": "ber"}, "active")
        assert step.names() == ["agent_refused", "agent_silent", "agent_active"]
        assert [each.code for each in step.heard("a", Refusal)] == ["protocol_error"]
        step.keep("a", Keep(labels={"x": "y" * MAX_LABEL_VALUE_CHARS}))
        assert (await row(step)).labels == {"x": "y" * MAX_LABEL_VALUE_CHARS}

    run(test)


def test_a_silent_agent_is_disconnected_in_the_end_and_back_when_it_speaks() -> None:
    async def test(step: Doorstep) -> None:
        step.join("a")
        step.keep("a", FULL)
        step.pass_time(20.3)
        assert (await row(step)).status == "silent"
        step.pass_time(10.0)
        assert (await row(step)).status == "disconnected"
        assert step.names() == ["agent_active", "agent_silent", "agent_disconnected"]
        step.keep("a", Keep())
        assert (await row(step)).status == "active"

    run(test)


def test_a_broken_connection_is_no_end_and_a_goodbye_is() -> None:
    async def test(step: Doorstep) -> None:
        step.join("a", 1)
        step.broken("a")
        assert (await row(step)).status == "active"
        assert step.door.count == 0
        step.pass_time(3.0)
        assert (await row(step)).status == "silent"
        step.join("a", 2, route="again")
        assert (await row(step)).status == "active"
        step._send("again", "a", Bye())
        found = await row(step)
        assert (found.status, found.epoch) == ("disconnected", 2)
        assert step.events[-1].fields["reason"] == "left"
        assert set(step.told.forgotten) == {"a"}

    run(test)


def test_a_row_says_exactly_when_an_agent_was_heard_last_once_it_is_not_active_any_more() -> None:
    async def test(step: Doorstep) -> None:
        for name in ("stopped", "broken"):
            step.join(name)
            step.keep(name, FULL)
        step.pass_time(7.0)
        for name in ("stopped", "broken"):
            step.keep(name, Keep())
        heard_s = WALL_S + step.now
        step.pass_time(1.0)
        step.broken("broken")
        assert (await row(step, "stopped")).last_seen == heard_s - 7.0
        step.pass_time(20.0)
        for name in ("stopped", "broken"):
            found = await row(step, name)
            assert (found.status, found.last_seen) == ("silent", heard_s)
        step.join("broken", 2, route="again")
        step.pass_time(3.0)
        step._send("again", "broken", Bye())
        assert (await row(step, "broken")).last_seen == WALL_S + step.now

    run(test)


def test_a_revoked_key_ends_it_with_its_reason() -> None:
    async def test(step: Doorstep) -> None:
        step.join("a")
        step.machine.keys_changed(lambda _identity: False, step.now)
        assert (await row(step)).status == "disconnected"
        assert step.events[-1].fields["reason"] == "its key was revoked"

    run(test)


def test_a_number_that_is_not_newer_gets_the_next_one() -> None:
    async def test(step: Doorstep) -> None:
        far = latest_epoch(WALL_S + step.now)
        step.join("a", far)
        assert (await row(step)).epoch == far
        step.join("a", 5, route="lost its state", instance="j")
        assert (await row(step)).epoch == far + 1
        assert not step.door.perform(AgentOrder(op="drop", id="a", epoch=far, node="m"))
        assert step.door.perform(AgentOrder(op="drop", id="a", epoch=far + 1, node="m"))

    run(test)


def test_a_number_further_ahead_than_clocks_may_be_is_none() -> None:
    async def test(step: Doorstep) -> None:
        step.join("a", 2**53 - 1)
        assert (await row(step)).epoch == int((WALL_S + step.now) * 1000)

    run(test)


def test_an_agent_of_another_node_is_taken_and_the_other_is_named() -> None:
    async def test(step: Doorstep) -> None:
        await step.book.put([Row(id="a", node="w1", status="active", held="session", epoch=50, first_seen=5.0)])
        step.join("a", 60)
        found = await row(step)
        assert (found.node, found.epoch, found.first_seen) == ("n", 60, 5.0)
        assert step.taken == [("a", "w1", 60)]

    run(test)


def test_what_another_node_has_taken_is_left_alone() -> None:
    async def test(step: Doorstep) -> None:
        step.join("a", 1)
        await step.written()
        await step.book.update([("a", {"node": "w1", "epoch": 9})])
        step._send("a", "a", Bye())
        found = await row(step)
        assert (found.node, found.status, found.epoch) == ("w1", "active", 9)

    run(test)


def test_a_dropped_agent_is_told_and_leaves_no_row_of_its_own() -> None:
    async def test(step: Doorstep) -> None:
        step.join("a", 3)
        assert step.door.perform(AgentOrder(op="drop", id="a", epoch=4, node="w1"))
        await step.written()
        assert await step.book.get("a") is None
        assert [each.code for each in step.heard("a", Bye)] == ["session_replaced"]
        assert step.door.perform(AgentOrder(op="drop", id="a", epoch=4, node="w1"))

    run(test)


def test_a_removed_agent_may_come_back() -> None:
    async def test(step: Doorstep) -> None:
        step.join("a", 3)
        await step.written()
        assert step.door.perform(AgentOrder(op="remove", id="a", epoch=3))
        [bye] = step.heard("a", Bye)
        assert bye.code != "session_replaced"
        assert step.door.count == 0

    run(test)


def test_an_agent_is_told_to_move_to_a_node_whose_door_is_known() -> None:
    async def test(step: Doorstep) -> None:
        there = Door(node="w1", public="k", addresses=["tcp://w:1"])
        step.join("a")
        step.heard("a", Doors)
        assert step.door.perform(AgentOrder(op="move", id="a", node="w1"))
        assert step.heard("a", Doors) == []
        step.doors = [there]
        step.door.tell_doors()
        assert step.heard("a", Doors) == [Doors(doors=[there]), Doors(doors=[there], go="w1")]
        assert step.door.move("a", "w1")
        assert step.heard("a", Doors) == [Doors(doors=[there], go="w1")]
        assert not step.door.move("nobody", "w1")
        step.door.tell_doors()
        assert step.heard("a", Doors) == [Doors(doors=[there])]

    run(test)


def test_changed_settings_are_told_once_and_only_to_whom_they_concern() -> None:
    async def test(step: Doorstep) -> None:
        step.join("a")
        step.join("b")
        await step.written()
        for name in ("a", "b"):
            step.heard(name, Settings)
        fresh = Settings(digest="new", groups=["web"])
        step.told.settings["a"] = fresh
        for _ in range(3):
            step.told.callback(None)
        await step.written()
        assert step.heard("a", Settings) == [fresh]
        assert step.heard("b", Settings) == []
        step.told.callback(["nobody", "b"])
        await step.written()
        assert step.heard("b", Settings) == []

    run(test)


def test_shared_files_go_piece_by_piece_to_who_may_have_them() -> None:
    async def test(step: Doorstep) -> None:
        data = bytes(PIECE_BYTES) + b"end"
        step.told.files["d"] = data
        step.told.settings["a"] = Settings(digest="s", files=[SharedFile("f", "d", len(data))])
        step.join("a")
        step.join("b")
        await step.written()
        for offset, expected in ((0, data[:PIECE_BYTES]), (PIECE_BYTES, b"end"), (len(data) + 9, b"")):
            step.said.clear()
            step.say("a", Grab(digest="d", offset=offset))
            await step.written()
            assert step.heard_bodies("a", Shared) == [expected]
            assert step.heard("a", Shared) == [Shared(digest="d", offset=min(offset, len(data)), size=len(data))]
        for name, digest in (("b", "d"), ("a", "other")):
            step.say(name, Grab(digest=digest))
            await step.written()
            assert [each.code for each in step.heard(name, Shared)] == ["no_such_file"]

    run(test)


def test_after_a_restart_its_agents_are_silent_until_heard() -> None:
    async def test(step: Doorstep) -> None:
        await step.written()
        states = {id_: (await row(step, id_)).status for id_ in ("a", "b", "other", "told")}
        assert states == {"a": "silent", "b": "silent", "other": "active", "told": "active"}
        step.pass_time(5.0)
        step.join("a", 9)
        step.pass_time(26.0)
        states = {id_: (await row(step, id_)).status for id_ in ("a", "b", "other", "told")}
        assert states == {"a": "silent", "b": "disconnected", "other": "active", "told": "active"}

    book = MemoryBook("b")
    rows = [
        Row(id="a", node="n", status="active", held="session", epoch=1),
        Row(id="b", node="n", status="silent", held="session", epoch=1),
        Row(id="other", node="w1", status="active", held="session", epoch=1),
        Row(id="told", node="n", status="active", held="report", epoch=1),
    ]
    asyncio.run(book.put(rows))
    run(test, book)


class FullDisk(MemoryBook):
    """A book whose disk is full for a while."""

    full = False

    async def put(self, rows: Sequence[Row]) -> int:
        if self.full:
            raise StoreFailed("no space left on device")
        return await super().put(rows)


def test_what_the_disk_does_not_take_waits_for_it() -> None:
    book = FullDisk("b")

    async def test(step: Doorstep) -> None:
        book.full = True
        step.join("a", 3)
        step.keep("a", FULL)
        assert not await step.door.flush()
        step.keep("a", Keep(labels={"site": "muc"}))
        book.full = False
        found = await row(step)
        assert (found.epoch, found.name, found.labels) == (3, "host", {"site": "muc"})
        assert step.names() == ["agents_not_written", "agents_written_again", "agent_active"]

    run(test, book)


def test_settings_that_cannot_be_read_do_not_end_the_telling() -> None:
    async def test(step: Doorstep) -> None:
        step.told.faults = 1
        step.join("a")
        step.join("b")
        await step.written()
        assert len(step.heard("a", Settings)) + len(step.heard("b", Settings)) == 1

    run(test)


def test_what_is_refused_again_and_again_is_told_once_in_a_while() -> None:
    async def test(step: Doorstep) -> None:
        step.join("a")
        step.join("b")
        step.names()
        for _ in range(100):
            step.keep("a", Keep(labels={"": "x"}))
        step.keep("b", Keep(labels={"": "x"}))
        assert [event.fields["agent"] for event in step.events if event.name == "agent_refused"] == ["a", "b"]
        assert len(step.heard("a", Refusal)) == 100
        step.names()
        step.pass_time(REFUSED_EVERY_S)
        step.keep("a", Keep(labels={"": "x"}))
        assert "agent_refused" in step.names()

    run(test)


def test_an_interval_that_no_agent_has_does_not_make_it_come_and_go() -> None:
    async def test(step: Doorstep) -> None:
        step.join("a")
        step.names()
        for _ in range(5):
            step.keep("a", Keep(interval_s=1e-300))
            step.pass_time(0.4)
        assert step.names() == []

    run(test)


def test_an_agent_whose_settings_make_no_sense_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "RESTART_S", 0.0)

    async def test(step: Doorstep) -> None:
        of = step.told.of

        async def broken(agent: str, /) -> Settings:
            if agent == "a":
                raise ValueError("no JSON")
            return await of(agent)

        monkeypatch.setattr(step.told, "of", broken)
        for name in "abc":
            step.join(name)
        await step.written()
        assert [len(step.heard(name, Settings)) for name in "abc"] == [0, 1, 1]

    run(test)


def test_an_agent_that_asks_and_does_not_read_gets_no_more() -> None:
    async def test(step: Doorstep) -> None:
        file = SharedFile("f", "d", PIECE_BYTES)
        step.told.settings["a"], step.told.files["d"] = Settings(digest="1", files=[file]), b"x" * PIECE_BYTES
        step.join("a")
        await step.written()
        step.heard("a", Settings)
        step.machine.block("a", [])
        for _ in range(20):
            step.say("a", Grab(digest="d"))
            await step.written()
        assert step.machine.roster.peers["a"].lanes.waiting_bytes < 4 * PIECE_BYTES
        step.machine.unblock("a")
        assert len(step.heard("a", Shared)) <= 3
        step.say("a", Grab(digest="d"))
        await step.written()
        assert len(step.heard("a", Shared)) == 1

    run(test)


def test_agents_that_come_and_go_together_are_one_event() -> None:
    async def test(step: Doorstep) -> None:
        for number in range(30):
            step.join(f"a{number:02}")
        assert step.names() == ["agents_active"]
        step.pass_time(20.3)
        assert step.names() == ["agents_silent"]
        step._send("a00", "a00", Bye())
        step.door.status.tell()
        assert [(event.name, event.level) for event in step.events] == [("agent_disconnected", "info")]

    run(test)


def test_the_timer_tells_what_was_gathered() -> None:
    async def test(step: Doorstep) -> None:
        step.join("a")
        step.door.status.handle_deadline()
        assert step.events == []
        step.now += 1.0
        step.door.status.handle_deadline()
        assert [event.fields for event in step.events] == [{"agent": "a", "node": "n"}]

    run(test)
