"""docs/protocol.md suffices: a client and a worker written from that page alone, with pyzmq and json, on a real cluster.

Everything above the line "the tests" is what a programmer of another language would write. Nothing of zcluster is
imported there.
"""

from __future__ import annotations

import json
import struct
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

LARGE, FAN_OUT = 1, 2
VALUE, ERROR, ITEM, END, LARGE_VALUE, DONE = range(6)
KIND = {
    "HELLO": 1, "WELCOME": 2, "BEAT": 3, "BYE": 4, "REFUSAL": 5, "CANCEL": 6, "CREDIT": 7, "CATALOG": 8,
    "REQUESTS": 16, "WORK": 17, "RESULTS": 18, "REPLIES": 19, "CHUNK": 20,
    "JOBS": 65, "ACCEPTED": 66, "FOLLOW": 67, "OUTCOMES": 68,
}  # fmt: skip
NAME = {kind: name for name, kind in KIND.items()}
PATIENCE_S = 20.0


class Peer:
    """A session: key file, transport, frames, HELLO, heartbeats."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], key_file: Path, instance: str, **hello: Any) -> None:
        key = tomllib.loads(key_file.read_text(encoding="utf-8"))
        assert key["schema"] == 1
        self.key = key
        self.beat: dict[str, Any] = {}
        self.socket = context.socket(zmq.DEALER)
        self._secure(self.socket)
        self.socket.connect(key["master"]["addresses"][0])
        self.send("HELLO", {"versions": [1], "instance": instance, "software": "page 1", **hello})
        name, self.welcome, _ = self.receive()
        assert name == "WELCOME", (name, self.welcome)
        self.beat_due_s = time.monotonic() + self.welcome["heartbeat_s"]

    def _secure(self, socket: zmq.Socket[bytes]) -> None:
        socket.setsockopt(zmq.LINGER, 500)
        socket.setsockopt(zmq.MAXMSGSIZE, 1048576)
        socket.setsockopt(zmq.RECONNECT_IVL, -1)
        socket.curve_secretkey = self.key["secret"].encode()
        socket.curve_publickey = self.key["public"].encode()
        socket.curve_serverkey = self.key["master"]["public"].encode()

    def subscribe(self, context: zmq.Context[zmq.Socket[bytes]], *topics: str) -> zmq.Socket[bytes]:
        socket = context.socket(zmq.SUB)
        self._secure(socket)
        socket.setsockopt(zmq.RCVTIMEO, int(PATIENCE_S * 1000))
        for topic in topics:
            socket.setsockopt(zmq.SUBSCRIBE, topic.encode())
        socket.connect(self.key["master"]["publish"][0])
        return socket

    def send(self, name: str, header: Any, *bodies: bytes) -> None:
        text = json.dumps(header).encode()
        self.socket.send(struct.pack(">BBBBI", 0x5A, 1, KIND[name], 0, len(text)) + text + b"".join(bodies))

    def receive(self) -> tuple[str, Any, bytes]:
        """The next message but BEAT and CATALOG: name, header, bodies. Beats meanwhile."""
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            if hasattr(self, "beat_due_s") and time.monotonic() >= self.beat_due_s:
                self.send("BEAT", self.beat)
                self.beat_due_s += self.welcome["heartbeat_s"]
            if not self.socket.poll(50):
                continue
            (frame,) = self.socket.recv_multipart()
            magic, version, kind, reserved, length = struct.unpack_from(">BBBBI", frame)
            assert (magic, version, reserved) == (0x5A, 1, 0)
            header, bodies = json.loads(frame[8 : 8 + length]), frame[8 + length :]
            if NAME[kind] not in ("BEAT", "CATALOG"):
                return NAME[kind], header, bodies
        raise AssertionError("nothing came")

    def close(self) -> None:
        self.send("BYE", {})
        self.socket.close()


class Client(Peer):
    """Requests."""

    last_id = 0

    def request(self, function: str, arguments: dict[str, Any], target: str = "any", flags: int = 0) -> tuple[int, bytes]:
        self.last_id += 1
        body = json.dumps(arguments).encode() if arguments else b""
        if len(body) > self.welcome["inline_bytes"]:
            self.send("REQUESTS", [[[function, target, 15000, 5, flags | LARGE, self.last_id, [len(body)]]]])
        else:
            self.send("REQUESTS", [[[function, target, 15000, 5, flags, self.last_id, [len(body)]]]], body)
        return self.last_id, body

    def answers(self, wanted: int, body: bytes) -> Iterator[tuple[int, str, int, Any]]:
        """(status, node, leg, JSON value) of all that is said to the request ``wanted``, whose body is ``body``."""
        sent: dict[int, int] = {}
        coming: dict[int, tuple[str, int, bytearray]] = {}
        while True:
            name, header, data = self.receive()
            if name == "CREDIT":
                for id_, leg, of, upto in header["grants"]:
                    assert (id_, of) == (wanted, 0)
                    self._send_chunks(wanted, leg, body, sent, upto)
            elif name == "CHUNK":
                id_, leg, offset = header
                node, size, got = coming[leg]
                assert (id_, offset) == (wanted, len(got))
                got += data
                if len(got) < size:
                    self.send("CREDIT", {"grants": [[wanted, leg, 1, len(got) + self.welcome["window_bytes"]]]})
                else:
                    yield VALUE, node, leg, json.loads(bytes(got))
            else:
                assert name == "REPLIES", (name, header)
                for status, node, leg, size, value in self._replies(header, data, wanted):
                    if status == LARGE_VALUE:
                        coming[leg] = (node, size, bytearray())
                        self.send("CREDIT", {"grants": [[wanted, leg, 1, self.welcome["window_bytes"]]]})
                    else:
                        yield status, node, leg, value

    def _send_chunks(self, id_: int, leg: int, body: bytes, sent: dict[int, int], upto: int) -> None:
        offset, end = sent.get(leg, 0), min(upto, len(body))
        while offset < end:
            piece = body[offset : min(offset + self.welcome["chunk_bytes"], end)]
            self.send("CHUNK", [id_, leg, offset], piece)
            offset += len(piece)
        sent[leg] = offset

    def _replies(self, header: Any, data: bytes, wanted: int) -> Iterator[tuple[int, str, int, int, Any]]:
        offset = 0
        for first_id, status, node, leg, sizes in header[0]:
            id_ = first_id
            for size in sizes:
                body = b"" if status == LARGE_VALUE else data[offset : offset + size]
                offset += len(body)
                if id_ == wanted:
                    yield status, node, leg, size, json.loads(body) if body else None
                if status != ITEM:
                    id_ += 1

    def call(self, function: str, arguments: dict[str, Any], target: str = "any") -> Any:
        id_, body = self.request(function, arguments, target)
        for status, _, _, value in self.answers(id_, body):
            if status == ERROR:
                raise RuntimeError(value["code"])
            assert status == VALUE
            return value
        raise AssertionError("no answer")

    def fan_out(self, function: str, arguments: dict[str, Any], target: str) -> dict[str, tuple[int, Any]]:
        id_, body = self.request(function, arguments, target, FAN_OUT)
        out: dict[str, tuple[int, Any]] = {}
        for status, node, _, value in self.answers(id_, body):
            if status == DONE:
                return out
            if status == ERROR and not node:
                raise RuntimeError(value["code"])
            assert node not in out
            out[node] = (status, value)
        raise AssertionError("no answer")

    def stream(self, function: str, arguments: dict[str, Any]) -> Iterator[Any]:
        id_, body = self.request(function, arguments)
        taken, upto, ended = 0, 16, False
        try:
            for status, _, leg, value in self.answers(id_, body):
                if status == ITEM:
                    taken += 1
                    if upto - taken < 8:
                        upto = taken + 32
                        self.send("CREDIT", {"grants": [[id_, leg, 2, upto]]})
                    yield value
                else:
                    ended = True
                    assert status == END, value
                    return
        finally:
            if not ended:
                self.send("CANCEL", {"ids": [id_]})


class Worker(Peer):
    """One function, `page.double`, which gives its argument twice; large ones in chunks both ways."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], key_file: Path) -> None:
        functions = [{"name": "page.double", "role": "admin", "parameters": '{"type":"object"}'}]
        super().__init__(context, key_file, "w", slots=4, functions=functions)
        self.beat = {"slots": 4}
        self.gathering: dict[int, tuple[str, int, bytearray]] = {}
        self.leaving: dict[int, tuple[bytes, int]] = {}

    def serve(self, answers: int) -> None:
        """Until so many requests have been answered in full."""
        while answers > 0:
            name, header, data = self.receive()
            offset = 0
            if name == "WORK":
                for function, _, role, ttl_ms, flags, session, request, leg, sizes, *_ in header[0]:
                    assert (function, ttl_ms > 0) == ("page.double", True)
                    for number, size in enumerate(sizes):
                        if flags & LARGE:
                            self.gathering[leg] = (f"{session}.{request}", size, bytearray())
                            self.send("CREDIT", {"grants": [[0, leg, 0, size]]})
                        else:
                            request_id = f"{session}.{request + number}"
                            answers -= self.answer(leg + number, request_id, role, data[offset : offset + size])
                            offset += size
            elif name == "CHUNK":
                _, leg, at = header
                request_id, size, got = self.gathering[leg]
                assert at == len(got)
                got += data
                if len(got) == size:
                    answers -= self.answer(leg, request_id, "admin", bytes(got))
            elif name == "CREDIT":
                for _, leg, of, upto in header["grants"]:
                    value, sent = self.leaving[leg]
                    assert of == 1
                    while sent < min(upto, len(value)):
                        piece = value[sent : min(sent + self.welcome["chunk_bytes"], upto)]
                        self.send("CHUNK", [0, leg, sent], piece)
                        sent += len(piece)
                    self.leaving[leg] = (value, sent)
                    answers -= sent == len(value)

    def answer(self, leg: int, request_id: str, role: str, body: bytes) -> int:
        """1 when that is all of it."""
        if role not in ("admin", "master"):
            raise AssertionError("the master let a role through that may not call it")
        text = json.loads(body)["text"]
        if not isinstance(text, str):
            error = {"code": "invalid_arguments", "message": "text is no text", "hint": "", "request_id": request_id}
            error_body = json.dumps(error).encode()
            self.send("RESULTS", [[[leg, ERROR, [len(error_body)]]]], error_body)
            return 1
        value = json.dumps(text * 2).encode()
        if len(value) <= self.welcome["inline_bytes"]:
            self.send("RESULTS", [[[leg, VALUE, [len(value)]]]], value)
            return 1
        self.leaving[leg] = (value, 0)
        self.send("RESULTS", [[[leg, LARGE_VALUE, [len(value)]]]])
        return 0


