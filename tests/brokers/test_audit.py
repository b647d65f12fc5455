"""The audit log of a master: records in order, whatever the disk does, and read page by page."""

from __future__ import annotations

import asyncio
import logging
import stat
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from zcluster.brokers import audit as module
from zcluster.brokers.audit import Audit
from zcluster.core.auditing import REFUSALS, REFUSALS_WINDOW_S, Trail
from zcluster.core.catalog import Functions
from zcluster.core.peers import Event, Node
from zcluster.core.queue.job import Job, State
from zcluster.core.redact import HIDDEN
from zcluster.errors import Draining, StoreFailed, UsageError
from zcluster.keys import fingerprint, generate
from zcluster.store.linelog import LineLog
from zcluster.wire import FunctionInfo

PUBLIC = generate().public
SCHEMA = '{"type":"object","properties":{"user":{"type":"string"},"password":{"type":"string","writeOnly":true}}}'


class Log:
    """A LineLog in memory whose disk may be full: ``full`` says how many of the next lines are lost."""

    def __init__(self) -> None:
        self.newest, self.lost, self.full, self.closed = 0, 0, 0, False
        self.lines: list[dict[str, Any]] = []
        self.keep = 1000
        self.reads = 0
        self._failed = False

    @property
    def oldest(self) -> int:
        return self.lines[0]["sequence"] if self.lines else self.newest + 1

    @oldest.setter
    def oldest(self, value: int) -> None:
        raise NotImplementedError

    def append(self, record: Mapping[str, Any]) -> int:
        self.newest += 1
        if self.full:
            self.full -= 1
            self.lost += 1
            self._failed = True
            return self.newest
        self.lines.append({"sequence": self.newest, **record})
        del self.lines[: -self.keep]
        return self.newest

    def append_many(self, records: Sequence[bytes]) -> bool:
        for record in records:
            self.append(orjson.loads(record))
        return True

    async def flush(self) -> None:
        await asyncio.sleep(0)
        failed, self._failed = self._failed, False
        if failed:
            raise StoreFailed("the disk is full")

    async def read(self, after: int, limit: int = 10_000) -> list[dict[str, Any]]:
        self.reads += 1
        return [line for line in self.lines if line["sequence"] > after][:limit]

    async def close(self) -> None:
        self.closed = True


@dataclass
class Rig:
    """The part over a log, and its time."""

    log: Any = field(default_factory=Log)
    now: float = 50.0
    wall_s: float = 1000.0
    arguments: bool = True
    requests: str = "admin"
    ring: dict[str, str] = field(default_factory=lambda: {PUBLIC: "admin"})
    noted: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.functions = Functions()
        self.auditing = SimpleNamespace(requests="none", ended=[])
        machine: Any = SimpleNamespace(dispatch=SimpleNamespace(functions=self.functions, auditing=self.auditing))
        desk: Any = SimpleNamespace(
            clock=lambda: self.now, wall_s=lambda: self.wall_s, note=self.noted.append, logger=logging.getLogger("test"),
            loaded=self.loaded,
        )  # fmt: skip
        ring: Any = SimpleNamespace(by_id=lambda key: SimpleNamespace(role=self.ring[key]) if key in self.ring else None)
        self.part = Audit(desk, machine, ring, self._open)
        self.part.store_id = "0a0b0c0d"
        self.since: Callable[..., Awaitable[dict[str, Any]]] = self.part.functions()["audit.since"].target

    async def _open(self) -> Any:
        return self.log

    def loaded(self) -> Any:
        return SimpleNamespace(settings=SimpleNamespace(audit=SimpleNamespace(requests=self.requests, arguments=self.arguments)))

    def provide(self, name: str, parameters: str = SCHEMA) -> None:
        node = Node("w1", "worker", "ready", 0.0)
        node.functions = {name: FunctionInfo(name=name, parameters=parameters)}
        self.functions.provide(node)

    def end(self, **others: Any) -> None:
        """A request ends, and the turn with it."""
        fields: dict[str, Any] = {
            "request_id": "3.1", "key": "ops", "public": PUBLIC, "role": "admin", "function": "f", "target": "any", "body": b"{}",
            "schemas": frozenset(), "since_s": self.now - 0.5, "attempts": 1, "nodes": {"w1": None}, **others,
        }  # fmt: skip
        self.auditing.ended.append(Trail(**fields))
        self.part.turn_over()

    async def settled(self) -> None:
        """Nothing waits for the disk any more."""
        writer = self.part._writer
        assert writer is not None
        if writer._task is not None:
            await writer._task

    async def written(self) -> list[dict[str, Any]]:
        """The lines of the log when nothing waits any more."""
        await self.settled()
        lines: list[dict[str, Any]] = self.log.lines
        return lines


