"""Whatever bytes an admitted peer sends: decode returns or says PeerError, and the master's machine goes on.

Each example mutates golden frames, and gives what can be decoded to a master in which a client, an administrator, two
workers and an agent are at work, from one of them or from a connection without a session. What the master then wants to
send has to be encodable, within the limits of its receivers, and the promises of the core's books have to hold.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zcluster.core.master import Master, MasterLimits
from zcluster.core.peers import Fan, Identity
from zcluster.core.treelink import FrameIn
from zcluster.errors import PeerError
from zcluster.keys import may_call, may_send
from zcluster.wire import (
    KINDS,
    Credit,
    FunctionInfo,
    Grant,
    Hello,
    Message,
    Of,
    ReplyGroup,
    RequestGroup,
    Requests,
    ResultGroup,
    Results,
    Status,
    WireLimits,
    WorkGroup,
    decode,
    encode,
)
from zcluster.wire.frames import BATCH_KINDS, PREFIX, TAKES_ALL
from zcluster.wire.messages import RequestFlag

LIMITS = WireLimits()
EXAMPLES = int(os.environ.get("ZCLUSTER_FUZZ_EXAMPLES", "2000"))
"""How many frames the fuzz tries; 2,000 take some seconds, set more for a longer look."""
PEERS = {
    "client": Identity("k-client", "laptop", "client"),
    "admin": Identity("k-admin", "admin", "admin"),
    "w1": Identity("k-w1", "worker-1", "worker"),
    "w2": Identity("k-w2", "worker-2", "worker"),
    "agent": Identity("k-agent", "agent-1", "agent"),
    "stranger": Identity("k-stranger", "stranger", "client"),
}
FUNCTIONS = [
    FunctionInfo(name="echo", idempotent=True, pool="inline"),
    FunctionInfo(name="math.add"),
    FunctionInfo(name="lines", stream=True),
]
SENDERS = {
    cls.kind: found
    for cls in KINDS.values()
    if (found := [route for route, peer in PEERS.items() if may_send(peer.role, cls.__name__.lower()) and route != "stranger"])
}
"""Who may send a message of a kind: what comes from others goes no deeper than that check."""
TOKENS = [
    b"0", b"1", b"-1", b"4096", b"9007199254740991", b"9007199254740992", b"1e3", b"null", b"true", b'""', b"[]", b"{}", b'"all"',
    b'"any"', b'"*"', b'"a,"', b'"\\u0000"', b'"[!"', b"[[]]", b'"worker-1"', b",", b"]", b"}", b'"\xff"', b"\\",
]  # fmt: skip

REPLACEMENTS: list[Any] = [
    0, 1, 2, 3, 4, 5, 6, 7, 16, 255, 4096, 5000, 16_384, 2**53 - 1, 2**53, 10**30, -1, 0.5, 1e300, True, None, "",
    "all", "*", "any", "worker-1", "worker-2", "master", "a,b", "echo", "lines", "site", "up", "copy", "now",
    "\0", "é" * 129, [], [0], [[]], {}, [1, 2], [5000], [0] * 9,
]  # fmt: skip


def busy_master() -> Master:
    """A master whose peers have work of every sort: waiting, running, a fan-out, a stream, large bodies both ways."""
    limits = MasterLimits(body_bytes=1 << 20, outbox_bytes=1 << 20, transfer_bytes=1 << 20)
    master = Master("master", "zcluster", 1, limits, may_send, may_call, 0.0)
    for route, identity in PEERS.items():
        if route != "stranger":
            worker = identity.role == "worker"
            hello = Hello(versions=[1], instance=route, slots=3 if worker else 0, functions=FUNCTIONS if worker else [])
            master.receive(route, identity, hello, b"", 0, 0.0)
    groups = [
        RequestGroup("math.add", "worker-1", 1000, 5, 0, 1, [1, 1]),
        RequestGroup("lines", "any", 1000, 9, 0, 3, [0]),
        RequestGroup("echo", "worker-*", 1000, 5, RequestFlag.FAN_OUT, 4, [0]),
        RequestGroup("echo", "worker-2", 1000, 5, RequestFlag.LARGE, 5, [5000]),
        RequestGroup("echo", "worker-2", 1000, 0, 0, 6, [0] * 4),
    ]
    message = Requests(groups)
    master.receive("client", PEERS["client"], message, b"12", 0, 0.0)
    master.take(0.0)
    for route in ("w1", "w2"):
        node = master.roster.peers[route].node
        assert node is not None
        legs = list(node.running)
        for leg, status, size in ((legs[0], Status.ITEM, 0), (legs[-1], Status.LARGE_VALUE, 5000)):
            if not node.running[leg].group.flags & RequestFlag.LARGE:
                master.receive(route, PEERS[route], Results([ResultGroup(leg, status, [size])]), b"", 0, 0.0)
            else:
                master.receive(route, PEERS[route], Credit(grants=[Grant(0, leg, Of.REQUEST_BODY, 2000)]), b"", 0, 0.0)
    master.take(0.0)
    return master


def check_books(master: Master) -> None:
    """What is counted and what is there are the same."""
    dispatch = master.dispatch
    nodes = master.roster.nodes.values()
    assert dispatch.running == sum(len(node.running) for node in nodes)
    waiting = [request for peer in master.roster.peers.values() for entry in peer.requests.values() for request in parts(entry)]
    assert dispatch.waiting == sum(request.queue is not None for request in waiting)
    assert dispatch.waiting_bytes == sum(len(request.body) for request in waiting if request.queue is not None)
    assert dispatch.gate.used_bytes >= 0
    for notice in master.trees.notices:
        if isinstance(notice, FrameIn):
            assert decode(notice.frame, LIMITS)[0].kind in master.trees.kinds
    master.trees.notices.clear()
    for node in nodes:
        assert sum(node.by_caller.values()) == len(node.running)
        assert sum(node.quick.values()) == sum(request.quick for request in node.running.values())
        assert all(request.leg == leg and request.node is node for leg, request in node.running.items())


def parts(entry: Any) -> list[Any]:
    return list(entry.left) if isinstance(entry, Fan) else [entry]


def drain(master: Master, now: float) -> list[bytes]:
    """What the master sends, as frames that its peers can read."""
    frames = []
    for _, outgoing in master.take(now):
        for message, bodies in outgoing:
            data = encode(message, bodies)
            assert decode(data, LIMITS)[0] == message
            frames.append(data)
    return frames


def feed(master: Master, route: str, data: bytes, now: float) -> None:
    """What a front does with a frame."""
    try:
        message, offset = decode(data, LIMITS)
    except PeerError as error:
        master.malformed(route, PEERS[route], error, now)
        return
    master.receive(route, PEERS[route], message, data, offset, now)


# -- mutations ----------------------------------------------------------------------------------------------------------


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Where in a JSON value something can be replaced: (container, key)."""
    items = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    for key, inner in list(items):
        yield value, key
        yield from places(inner)


