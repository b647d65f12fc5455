"""docs/protocol.md suffices for durable jobs: a client written from that page alone submits and follows them on a cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from tests.system.test_protocol_page import FUNCTIONS, Client
from zcluster.bench.cluster import LocalCluster

DONE, FAILED = 3, 4
FAN_OUT = 1


class JobClient(Client):
    """Submissions and outcomes, as the page has them."""

    submitted = 0
    store = ""

    def submit(
        self, function: str, *arguments: dict[str, Any], target: str = "any", flags: int = 0, keys: list[str] | None = None
    ) -> list[tuple[str, Any]]:
        """The ACCEPTED of submissions that are alike."""
        bodies = [json.dumps(each).encode() if each else b"" for each in arguments]
        first_id, self.submitted = self.submitted + 1, self.submitted + len(bodies)
        group = [function, target, 5, flags, 0, 0, 0, 3, 0, 0, "", first_id, [len(body) for body in bodies]]
        self.send("JOBS", [[group if keys is None else [*group, keys]]], *bodies)
        told: dict[int, Any] = {}
        while len(told) < len(bodies):
            name, header, _ = self.receive()
            assert name == "ACCEPTED", (name, header)
            self.store = header["store"]
            for first, number, count in header.get("groups", ()):
                told |= {first + step: ("new", number + step) for step in range(count)}
            told |= {id_: ("known", number) for id_, number in header.get("known", ())}
            for first, count, code, *_ in header.get("refused", ()):
                told |= {first + step: ("refused", code) for step in range(count)}
        return [told[first_id + step] for step in range(len(bodies))]

    def follow(self, *numbers: int, store: str = "") -> dict[int, tuple[int, Any]]:
        """State and value or error by number; a state of 0 is unknown, a value of None large."""
        self.send("FOLLOW", {"store": store or self.store, "numbers": list(numbers)})
        told: dict[int, tuple[int, Any]] = {}
        while len(told) < len(numbers):
            name, header, data = self.receive()
            assert (name, header["store"]) == ("OUTCOMES", store or self.store)
            offset = 0
            for first, state, _, _, sizes in header.get("groups", ()):
                for step, size in enumerate(sizes):
                    told[first + step] = (state, json.loads(data[offset : offset + size]))
                    offset += size
            told |= {number: (state, None) for number, state, *_ in header.get("large", ())}
            told |= dict.fromkeys(header.get("unknown", ()), (0, None))
        return told


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(workers=1, functions=[FUNCTIONS]) as running:
        yield running


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[JobClient]:
    with zmq.Context() as context:
        made = JobClient(context, cluster.client_key, "jobs")
        yield made
        made.close()


def test_it_submits_and_learns_how_jobs_ended(client: JobClient) -> None:
    accepted = client.submit("echo", {"value": 1}, {"value": 2}, {"valu": 3})
    assert [what for what, _ in accepted] == ["new"] * 3
    numbers = [number for _, number in accepted]
    told = client.follow(*numbers)
    assert [told[number] for number in numbers[:2]] == [(DONE, 1), (DONE, 2)]
    state, error = told[numbers[2]]
    assert (state, error["code"]) == (FAILED, "invalid_arguments")
    assert client.follow(*numbers) == told
    assert client.call("queue.state", {"id": f"{client.store}-{numbers[0]}"}, target="master") == "done"


def test_it_finds_a_job_by_its_key_in_another_session(cluster: LocalCluster, client: JobClient) -> None:
    ((_, number),) = client.submit("echo", {"value": "x"}, keys=["once"])
    assert client.submit("echo", {"value": "x"}, keys=["once"]) == [("known", number)]
    assert client.submit("echo", {"value": "y"}, keys=["once"]) == [("refused", "key_conflict")]
    with zmq.Context() as context:
        other = JobClient(context, cluster.client_key, "jobs-2")
        assert other.submit("echo", {"value": "x"}, keys=["once"]) == [("known", number)]
        assert other.follow(number) == {number: (DONE, "x")}
        other.close()


def test_it_learns_what_is_refused_and_unknown(client: JobClient) -> None:
    assert client.submit("nothing.there", {}) == [("refused", "no_such_function")]
    assert client.submit("echo", {"value": 1}, target="worker-9") == [("refused", "no_such_node")]
    assert client.submit("echo", {"value": 1}, target="all") == [("refused", "usage")]
    assert client.follow(999_999) == {999_999: (0, None)}
    assert client.follow(1, store="00000000") == {1: (0, None)}


def test_it_gets_a_large_value_and_a_fan_out(client: JobClient) -> None:
    text = "x" * 60_000
    ((_, number),) = client.submit("echo", {"value": text})
    assert client.follow(number) == {number: (DONE, text)}
    answer = client.call(
        "queue.submit", {"function": "echo", "args": {"value": text * 3}, "target": "any"}, target="master"
    )
    number = int(answer["id"].partition("-")[2])
    assert client.follow(number) == {number: (DONE, None)}
    assert client.call("queue.result", {"id": answer["id"]}, target="master") == text * 3
    ((_, whole),) = client.submit("node.info", {}, target="all", flags=FAN_OUT)
    assert client.follow(whole) == {whole: (DONE, {"parts": 2, "done": 2})}
    parts = client.call("queue.outcomes", {"id": f"{client.store}-{whole}"}, target="master")["items"]
    assert {part["node"]: part["value"]["name"] for part in parts} == {"master": "master", "worker-1": "worker-1"}


def test_a_number_that_does_not_grow_is_ignored(client: JobClient) -> None:
    ((_, number),) = client.submit("echo", {"value": 1})
    client.submitted -= 1
    client.send("JOBS", [[["echo", "any", 5, 0, 0, 0, 0, 3, 0, 0, "", client.submitted + 1, [0]]]])
    client.submitted += 1
    ((what, after),) = client.submit("echo", {"value": 2})
    assert (what, after) == ("new", number + 1)
