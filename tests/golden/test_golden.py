"""The bytes of every message stay what they are: encoding gives the golden frames, decoding them gives the messages.

`ZCLUSTER_REWRITE_GOLDEN=1 pytest tests/golden` writes the files again from the samples below (see README.md here).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from zcluster.wire import (
    KINDS,
    PREFIX_BYTES,
    Beat,
    Bye,
    Cancel,
    Catalog,
    Chunk,
    Credit,
    FunctionInfo,
    Grant,
    Hello,
    Message,
    Of,
    Refusal,
    Replies,
    ReplyGroup,
    RequestGroup,
    Requests,
    ResultGroup,
    Results,
    Status,
    Welcome,
    WireLimits,
    Work,
    WorkGroup,
    decode,
    encode,
)
from zcluster.wire.messages import MAX_ID, RequestFlag

HERE = Path(__file__).resolve().parent
REWRITE = os.environ.get("ZCLUSTER_REWRITE_GOLDEN") == "1"

ERROR = b'{"code":"no_such_node","message":"no node matches \'x\'","hint":"","request_id":"7.1"}'
PARAMETERS = '{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}'

Sample = tuple[str, Message, list[bytes]]
"""What it is, the message, and its bodies."""

SAMPLES: list[Sample] = [
    ("a client's", Hello(versions=[1], software="example 1.0", instance="a1b2c3"), []),
    (
        "a worker's, every field set",
        Hello(
            versions=[1, 2],
            software="0.1.0",
            instance="0011223344556677",
            slots=512,
            functions=[
                FunctionInfo(name="echo"),
                FunctionInfo(
                    name="math.add", doc="Add two numbers: Ä + ß.", role="admin", timeout_s=2.5, idempotent=True, stream=True,
                    pool="process", parameters=PARAMETERS, returns='{"type":"integer"}',
                ),
            ],
        ),
        [],
    ),
    (
        "the default limits",
        Welcome(
            version=1, session=7, name="laptop", role="client", cluster="zcluster", master="master", epoch=3, software="0.1.0",
            heartbeat_s=1.0, lease_heartbeats=3, body_bytes=67108864, inline_bytes=65536, chunk_bytes=262144,
            window_bytes=1048576,
        ),
        [],
    ),
    ("a client's, and the master's answer", Beat(), []),
    ("a worker's", Beat(slots=511, in_flight=2, load=0.0039, cpu_percent=12.5, memory_percent=40.0), []),
    ("a peer leaves", Bye(), []),
    ("a worker drains", Bye(code="draining", message="the worker is shutting down", draining=True), []),
    ("the master ends a session", Bye(code="session_replaced", message="another process", hint="a key for each"), []),
    ("a kind that a role may not send", Refusal(code="not_allowed", message="a client may not send RESULTS"), []),
    ("another version", Refusal(code="unsupported_version", message="version 9", hint="speak one of [1]", versions=[1]), []),
    ("of two requests", Cancel(ids=[1, MAX_ID]), []),
    (
        "for all that there is credit for",
        Credit(grants=[Grant(0, 5, Of.REQUEST_BODY, 1048576), Grant(3, 6, Of.REPLY_BODY, 300000), Grant(4, 7, Of.ITEMS, 80)]),
        [],
    ),
    ("two functions", Catalog(idempotent=["echo", "node.info"]), []),
    (
        "three requests of one group, the second without arguments",
        Requests([RequestGroup("math.add", "any", 30000, 5, 0, 1, [7, 0, 8])]),
        [b'{"a":1}', b'{"a":22}'],
    ),
    (
        "a fan-out, and one whose body comes in chunks",
        Requests(
            [
                RequestGroup("node.info", "web-*,master", 5000, 9, RequestFlag.FAN_OUT | RequestFlag.IDEMPOTENT, 4, [0]),
                RequestGroup("echo", "worker-1", 0, 0, RequestFlag.LARGE, 5, [307200]),
            ]
        ),
        [],
    ),
    (
        "two requests of one caller and one whose body comes in chunks",
        Work(
            [
                WorkGroup("math.add", "laptop", "client", 29998, 0, 7, 1, 41, [7, 8]),
                WorkGroup("echo", "laptop", "client", 5000, RequestFlag.LARGE, 7, 5, 43, [307200]),
            ]
        ),
        [b'{"a":1}', b'{"a":22}'],
    ),
    (
        "values, an error, items and their end, a large value, and one refused",
        Results(
            [
                ResultGroup(41, Status.VALUE, [1, 2]),
                ResultGroup(43, Status.ERROR, [len(ERROR)]),
                ResultGroup(44, Status.ITEM, [1, 1, 1]),
                ResultGroup(44, Status.END, [0]),
                ResultGroup(45, Status.LARGE_VALUE, [307200]),
                ResultGroup(46, Status.REFUSED, [2]),
            ]
        ),
        [b"3", b"44", ERROR, b"1", b"2", b"3", b"{}"],
    ),
    (
        "values, an error of no node, items and their end, a large value",
        Replies(
            [
                ReplyGroup(1, Status.VALUE, "worker-1", 0, [1, 2]),
                ReplyGroup(3, Status.ERROR, "", 0, [len(ERROR)]),
                ReplyGroup(4, Status.ITEM, "worker-2", 44, [1, 1, 1]),
                ReplyGroup(4, Status.END, "worker-2", 0, [0]),
                ReplyGroup(5, Status.LARGE_VALUE, "worker-1", 45, [307200]),
            ]
        ),
        [b"3", b"44", ERROR, b"1", b"2", b"3"],
    ),
    ("a fan-out has all its answers", Replies([ReplyGroup(6, Status.DONE, "", 0, [0])]), []),
    ("from a client", Chunk(5, 43, 262144), [b'"tail of a body"']),
    ("between master and worker", Chunk(0, 43, 0), [b'{"value":"']),
]  # fmt: skip


def file_of(cls: type) -> Path:
    return HERE / f"{cls.__name__.lower()}.txt"


def wrapped(digits: str) -> str:
    return "\n".join(digits[start : start + 64] for start in range(0, len(digits), 64))


def described(sample: Sample) -> str:
    """A sample as it is in its file. Only the hexadecimal digits are read back."""
    what, message, bodies = sample
    frame = encode(message, bodies)
    header = frame[PREFIX_BYTES : len(frame) - sum(map(len, bodies))].decode()
    lines = [f"# {type(message).__name__.upper()}: {what}", f"header {header}"]
    lines += [f"body   {body.decode()}" for body in bodies]
    return "\n".join([*lines, wrapped(frame.hex())])


def golden(path: Path) -> list[tuple[str, bytes]]:
    """The frames of a file with what they are."""
    out = []
    for block in path.read_text(encoding="utf-8").strip().split("\n\n"):
        lines = block.splitlines()
        digits = "".join(line for line in lines if re.fullmatch(r"[0-9a-f]+", line))
        out.append((lines[0].partition(": ")[2], bytes.fromhex(digits)))
    return out


def test_rewriting_when_asked() -> None:
    if not REWRITE:
        pytest.skip("ZCLUSTER_REWRITE_GOLDEN is not 1: the files are compared, not written")
    for cls in KINDS.values():
        blocks = [described(sample) for sample in SAMPLES if type(sample[1]) is cls]
        file_of(cls).write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


def test_every_kind_has_golden_frames_and_nothing_else_has() -> None:
    assert {path.name for path in HERE.glob("*.txt")} == {file_of(cls).name for cls in KINDS.values()}
    assert [cls.__name__ for cls in KINDS.values() if not golden(file_of(cls))] == []
    assert {type(message) for _, message, _ in SAMPLES} == set(KINDS.values())


def test_every_frame_has_its_sample() -> None:
    for cls in KINDS.values():
        assert [what for what, _ in golden(file_of(cls))] == [what for what, message, _ in SAMPLES if type(message) is cls]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{type(sample[1]).__name__}: {sample[0]}")
def test_encoding_gives_the_golden_bytes_and_decoding_the_message(sample: Sample) -> None:
    what, message, bodies = sample
    frame = dict(golden(file_of(type(message))))[what]
    assert encode(message, bodies) == frame
    decoded, offset = decode(frame, WireLimits())
    assert decoded == message
    assert type(decoded) is type(message)
    assert frame[offset:] == b"".join(bodies)


def test_what_the_files_show_a_reader_is_what_the_bytes_say() -> None:
    for cls in KINDS.values():
        text = "\n\n".join(described(sample) for sample in SAMPLES if type(sample[1]) is cls) + "\n"
        assert file_of(cls).read_text(encoding="utf-8") == text


def test_the_samples_use_every_status_flag_and_kind_of_credit() -> None:
    statuses, flags, ofs = set(), 0, set()
    for _, message, _ in SAMPLES:
        match message:
            case Results() | Replies():
                statuses |= {group.status for group in message.groups}
            case Requests():
                for group in message.groups:
                    flags |= group.flags
            case Credit():
                ofs |= {grant.of for grant in message.grants}
    assert statuses == set(range(7))
    assert flags == RequestFlag.LARGE | RequestFlag.FAN_OUT | RequestFlag.IDEMPOTENT
    assert ofs == {Of.REQUEST_BODY, Of.REPLY_BODY, Of.ITEMS}
