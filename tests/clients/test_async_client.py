"""AsyncClient without a cluster: what it refuses by itself."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
from pathlib import Path
from typing import Any

import orjson
import pytest

import zcluster.clients.async_client as async_client
from zcluster.clients import AsyncClient, Result
from zcluster.clients.link import ClientLink
from zcluster.core.calls import Call, Calls
from zcluster.errors import InvalidArguments, NoSuchAgent, NotAllowed, UsageError, ZClusterError
from zcluster.keys import init_home, new_key
from zcluster.wire import Status

ADDRESS = ("tcp://127.0.0.1:7999",)


class Connected(Exception):
    """Stands in for a link: whoever makes one has connected."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A master's home, and no way to a master."""

    def connected(*_args: Any) -> None:
        raise Connected

    monkeypatch.setattr(async_client, "ClientLink", connected)
    init_home(tmp_path / "home", "lab", "", ADDRESS, ADDRESS)
    return tmp_path / "home"


def key_of(home: Path, role: str) -> Path:
    if role in ("master", "admin"):
        return home / "keys" / f"{role}.key"
    return new_key(home, f"{role}-1", role)[1]


@pytest.mark.parametrize(("role", "named"), [("worker", "a worker"), ("agent", "an agent"), ("master", "a master")])
def test_a_node_s_key_is_refused_before_it_ends_the_node_s_session(home: Path, role: str, named: str) -> None:
    path = key_of(home, role)
    client = AsyncClient(key=path)
    with pytest.raises(NotAllowed) as caught:
        asyncio.run(client.connect())
    assert caught.value.message == f"{path} is the key of {named}: a client needs a key of role client or admin"
    assert "zcluster keys new NAME --role client" in caught.value.hint
    assert client.key_file is None


