"""Admission at a master: JOIN, strangers, and the functions about keys and tokens."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from zcluster.brokers import admission as module
from zcluster.brokers.admission import Admission, token_events
from zcluster.brokers.admitted import Admitted
from zcluster.config import Home, load
from zcluster.core.carrying import Via
from zcluster.core.joining import Stranger
from zcluster.core.limits import MasterLimits
from zcluster.core.master import Master
from zcluster.core.peers import Event, Identity, Route
from zcluster.core.tries import PER_ADDRESS
from zcluster.dapi.context import Context
from zcluster.errors import InvalidKey, NoSuchKey, NotAllowed, UsageError
from zcluster.keys import KeyFile, Ring, fingerprint, generate, init_home, may_call, may_send
from zcluster.keys.pending import read_pending, write_pending
from zcluster.keys.tokens import TokenText, create_token, revoke_token
from zcluster.nodes.desk import Desk
from zcluster.wire import Bye, Hello, Message, Refusal
from zcluster.wire.joining import Join, Joined

PATIENCE_S = 30.0
KEYS = [generate().public for _ in range(6)]


class Rig:
    """A master's machine with the part, on a real ring."""

    def __init__(self, home: Home) -> None:
        self.home = init_home(home, "prod", addresses=["tcp://m:7570"], publish=["tcp://m:7571"]).home
        self.ring = Ring(self.home.ring_file)
        self.machine = Master("master", "prod", 1, MasterLimits(), may_send, may_call, 0.0)
        self.admitted = Admitted(self.ring, Identity("me", "master", "master"), logging.getLogger("test"), self.home.run_dir)
        self.noted: list[Event] = []
        self.now_s = 0.0
        self.woken = asyncio.Event()
        loaded = load(self.home.path, environ={})
        desk = SimpleNamespace(
            home=self.home, loaded=lambda: loaded, wall_s=lambda: self.now_s, note=self.noted.append, wake=self.woken.set,
            logger=logging.getLogger("test"),
        )  # fmt: skip
        self.part = Admission(cast(Desk, desk), self.machine, self.ring, self.look, lambda _route: "10.0.0.1")

    def look(self) -> None:
        if self.admitted.changed():
            self.part.ring_changed()

    def token(self, **options: Any) -> str:
        """The public key of a new token."""
        token, _pair = create_token(Ring(self.ring.path), "worker", **{"ttl_s": 60.0, **options})
        self.look()
        return token.public

    def says(self, route: Route, public: str, message: Message) -> None:
        identity = self.admitted.identify(public)
        assert identity is not None, "ZAP would have denied it"
        self.machine.receive(route, identity, message, b"", 0, 0.0)

    async def answers(self, *routes: Route) -> list[Message]:
        """What is said on these routes."""
        while not all(route in self.machine.roster.farewells for route in routes):
            self.woken.clear()
            await self.woken.wait()
        return [self.machine.roster.farewells.pop(route) for route in routes]

    async def joins(self, token: str, public: str, wish: str = "w", route: Route = b"r") -> Message:
        self.says(route, token, Join(public=public, name=wish))
        return (await self.answers(route))[0]

    async def call(self, name: str, context: Context | None = None, /, **args: Any) -> Any:
        called = self.part.functions()[name]
        return await called.call(called.decode(orjson.dumps(args)), context)

    def told(self, name: str) -> list[dict[str, Any]]:
        return [event.fields for event in self.noted if event.name == name]