# -- the tests ----------------------------------------------------------------------------------------------------------

from zcluster.bench.cluster import LocalCluster  # noqa: E402

FUNCTIONS = str(Path(__file__).with_name("protocol_functions.py"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(workers=1, functions=[FUNCTIONS]) as running:
        yield running


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as made:
        yield made


@pytest.fixture
def client(cluster: LocalCluster, context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Client]:
    made = Client(context, cluster.client_key, "client")
    yield made
    made.close()


def test_nothing_of_zcluster_is_above_the_line() -> None:
    above = Path(__file__).read_text(encoding="utf-8").partition("# -- the tests")[0]
    assert "import zcluster" not in above
    assert "from zcluster" not in above


def test_it_joins_as_who_its_key_is(cluster: LocalCluster, client: Client) -> None:
    assert (client.welcome["name"], client.welcome["role"], client.welcome["master"]) == ("client", "client", "master")
    assert client.welcome["cluster"] == client.key["cluster"] == "local"


def test_it_calls(client: Client) -> None:
    assert client.call("echo", {"value": {"ä": [1, None, "x"]}}) == {"ä": [1, None, "x"]}
    assert client.call("echo", {"value": None}, target="worker-1") is None
    assert client.call("node.info", {}, target="master")["role"] == "master"


def test_it_learns_why_a_call_failed(client: Client) -> None:
    for function, arguments, target, code in [
        ("echo", {"valu": 1}, "worker-1", "invalid_arguments"),
        ("echo", {"value": 1}, "worker-9", "no_such_node"),
        ("echo", {"value": 1}, "all", "usage"),
        ("echo", {"value": 1}, "", "no_such_node"),
        ("nothing.there", {}, "any", "no_such_function"),
    ]:
        with pytest.raises(RuntimeError, match=f"^{code}$"):
            client.call(function, arguments, target=target)


def test_it_fans_out(client: Client) -> None:
    answers = client.fan_out("node.info", {}, target="all")
    assert {node: (status, value["name"]) for node, (status, value) in answers.items()} == {
        "master": (VALUE, "master"),
        "worker-1": (VALUE, "worker-1"),
    }
    with pytest.raises(RuntimeError, match="no_such_node"):
        client.fan_out("node.info", {}, target="worker-1,nobody-*")


def test_it_streams_beyond_the_first_credit(client: Client) -> None:
    assert list(client.stream("page.count", {"to": 300})) == list(range(1, 301))
    assert list(client.stream("page.count", {"to": 0})) == []


def test_it_cancels_a_stream(client: Client) -> None:
    before = client.call("page.stopped", {})
    items = client.stream("page.forever", {})
    assert [next(items) for _ in range(40)] == list(range(1, 41))
    items.close()  # type: ignore[attr-defined]
    deadline_s = time.monotonic() + PATIENCE_S
    while client.call("page.stopped", {}) != before + 1:
        assert time.monotonic() < deadline_s, "the generator was not stopped"


@pytest.mark.parametrize("target", ["worker-1", "master"])
def test_it_sends_and_receives_large_bodies(client: Client, target: str) -> None:
    text = "0123456789abcdef" * (300 * 1024 // 16)
    assert client.call("echo", {"value": text}, target=target) == text


def test_it_sends_a_large_body_to_all(client: Client) -> None:
    text = "x" * (2 * 1024 * 1024)
    answers = client.fan_out("echo", {"value": text}, target="all")
    assert {node: value == text for node, (_, value) in answers.items()} == {"master": True, "worker-1": True}


def test_it_is_told_what_it_may_not_do(client: Client) -> None:
    client.send("RESULTS", [[[1, VALUE, [0]]]])
    name, refusal, _ = client.receive()
    assert (name, refusal["code"]) == ("REFUSAL", "not_allowed")
    client.socket.send(b"\x5a\x09\x01\x00\x00\x00\x00\x00")
    name, refusal, _ = client.receive()
    assert (name, refusal["code"], refusal["versions"]) == ("REFUSAL", "unsupported_version", [1])
    client.socket.send(b"nonsense")
    name, refusal, _ = client.receive()
    assert (name, refusal["code"]) == ("REFUSAL", "protocol_error")
    client.socket.send_multipart([b"", b"two frames"])
    name, refusal, _ = client.receive()
    assert (name, refusal["code"]) == ("REFUSAL", "protocol_error")
    assert client.call("echo", {"value": 1}) == 1


def test_without_hello_there_is_no_session(cluster: LocalCluster, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    with pytest.raises(AssertionError) as caught:
        Silent(context, cluster.client_key, "silent")
    assert "no_session" in str(caught.value)


class Silent(Client):
    """Forgets its HELLO."""

    def send(self, name: str, header: Any, *bodies: bytes) -> None:
        super().send("BEAT" if name == "HELLO" else name, {}, *bodies)


def test_a_worker_of_the_page_serves_and_is_published(
    cluster: LocalCluster, context: zmq.Context[zmq.Socket[bytes]], client: Client
) -> None:
    cluster.new_key("page-worker", "worker")
    admin = Client(context, cluster.admin_key, "admin")
    events = admin.subscribe(context, "nodes", "beat")
    topic, beat = events.recv_multipart()
    assert topic == b"beat"
    assert set(json.loads(beat)) == {"sequence", "cluster", "epoch"}
    worker = Worker(context, cluster.key_file("page-worker"))
    event: dict[str, Any] = {}
    while event.get("node") != "page-worker":
        topic, body = events.recv_multipart()
        event = json.loads(body) if topic == b"nodes" else {}
    assert set(event) == {"sequence", "state", "at_s", "node", "role", "reason"}
    assert (event["state"], event["role"]) == ("ready", "worker")

    with pytest.raises(RuntimeError, match="not_allowed"):
        client.call("page.double", {"text": "a"})
    check_work(admin, worker)
    worker.close()
    while event.get("state") != "left":
        topic, body = events.recv_multipart()
        event = json.loads(body) if topic == b"nodes" else {}
    events.close()
    admin.close()


def check_work(admin: Client, worker: Worker) -> None:
    """A small call, an error, and a large body both ways. The worker waits for chunks while the client waits for credit."""
    for text in ("ab", 5, "z" * 200_000):
        server = threading.Thread(target=worker.serve, args=(1,), daemon=True)
        server.start()
        id_, body = admin.request("page.double", {"text": text}, target="page-worker")
        status, node, _, value = next(admin.answers(id_, body))
        server.join(PATIENCE_S)
        assert not server.is_alive()
        assert node == "page-worker"
        if isinstance(text, str):
            assert (status, value) == (VALUE, text * 2)
        else:
            assert (status, value["code"]) == (ERROR, "invalid_arguments")
            assert value["request_id"] == f"{admin.welcome['session']}.{id_}"
