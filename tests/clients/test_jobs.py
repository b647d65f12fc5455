"""Durable jobs from Python, with a master that is played by the test."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import orjson
import pytest

from zcluster.clients import AsyncClient, AsyncJob, Client, Job, Result
from zcluster.clients import jobs as jobs_module
from zcluster.clients import link as link_module
from zcluster.clients.jobs_blocking import Queue
from zcluster.clients.link import ClientLink
from zcluster.clients.queue import IDS_PER_CALL, AsyncQueue
from zcluster.core.batch import Outgoing
from zcluster.core.doors import Candidate
from zcluster.core.link import LinkPolicy
from zcluster.core.queue.job import State
from zcluster.errors import (
    Cancelled,
    FunctionFailed,
    InvalidArguments,
    JobDead,
    KeyConflict,
    MasterLost,
    NoSuchJob,
    NotAllowed,
    TimedOut,
    Unreachable,
    UsageError,
    ZClusterError,
)
from zcluster.keys import KeyFile, generate
from zcluster.keys.rotation import OwnKey
from zcluster.wire import Message, Refusal, Replies, ReplyGroup, Requests, Status, Welcome, WireLimits, decode, encode
from zcluster.wire.jobs import (
    Accepted,
    AcceptedGroup,
    Follow,
    JobFlag,
    JobRefusal,
    Jobs,
    KnownJob,
    LargeOutcome,
    OutcomeGroup,
    Outcomes,
)
from zcluster.wire.messages import RequestFlag

STORE = "1f3a5c7e"
ID = f"{STORE}-7"
WELCOME = Welcome(
    version=1, session=3, name="anna", role="client", cluster="c", master="m", epoch=1, heartbeat_s=1.0, lease_heartbeats=3,
    body_bytes=1_000_000, inline_bytes=1000, chunk_bytes=4096, window_bytes=8192,
)  # fmt: skip
Answers = dict[str, Callable[[dict[str, Any]], Any]]


class Master:
    """In place of the link's driver: it keeps what is sent, and says what the test wants said."""

    place = Candidate("tcp://127.0.0.1:1")

    def __init__(self, *args: Any, **_options: Any) -> None:
        self.owner: ClientLink = args[2]
        self.jobs: list[tuple[Any, bytes]] = []
        """Groups of JOBS with their bodies."""
        self.follows: list[tuple[list[int], bool]] = []
        self.asked: list[tuple[str, dict[str, Any], int]] = []
        """Function, arguments and flags of requests."""
        self.answers: Answers = {}
        self.news = asyncio.Event()

    def start(self) -> None: ...

    def use(self, public: str, secret: str) -> None: ...

    def close(self) -> None: ...

    def flush(self) -> None:
        for message, bodies in self.owner.link_take():
            self.take((message, bodies))
        self.news.set()

    def take(self, outgoing: Outgoing) -> None:
        message, bodies = outgoing
        data = b"".join(bodies)
        if isinstance(message, Jobs):
            for group in message.groups:
                size = sum(group.sizes)
                self.jobs.append((group, data[:size]))
                data = data[size:]
        elif isinstance(message, Follow):
            assert message.store == STORE
            self.follows.append((list(message.numbers), message.stop))
        elif isinstance(message, Requests):
            for request in message.groups:
                assert len(request.sizes) == 1
                args = orjson.loads(data[: request.sizes[0]] or b"{}") if not request.flags & RequestFlag.LARGE else {}
                self.asked.append((request.function, args, request.flags))
                if request.function in self.answers:
                    value = orjson.dumps(self.answers[request.function](args))
                    reply = Replies([ReplyGroup(request.first_id, Status.VALUE, "m", 0, [len(value)])])
                    self.owner.loop.call_soon(self.tell, reply, value)

    def tell(self, message: Message, body: bytes = b"") -> None:
        """Say this, through the codec."""
        frame = encode(message, [body])
        again, offset = decode(frame, WireLimits())
        self.owner.link_message(again, frame, offset)

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until ``condition`` holds, which something that is sent brings about."""
        while not condition():
            self.news.clear()
            await self.news.wait()

    async def accept(self, first_id: int = 1, number: int = 7, count: int = 1) -> None:
        await self.until(lambda: sum(len(group.sizes) for group, _ in self.jobs) >= first_id + count - 1)
        self.tell(Accepted(store=STORE, groups=[AcceptedGroup(first_id, number, count)]))

    async def end(self, value: Any, number: int = 7, state: State = State.DONE, attempt: int = 1) -> None:
        await self.until(lambda: any(number in numbers and not stop for numbers, stop in self.follows))
        body = orjson.dumps(value)
        node = "w1" if attempt else ""
        self.tell(Outcomes(store=STORE, groups=[OutcomeGroup(number, state, node, attempt, [len(body)])]), body)


def played(
    monkeypatch: pytest.MonkeyPatch, scene: Callable[[AsyncClient, Master], Coroutine[Any, Any, None]], *, up: bool = True
) -> None:
    """Run ``scene`` with a client and its master."""
    monkeypatch.setattr(link_module, "LinkDriver", Master)

    async def main() -> None:
        key_file = KeyFile("anna", "client", "c", generate(), generate().public)
        link = ClientLink(OwnKey(key_file), lambda _: [Candidate("tcp://127.0.0.1:1")], LinkPolicy(), logging.getLogger("test"))
        if up:
            link.link_up(WELCOME)
        client = AsyncClient()
        client._link = link
        master: Any = link._driver
        try:
            await asyncio.wait_for(scene(client, master), 20)
        finally:
            await client.close()

    asyncio.run(main())


def test_a_job_is_there_when_the_master_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        submitting = asyncio.ensure_future(c.submit("report.build", {"day": 1}))
        await master.until(lambda: master.jobs)
        assert not submitting.done()
        await master.accept()
        job = await submitting
        assert (job.id, job.known, repr(job)) == (ID, False, f"<job {ID}>")
        [(group, body)] = master.jobs
        assert (group.function, group.target, group.priority, group.flags, group.retries) == ("report.build", "any", 5, 0, 3)
        assert orjson.loads(body) == {"day": 1}
        waiting = asyncio.ensure_future(job.result())
        await master.end({"rows": 3})
        assert await waiting == {"rows": 3}
        assert master.follows == [([7], False)]

    played(monkeypatch, scene)


def test_what_is_wanted_in_one_turn_leaves_together(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        async def one(number: int) -> int:
            value: int = await (await c.submit("f", {"n": number})).result()
            return value

        every = asyncio.gather(*(one(number) for number in range(10)))
        # The first one is alone when it is wanted, so it does not wait for the others.
        await master.until(lambda: sum(len(group.sizes) for group, _ in master.jobs) == 10)
        assert [len(group.sizes) for group, _ in master.jobs] == [1, 9]
        await master.accept(1, 100, 10)
        await master.until(lambda: len(master.follows) == 2)
        assert master.follows == [([100], False), (list(range(101, 110)), False)]
        bodies = [orjson.dumps(number) for number in range(10)]
        group = OutcomeGroup(100, State.DONE, "w1", 1, [len(body) for body in bodies])
        master.tell(Outcomes(store=STORE, groups=[group]), b"".join(bodies))
        assert await every == list(range(10))

    played(monkeypatch, scene)


def test_all_that_is_asked_for_is_carried(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        options = {"priority": 9, "delay_s": 1.5, "at_s": 1000, "expires_s": 0.0001, "retries": 0, "attempt_timeout_s": 2}
        submitting = asyncio.ensure_future(
            c.submit("f", target="web-*", retention_s=60, sequence="s", idempotency_key="k", **options)  # type: ignore[arg-type]
        )
        await master.until(lambda: master.jobs)
        master.tell(Accepted(store=STORE, known=[KnownJob(1, 7)]))
        assert (await submitting).known
        [(group, body)] = master.jobs
        assert (group.target, group.flags, group.priority, body) == ("web-*", JobFlag.FAN_OUT, 9, b"")
        assert (group.delay_ms, group.at_ms, group.expires_ms, group.retries) == (1500, 1_000_000, 1, 0)
        assert (group.timeout_ms, group.retention_ms, group.sequence, group.keys) == (2000, 60_000, "s", ["k"])

    played(monkeypatch, scene)


@pytest.mark.parametrize(("target", "fan_out"), [
    ("any", False), ("master", False), ("w1", False), ("agent:7", False), ("all", True), ("w1,w2", True), ("w?", True),
    ("group:g", True),
])  # fmt: skip
def test_the_target_says_whether_it_is_a_fan_out(monkeypatch: pytest.MonkeyPatch, target: str, fan_out: bool) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        submitting = asyncio.ensure_future(c.submit("f", target=target))
        await master.accept()
        await submitting
        assert bool(master.jobs[0][0].flags & JobFlag.FAN_OUT) == fan_out

    played(monkeypatch, scene)


@pytest.mark.parametrize(("options", "named"), [
    ({"function": 5}, "function is a text"),
    ({"target": None}, "target is a text"),
    ({"args": {"x": float("nan")}}, "f: the argument 'x' holds nan"),
    ({"args": {"x": object()}}, "f: the arguments are not JSON"),
    ({"priority": 10}, "priority 10 is not between 0 and 9"),
    ({"priority": True}, "priority is an integer"),
    ({"retries": 101}, "retries is an integer from 0 to 100"),
    ({"retries": -1}, "retries is an integer from 0 to 100"),
    ({"delay_s": -1}, "delay_s of -1 is out of range"),
    ({"delay_s": "10m"}, "delay_s is a number of seconds"),
    ({"at_s": float("inf")}, "at_s of inf is out of range"),
    ({"expires_s": 0}, "expires_s of 0 is out of range"),
    ({"attempt_timeout_s": 0}, "attempt_timeout_s of 0 is out of range"),
    ({"retention_s": float("nan")}, "retention_s of nan is out of range"),
    ({"sequence": 5}, "sequence is a text"),
    ({"idempotency_key": 5}, "idempotency_key is a text"),
    ({"idempotency_key": "k" * 257}, "an idempotency key has at most 256 characters"),
    ({"timeout": 0}, "a timeout of 0"),
])  # fmt: skip
def test_what_was_given_wrongly_is_not_submitted(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], named: str) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        with pytest.raises(UsageError) as caught:
            await c.submit(**{"function": "f", **options})
        assert caught.value.message.startswith(named)
        assert isinstance(caught.value, InvalidArguments) == ("args" in options)
        assert not master.jobs
        assert not c.open_link().submitting.open

    played(monkeypatch, scene)


def test_what_the_master_refuses_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        submitting = asyncio.ensure_future(c.submit("f", idempotency_key="k"))
        await master.until(lambda: master.jobs)
        master.tell(Accepted(store=STORE, refused=[JobRefusal(1, 1, "key_conflict", "other arguments", "", None)]))
        with pytest.raises(KeyConflict, match="other arguments"):
            await submitting

    played(monkeypatch, scene)


def test_a_refused_message_ends_what_it_was_about(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        submitting, waiting = asyncio.ensure_future(c.submit("f")), asyncio.ensure_future(c.job(ID).result())
        await master.until(lambda: master.jobs and master.follows)
        master.tell(Refusal(code="not_allowed", about=Jobs.kind, message="no jobs"))
        with pytest.raises(NotAllowed, match="no jobs"):
            await submitting
        assert not waiting.done()
        master.tell(Refusal(code="not_allowed", about=Follow.kind, message="no outcomes"))
        with pytest.raises(NotAllowed, match="no outcomes"):
            await waiting

    played(monkeypatch, scene)


def test_large_arguments_go_by_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        opened: list[dict[str, Any]] = []

        async def call(function: str, args: Any = None, **options: Any) -> Any:
            opened.append({"function": function, "args": args, **options})
            return {"id": ID, "state": "queued", "known": True}

        monkeypatch.setattr(c, "call", call)
        args = {"text": "x" * 1000}
        job = await c.submit("f", args, target="all", delay_s=2, expires_s=9, idempotency_key="k", timeout=3)
        assert (job.id, job.known) == (ID, True)
        [asked] = opened
        assert (asked["function"], asked["target"], asked["timeout"], asked["idempotent"]) == ("queue.submit", "master", 3, True)
        assert asked["args"] == {
            "function": "f", "args": args, "target": "all", "fan_out": True, "priority": 5, "delay_s": 2, "at_s": 0,
            "expires_s": 9, "retries": 3, "timeout_s": 0, "retention_s": 0, "sequence": "", "key": "k",
        }  # fmt: skip
        await c.submit("f", args)
        assert opened[1]["idempotent"] is None
        assert not master.jobs

    played(monkeypatch, scene)


@pytest.mark.parametrize(("state", "error", "kind"), [
    (State.FAILED, FunctionFailed("ValueError: no", node="w2", request_id="3.9"), FunctionFailed),
    (State.DEAD, JobDead("it killed 3 nodes"), JobDead),
    (State.CANCELLED, Cancelled("cancelled"), Cancelled),
])  # fmt: skip
def test_how_a_job_failed_is_raised(
    monkeypatch: pytest.MonkeyPatch, state: State, error: ZClusterError, kind: type[ZClusterError]
) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        waiting = asyncio.ensure_future(c.job(ID).result())
        await master.end(error.to_dict(), state=state)
        with pytest.raises(kind) as caught:
            await waiting
        assert caught.value.message == error.message
        assert caught.value.request_id == error.request_id
        assert caught.value.node == (error.node or "w1")

    played(monkeypatch, scene)


def test_waiting_tells_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        waiting = asyncio.ensure_future(c.job(ID).wait())
        await master.end(JobDead("no").to_dict(), state=State.DEAD)
        assert await waiting == "dead"

    played(monkeypatch, scene)


def test_an_unknown_job(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        waiting = asyncio.ensure_future(c.job(ID).result())
        await master.until(lambda: master.follows)
        master.tell(Outcomes(store=STORE, unknown=[7]))
        with pytest.raises(NoSuchJob, match=f"there is no job {ID}"):
            await waiting
        with pytest.raises(UsageError, match="is no id of a job"):
            c.job("7")

    played(monkeypatch, scene)


def test_a_large_value_is_fetched_by_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        master.answers["queue.result"] = lambda args: {"of": args}
        waiting = asyncio.ensure_future(c.job(ID).result())
        await master.until(lambda: master.follows)
        master.tell(Outcomes(store=STORE, large=[LargeOutcome(7, State.DONE, "w1", 1, 10**9)]))
        assert await waiting == {"of": {"id": ID}}

        async def only() -> list[Result]:
            return [each async for each in c.job(ID).outcomes()]

        master.answers["queue.show"] = show()
        listing = asyncio.ensure_future(only())
        await master.until(lambda: len(master.follows) == 2)
        master.tell(Outcomes(store=STORE, large=[LargeOutcome(7, State.DONE, "w1", 1, 10**9)]))
        assert await listing == [Result("w1", True, {"of": {"id": ID}}, None, 1.5)]

    played(monkeypatch, scene)


def test_a_cancelled_task_stops_following_and_leaves_the_job_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        waiting = asyncio.ensure_future(c.job(ID).result())
        await master.until(lambda: master.follows)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await master.until(lambda: len(master.follows) == 2)
        assert master.follows == [([7], False), ([7], True)]
        assert not master.asked

    played(monkeypatch, scene)


def test_a_cancelled_submission_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        submitting = asyncio.ensure_future(c.submit("f"))
        await master.until(lambda: master.jobs)
        submitting.cancel()
        await asyncio.gather(submitting, return_exceptions=True)
        await master.accept()
        assert not c.open_link().submitting.open

    played(monkeypatch, scene)


def test_deadlines_of_submissions_and_waits_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        with pytest.raises(TimedOut, match="whether it was accepted is unknown"):
            await c.submit("f", timeout=0.001)
        with pytest.raises(TimedOut, match=f"job {ID} has not ended in 0.001 s; it goes on"):
            await c.job(ID).result(0.001)
        await master.until(lambda: len(master.follows) == 2)
        assert master.follows == [([7], False), ([7], True)]

    played(monkeypatch, scene)


def test_a_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        link = c.open_link()
        plain, keyed = asyncio.ensure_future(c.submit("f")), asyncio.ensure_future(c.submit("f", idempotency_key="k"))
        waiting = asyncio.ensure_future(c.job(ID).result())
        await master.until(lambda: len(master.jobs) == 2 and master.follows)
        link.link_down(Unreachable("gone"), True, 0.1)
        with pytest.raises(MasterLost, match="whether it was accepted is unknown"):
            await plain
        link.link_up(WELCOME)
        master.flush()
        assert [(group.first_id, group.keys) for group, _ in master.jobs] == [(1, None), (2, ["k"]), (2, ["k"])]
        assert master.follows == [([7], False), ([7], False)]
        await master.accept(2, 8)
        assert (await keyed).id == f"{STORE}-8"
        await master.end(5)
        assert await waiting == 5

    played(monkeypatch, scene)


def test_what_is_wanted_without_a_session_waits_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        submitting, waiting = asyncio.ensure_future(c.submit("f")), asyncio.ensure_future(c.job(ID).result())
        await master.news.wait()
        assert not master.jobs
        c.open_link().link_up(WELCOME)
        master.flush()
        await master.accept(1, 8)
        await master.end(1)
        assert ((await submitting).id, await waiting) == (f"{STORE}-8", 1)

    played(monkeypatch, scene, up=False)


def test_the_end_of_the_link_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        every = [asyncio.ensure_future(c.submit("f")), asyncio.ensure_future(c.job(ID).result())]
        await master.until(lambda: master.jobs and master.follows)
        c.open_link().link_ended(NotAllowed("revoked"))
        found = await asyncio.gather(*every, c.submit("f"), c.job(ID).wait(), return_exceptions=True)
        assert [str(error) for error in found] == ["revoked"] * 4

    played(monkeypatch, scene)


def part(number: int, state: str, node: str, **more: Any) -> dict[str, Any]:
    return {
        "id": f"{STORE}-{number}", "node": node, "state": state, "value": None, "error": None, "attempt": 1, "ended_s": 0,
        **more,
    }  # fmt: skip


class Parts:
    """A fan-out at the master: pages of its parts, which change each time all have been read."""

    def __init__(self, *rounds: list[dict[str, Any]], page: int = 2) -> None:
        self.rounds, self.page = list(rounds), page
        self.afters: list[str] = []

    def outcomes(self, args: dict[str, Any]) -> dict[str, Any]:
        self.afters.append(args["after"])
        parts = self.rounds[0]
        begin = next((at + 1 for at, each in enumerate(parts) if each["id"] == args["after"]), 0)
        found = parts[begin : begin + self.page]
        if begin + self.page < len(parts):
            return {"items": found, "next": found[-1]["id"]}
        if len(self.rounds) > 1:
            self.rounds.pop(0)
        return {"items": found, "next": None}


def test_a_value_that_is_none_fails_for_its_node_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        spoiled = part(8, "done", "w1", error={"code": "protocol_error", "message": "no JSON"})
        parts = Parts([spoiled, part(9, "done", "w2", value=2)])
        master.answers = {"queue.show": show(parts=2), "queue.outcomes": parts.outcomes}
        found = [each async for each in c.job(ID).outcomes()]
        assert [(each.node, each.ok, each.value) for each in found] == [("w1", False, None), ("w2", True, 2)]
        assert found[0].error is not None
        assert (found[0].error.code, found[0].error.node) == ("protocol_error", "w1")

    played(monkeypatch, scene)


def show(**more: Any) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    return lambda args: {"id": args["id"], "accepted_s": 100.0, "parts": 0, "steps": [{"at_s": 101.5}], **more}


ENDED = [
    part(8, "done", "w3", value=3, ended_s=101.0),
    part(9, "failed", "w1", error=FunctionFailed("no").to_dict(), ended_s=102.0),
    part(10, "done", "w2", value=2, ended_s=99.0),
]


@pytest.mark.parametrize("submitted", [True, False])
def test_the_result_of_a_fan_out_is_that_of_each_node(monkeypatch: pytest.MonkeyPatch, submitted: bool) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        master.answers = {"queue.show": show(parts=3), "queue.outcomes": Parts(ENDED).outcomes}
        if submitted:
            submitting = asyncio.ensure_future(c.submit("f", target="all"))
            await master.accept()
        job = await submitting if submitted else c.job(ID)
        waiting = asyncio.ensure_future(job.result())
        await master.end(None, state=State.FAILED, attempt=0)
        found: list[Result] = await waiting
        assert [(each.node, each.ok, each.value, each.elapsed_s) for each in found] == [
            ("w1", False, None, 2.0), ("w2", True, 2, 0.0), ("w3", True, 3, 1.0),
        ]  # fmt: skip
        assert isinstance(found[0].error, FunctionFailed)
        assert found[0].error.node == "w1"

    played(monkeypatch, scene)


def test_a_job_without_attempts_need_not_be_a_fan_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        master.answers["queue.show"] = show()
        waiting = asyncio.ensure_future(c.job(ID).result())
        await master.end(Cancelled("before it began").to_dict(), state=State.CANCELLED, attempt=0)
        with pytest.raises(Cancelled):
            await waiting

    played(monkeypatch, scene)


def test_outcomes_come_as_parts_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        monkeypatch.setattr(jobs_module, "LOOK_FIRST_S", 0.0)
        monkeypatch.setattr(jobs_module, "LOOK_MAX_S", 0.0)
        first = [ENDED[0], part(9, "running", "w1"), ENDED[2]]
        parts = Parts(first, first, ENDED)
        master.answers = {"queue.show": show(parts=3), "queue.outcomes": parts.outcomes}
        assert [each.node async for each in c.job(ID).outcomes()] == ["w3", "w2", "w1"]
        # What lies before the first part that runs is not read again.
        again = f"{STORE}-8"
        assert parts.afters == ["", f"{STORE}-9", again, again]

    played(monkeypatch, scene)


def test_outcomes_end_at_their_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        monkeypatch.setattr(jobs_module, "LOOK_FIRST_S", 0.001)
        monkeypatch.setattr(jobs_module, "LOOK_MAX_S", 0.001)
        master.answers = {"queue.show": show(parts=1), "queue.outcomes": Parts([part(8, "queued", "w1")]).outcomes}
        with pytest.raises(TimedOut, match=f"1 parts of job {ID} have not ended"):
            [each async for each in c.job(ID).outcomes(timeout=0.005)]

    played(monkeypatch, scene)


def test_the_outcomes_of_a_job_that_is_no_fan_out_are_its_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        master.answers["queue.show"] = show()

        async def only() -> list[Result]:
            return [each async for each in c.job(ID).outcomes()]

        waiting = asyncio.ensure_future(only())
        await master.end("v")
        assert await waiting == [Result("w1", True, "v", None, 1.5)]
        waiting = asyncio.ensure_future(only())
        await master.until(lambda: len(master.follows) == 2)
        await master.end(FunctionFailed("no").to_dict(), state=State.FAILED)
        [failed] = await waiting
        assert (failed.ok, str(failed.error)) == (False, "no [w1]")
        with pytest.raises(TimedOut):
            [each async for each in c.job(f"{STORE}-8").outcomes(timeout=0.001)]

    played(monkeypatch, scene)


def test_a_job_s_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        refused = [{"id": ID, "code": "no_such_job", "message": "gone", "hint": ""}]
        answers = [{"done": [ID], "refused": []}, {"done": [], "refused": refused}]
        master.answers = {"queue.state": lambda _: "running", "queue.show": show(), "queue.cancel": lambda _: answers.pop(0)}
        job = c.job(ID)
        assert await job.state() == "running"
        assert (await job.info())["accepted_s"] == 100.0
        await job.cancel()
        with pytest.raises(NoSuchJob, match="gone"):
            await job.cancel()
        assert master.asked == [
            ("queue.state", {"id": ID}, 0), ("queue.show", {"id": ID}, 0), ("queue.cancel", {"ids": [ID]}, 0),
            ("queue.cancel", {"ids": [ID]}, 0),
        ]  # fmt: skip

    played(monkeypatch, scene)


def test_the_queue_s_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        for name in ("list", "show", "pause", "resume", "drain", "stats", "check"):
            master.answers[f"queue.{name}"] = lambda args: {"args": args}
        queue = c.queue
        assert await queue.list("dead", "w1", "f", limit=5, before=ID) == {
            "args": {"state": "dead", "target": "w1", "function": "f", "limit": 5, "before": ID}
        }
        assert await queue.show(ID) == {"args": {"id": ID}}
        assert await queue.pause("w*") == await queue.resume("w*") == {"args": {"target": "w*"}}
        assert await queue.drain() == {"args": {"on": True}}
        assert await queue.drain(False) == {"args": {"on": False}}
        assert await queue.stats() == await queue.check() == {"args": {}}
        for wrong in (queue.drain(1), queue.list(state=5), queue.cancel([5])):  # type: ignore[arg-type, list-item]
            with pytest.raises(UsageError):
                await wrong

    played(monkeypatch, scene)


@pytest.mark.parametrize("name", ["cancel", "retry", "drop"])
def test_many_ids_go_in_several_calls(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        def answer(args: dict[str, Any]) -> dict[str, Any]:
            refused = [{"id": id_, "code": "no_such_job", "message": "", "hint": ""} for id_ in args["ids"][1:]]
            return {"done": args["ids"][:1], "refused": refused}

        master.answers[f"queue.{name}"] = answer
        ids = [f"{STORE}-{number}" for number in range(1, 12)]
        monkeypatch.setattr("zcluster.clients.queue.IDS_PER_CALL", 10)
        told = await getattr(c.queue, name)(iter(ids))
        assert (told["done"], len(told["refused"])) == ([ids[0], ids[10]], 9)
        assert [len(args["ids"]) for _, args, _ in master.asked] == [10, 1]
        assert (await getattr(c.queue, name)(ID))["done"] == [ID]

    assert IDS_PER_CALL == 1000
    played(monkeypatch, scene)


def test_watching_is_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        async def watch() -> list[Any]:
            return [each async for each in c.queue.watch("dead", "f")]

        watching = asyncio.ensure_future(watch())
        await master.until(lambda: master.asked)
        assert master.asked == [("queue.watch", {"state": "dead", "function": "f"}, 0)]
        steps = [orjson.dumps({"id": ID}), orjson.dumps({"id": f"{STORE}-8"})]
        master.tell(Replies([ReplyGroup(1, Status.ITEM, "m", 1, [len(step) for step in steps])]), b"".join(steps))
        master.tell(Replies([ReplyGroup(1, Status.END, "m", 1, [0])]))
        assert await watching == [{"id": ID}, {"id": f"{STORE}-8"}]

    played(monkeypatch, scene)


def test_the_audit_log_is_read_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(c: AsyncClient, master: Master) -> None:
        records = [{"sequence": number} for number in range(1, 8)]

        def since(args: dict[str, Any]) -> dict[str, Any]:
            found = records[args["after"] : args["after"] + min(args["limit"], 3)]
            last = found[-1]["sequence"]
            return {"items": found, "next": last if last < len(records) else None}

        master.answers["audit.since"] = since
        assert await c.audit(since_s=5, key="anna") == records
        assert master.asked[0] == ("audit.since", {"since_s": 5, "after": 0, "key": "anna", "limit": 1000}, 0)
        assert await c.audit(limit=4) == records[:4]
        for wrong in (c.audit(since_s="1h"), c.audit(limit=0), c.audit(key=5)):  # type: ignore[arg-type]
            with pytest.raises(UsageError):
                await wrong

    played(monkeypatch, scene)


@pytest.mark.parametrize(("waits", "blocks"), [(AsyncJob, Job), (AsyncQueue, Queue), (AsyncClient, Client)])
def test_the_blocking_classes_have_the_same_methods(waits: type, blocks: type) -> None:
    names = {"submit", "job", "queue", "audit"} if waits is AsyncClient else {n for n in dir(waits) if not n.startswith("_")}
    for name in names - {"id", "known", "queue"}:
        theirs, ours = inspect.signature(getattr(waits, name)), inspect.signature(getattr(blocks, name))
        assert list(theirs.parameters) == list(ours.parameters), name
        assert [each.default for each in theirs.parameters.values()] == [each.default for each in ours.parameters.values()]
    assert isinstance(Client().queue, Queue)
    assert (Client().job(ID).id, Client().job(ID).known, repr(Client().job(ID))) == (ID, False, f"<job {ID}>")


def test_the_blocking_methods_give_what_the_others_give() -> None:
    def run(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run(work)

    class Calls:
        """A client whose every call gives its name and arguments."""

        async def call(self, function: str, args: Any = None, **_: Any) -> Any:
            return {"function": function, "args": args, "done": args.get("ids"), "refused": []}

        def stream(self, function: str, args: Any = None, **_: Any) -> Any:
            return ("stream", function)

    calls: Any = Calls()
    iterate: Any = lambda source: source  # noqa: E731
    queue = Queue(AsyncQueue(calls), run, iterate)
    for name, given in {
        "list": (), "show": (ID,), "pause": ("w",), "resume": ("w",), "drain": (), "stats": (), "check": (),
    }.items():  # fmt: skip
        assert getattr(queue, name)(*given)["function"] == f"queue.{name}"
    for name in ("cancel", "retry", "drop"):
        assert getattr(queue, name)([ID])["done"] == [ID]
    watched: Any = queue.watch()
    assert watched == ("stream", "queue.watch")
    job = Job(AsyncJob(calls, STORE, 7, True), run, iterate)
    assert (job.id, job.known) == (ID, True)
    assert job.info()["function"] == "queue.show"
    assert isinstance(job.state(), dict)
    job.cancel()