@pytest.mark.parametrize("role", ["client", "admin"])
def test_a_caller_s_key_connects(home: Path, role: str) -> None:
    with pytest.raises(Connected):
        asyncio.run(AsyncClient(key=key_of(home, role)).connect())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"key": 5}, "key is a path, not int 5"),
        ({"home": 5}, "home is a path, not int 5"),
        ({"master": 5}, "master is an address or a list of addresses, not int 5"),
        ({"master": [5]}, "master is an address or a list of addresses"),
        ({"master": b"tcp://a:1"}, "master is an address or a list of addresses"),
        ({"timeout": "5s"}, "timeout is a number of seconds, not str '5s'"),
        ({"timeout": None}, "timeout is a number of seconds, not None"),
        ({"timeout": True}, "timeout is a number of seconds"),
        ({"timeout": float("nan")}, "a timeout of nan s is not between"),
        ({"timeout": 86_400.5}, "a timeout of 86400.5 s is not between"),
        ({"timeout": 10**400}, "a timeout of inf s is not between"),
    ],
)
def test_a_client_of_wrong_types_is_not_made(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        AsyncClient(**arguments)
    assert caught.value.message.startswith(named)


def test_no_master_is_the_key_file_s() -> None:
    assert AsyncClient(master=[])._masters == []
    assert AsyncClient(master=("tcp://a:1",))._masters == ["tcp://a:1"]


class FakeLink:
    """A link that keeps what is called and answers nothing."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.time = self.loop.time
        self.calls = Calls()

    def submit(self) -> None:
        for call in self.calls.open_calls.values():
            if isinstance(call.sink, asyncio.Future) and not call.sink.done():
                call.sink.set_result(b"")

    def wake(self) -> None: ...


def called(function: Any = "f", args: Any = None, **options: Any) -> Call:
    """The call that ``AsyncClient.call`` opens; nothing may be open when it refuses."""

    async def main() -> Call:
        client = AsyncClient()
        link = FakeLink()
        client._link = link  # type: ignore[assignment]
        try:
            await client.call(function, args, **options)
        except UsageError:
            assert not link.calls.open_calls
            raise
        return next(iter(link.calls.open_calls.values()))

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"timeout": "5s"}, "timeout is a number of seconds, not str '5s'"),
        ({"timeout": 0}, "a timeout of 0.0 s is not between"),
        ({"priority": "5"}, "priority is an integer from 0 to 9, not str '5'"),
        ({"priority": 6.0}, "priority is an integer from 0 to 9, not float 6.0"),
        ({"priority": True}, "priority is an integer"),
        ({"priority": 10}, "priority 10 is not between 0 and 9"),
        ({"target": None}, "target is a text, not None"),
        ({"target": ["a"]}, "target is a text, not list ['a']"),
        ({"target": b"a"}, "target is a text, not bytes b'a'"),
        ({"function": 5}, "function is a text, not int 5"),
        ({"function": None}, "function is a text, not None"),
        ({"idempotent": "no"}, "idempotent is True, False or None, not str 'no'"),
    ],
)
def test_a_call_of_wrong_types_names_the_parameter(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        called(**options)
    assert caught.value.message.startswith(named)


def test_a_fan_out_and_a_stream_check_the_same() -> None:
    async def main(method: str) -> None:
        client = AsyncClient()
        client._link = FakeLink()  # type: ignore[assignment]
        async for _ in getattr(client, method)("f", target=["a"]):
            pass

    for method in ("fan_out", "stream"):
        with pytest.raises(UsageError, match="target is a text, not list"):
            asyncio.run(main(method))


class AnsweringLink(FakeLink):
    """A link on which worker-2 answers each call in the same way."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__()
        self._answer = (status, "worker-2", 0, body)

    def submit(self) -> None:
        for call in self.calls.open_calls.values():
            call.sink.put(*self._answer)

    def error(self, call: Call, status: int, node: str, body: bytes) -> ZClusterError:
        return ClientLink.error(self, call, status, node, body)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (Status.VALUE, b"3", None), (Status.ERROR, b'{"code": "no_such_agent", "message": "none"}', NoSuchAgent),
        (Status.ITEM, b"1", UsageError), (Status.END, b"", UsageError),
    ],
)  # fmt: skip
def test_a_result_of_a_call_names_the_node_that_answered(status: int, body: bytes, error: type[ZClusterError] | None) -> None:
    async def main() -> Result:
        client = AsyncClient()
        client._link = link = AnsweringLink(status, body)  # type: ignore[assignment]
        try:
            return await client.call_result("f", {"a": 1}, target="agent:7")
        finally:
            assert link.calls.open_calls == {}

    if error is None:
        result = asyncio.run(main())
        assert (result.node, result.ok, result.value, result.error, result.elapsed_s >= 0) == ("worker-2", True, 3, None, True)
    else:
        with pytest.raises(error) as caught:
            asyncio.run(main())
        assert caught.value.node == "worker-2"


class Where(enum.StrEnum):
    HERE = "worker-1"


class Text(str): ...


@pytest.mark.parametrize("target", [Where.HERE, Text("worker-1")])
def test_a_text_of_another_class_becomes_plain(target: str) -> None:
    call = called(target=target)
    assert type(call.target) is str
    assert call.target == "worker-1"


NAN, INFINITY = float("nan"), float("inf")


class Level(enum.Enum):
    TOP = INFINITY


@dataclasses.dataclass(slots=True)
class Point:
    x: float


@pytest.mark.parametrize("options", [{}, {"timeout": 5.0}])
@pytest.mark.parametrize(
    "value", [NAN, -INFINITY, [1.0, NAN], {"a": {"b": (None, INFINITY)}}, Level.TOP, Point(NAN), [[[NAN]]]], ids=str
)
def test_what_json_would_make_null_is_refused(value: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArguments, match=r"f: the argument 'x' holds (nan|-?inf)"):
        called("f", {"ok": None, "x": value}, **options)


@pytest.mark.parametrize("value", [None, "null", "nan", 1.5, [None, {"null": None}], Point(1.0)], ids=str)
def test_null_itself_is_an_argument(value: Any) -> None:
    assert called("f", {"x": value}).body == orjson.dumps({"x": value})