def mutate_json(data: bytes, dice: random.Random) -> bytes:
    """The frame with some values of its header replaced, mostly by others of their type, and a body that mostly fits."""
    _, _, kind, _, length = PREFIX.unpack_from(data)
    header = json.loads(data[8 : 8 + length])
    found = list(places(header))
    for _ in range(dice.randint(1, 4)):
        if found:
            container, key = dice.choice(found)
            same = [value for value in REPLACEMENTS if type(value) is type(container[key])]
            container[key] = dice.choice(same if same and dice.random() < 0.9 else REPLACEMENTS)
    text = json.dumps(header, ensure_ascii=dice.random() < 0.5).encode()
    size = dice.randrange(20) if dice.random() < 0.2 else fitting(kind, text)
    return PREFIX.pack(0x5A, 1, kind, 0, len(text)) + text + bytes(size)


def fitting(kind: int, header: bytes) -> int:
    """How many bytes have to follow ``header``; 0 when it is malformed, or when they would be too many."""
    try:
        message: Any = msgspec.json.decode(header, type=KINDS[kind])
    except msgspec.DecodeError:
        return 0
    groups = getattr(message, "groups", []) if kind in BATCH_KINDS else []
    size = sum(sum(group.sizes) for group in groups if not is_large(group)) if groups else 8 * (kind in TAKES_ALL)
    return size if size <= 1 << 16 else 0


