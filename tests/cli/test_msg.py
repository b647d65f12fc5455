"""``zcluster msg`` and ``zcluster chat`` against a cluster of plain data."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pytest

from zcluster.clients.messages import Message
from zcluster.core.notes import MAX_TEXT_BYTES
from zcluster.errors import NoSuchClient

HELLO = Message("bob", "bob", "ann", "hello\x1b[2J", 0.0, 1)
OPS = Message("ops", "bob", "all", "shut down", 0.0, 2, missed=3)


class Heard:
    """Stands in for Messages; it ends, or waits for ever."""

    def __init__(self, name: str, found: list[Message], ends: bool) -> None:
        self.name, self._found, self._ends = name, list(found), ends

    async def __aenter__(self) -> Heard:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return

    def __aiter__(self) -> Heard:
        return self

    async def __anext__(self) -> Message:
        if self._found:
            return self._found.pop(0)
        if self._ends:
            raise StopAsyncIteration
        await asyncio.Event().wait()
        raise AssertionError


class Client:
    """Stands in for AsyncClient."""

    def __init__(self) -> None:
        self.found: list[Message] = []
        self.ends = True
        self.sessions = 1
        self.error: Exception | None = None
        self.sent: list[tuple[Any, ...]] = []
        self.who = [{"name": "ann", "key": "admin", "sessions": 1, "kept": 0}]

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return

    async def send(self, to: str, text: str, *, keep_s: float = 0.0, as_name: str = "", timeout: float | None = None) -> int:
        self.sent.append((to, text, keep_s, as_name))
        if self.error is not None:
            raise self.error
        return self.sessions

    def messages(self, as_name: str = "") -> Heard:
        return Heard(as_name or "admin", self.found, self.ends)

    async def call(self, function: str, args: Any = None, *, target: str = "any") -> Any:
        assert (function, target) == ("notes.who", "master")
        return self.who


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client()
    monkeypatch.setattr("zcluster.cli.msg.open_client", lambda state, connection: made)
    return made


def test_send_joins_the_words_and_says_who_got_it(client: Client, zcluster: Callable[..., Any]) -> None:
    ran = zcluster("msg", "send", "bob", "hello", "there", "--as", "ann")
    assert (ran.code, ran.out) == (0, "bob: 1 session got it\n")
    assert client.sent == [("bob", "hello there", 0.0, "ann")]
    client.sessions = 2
    assert json.loads(zcluster("msg", "send", "bob", "x", "-o", "json").out) == {
        "schema": 1, "to": "bob", "sessions": 2, "kept": False,
    }  # fmt: skip


def stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def test_send_reads_the_text_from_stdin(client: Client, zcluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, "a\nbä\n\n".encode())
    assert zcluster("msg", "send", "bob", "-").code == 0
    stdin(monkeypatch, b"x" * MAX_TEXT_BYTES + b"\n")
    assert zcluster("msg", "send", "--all", "-").code == 0
    assert zcluster("msg", "send", "bob", "a", "-").code == 0
    assert [(to, text) for to, text, _, _ in client.sent] == [
        ("bob", "a\nbä\n"), ("all", "x" * MAX_TEXT_BYTES), ("bob", "a -"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "nothing to send"), (b"\n", "nothing to send"), (b"\xff", "no.* valid UTF-8"),
        (b"x" * (MAX_TEXT_BYTES + 1), "more than 65536"),
    ],
)  # fmt: skip
def test_what_stdin_cannot_say(
    data: bytes, what: str, client: Client, zcluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin(monkeypatch, data)
    ran = zcluster("msg", "send", "bob", "-")
    assert (ran.code, client.sent) == (2, [])
    assert re.search(what, ran.err)


def test_send_to_all_has_no_name(client: Client, zcluster: Callable[..., Any]) -> None:
    assert zcluster("msg", "send", "--all", "hello", "you").out == "all: 1 session got it\n"
    assert client.sent == [("all", "hello you", 0.0, "")]


def test_send_lets_a_message_wait(client: Client, zcluster: Callable[..., Any]) -> None:
    client.sessions = 0
    assert zcluster("msg", "send", "bob", "x", "--keep", "1h").out == "bob: kept for 60 min\n"
    assert client.sent == [("bob", "x", 3600.0, "")]
    assert json.loads(zcluster("msg", "send", "bob", "x", "--keep", "1h", "-o", "json").out)["kept"]


@pytest.mark.parametrize("words", [[], ["bob"], ["--all"], ["bob", "x", "--keep", "soon"]])
def test_send_wants_a_name_and_a_text(words: list[str], client: Client, zcluster: Callable[..., Any]) -> None:
    ran = zcluster("msg", "send", *words)
    assert (ran.code, ran.out, client.sent) == (2, "", [])


def test_a_name_that_nobody_has_is_exit_code_5(client: Client, zcluster: Callable[..., Any]) -> None:
    client.error = NoSuchClient("nobody listens as bob")
    ran = zcluster("msg", "send", "bob", "x")
    assert (ran.code, ran.out, ran.err) == (5, "", "zcluster: error: nobody listens as bob\n")


def test_listen_prints_a_line_a_message(client: Client, zcluster: Callable[..., Any]) -> None:
    client.found = [HELLO, OPS]
    ran = zcluster("msg", "listen", "--as", "ann")
    assert [line.partition("  ")[2] for line in ran.out.splitlines()] == ["bob: hello\\x1b[2J", "ops (bob) to all: shut down"]
    assert ran.err.startswith("zcluster: listening as ann\nzcluster: 3 messages were missed")


def test_listen_prints_objects_for_programs(client: Client, zcluster: Callable[..., Any]) -> None:
    client.found = [HELLO, OPS]
    ran = zcluster("msg", "listen", "--count", "1", "-o", "ndjson")
    (item,) = [json.loads(line) for line in ran.out.splitlines()]
    assert item == {
        "sender": "bob", "key": "bob", "to": "ann", "text": "hello\x1b[2J", "at_s": 0.0, "id": 1, "kept": False, "missed": 0,
    }  # fmt: skip
    assert zcluster("msg", "listen", "-o", "name").out == "bob\nops\n"


def test_who_is_a_list(client: Client, zcluster: Callable[..., Any]) -> None:
    assert zcluster("msg", "who").out.splitlines()[1].split() == ["ann", "admin", "1", "0"]
    assert json.loads(zcluster("msg", "who", "-o", "json").out)["items"] == client.who


def chat(zcluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, text: str) -> Any:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    return zcluster("chat", "--as", "ann")


def test_a_chat_does_what_each_line_says(
    client: Client, zcluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    client.ends = False
    ran = chat(zcluster, monkeypatch, "help\nsend all hello you\nsend bob  hi \nwho\n\nsend bob\ndance\nquit\nsend bob late\n")
    assert ran.code == 0
    assert client.sent == [("all", "hello you", 0.0, ""), ("bob", "hi", 0.0, "")]
    assert ran.out.splitlines()[-1].split() == ["ann", "admin", "1", "0"]
    for told in ("you are ann", "send NAME TEXT", "all: 1 session got it", "bob: 1 session got it", "dance is no command"):
        assert told in ran.err


def test_a_chat_ends_with_its_input_and_outlives_a_message_that_does_not_arrive(
    client: Client, zcluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    client.ends, client.error = False, NoSuchClient("nobody listens as bob")
    ran = chat(zcluster, monkeypatch, "send bob one\nsend bob two")
    assert (ran.code, [sent[1] for sent in client.sent]) == (0, ["one", "two"])
    assert ran.err.count("nobody listens as bob") == 2


def test_a_chat_shows_what_others_say(client: Client, zcluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    client.found = [HELLO]
    ran = chat(zcluster, monkeypatch, "")
    assert "bob: hello" in ran.out or ran.out == ""  # whichever ends first: the input or what is heard
    assert ran.code == 0
