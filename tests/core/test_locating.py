"""Targets that name agents wait for the book's answer, and are requests like all others meanwhile."""

from __future__ import annotations

from zcluster.core.locating import MAX_NAME_CHARS, Locate
from zcluster.core.master import Master, MasterLimits
from zcluster.core.peers import Identity
from zcluster.errors import NoSuchAgent, error_from_dict
from zcluster.keys import may_call, may_send
from zcluster.wire import Cancel, FunctionInfo, Hello, Replies, RequestGroup, Requests, Work
from zcluster.wire.messages import RequestFlag

CLIENT = Identity("k", "laptop", "client")
WORKERS = {"w1": Identity("w1", "web-1", "worker"), "w2": Identity("w2", "web-2", "worker")}


class Bench:
    """A master with two workers and a client."""

    def __init__(self) -> None:
        self.master = Master("master", "zcluster", 1, MasterLimits(), may_send, may_call, 0.0)
        for route, worker in WORKERS.items():
            hello = Hello(versions=[1], instance=route, slots=8, functions=[FunctionInfo(name="echo")])
            self.master.receive(route, worker, hello, b"", 0, 0.0)
        self.master.receive("c", CLIENT, Hello(versions=[1], instance="c"), b"", 0, 0.0)
        self.master.take(0.0)
        self.last = 0

    def ask(self, target: str, *, fan_out: bool = False, count: int = 1, ttl_ms: int = 0) -> None:
        flags = RequestFlag.FAN_OUT if fan_out else 0
        group = RequestGroup("echo", target, ttl_ms, 5, flags, self.last + 1, [2] * count)
        self.last += count
        self.master.receive("c", CLIENT, Requests([group]), b"{}" * count, 0, 0.0)

    def questions(self) -> list[Locate]:
        parking = self.master.admission.parking
        found, parking.questions = parking.questions, []
        return found

    def work(self) -> dict[str, int]:
        """How many requests each worker was given."""
        given: dict[str, int] = {}
        for route, outgoing in self.master.take(0.0):
            for message, _ in outgoing:
                if isinstance(message, Work):
                    given[str(route)] = given.get(str(route), 0) + sum(len(group.sizes) for group in message.groups)
        return given

    def errors(self, now: float = 0.0) -> list[str]:
        """The codes of the errors that the client got."""
        out = []
        for route, outgoing in self.master.take(now):
            for message, bodies in outgoing if route == "c" else []:
                if isinstance(message, Replies):
                    out += [bytes(body).partition(b'"code":"')[2].partition(b'"')[0].decode() for body in bodies if body]
        return out


def test_an_agents_node_gets_the_request_once_the_book_has_answered() -> None:
    bench = Bench()
    bench.ask("agent:a7", count=3)
    assert bench.work() == {}
    assert bench.master.dispatch.waiting == 3
    [locate] = bench.questions()
    assert locate.target == "agent:a7"
    bench.master.admission.located(locate, ["web-2"])
    assert bench.work() == {"w2": 3}
    assert bench.master.dispatch.waiting == 0


def test_a_group_is_a_fan_out_to_the_nodes_that_hold_its_agents() -> None:
    bench = Bench()
    bench.ask("group:web", fan_out=True)
    [locate] = bench.questions()
    bench.master.admission.located(locate, ["web-1", "web-2"])
    assert bench.work() == {"w1": 1, "w2": 1}


def test_what_the_book_cannot_say_is_the_callers_error() -> None:
    bench = Bench()
    bench.ask("agent:ghost")
    [locate] = bench.questions()
    bench.master.admission.located(locate, NoSuchAgent("no node holds it"))
    assert bench.errors() == ["no_such_agent"]
    assert bench.master.dispatch.waiting == 0


def test_a_node_that_is_not_known_or_away_is_told() -> None:
    bench = Bench()
    bench.ask("agent:a1")
    bench.ask("agent:a2")
    first, second = bench.questions()
    bench.master.disconnected("w2", 0.0)
    bench.master.admission.located(first, ["elsewhere"])
    bench.master.admission.located(second, ["web-2"])
    assert bench.errors() == ["node_unavailable", "node_unavailable"]


def test_one_that_was_cancelled_or_too_late_is_not_started_by_the_answer() -> None:
    bench = Bench()
    bench.ask("agent:a1", count=2)
    bench.ask("agent:a2", ttl_ms=10)
    bench.master.receive("c", CLIENT, Cancel(ids=[1]), b"", 0, 0.0)
    first, second = bench.questions()
    bench.master.handle_deadline(1.0)
    assert bench.errors(1.0) == ["timed_out"]
    bench.master.admission.located(first, ["web-1"])
    bench.master.admission.located(second, ["web-1"])
    assert bench.work() == {"w1": 1}
    assert bench.master.dispatch.waiting == 0


def test_answers_after_the_callers_session_change_nothing() -> None:
    bench = Bench()
    bench.ask("agent:a1")
    [locate] = bench.questions()
    bench.master.disconnected("c", 0.0)
    bench.master.admission.located(locate, ["web-1"])
    assert bench.work() == {}
    assert (bench.master.dispatch.waiting, bench.master.dispatch.waiting_bytes) == (0, 0)


def test_targets_that_name_nothing_or_too_much() -> None:
    bench = Bench()
    for target in ("agent:", "group:", "agent:" + "x" * (MAX_NAME_CHARS + 1), "agent:a\nb"):
        bench.ask(target, fan_out=True)
    bench.ask("group:web")
    assert bench.errors() == ["usage"] * 5
    assert bench.questions() == []
    bench.ask("agent:" + "x" * MAX_NAME_CHARS)
    assert len(bench.questions()) == 1


def test_the_error_of_a_missing_agent_travels() -> None:
    assert isinstance(error_from_dict(NoSuchAgent("x").to_dict()), NoSuchAgent)