def is_large(group: Any) -> bool:
    """Whether the body of ``group`` is not in its frame."""
    if isinstance(group, RequestGroup | WorkGroup):
        return bool(group.flags & RequestFlag.LARGE)
    return isinstance(group, ResultGroup | ReplyGroup) and group.status == Status.LARGE_VALUE


def mutate_bytes(data: bytes, dice: random.Random, others: list[bytes]) -> bytes:
    """The frame with bytes changed, inserted, removed, doubled, cut, or spliced with another frame."""
    out = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(out) + 1)
        match dice.randrange(7):
            case 0 if out:
                out[at % len(out)] = dice.randrange(256)
            case 1:
                out[at:at] = dice.choice(TOKENS)
            case 2:
                del out[at : at + dice.randrange(1, 16)]
            case 3:
                out[at:at] = out[at : at + dice.randrange(1, 32)]
            case 4:
                out = out[:at]
            case 5:
                out[at:] = dice.choice(others)[at:]
            case _ if len(out) > 2:
                out[2] = dice.choice(sorted(KINDS))
    if dice.random() < 0.5 and len(out) >= 8:
        # The length set right again: mutations reach the header's decoder, and not only the check of the length.
        out[4:8] = max(0, len(out) - 8 - dice.choice([0, 0, 0, 1, 12])).to_bytes(4, "big")
    return bytes(out)


@settings(derandomize=True, deadline=None, max_examples=EXAMPLES)
@given(seed=st.integers(0, 2**32 - 1), route=st.sampled_from(sorted(PEERS)), data=st.data())
def test_no_frame_breaks_decode_or_the_master(seed: int, route: str, data: st.DataObject, frames: list[bytes]) -> None:
    dice = random.Random(seed)
    master = busy_master()
    now = 0.0
    for _ in range(data.draw(st.integers(1, 4))):
        golden = dice.choice(frames)
        mutated = mutate_json(golden, dice) if dice.random() < 0.7 else mutate_bytes(golden, dice, frames)
        sender = dice.choice(SENDERS.get(golden[2], [route])) if dice.random() < 0.7 else route
        feed(master, sender, mutated, now)
        drain(master, now)
        check_books(master)
        now += dice.choice([0.0, 0.0, 0.3, 1.1, 4.0])
        master.handle_deadline(now)
        drain(master, now)
        check_books(master)
    master.drain()
    master.close(now)
    drain(master, now)
    check_books(master)


@settings(derandomize=True, deadline=None, max_examples=EXAMPLES // 4)
@given(data=st.data())
def test_no_valid_message_breaks_the_master(
    data: st.DataObject, any_framed: st.SearchStrategy[tuple[Message, list[bytes]]]
) -> None:
    master = busy_master()
    for _ in range(3):
        message, bodies = data.draw(any_framed)
        feed(master, data.draw(st.sampled_from(sorted(PEERS))), encode(message, bodies), 0.5)
        drain(master, 0.5)
        check_books(master)
    master.handle_deadline(100.0)
    drain(master, 100.0)
    check_books(master)


@settings(derandomize=True, deadline=None, max_examples=500)
@given(noise=st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(PeerError):
        decode(noise, LIMITS)
    with pytest.raises(PeerError):
        decode(PREFIX.pack(0x5A, 1, 16, 0, len(noise)) + noise, LIMITS)


def test_an_honest_caller_is_served_after_all_of_it(frames: list[bytes]) -> None:
    """The fuzz's own check: the master that it feeds works, so that a broken one would be seen."""
    dice = random.Random(7)
    master = busy_master()
    for _ in range(300):
        feed(master, "stranger", mutate_bytes(dice.choice(frames), dice, frames), 0.1)
        drain(master, 0.1)
    feed(master, "admin", encode(Requests([RequestGroup("echo", "worker-1", 500, 9, 0, 1, [2])]), [b"{}"]), 0.1)
    drain(master, 0.1)
    node = master.roster.nodes["worker-1"]
    assert [request.caller.identity.name for request in node.running.values()].count("admin") == 1
    assert master.counters.values["malformed"] > 50
