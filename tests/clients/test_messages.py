"""``AsyncClient.messages``: one name a client, again after a loss, kept messages once, and bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from zcluster.clients import messages as module
from zcluster.clients.messages import Messages, checked_keep
from zcluster.errors import Conflict, NotAllowed, UsageError
from zcluster.wire import Message
from zcluster.wire.agents import Listen, Note


class Link:
    """Stands in for a ClientLink; what is said is kept, and LISTEN is answered."""

    def __init__(self, name: str = "alice", code: str = "listening") -> None:
        self.name = name
        self.code = code
        self.notes: Messages | None = None
        self.said: list[tuple[str, int]] = []

    def say(self, message: Message) -> None:
        assert isinstance(message, Listen)
        self.said.append((message.name, message.seen))
        if self.notes is not None and message.name and not message.seen:
            answer = Note(id=0, sender="", key="", to=message.name, text="it is taken", at_s=0.0, code=self.code)
            asyncio.get_running_loop().call_soon(self.notes.received, answer)

    def note(self, id_: int, text: str = "hi", *, kept: bool = False) -> None:
        assert self.notes is not None
        self.notes.received(Note(id=id_, sender="b", key="bob", to="alice", text=text, at_s=5.0, kept=kept))


def run(work: Callable[[Link], Coroutine[Any, Any, None]], link: Link | None = None) -> None:
    async def main() -> None:
        async with asyncio.timeout(30):
            await work(link or Link())

    asyncio.run(main())


def test_the_name_is_the_keys_or_another_and_is_given_back() -> None:
    async def work(link: Link) -> None:
        async with Messages(lambda: link) as messages:
            assert messages.name == "alice"
        async with Messages(lambda: link, "ops") as messages:
            assert messages.name == "ops"
        assert link.said == [("alice", 0), ("", 0), ("ops", 0), ("", 0)]
        assert link.notes is None

    run(work)


def test_a_name_of_another_is_the_error_of_the_first_step() -> None:
    async def work(link: Link) -> None:
        with pytest.raises(Conflict, match="taken"):
            async with Messages(lambda: link, "bob"):
                raise AssertionError
        with pytest.raises(Conflict):
            await anext(Messages(lambda: link, "bob"))
        assert link.notes is None

    run(work, Link(code="conflict"))


def test_a_message_has_what_was_said_and_by_whom() -> None:
    async def work(link: Link) -> None:
        async with Messages(lambda: link) as messages:
            waiting = asyncio.ensure_future(anext(messages))
            await asyncio.sleep(0)
            link.note(3, "hello")
            found = await waiting
            assert (found.sender, found.key, found.to, found.text, found.at_s, found.id) == ("b", "bob", "alice", "hello", 5.0, 3)

    run(work)


def test_it_listens_again_on_each_session() -> None:
    async def work(link: Link) -> None:
        link.name = ""
        messages = Messages(lambda: link)
        waiting = asyncio.ensure_future(anext(messages))
        await asyncio.sleep(0)
        assert link.said == []
        for _ in range(2):
            link.name = "alice"
            messages.session_up()
        assert link.said == [("alice", 0)] * 2
        link.note(1)
        assert (await waiting).id == 1

    run(work)


def test_a_kept_message_is_confirmed_when_it_is_handed_over_and_comes_once() -> None:
    async def work(link: Link) -> None:
        async with Messages(lambda: link) as messages:
            link.note(1, kept=True)
            link.note(2, kept=True)
            assert link.said == [("alice", 0)]
            assert (await anext(messages)).kept
            assert link.said[1:] == [("alice", 1)]
            messages.session_up()  # a new session: what was not confirmed is told again
            link.note(1, kept=True)
            link.note(2, kept=True)
            assert link.said[2:] == [("alice", 0), ("alice", 1)]
            assert (await anext(messages)).id == 2
            assert link.said[4:] == [("alice", 2)]
            link.note(9)
            assert (await anext(messages)).id == 9

    run(work)


def test_what_is_not_read_is_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)

    async def work(link: Link) -> None:
        async with Messages(lambda: link) as messages:
            for id_ in range(1, 6):
                link.note(id_)
            link.note(6, kept=True)
            found = [await anext(messages) for _ in range(3)]
            assert [(each.id, each.missed) for each in found] == [(1, 0), (2, 0), (6, 3)]
            monkeypatch.setattr(module, "MAX_WAITING_CHARS", 10)
            link.note(7, "x" * 10)
            link.note(8, "x")
            assert (await anext(messages)).id == 7
            link.note(9, "x")
            assert (await anext(messages)).missed == 1

    run(work)


def test_a_newer_one_ends_the_older() -> None:
    async def work(link: Link) -> None:
        older, newer = Messages(lambda: link), Messages(lambda: link, "ops")
        async with older:
            link.note(1)
            async with newer:
                assert [each.id async for each in older] == [1]
                await older.aclose()
                assert link.notes is newer
                link.note(2)
                assert (await anext(newer)).id == 2

    run(work)


def test_the_end_of_the_client_ends_it_and_an_error_is_raised() -> None:
    async def work(link: Link) -> None:
        async with Messages(lambda: link) as messages:
            link.note(1)
            messages.end()
            assert [each.id async for each in messages] == [1]
        async with Messages(lambda: link) as messages:
            link.note(1)
            messages.fail(NotAllowed("revoked"))
            assert (await anext(messages)).id == 1
            with pytest.raises(NotAllowed):
                await anext(messages)

    run(work)


def test_the_answer_to_an_older_name_is_not_taken_for_this_one() -> None:
    async def work(link: Link) -> None:
        async with Messages(lambda: link) as messages:
            messages.received(Note(id=0, sender="", key="", to="other", text="no", at_s=0.0, code="conflict"))
            link.note(1)
            assert (await anext(messages)).id == 1

    run(work)


def test_keep_is_a_number() -> None:
    assert checked_keep(5) == 5.0
    for bad in ("1h", None, True):
        with pytest.raises(UsageError):
            checked_keep(bad)