def job(**others: Any) -> Job:
    fields: dict[str, Any] = {
        "number": 7, "function": "f", "target": "any", "lane": "any:f", "priority": 5, "key": PUBLIC, "caller": "ops",
        "body": b'{"user":"u","password":"hunter2"}', "accepted_s": 990.0, **others,
    }  # fmt: skip
    return Job(**fields)


def run(body: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(body, 30))


def test_what_ended_in_a_turn_is_written() -> None:
    async def body() -> None:
        rig = Rig()
        await rig.part.start()
        rig.provide("f")
        assert rig.auditing.requests == "admin"
        rig.end(body=b'{"user":"u","password":"hunter2"}')
        [line] = await rig.written()
        assert line == {
            "sequence": 1, "at_s": 1000.0, "what": "request", "request_id": "3.1", "key": "ops", "public": fingerprint(PUBLIC),
            "role": "admin", "function": "f", "target": "any", "nodes": ["w1"], "nodes_total": 1, "attempts": 1,
            "outcome": "done", "error": None, "failed": 0, "took_s": 0.5, "args": {"user": "u", "password": HIDDEN},
        }  # fmt: skip
        assert rig.auditing.ended == []

    run(body())


def test_schemas_from_its_admission_and_from_its_end_count() -> None:
    async def body() -> None:
        rig = Rig()
        await rig.part.start()
        rig.end(body=b'{"password":"hunter2"}')
        rig.end(body=b'{"password":"hunter2"}', schemas=frozenset({SCHEMA}))
        rig.provide("f")
        rig.end(body=b'{"password":"hunter2"}', schemas=frozenset({SCHEMA.replace(',"writeOnly":true', "")}))
        assert [line["args"] for line in await rig.written()] == [None, {"password": HIDDEN}, {"password": HIDDEN}]

    run(body())


def test_settings_are_live() -> None:
    async def body() -> None:
        rig = Rig()
        await rig.part.start()
        rig.requests, rig.arguments = "all", False
        rig.part.apply(rig.loaded())
        rig.provide("f")
        rig.end(body=b'{"user":"u"}')
        assert rig.auditing.requests == "all"
        assert [line["args"] for line in await rig.written()] == [None]

    run(body())


def test_a_job_is_written_when_it_is_accepted_and_when_it_has_ended() -> None:
    async def body() -> None:
        rig = Rig()
        await rig.part.start()
        rig.provide("f")
        rig.part.job_accepted(job(), 991.0)
        rig.part.job_accepted(job(number=8, parent=7), 991.0)
        rig.ring.clear()
        rig.part.job_ended(job(state=State.DONE, node="w1", attempt=1), 995.0)
        rig.part.job_ended(job(number=8, parent=7, state=State.DEAD, node="w2"), 996.0)
        accepted, done, dead = await rig.written()
        assert (accepted["what"], accepted["job"], accepted["at_s"]) == ("accepted", "0a0b0c0d-7", 991.0)
        assert accepted["role"] == "admin"
        assert accepted["args"] == {"user": "u", "password": HIDDEN}
        assert (done["what"], done["outcome"], done["role"], done["nodes"], done["took_s"]) == ("ended", "done", "", ["w1"], 5.0)
        assert done["args"] == accepted["args"]
        assert (dead["job"], dead["parent"], dead["outcome"]) == ("0a0b0c0d-8", "0a0b0c0d-7", "dead")

    run(body())


def test_a_job_that_a_node_has_with_its_acceptance_has_one_record() -> None:
    async def body() -> None:
        rig = Rig()
        await rig.part.start()
        rig.part.job_accepted(job(state=State.LEASED, node="w1", attempt=1), 991.0)
        rig.part.job_ended(job(state=State.DONE, node="w1", attempt=1), 995.0)
        assert [record["what"] for record in await rig.written()] == ["ended"]

    run(body())


