"""What the master does when a key is to be followed by another, its own among them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest

from zcluster.brokers import masterkey as masterkey_module
from zcluster.brokers import visits as visits_module
from zcluster.brokers.masterkey import MasterKey
from zcluster.brokers.rotation import OWN_AT_ONCE, OWN_EACH_S, Rotation
from zcluster.config import Home
from zcluster.core.carrying import Via
from zcluster.core.master import Master, MasterLimits
from zcluster.core.peers import Identity
from zcluster.errors import Busy, InvalidKey, NoSuchKey, Unreachable
from zcluster.keys import KeyFile, KeyPair, Ring, fingerprint, generate, init_home, may_call, may_send, new_key
from zcluster.keys.ringfile import instant, iso
from zcluster.keys.rotation import MIN_OVERLAP_S, OwnKey, want
from zcluster.nodes.desk import Desk
from zcluster.wire import Hello, Message, Refusal, WireLimits, decode, frame_of
from zcluster.wire.rotation import NextKey, Rotate, Rotated

Result = TypeVar("Result")
NOW_S = 4_000_000_000.0
NEW, NEWER = generate().public, generate().public


class Bench:
    """A master's machine, its ring, and the parts; time stands still unless it is moved."""

    def __init__(self, home: Home) -> None:
        self.home, self.now_s = home, NOW_S
        self.ring, self._writer = Ring(home.ring_file), Ring(home.ring_file)
        self.machine = Master("master", "c", 1, MasterLimits(), may_send, may_call, 0.0)
        self.listens: list[KeyPair] = []
        self.deaf = False
        self.broken: Exception | None = None
        self.brought: list[tuple[str, str]] = []
        self.said: dict[Any, list[Message]] = {}
        self.changed, self.decisions = asyncio.Event(), 0
        desk = SimpleNamespace(
            name="master", home=home, wall_s=lambda: self.now_s, clock=lambda: self.now_s,
            wake=self.changed.set, note=self.machine.note,
            logger=logging.getLogger("test"),
        )  # fmt: skip
        own = OwnKey(KeyFile.read(home.master_key), home.master_key)
        self.own = MasterKey(cast(Desk, desk), self.machine, self.ring, self.decide, own, self._rekey)
        self.part = Rotation(cast(Desk, desk), self.machine, self.ring, self.decide, self.own, self._bring)

    async def decide(self, change: Callable[[Ring], Result]) -> Result:
        self.decisions += 1
        self.changed.set()
        if self.broken is not None:
            raise self.broken
        result = change(self._writer)
        if self.ring.reload_if_changed():
            self.part.ring_changed()
        return result

    async def call(self, **args: Any) -> dict[str, Any]:
        row: dict[str, Any] = await self.part.functions()["keys.rotate"].target(**args)
        return row

    def key(self, name: str, role: str = "client") -> Identity:
        """A new key in the ring."""
        new_key(self.home, name, role)
        self.ring.reload_if_changed()
        self.part.ring_changed()
        return Identity(self.ring.get(name).id, name, role)

    def joins(self, route: Any, identity: Identity, instance: str = "i") -> None:
        self.machine.receive(route, identity, Hello(versions=[1], instance=instance), b"", 0, 0.0)

    def says(self, route: Any, identity: Identity, message: Message) -> None:
        self.machine.receive(route, identity, message, b"", 0, 0.0)

    def told(self, route: Any) -> list[Message]:
        """What ``route`` was told about keys since the last time."""
        for to, outgoing in self.machine.take(0.0):
            for message, bodies in outgoing:
                self.said.setdefault(to, []).append(decode(bytes(frame_of(message, bodies)), WireLimits())[0])
        kinds = (Rotate, Rotated, NextKey, Refusal)
        return [message for message in self.said.pop(route, []) if isinstance(message, kinds)]

    def events(self) -> list[tuple[str, Any]]:
        events, self.machine.events = self.machine.events, []
        return [(event.name, event.fields["name"]) for event in events if event.name.startswith("key_")]

    async def until(self, check: Callable[[], Any]) -> None:
        """Wait until ``check`` is true: what the parts have begun goes on meanwhile."""
        async with asyncio.timeout(30):
            while not check():
                self.changed.clear()
                await self.changed.wait()

    def _rekey(self, pair: KeyPair) -> None:
        if self.deaf:
            raise Unreachable("not here")
        self.listens.append(pair)
        self.changed.set()

    async def _bring(self, name: str, node: str) -> str:
        self.brought.append((name, node))
        self.changed.set()
        return "w" if node == "master" else "master"


