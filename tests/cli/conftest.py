"""A cluster of plain data behind the commands: what they ask is recorded, what they get is given by the test."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import pytest

from zcluster.cli.main import run
from zcluster.clients import AsyncClient
from zcluster.clients.agents import AsyncAgents
from zcluster.clients.groups import AsyncGroups
from zcluster.clients.liveconfig import AsyncConfig
from zcluster.clients.nodes import AsyncNodes
from zcluster.clients.queue import AsyncQueue
from zcluster.clients.result import Result
from zcluster.clients.sync import AsyncSync
from zcluster.errors import ZClusterError


@dataclass(frozen=True)
class Answered:
    """Stands in for zcluster.Result."""

    node: str
    value: Any = None
    error: ZClusterError | None = None
    elapsed_s: float = 0.25

    @property
    def ok(self) -> bool:
        return self.error is None


@dataclass
class Turns:
    """Answers, one after the other."""

    waiting: list[Any]


@dataclass
class FakeClient:
    """Stands in for a connected AsyncClient."""

    value: Any = None
    values: dict[str, Any] = field(default_factory=dict)
    """By function, instead of ``value``."""
    error: ZClusterError | None = None
    answers: list[Answered] = field(default_factory=list)
    answers_as: str = "worker-1"
    """The node that answers a call."""
    items: list[Any] = field(default_factory=list)
    node_rows: list[dict[str, Any]] = field(default_factory=list)
    function_rows: list[dict[str, Any]] = field(default_factory=list)
    status_row: dict[str, Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    connections: list[Any] = field(default_factory=list)
    job: Any = None
    """What a submission gives, or raises."""
    closed: bool = False

    async def __aenter__(self) -> FakeClient:
        if self.error is not None:
            raise self.error
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.closed = True

    async def call(self, function: str, args: Any = None, **options: Any) -> Any:
        self.asked.append(("call", function, args, options))
        value = self.values.get(function, self.value)
        if isinstance(value, Turns):
            value = value.waiting.pop(0)
        if isinstance(value, BaseException):
            raise value
        return value

    async def call_result(self, function: str, args: Any = None, **options: Any) -> Result:
        return Result(self.answers_as, True, await self.call(function, args, **options), None, 0.25)

    @property
    def agents(self) -> AsyncAgents:
        return AsyncAgents(self)

    @property
    def sync(self) -> AsyncSync:
        return AsyncSync(self)

    @property
    def groups(self) -> AsyncGroups:
        return AsyncGroups(self)

    @property
    def config(self) -> AsyncConfig:
        return AsyncConfig(self)

    @property
    def queue(self) -> AsyncQueue:
        return AsyncQueue(self)

    async def submit(self, function: str, args: Any = None, **options: Any) -> Any:
        inspect.signature(AsyncClient.submit).bind(self, function, args, **options)
        self.asked.append(("submit", function, args, options))
        if isinstance(self.job, BaseException):
            raise self.job
        return self.job

    async def stream(self, function: str, args: Any = None, **options: Any) -> AsyncIterator[Any]:
        self.asked.append(("stream", function, args, options))
        for item in self.items:
            if isinstance(item, BaseException):
                raise item
            yield item

    async def fan_out(self, function: str, args: Any = None, **options: Any) -> AsyncIterator[Answered]:
        self.asked.append(("fan_out", function, args, options))
        for answer in self.answers:
            yield answer

    @property
    def nodes(self) -> AsyncNodes:
        return FakeNodes(self)

    async def functions(self) -> list[dict[str, Any]]:
        return self.function_rows

    async def status(self) -> dict[str, Any]:
        return self.status_row

    async def subscribe_nodes(self) -> AsyncIterator[Mapping[str, Any]]:
        for event in self.events:
            await asyncio.sleep(0)
            yield event


class FakeNodes(AsyncNodes):
    """The nodes of a fake client: the list is given, the rest is called."""

    def __init__(self, client: FakeClient) -> None:
        super().__init__(client)
        self._client = client

    async def __call__(self) -> list[dict[str, Any]]:
        return self._client.node_rows


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """The client that every command gets."""
    fake = FakeClient()

    def opened(_state: Any, connection: Any) -> FakeClient:
        fake.connections.append(connection)
        return fake

    asking = ("dapi", "nodes", "sync", "completing", "config", "connect", "submit", "queue", "queue_acts", "audit")
    for module in (*asking, "check", "wait"):
        monkeypatch.setattr(f"zcluster.cli.{module}.open_client", opened)
    return fake


@dataclass(frozen=True)
class Ran:
    """What a command line did."""

    code: int
    out: str
    err: str


@pytest.fixture
def zcluster(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Callable[..., Ran]:
    """Runs a command line in this process, in a home of its own, without the user's environment."""
    import os

    for name in [name for name in os.environ if name.startswith(("ZCLUSTER_", "_ZCLUSTER"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ZCLUSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def invoke(*words: str) -> Ran:
        code = run(words)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return invoke


@pytest.fixture
def turns() -> type[Turns]:
    """Makes a value of the fake client that is another one each time."""
    return Turns


@pytest.fixture
def answered() -> type[Answered]:
    """Makes the answers that the fake client gives."""
    return Answered