def test_events_of_keys_and_rights_are_written_whatever_the_setting_is() -> None:
    async def body() -> None:
        rig = Rig()
        rig.requests = "none"
        await rig.part.start()
        for name in ("key_revoked", "token_used", "right_denied", "node_silent"):
            rig.part.heard(Event(name, {"name": "w1", "reason": "two\nlines"}))
        lines = await rig.written()
        assert [line["event"] for line in lines] == ["key_revoked", "token_used", "right_denied"]
        assert lines[0] == {
            "sequence": 1, "at_s": 1000.0, "what": "event", "event": "key_revoked", "key": "w1",
            "fields": {"name": "w1", "reason": "two\\nlines"},
        }  # fmt: skip
        await rig.part.close()
        rig.part.heard(Event("key_added", {"name": "w2"}))
        assert len(rig.log.lines) == 3

    run(body())


def test_refusals_of_a_client_are_thinned() -> None:
    async def body() -> None:
        rig = Rig()
        await rig.part.start()
        for _ in range(REFUSALS + 3):
            rig.end(role="client", attempts=0, nodes={}, error="not_allowed", failed=1)
        rig.now += REFUSALS_WINDOW_S
        rig.part.turn_over()
        *lines, last = await rig.written()
        assert len(lines) == REFUSALS
        assert (last["what"], last["key"], last["role"], last["count"]) == ("omitted", "ops", "client", 3)

    run(body())


def test_who_follows_the_log_does_not_fill_it() -> None:
    async def body() -> None:
        rig = Rig()
        await rig.part.start()
        for function in ("audit.since", "f", "audit.since", "f"):
            rig.end(function=function)
        assert [line["function"] for line in await rig.written()] == ["audit.since", "f", "f"]

    run(body())


def test_a_full_disk_loses_nothing_while_there_is_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.0)

    async def body() -> None:
        rig = Rig()
        await rig.part.start()
        rig.log.full = 5
        for number in range(5):
            rig.end(request_id=str(number))
        assert [line["request_id"] for line in await rig.written()] == ["0", "1", "2", "3", "4"]
        assert [(event.name, event.level) for event in rig.noted] == [("audit_failed", "warning")]
        assert rig.noted[0].fields == {"reason": "the disk is full", "waiting": 5, "lost": 0}

    run(body())


def test_records_that_are_lost_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    monkeypatch.setattr(module, "MAX_WAITING", 3)

    async def body() -> None:
        rig = Rig()
        await rig.part.start()
        for number in range(5):
            rig.end(request_id=str(number))
        lost, *lines = await rig.written()
        assert (lost["what"], lost["count"], len(lines)) == ("lost", 2, 3), "more than may wait"
        rig.log.full = 2
        for number in range(5, 8):
            rig.end(request_id=str(number))
        *_, kept, lost = await rig.written()
        assert (kept["request_id"], lost["what"], lost["count"]) == ("7", "lost", 2), "a part of a batch was written"
        rig.end(request_id="8")
        assert (await rig.written())[-1]["request_id"] == "8"

    run(body())


def test_the_bytes_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(more: int) -> None:
        rig = Rig()
        await rig.part.start()
        rig.end()
        size = rig.part._writer._waiting_bytes  # type: ignore[union-attr]
        assert size > 100
        monkeypatch.setattr(module, "MAX_WAITING_BYTES", 2 * size - more)
        rig.end()
        assert rig.part._writer.lost == more  # type: ignore[union-attr]
        await rig.written()
        assert rig.part._writer._waiting_bytes == 0  # type: ignore[union-attr]

    run(body(0))
    run(body(1))


def test_events_of_failure_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 0)

    async def body() -> None:
        rig = Rig()
        await rig.part.start()
        for _ in range(3):
            rig.end()
        rig.now += module.TELL_FAILED_S
        rig.end()
        assert [event.fields["lost"] for event in rig.noted] == [1, 4]
        await rig.written()

    run(body())