def run(tmp_path: Path, body: Callable[[Rig], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S):
            rig = Rig(Home(tmp_path / "home"))
            await rig.part.start()
            try:
                await body(rig)
            finally:
                await rig.part.close()

    asyncio.run(main())


def test_a_key_joins_and_is_admitted_when_the_answer_is_there(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        rig.ring.add("w", "worker", KEYS[5])
        token = rig.token()
        answer = await rig.joins(token, KEYS[0])
        assert answer == Joined(
            name="w-2", role="worker", cluster="prod", addresses=answer.addresses, publish=answer.publish  # type: ignore[union-attr]
        )
        assert isinstance(answer, Joined)
        assert answer.addresses
        assert rig.admitted.identify(KEYS[0]) == Identity(KEYS[0], "w-2", "worker")
        assert rig.admitted.identify(token) is None, "it is used up"
        assert [each["left"] for each in rig.told("token_used")] == [0]
        assert rig.machine.roster.peers == {}, "no session was opened"

    run(tmp_path, body)


def test_an_admitted_key_may_ask_what_it_is_called_and_nothing_of_others(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        token = rig.token()
        first = await rig.joins(token, KEYS[0])
        before = rig.ring.path.read_bytes()
        assert await rig.joins(KEYS[0], KEYS[0], "another wish") == first
        rig.ring.add("other", "client", KEYS[1])
        rig.look()
        assert await rig.joins(KEYS[0], KEYS[1]) == Refusal(code="not_allowed", about=Join.kind, message="refused")
        assert rig.ring.path.read_bytes() != before
        assert rig.told("key_refused")[-1]["reason"] == "not its own key"

    run(tmp_path, body)


def test_keys_that_may_use_doors_are_told_the_workers(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        rig.ring.add("w1", "worker", KEYS[5])
        token, _pair = create_token(rig.ring, "client", ttl_s=60.0)
        rig.look()
        answer = await rig.joins(token.public, KEYS[0])
        assert isinstance(answer, Joined)
        assert [(node.name, node.public) for node in answer.nodes] == [("w1", KEYS[5])]

    run(tmp_path, body)


def test_of_many_at_once_a_token_of_one_use_admits_one(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        token = rig.token()
        routes = [b"%d" % number for number in range(4)]
        for route, public in zip(routes, KEYS[:4], strict=True):
            rig.says(route, token, Join(public=public, name="w"))
        answers = await rig.answers(*routes)
        assert [type(answer).__name__ for answer in answers] == ["Joined", "Refusal", "Refusal", "Refusal"]
        assert [each["reason"] for each in rig.told("key_refused")] == ["the token is used up"] * 3
        assert {each.message for each in answers[1:] if isinstance(each, Refusal)} == {"refused"}

    run(tmp_path, body)


@pytest.mark.parametrize("reason", ["revoked", "expired", "taken"])
def test_why_is_told_here_and_refused_is_told_there(tmp_path: Path, reason: str) -> None:
    async def body(rig: Rig) -> None:
        public = rig.token(name="db")
        token = rig.ring.token_of(public)
        assert token is not None
        identity = rig.admitted.identify(public)
        assert identity is not None
        match reason:
            case "revoked":
                revoke_token(Ring(rig.ring.path), token.id)
            case "expired":
                rig.now_s = 4e9
            case _:
                rig.ring.add("db", "worker", KEYS[5])
        # it had connected before: ZAP does not look again
        rig.machine.receive(b"r", identity, Join(public=KEYS[0], name="\x1b[31mw"), b"", 0, 0.0)
        assert await rig.answers(b"r") == [Refusal(code="not_allowed", about=Join.kind, message="refused")]
        (fields,) = rig.told("key_refused")
        assert fields["id"] == f"token:{token.id}"
        assert fields["address"] == "10.0.0.1"
        assert {"revoked": "is revoked", "expired": "is expired", "taken": "has a key 'db' already"}[reason] in fields["reason"]
        assert rig.ring.by_public(KEYS[0]) is None

    run(tmp_path, body)


def test_a_full_disk_refuses_nobody_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    async def body(rig: Rig) -> None:
        token = rig.token()
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            answer = await rig.joins(token, KEYS[0])
        assert isinstance(answer, Refusal)
        assert answer.code == "busy"
        assert rig.told("key_refused") == []
        assert isinstance(await rig.joins(token, KEYS[0]), Joined)

    run(tmp_path, body)


def test_joins_that_wait_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)

    async def body(rig: Rig) -> None:
        token = rig.token(uses=3)
        for number in range(3):
            rig.says(b"%d" % number, token, Join(public=KEYS[number]))
        answers = await rig.answers(b"0", b"1", b"2")
        assert [isinstance(answer, Joined) for answer in answers] == [True, True, False]
        assert isinstance(answers[2], Refusal)
        assert answers[2].code == "busy"
        assert rig.machine.counters.values["join_busy"] == 1

    run(tmp_path, body)


def test_one_join_of_a_connection_waits(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        token = rig.token(uses=3)
        rig.says(b"r", token, Join(public=KEYS[0]))
        rig.says(b"r", token, Join(public=KEYS[1]))
        answers = await rig.answers(b"r")
        assert rig.machine.counters.values["join_busy"] == 1
        answers += await rig.answers(b"r")
        assert [type(answer) for answer in answers] == [Refusal, Joined]

    run(tmp_path, body)


def test_who_was_refused_too_often_is_no_longer_looked_at(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        token = rig.token(uses=3)
        decided: list[int] = []
        decide = rig.part.decide

        async def counted(change: Callable[[Ring], Any]) -> Any:
            decided.append(1)
            return await decide(change)

        rig.part.decide = counted  # type: ignore[method-assign]
        rig.ring.add("w", "worker", KEYS[4])
        for number in range(PER_ADDRESS):
            one = rig.ring.get("w").public if number % 2 else token  # with a token, and with a key of the ring
            answer = await rig.joins(one, KEYS[5] if number % 2 else "x" * 40)
            assert isinstance(answer, Refusal)
            assert answer.code == "not_allowed"
        looked = len(decided)
        assert looked == PER_ADDRESS / 2
        for one, public in ((token, KEYS[0]), (KEYS[4], KEYS[5])):
            limited = await rig.joins(one, public)
            assert isinstance(limited, Refusal)
            assert limited.code == "busy", "it may come again, and nobody learns more"
        assert (len(decided), rig.machine.counters.values["join_limited"]) == (looked, 2)
        assert len(rig.told("key_refused")) == PER_ADDRESS

    run(tmp_path, body)


def test_a_joiner_may_say_nothing_but_join(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        token = rig.token()
        rig.says(b"r", token, Hello(versions=[1], instance="i"))
        (bye,) = await rig.answers(b"r")
        assert isinstance(bye, Bye)
        assert bye.code == "not_allowed"
        rig.says(b"r", token, Bye())
        assert (await rig.answers(b"r"))[0] == Bye(code="no_session", message="say HELLO first")
        assert rig.machine.roster.peers == {}

    run(tmp_path, body)


def test_nobody_joins_through_a_workers_door(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        rig.ring.add("anna", "client", KEYS[1])
        rig.look()
        via = Via(1, 1)
        rig.says(via, KEYS[1], Join(public=KEYS[1]))
        assert (await rig.answers(via))[0] == Bye(code="no_session", message="say HELLO first")

    run(tmp_path, body)


# -- strangers ----------------------------------------------------------------------------------------------------------


def test_a_stranger_waits_in_the_file_until_it_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITE_S", 0.0)

    changed = asyncio.Event()

    async def written(rig: Rig, count: int) -> None:
        while len(read_pending(rig.home)) != count:
            changed.clear()
            await changed.wait()

    async def body(rig: Rig) -> None:
        loop = asyncio.get_running_loop()

        def write(home: Home, strangers: list[Stranger]) -> None:
            write_pending(home, strangers)
            loop.call_soon_threadsafe(changed.set)

        monkeypatch.setattr(module, "write_pending", write)
        mark = fingerprint(KEYS[0])
        assert rig.part.denied(KEYS[0], "10.0.0.7") == f"unknown key {mark}"
        rig.part.denied(KEYS[0], "10.0.0.7")
        assert rig.told("key_pending") == [{"fingerprint": mark, "address": "10.0.0.7"}]
        await written(rig, 1)
        (row,) = await rig.call("keys.pending")
        assert (row["fingerprint"], row["tries"]) == (mark, 2)
        with pytest.raises(NoSuchKey):
            await rig.call("keys.accept", context(), name="w1", fingerprint=mark[:-1])
        accepted = await rig.call("keys.accept", context(), name="w1", fingerprint=mark)
        assert (accepted["name"], accepted["role"], accepted["public"]) == ("w1", "worker", KEYS[0])
        assert rig.admitted.identify(KEYS[0]) is not None, "it holds when the function answers"
        assert await rig.call("keys.pending") == []
        await written(rig, 0)

    run(tmp_path, body)


def test_each_reason_has_its_own_words(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        token = rig.ring.token_of(rig.token())
        assert token is not None
        revoke_token(Ring(rig.ring.path), token.id)
        rig.ring.add("gone", "worker", KEYS[0])
        rig.ring.revoke("gone")
        rig.look()
        rig.part.denied(KEYS[1], "a")
        await rig.call("keys.reject", fingerprint=fingerprint(KEYS[1]))
        assert rig.part.denied(token.public, "a") == f"the token {token.id} is revoked"
        assert rig.part.denied(KEYS[0], "a") == f"the key {fingerprint(KEYS[0])} is revoked"
        assert rig.part.denied(KEYS[1], "a") == f"the key {fingerprint(KEYS[1])} is rejected"
        assert [each["reason"] for each in rig.told("key_refused")] == [f"the token {token.id} is revoked", "revoked", "rejected"]
        assert len(rig.part.strangers) == 0

    run(tmp_path, body)


# -- functions ----------------------------------------------------------------------------------------------------------


def context(job: str = "", caller: str = "admin") -> Context:
    found = Context(caller=caller, role="admin", node="master", request_id="1.1", deadline_s=1.0, clock=lambda: 0.0)
    found.job = job
    return found


def test_a_token_is_made_by_a_function_and_its_secret_told_once(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        made = await rig.call("token.create", context(), role="worker", uses=2)
        text = TokenText.read(made["token"])
        assert text.master_public == KeyFile.read(rig.home.master_key).pair.public
        assert (made["state"], made["uses_left"], made["creator"]) == ("valid", 2, "admin")
        assert isinstance(await rig.joins(text.pair.public, KEYS[0]), Joined)
        listed = await rig.call("token.ls")
        assert [row["uses_left"] for row in listed] == [1]
        assert text.pair.secret not in str(listed)
        assert (await rig.call("token.revoke", id=made["id"]))["state"] == "revoked"
        assert rig.admitted.identify(text.pair.public) is None
        assert [event.name for event in rig.noted if event.name.startswith("token_")] == [
            "token_created", "token_used", "token_revoked",
        ]  # fmt: skip
        assert text.pair.secret not in str(rig.noted)

    run(tmp_path, body)


def test_a_job_gets_no_token_and_an_administrators_token_needs_force(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        with pytest.raises(UsageError, match="no job's outcome"):
            await rig.call("token.create", context(job="1-1"), role="worker")
        with pytest.raises(InvalidKey, match="do everything"):
            await rig.call("token.create", context(), role="admin")
        assert (await rig.call("token.create", context(), role="admin", force=True))["role"] == "admin"
        assert len(rig.ring.tokens) == 1

    run(tmp_path, body)


ROLES = """
[roles.operator]
base = "admin"
functions = ["token.*", "keys.*"]
[roles.reader]
"""


def test_a_part_of_an_administrator_lets_nobody_in_who_may_do_more(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o700)
    (tmp_path / "home" / "zcluster.toml").write_text(f'[cluster]\nname = "prod"\n{ROLES}')

    async def body(rig: Rig) -> None:
        Ring(rig.ring.path).add("op", "operator", KEYS[0])
        rig.look()
        rig.part.denied(KEYS[1], "10.0.0.7")
        op = context(caller="op")
        mark = fingerprint(KEYS[1])
        for role in ("admin", "master"):
            with pytest.raises(NotAllowed, match=f"of role operator lets nobody in as {role}"):
                await rig.call("token.create", op, role=role, force=True)
            with pytest.raises(NotAllowed):
                await rig.call("keys.accept", op, name="x", fingerprint=mark, role=role)
        for role in ("worker", "client", "reader", "operator"):
            assert (await rig.call("token.create", op, role=role, force=True))["role"] == role
        for caller in (op, context()):
            with pytest.raises(InvalidKey, match="there is no role 'wroker'"):
                await rig.call("token.create", caller, role="wroker")
        assert (await rig.call("keys.accept", context(), name="x", fingerprint=mark, role="admin"))["role"] == "admin"

    run(tmp_path, body)


def test_a_key_is_revoked_with_its_tokens_and_the_homes_own_only_by_force(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        rig.token(name="w1")
        rig.ring.add("w1", "worker", KEYS[0])
        rig.look()
        assert {row["name"] for row in await rig.call("keys.ls")} == {"admin", "master", "w1"}
        gone = await rig.call("keys.revoke", context(caller="other"), name="w1")
        assert (gone["name"], gone["public"], gone["tokens_revoked"]) == ("w1", KEYS[0], 1)
        assert rig.admitted.identify(KEYS[0]) is None
        for name in ("admin", "master"):
            with pytest.raises(UsageError, match="own home"):
                await rig.call("keys.revoke", context(caller="other"), name=name)
        with pytest.raises(NoSuchKey):
            await rig.call("keys.revoke", context(caller="other"), name="w1")
        Ring(rig.ring.path).add("boss", "admin", KEYS[1])
        with pytest.raises(UsageError, match="the key that asks"):
            await rig.call("keys.revoke", context(caller="boss"), name="boss")
        assert (await rig.call("keys.revoke", context(caller="boss"), name="boss", force=True))["name"] == "boss"

    run(tmp_path, body)


def test_every_function_is_for_administrators(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        functions = rig.part.functions()
        assert {each.role for each in functions.values()} == {"admin"}
        assert sorted(functions) == [
            "keys.accept", "keys.ls", "keys.pending", "keys.reject", "keys.revoke", "token.create", "token.ls", "token.revoke",
        ]  # fmt: skip

    run(tmp_path, body)


def test_what_became_of_tokens_is_told_once(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "ring.json")
    token, _pair = create_token(ring, "worker", ttl_s=60.0, uses=3)
    first = dict(ring.tokens)
    assert [event.name for event in token_events({}, first)] == ["token_created"]
    assert token_events(first, first) == []
    revoke_token(ring, token.id)
    assert [event.name for event in token_events(first, ring.tokens)] == ["token_revoked"]
    assert token_events(ring.tokens, {}) == [], "one that made room has nothing to tell"