@pytest.fixture
def played(tmp_path: Path) -> Callable[[Callable[[Bench], Coroutine[Any, Any, None]]], None]:
    """Runs a scene."""

    def play(scene: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            bench = Bench(init_home(tmp_path / "home", "c", addresses=("tcp://m:1",)).home)
            await bench.part.start()
            try:
                await scene(bench)
            finally:
                await bench.part.close()

        asyncio.run(main())

    return play


Played = Callable[[Callable[[Bench], Coroutine[Any, Any, None]]], None]


def test_who_says_a_next_key_gets_it_and_hears_for_how_long_the_older_one_is_good(played: Played) -> None:
    async def scene(bench: Bench) -> None:
        anna = bench.key("anna")
        old = bench.ring.get("anna").public
        bench.joins(b"a", anna)
        bench.says(b"a", anna, Rotated(public=NEW, overlap_s=60.0))
        await bench.until(lambda: bench.ring.get("anna").public == NEW)
        [answer] = await answers(bench, b"a")
        assert answer == Rotated(public=NEW, overlap_s=60.0)
        assert bench.ring.by_public(old) is not None
        assert bench.events() == [("key_rotated", "anna")]
        bench.now_s += 20.0
        bench.says(b"a", anna, Rotated(public=NEW))
        assert await answers(bench, b"a") == [Rotated(public=NEW, overlap_s=40.0)]
        assert bench.events() == []

    played(scene)


async def answers(bench: Bench, route: Any) -> list[Message]:
    """What ``route`` is told, as soon as it is told something."""
    found: list[Message] = []

    def some() -> bool:
        found.extend(bench.told(route))
        return bool(found)

    await bench.until(some)
    return found


def test_the_other_sessions_of_the_key_are_told(played: Played) -> None:
    async def scene(bench: Bench) -> None:
        anna = bench.key("anna")
        for route in (b"1", b"2"):
            bench.joins(route, anna, instance=route.decode())
        bench.joins(Via(7, 1), anna, instance="3")
        bench.says(b"1", anna, Rotated(public=NEW, overlap_s=60.0))
        assert await answers(bench, b"2") == [Rotated(public=NEW, overlap_s=60.0)]
        assert bench.told(b"1") == [Rotated(public=NEW, overlap_s=60.0)]
        assert bench.told(Via(7, 1)) == [], "it could not move"

    played(scene)


def test_what_a_worker_carries_rotates_nothing(played: Played) -> None:
    async def scene(bench: Bench) -> None:
        anna = bench.key("anna")
        bench.joins(Via(7, 1), anna)
        bench.says(Via(7, 1), anna, Rotated(public=NEW))
        [refusal] = bench.told(Via(7, 1))
        assert isinstance(refusal, Refusal)
        assert (refusal.code, refusal.about) == ("not_allowed", Rotated.kind)
        assert bench.ring.get("anna").public != NEW

    played(scene)


def test_a_second_key_while_two_are_admitted_is_refused(played: Played) -> None:
    async def scene(bench: Bench) -> None:
        anna = bench.key("anna")
        bench.joins(b"a", anna)
        bench.says(b"a", anna, Rotated(public=NEW, overlap_s=60.0))
        await answers(bench, b"a")
        bench.says(b"a", anna, Rotated(public=NEWER))
        [answer] = await answers(bench, b"a")
        assert isinstance(answer, Rotated)
        assert (answer.code, answer.public) == ("busy", NEWER)
        assert bench.events() == [("key_rotated", "anna"), ("key_refused", "anna")]

    played(scene)


def test_an_owner_rotates_its_key_some_times_at_once_and_then_slowly(played: Played) -> None:
    async def scene(bench: Bench) -> None:
        async def rotates(route: bytes, who: Identity) -> Rotated:
            bench.now_s += 1.0  # the overlap before is over
            bench.says(route, who, Rotated(public=generate().public, overlap_s=MIN_OVERLAP_S))
            [answer] = [each for each in await answers(bench, route) if isinstance(each, Rotated)]
            return answer

        anna, bob = bench.key("anna"), bench.key("bob")
        bench.joins(b"a", anna)
        bench.joins(b"b", bob)
        assert [(await rotates(b"a", anna)).code for _ in range(OWN_AT_ONCE)] == [""] * OWN_AT_ONCE
        before = bench.ring.get("anna").public
        refused = await rotates(b"a", anna)
        assert (refused.code, bench.ring.get("anna").public) == ("busy", before)
        assert "again in 55 s" in refused.hint
        bench.says(b"a", anna, Rotated(public=before))
        assert (await answers(bench, b"a"))[0] == Rotated(public=before), "what was done is answered as the first time"
        assert (await rotates(b"b", bob)).code == "", "others have a pace of their own"

        asked = asyncio.ensure_future(bench.call(name="anna", overlap_s=1.0))
        assert await answers(bench, b"a") == [Rotate(overlap_s=1.0)]
        assert (await rotates(b"a", anna)).code == "", "an administrator asked for it"
        await asked
        bench.now_s += 52.0
        assert [(await rotates(b"a", anna)).code for _ in range(2)] == ["", "busy"]
        bench.now_s += OWN_AT_ONCE * OWN_EACH_S
        await rotates(b"b", bob)
        assert list(bench.part._own_pace) == [bob.key], "it is forgotten in time"

    played(scene)


def test_two_at_once_are_one_and_a_refusal(played: Played) -> None:
    async def scene(bench: Bench) -> None:
        anna = bench.key("anna")
        bench.joins(b"a", anna)
        bench.says(b"a", anna, Rotated(public=NEW))
        bench.says(b"a", anna, Rotated(public=NEWER))
        [refusal] = bench.told(b"a")
        assert isinstance(refusal, Refusal)
        assert refusal.code == "busy"
        await bench.until(lambda: bench.ring.get("anna").public == NEW)

    played(scene)


def test_a_ring_that_cannot_be_written_leaves_all_as_it_was(played: Played) -> None:
    async def scene(bench: Bench) -> None:
        anna = bench.key("anna")
        bench.joins(b"a", anna)
        bench.broken = InvalidKey("cannot write the ring")
        bench.says(b"a", anna, Rotated(public=NEW))
        [answer] = await answers(bench, b"a")
        assert answer == Rotated(code="invalid_key", message="cannot write the ring"), "without a key: it is not given up"
        bench.broken = None
        bench.says(b"a", anna, Rotated(public=NEW))
        [answer] = await answers(bench, b"a")
        assert isinstance(answer, Rotated)
        assert (answer.code, answer.public) == ("", NEW)

    played(scene)


def test_an_administrator_asks_and_the_owner_does_it(played: Played) -> None:
    async def scene(bench: Bench) -> None:
        anna = bench.key("anna")
        old = bench.ring.get("anna").public
        for route in (b"1", b"2"):
            bench.joins(route, anna, instance=route.decode())
        asked = asyncio.ensure_future(bench.call(name="anna", overlap_s=30.0))
        assert await answers(bench, b"2") == [Rotate(overlap_s=30.0)]
        assert bench.told(b"1") == [], "one of them is enough"
        bench.says(b"2", anna, Rotated(public=NEW))
        row = await asked
        until = bench.ring.get("anna").previous[0].until
        assert row == {
            "name": "anna", "state": "rotated", "old": fingerprint(old), "new": fingerprint(NEW), "until": until,
        }  # fmt: skip
        assert bench.told(b"2") == [Rotated(public=NEW, overlap_s=30.0)]

    played(scene)


def test_who_is_away_is_told_when_it_comes(played: Played) -> None:
    async def scene(bench: Bench) -> None:
        anna = bench.key("anna")
        row = await bench.call(name="anna", overlap_s=30.0)
        assert (row["state"], row["new"]) == ("wanted", "")
        with pytest.raises(Busy):
            await bench.call(name="anna")
        bench.joins(Via(7, 1), anna, instance="carried")
        assert bench.told(Via(7, 1)) == []
        bench.joins(b"a", anna)
        assert bench.told(b"a") == [Rotate(overlap_s=30.0)]
        bench.says(b"a", anna, Rotated(public=NEW))
        await answers(bench, b"a")
        bench.joins(b"b", anna, instance="later")
        assert bench.told(b"b") == []

    played(scene)


def test_a_wish_that_is_written_into_the_ring_by_others_is_told(played: Played) -> None:
    async def scene(bench: Bench) -> None:
        anna = bench.key("anna")
        bench.joins(b"a", anna)
        await bench.decide(lambda ring: want(ring, "anna", 5.0, NOW_S))
        assert bench.told(b"a") == [Rotate(overlap_s=5.0)]

    played(scene)


def test_an_owner_that_cannot_says_why(played: Played) -> None:
    async def scene(bench: Bench) -> None:
        anna = bench.key("anna")
        bench.joins(b"a", anna)
        asked = asyncio.ensure_future(bench.call(name="anna"))
        await answers(bench, b"a")
        bench.says(b"a", anna, Rotated(code="invalid_key", message="the file is read-only", hint="use another"))
        with pytest.raises(InvalidKey, match="read-only"):
            await asked
        assert bench.ring.get("anna").rotate_s == 0.0
        assert bench.events() == [("key_refused", "anna")]

    played(scene)


@pytest.mark.parametrize(("args", "error"), [
    ({"name": "nobody"}, NoSuchKey),
    ({"name": "admin", "now": True}, InvalidKey),
    ({"name": "admin", "overlap_s": 0.5}, InvalidKey),
])  # fmt: skip
def test_what_cannot_be_asked(played: Played, args: dict[str, Any], error: type[Exception]) -> None:
    async def scene(bench: Bench) -> None:
        with pytest.raises(error):
            await bench.call(**args)

    played(scene)


def test_everybody_hears_of_a_worker_s_next_key_and_of_the_end_of_the_older(played: Played) -> None:
    async def scene(bench: Bench) -> None:
        worker, anna = bench.key("w", "worker"), bench.key("anna")
        bench.joins(b"w", worker)
        bench.joins(b"a", anna)
        bench.says(b"w", worker, Rotated(public=NEW, overlap_s=5.0))
        assert await answers(bench, b"a") == [NextKey(public=NEW, node="w")]
        assert not any(isinstance(message, NextKey) for message in bench.told(b"w"))
        bench.joins(b"b", anna, instance="later")
        assert bench.told(b"b") == [NextKey(public=NEW, node="w")]
        bench.now_s += 5.0
        bench.part._changed.set()
        await bench.until(lambda: not bench.ring.get("w").previous)
        assert bench.told(b"a") == [NextKey(public=NEW, node="w", now=True)]
        bench.joins(b"c", anna, instance="last")
        assert bench.told(b"c") == []

    played(scene)


def test_an_agent_comes_for_its_next_key_and_goes_back(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visits_module, "BACK_S", 0.0)

    async def scene(bench: Bench) -> None:
        agent = bench.key("7001", "agent")
        asked = asyncio.ensure_future(bench.call(name="7001"))
        await bench.until(lambda: bench.brought == [("7001", "master")])
        bench.joins(b"a", agent)
        await answers(bench, b"a")
        bench.says(b"a", agent, Rotated(public=NEW))
        assert (await asked)["state"] == "rotated"
        await bench.until(lambda: bench.brought == [("7001", "master"), ("7001", "w")])

    played(scene)


# -- the master's own key -----------------------------------------------------------------------------------------------


def test_everybody_hears_of_the_master_s_next_key_first(played: Played) -> None:
    async def scene(bench: Bench) -> None:
        anna = bench.key("anna")
        old = bench.own.current
        bench.joins(b"a", anna)
        bench.joins(Via(7, 1), anna, instance="carried")
        row = await bench.call(name="master", overlap_s=600.0)
        following = bench.own.following
        assert (row["state"], row["old"], row["new"]) == ("rotating", fingerprint(old), fingerprint(following))
        assert (row["away"], row["away_count"]) == (["admin", "anna"], 2)
        for route in (b"a", Via(7, 1)):
            assert bench.told(route) == [NextKey(public=following)]
        bench.joins(b"b", anna, instance="later")
        assert bench.told(b"b") == [NextKey(public=following)]
        assert (bench.own.keys(), bench.listens) == ((old, following), [])
        assert KeyFile.read(bench.home.admin_key).known.masters == (old, following)
        with pytest.raises(Busy, match="is being rotated"):
            await bench.call(name="master")

    played(scene)


def test_it_is_the_key_when_it_is_told_to_be(played: Played) -> None:
    async def scene(bench: Bench) -> None:
        anna = bench.key("anna")
        bench.joins(b"a", anna)
        old = bench.own.current
        await bench.call(name="master")
        following = bench.own.following
        row = await bench.call(name="master", now=True)
        assert (row["state"], row["away"], row["until"]) == ("rotated", ["admin", "anna"], iso(NOW_S))
        assert bench.own.keys() == (following, "")
        assert [pair.public for pair in bench.listens] == [following]
        assert bench.ring.get("master").publics == (following, old)
        assert instant(bench.ring.get("master").previous[0].until) <= NOW_S + MIN_OVERLAP_S, "the overlap was before"
        assert KeyFile.read(bench.home.master_key).master_public == following
        assert KeyFile.read(bench.home.admin_key).known.masters == (following,)
        assert bench.told(b"a") == [NextKey(public=following), NextKey(public=following, now=True)]
        assert bench.events() == [("key_rotated", "master")]
        bench.joins(b"b", anna, instance="later")
        assert bench.told(b"b") == []
        with pytest.raises(Busy):
            await bench.call(name="master")

    played(scene)


def test_nobody_else_gets_the_key_that_is_to_follow_the_master_s(played: Played) -> None:
    async def scene(bench: Bench) -> None:
        anna = bench.key("anna")
        bench.joins(b"a", anna)
        await bench.call(name="master")
        following = bench.own.following
        bench.told(b"a")
        bench.says(b"a", anna, Rotated(public=following))
        [answer] = await answers(bench, b"a")
        assert isinstance(answer, Rotated)
        assert answer.code == "invalid_key"
        assert bench.ring.by_public(following) is None

    played(scene)


def test_a_next_key_that_somebody_else_has_is_followed_by_another(played: Played) -> None:
    async def scene(bench: Bench) -> None:
        anna = bench.key("anna")
        bench.joins(b"a", anna)
        await bench.call(name="master")
        taken, old = bench.own.following, bench.own.current
        await bench.decide(lambda ring: ring.add("bob", "client", taken))
        init_home(bench.home, "c", addresses=("tcp://m:1",))
        assert KeyFile.read(bench.home.master_key).pair.public == old, "nor does a start take it"
        with pytest.raises(InvalidKey, match="'bob'"):
            await bench.call(name="master", now=True)
        assert bench.own.current == old
        assert bench.own.following not in ("", taken)
        await bench.call(name="master", now=True)
        assert [pair.public for pair in bench.listens] == [bench.own.current]

    played(scene)


def test_who_goes_away_while_the_key_is_changed_leaves_no_half(played: Played) -> None:
    async def scene(bench: Bench) -> None:
        asked = asyncio.ensure_future(bench.call(name="master", now=True))
        changed = bench.own._own.finish

        def finish(public: str) -> None:
            loop.call_soon_threadsafe(asked.cancel)
            changed(public)

        loop, bench.own._own.finish = asyncio.get_running_loop(), finish  # type: ignore[method-assign]
        with pytest.raises(asyncio.CancelledError):
            await asked
        await bench.until(lambda: bench.listens)
        assert [pair.public for pair in bench.listens] == [bench.own.current]

    played(scene)


def test_a_master_that_cannot_write_its_file_wants_no_other_key(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_own: OwnKey) -> str:
        raise InvalidKey("cannot write")

    monkeypatch.setattr(OwnKey, "begin", full)

    async def scene(bench: Bench) -> None:
        with pytest.raises(InvalidKey, match="cannot write"):
            await bench.call(name="master")
        assert (bench.ring.get("master").rotate_s, bench.own.following) == (0.0, "")

    played(scene)


def test_what_a_worker_carries_says_of_nobody_that_it_knows(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masterkey_module, "LOOK_S", 0.0)

    async def scene(bench: Bench) -> None:
        admin = Identity(bench.ring.get("admin").id, "admin", "admin")
        bench.joins(Via(7, 1), admin)
        await bench.call(name="master")
        told = NextKey(public=bench.own.following)
        bench.says(Via(7, 1), admin, told)
        assert bench.own._away() == ["admin"]
        bench.joins(b"a", admin, instance="here")
        bench.says(b"a", admin, told)
        await bench.until(lambda: bench.own.current == told.public)

    played(scene)


def test_agents_that_do_not_come_keep_nobody_from_its_turn(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visits_module, "AT_ONCE", 2)
    monkeypatch.setattr(visits_module, "ASK_S", 0.0)

    async def scene(bench: Bench) -> None:
        for name in ("1", "2", "3"):
            bench.key(name, "agent")
            await bench.decide(lambda ring, name=name: want(ring, name, 60.0, NOW_S))  # type: ignore[misc]
        await bench.until(lambda: len(bench.brought) == 3)
        assert {name for name, _ in bench.brought} == {"1", "2", "3"}
        bench.now_s += visits_module.AGAIN_S
        await bench.until(lambda: len(bench.brought) == 6)

    played(scene)


def test_an_agent_comes_to_hear_of_the_master_s_next_key(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visits_module, "BACK_S", 0.0)

    async def scene(bench: Bench) -> None:
        agent = bench.key("7001", "agent")
        await bench.call(name="master", overlap_s=600.0)
        await bench.until(lambda: bench.brought == [("7001", "master")])
        bench.joins(b"a", agent)
        told = NextKey(public=bench.own.following)
        assert bench.told(b"a") == [told]
        bench.says(b"a", agent, told)
        await bench.until(lambda: bench.brought == [("7001", "master"), ("7001", "w")])

    played(scene)


def test_it_is_the_key_when_everybody_knows_it(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masterkey_module, "LOOK_S", 0.0)

    async def scene(bench: Bench) -> None:
        anna, admin = bench.key("anna"), Identity(bench.ring.get("admin").id, "admin", "admin")
        bench.joins(b"a", anna)
        bench.joins(b"b", admin)
        await bench.call(name="master")
        told = NextKey(public=bench.own.following)
        bench.says(b"a", anna, NextKey(public=told.public, code="invalid_key"))
        bench.says(b"b", admin, told)
        bench.says(b"b", admin, NextKey(public=NEW))
        assert bench.own._until_s > NOW_S, "one of them would not know it after its next start"
        bench.says(b"a", anna, told)
        await bench.until(lambda: bench.own.current == told.public)
        assert len(bench.listens) == 1

    played(scene)


def test_it_is_the_key_when_the_overlap_is_over_and_goes_on_after_a_restart(played: Played) -> None:
    async def scene(bench: Bench) -> None:
        await bench.call(name="master", overlap_s=1.0)
        following = bench.own.following
        await bench.own.close()
        bench.own.start()
        assert bench.own._until_s == NOW_S + 1.0
        bench.now_s += 1.0
        bench.own._watch()
        await bench.until(lambda: bench.own.current == following)

    played(scene)


def test_killed_before_there_is_a_next_key_it_is_made_after_the_next_start(played: Played) -> None:
    async def scene(bench: Bench) -> None:
        await bench.decide(lambda ring: want(ring, "master", 60.0, NOW_S))
        assert not bench.own.following
        bench.own.start()
        await bench.until(lambda: bench.own._until_s == NOW_S + 60.0)
        assert KeyFile.read(bench.home.admin_key).master_next == bench.own.following

    played(scene)


def test_where_the_system_does_not_let_it_the_next_start_has_the_new_key(played: Played) -> None:
    async def scene(bench: Bench) -> None:
        bench.deaf = True
        await bench.call(name="master")
        following = bench.own.following
        await bench.call(name="master", now=True)
        assert bench.listens == []
        assert KeyFile.read(bench.home.master_key).pair.public == following
        assert bench.ring.by_public(following) is not None

    played(scene)


def test_a_ring_that_cannot_be_written_delays_it(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masterkey_module, "RETRY_S", 0.0)

    async def scene(bench: Bench) -> None:
        await bench.call(name="master", overlap_s=1.0)
        following = bench.own.following
        bench.broken = InvalidKey("cannot write the ring")
        with pytest.raises(InvalidKey):
            await bench.call(name="master", now=True)
        assert (bench.own.following, bench.listens) == (following, [])
        bench.now_s += 1.0
        bench.own._watch()
        asked = bench.decisions
        await bench.until(lambda: bench.decisions > asked + 2)
        assert bench.listens == []
        bench.broken = None
        await bench.until(lambda: bench.own.current == following)

    played(scene)


def test_a_key_file_of_the_home_that_cannot_be_read_holds_nothing_up(played: Played) -> None:
    async def scene(bench: Bench) -> None:
        broken = bench.home.keys_dir / "broken.key"
        broken.write_text("nonsense")
        broken.chmod(0o600)
        await bench.call(name="master")
        assert KeyFile.read(bench.home.admin_key).master_next == bench.own.following
        assert broken.read_text() == "nonsense"

    played(scene)