def test_closing_writes_what_waits() -> None:
    async def body() -> None:
        rig = Rig()
        await rig.part.start()
        rig.end()
        rig.auditing.ended.append(Trail("3.2", "ops", PUBLIC, "admin", "f", "any", b"", frozenset(), 1.0))
        await rig.part.close()
        assert [line["request_id"] for line in rig.log.lines] == ["3.1", "3.2"]
        assert rig.log.closed
        rig.part.turn_over()
        rig.part.job_accepted(job(), 1.0)
        rig.part.job_ended(job(), 1.0)
        assert len(rig.log.lines) == 2
        with pytest.raises(Draining):
            await rig.since()

    run(body())


def test_closing_with_a_full_disk_ends(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        rig = Rig()
        await rig.part.start()
        rig.log.full = 1000
        rig.end()
        rig.end()
        await asyncio.wait_for(rig.part.close(), 20)
        assert rig.log.closed

    run(body())
    assert [record.fields for record in caplog.records if record.levelname == "ERROR"] == [{"lost": 2}]  # type: ignore[attr-defined]


async def filled(count: int) -> Rig:
    rig = Rig()
    await rig.part.start()
    for number in range(1, count + 1):
        rig.wall_s = 1000.0 + number
        rig.end(key="ops" if number % 2 else "deploy")
    await rig.written()
    return rig


def test_since_gives_pages() -> None:
    async def body() -> None:
        rig = await filled(5)
        page = await rig.since(limit=2)
        assert ([item["sequence"] for item in page["items"]], page["next"], page["oldest"]) == ([1, 2], 2, 1)
        page = await rig.since(after=page["next"])
        assert ([item["sequence"] for item in page["items"]], page["next"]) == ([3, 4, 5], None)
        assert await rig.since(after=5) == {"items": [], "next": None, "oldest": 1}
        assert await rig.since(after=99) == {"items": [], "next": None, "oldest": 1}

    run(body())


def test_since_a_time() -> None:
    async def body() -> None:
        rig = await filled(9)
        for since_s, first in ((1.0, 1), (1001.0, 1), (1001.5, 2), (1009.0, 9)):
            assert (await rig.since(since_s=since_s))["items"][0]["sequence"] == first
        assert (await rig.since(since_s=1009.5))["items"] == []
        assert [item["sequence"] for item in (await rig.since(since_s=1003.0, after=7))["items"]] == [8, 9]
        assert [item["sequence"] for item in (await rig.since(since_s=1008.0, after=2))["items"]] == [8, 9]
        del rig.log.lines[:4]
        assert (await rig.since(since_s=1.0))["oldest"] == 5

    run(body())


def test_since_of_a_key_tells_what_was_lost_too() -> None:
    async def body() -> None:
        rig = await filled(4)
        rig.log.append({"at_s": 1.0, "what": "lost", "count": 3})
        page = await rig.since(key="deploy")
        assert [item["sequence"] for item in page["items"]] == [2, 4, 5]
        assert (await rig.since(key="deploy", limit=1))["next"] == 2

    run(body())


def test_one_call_looks_at_a_bounded_number_of_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCAN", 3)
    monkeypatch.setattr(module, "PAGE", 2)

    async def body() -> None:
        rig = await filled(5)
        page = await rig.since(key="nobody")
        assert page["items"] == []
        assert page["next"] == 3
        assert (await rig.since(key="nobody", after=3))["next"] is None

    run(body())


def test_an_answer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 1)

    async def body() -> None:
        page = await (await filled(3)).since()
        assert (len(page["items"]), page["next"]) == (1, 1)

    run(body())


def test_the_log_is_on_the_disk_for_its_owner_only(tmp_path: Path) -> None:
    async def body() -> None:
        rig = Rig(log=await LineLog.open(tmp_path / "audit"))
        await rig.part.start()
        rig.end()
        await rig.part.close()
        [file] = (tmp_path / "audit").glob("*.log")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        again = Rig(log=await LineLog.open(tmp_path / "audit"))
        await again.part.start()
        again.end(request_id="4.1")
        await again.settled()
        page = await again.since()
        assert [item["request_id"] for item in page["items"]] == ["3.1", "4.1"]
        await again.part.close()
        with pytest.raises(UsageError):
            again.log.append({})

    run(body())


def test_only_an_admin_may_read_it() -> None:
    assert Rig().part.functions()["audit.since"].role == "admin"
