"""The bytes of every message stay what they are: encoding gives the golden frames, decoding them gives the messages.

`ZCLUSTER_REWRITE_GOLDEN=1 pytest tests/golden` writes the files again from the samples below (see README.md here).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard

from tests.golden.samples_agents import SAMPLES as AGENT_SAMPLES
from tests.golden.samples_jobs import SAMPLES as JOB_SAMPLES
from tests.golden.samples_joining import SAMPLES as JOINING_SAMPLES
from tests.golden.samples_rights import SAMPLES as RIGHTS_SAMPLES
from tests.golden.samples_rotation import SAMPLES as ROTATION_SAMPLES
from zcluster.core.sync.entry import Change, Entry, checked_listing, content_digest, encode_listing, listing_digest
from zcluster.errors import PeerError
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
from zcluster.wire.agents import Carry, Rows, Shared
from zcluster.wire.jobs import SIZED_KINDS
from zcluster.wire.messages import MAX_ID, TAKES_ALL, RequestFlag
from zcluster.wire.tables import Ask, Changes, Page
from zcluster.wire.trees import (
    ZSTD,
    Blocks,
    Fetch,
    Finish,
    Go,
    Hashes,
    List,
    Listing,
    Order,
    Parcel,
    Pull,
    Report,
    State,
    TreeInfo,
    Trees,
)

HERE = Path(__file__).resolve().parent
REWRITE = os.environ.get("ZCLUSTER_REWRITE_GOLDEN") == "1"

ERROR = b'{"code":"no_such_node","message":"no node matches \'x\'","hint":"","request_id":"7.1"}'
PARAMETERS = '{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}'

# A tree of two files, "app.conf" and "www/index.html", and a link, in its versions 6 and 7: the second file is new in 7.
CONF, PAGE = b"listen = 80\n", b"<h1>Gr\xc3\xbc\xc3\x9fe</h1>\n"
AT_NS = 1_792_000_000_123_456_789
CONF_ENTRY = Entry("app.conf", "f", len(CONF), AT_NS, 0o640, content_digest("xxh3_128", CONF))
PAGE_ENTRY = Entry("index.html", "f", len(PAGE), AT_NS, 0o644, content_digest("xxh3_128", PAGE))
OLD_ENTRY = Entry("old.txt", "f", 0, -1, 0, content_digest("xxh3_128", b""))
LINK_ENTRY = Entry("latest", "l", 0, 0, 0, b"", "www")
WWW = encode_listing([PAGE_ENTRY])
WWW_ENTRY = Entry("www", "d", 0, 0, 0o755, listing_digest(WWW))
ROOT = encode_listing([WWW_ENTRY, CONF_ENTRY, LINK_ENTRY])
ROOT_HEX = listing_digest(ROOT).hex()
OLD_ROOT_HEX = listing_digest(encode_listing([CONF_ENTRY, LINK_ENTRY, OLD_ENTRY])).hex()
BIG_DIGEST = content_digest("xxh3_128", b"a large file").hex()
pack = msgspec.msgpack.encode
LISTINGS = pack([["", ROOT], ["www", WWW]])
CHANGES = pack([Change("www", None, WWW_ENTRY), Change("www/index.html", None, PAGE_ENTRY), Change("old.txt", OLD_ENTRY, None)])
FETCHED = pack([["app.conf", CONF_ENTRY.digest, 0, len(CONF)], ["www/index.html", PAGE_ENTRY.digest, 0, len(PAGE)]])
EMPTY = pack([["a/b", encode_listing([])]])
EMPTY_ZSTD = bytes.fromhex("28b52ffd20094900009192a3612f62c40190")
SAME = b"the same line again and again\n" * 40
SAME_ZSTD = bytes.fromhex("28b52ffd60b003150100c07468652073616d65206c696e6520616761696e20616e640a02008f04f5c562a509")
"""EMPTY and SAME, each as one zstd frame: constants, because another release of the library may compress differently."""
TREE_INFO = TreeInfo(
    tree="keys", direction="up", path="/srv/keys", include=["*.pub"], exclude=["tmp/"], extra_valid=["*.local"],
    mode=0o600, owner="app:app", delete=False, delete_share=0.25, symlinks="copy",
    max_file_bytes=1048576, max_files=1000, max_bytes=16777216, hash="blake2b_256",
    on_change=["systemctl", "reload", "app"], on_change_timeout_s=5.0, rollback=True, paused=True,
)  # fmt: skip

Sample = tuple[str, Message, list[bytes]]
"""What it is, the message, and its bodies."""

SAMPLES: list[Sample] = [
    ("a client's", Hello(versions=[1], software="example 1.0", instance="a1b2c3"), []),
    ("an agent's", Hello(versions=[1], software="0.1.0", instance="a1b2c4", epoch=1792000000123), []),
    (
        "a worker's, every field set",
        Hello(
            versions=[1, 2],
            software="0.1.0",
            instance="0011223344556677",
            slots=512,
            door=["tcp://10.0.0.7:7580"],
            parts=["tables", "agents"],
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
            window_bytes=1048576, frame_bytes=1048576,
        ),
        [],
    ),
    ("a client's, and the master's answer", Beat(), []),
    ("a worker's that holds a tree", Beat(slots=512, trees="00112233445566778899aabbccddeeff"), []),
    ("a worker's with a door", Beat(slots=512, agents=40), []),
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
    ("a tree with the defaults, and one with every field set",
     Trees(epoch=3, chunk_bytes=983040, window_bytes=16777216, trees=[TreeInfo(tree="site"), TREE_INFO]), []),
    ("no tree concerns it any more", Trees(epoch=3, chunk_bytes=983040, window_bytes=16777216), []),
    ("a version", State(tree="site", version=7, epoch=3, root=ROOT_HEX, files=2, bytes=len(CONF + PAGE)), []),
    (
        "the source is held",
        State(tree="site", version=7, epoch=3, root=ROOT_HEX, held="3 of 4 files would be deleted: zcluster sync confirm"),
        [],
    ),
    ("by a sink that has nothing", Pull(tree="site", version=7), []),
    ("by a sink that has the version before", Pull(tree="site", version=7, have=6, have_root=OLD_ROOT_HEX), []),
    ("the sink asks for listings", Go(tree="site", version=7, epoch=3, root=ROOT_HEX), []),
    ("changes follow", Go(tree="site", version=7, epoch=3, root=ROOT_HEX, changes=True), []),
    ("of one directory, the root", List(tree="site", version=7, id=1), [pack([""])]),
    ("of two directories and all beneath them", List(tree="site", version=7, id=2, deep=True), [pack(["www", "doc/de"])]),
    ("of two directories", Listing(tree="site", version=7, id=1, raw_bytes=len(LISTINGS), last=True), [LISTINGS]),
    ("of an empty directory, compressed, and more follow",
     Listing(tree="site", version=7, id=2, encoding=ZSTD, raw_bytes=len(EMPTY)), [EMPTY_ZSTD]),
    ("changes after GO", Listing(tree="site", version=7, raw_bytes=len(CHANGES), last=True), [CHANGES]),
    ("the version is gone", Listing(tree="site", version=7, id=3, raw_bytes=0, last=True, failed="version 7 is gone"), []),
    ("two whole files", Fetch(tree="site", version=7, id=4), [FETCHED]),
    ("a piece of a large one", Fetch(tree="site", version=7, id=5),
     [pack([["big.img", bytes.fromhex(BIG_DIGEST), 983040, 16384]])]),
    ("two pieces, as they are",
     Parcel(tree="site", id=4, raw_bytes=len(CONF + PAGE), sizes=[len(CONF), len(PAGE)], last=True), [CONF, PAGE]),
    ("from the fourth item on, compressed, and more follow",
     Parcel(tree="site", id=5, encoding=ZSTD, raw_bytes=len(SAME), first=3, sizes=[600, 0, 600]), [SAME_ZSTD]),
    ("of two items, the first has changed since", Parcel(tree="site", id=6, raw_bytes=12, sizes=[-1, 12], last=True), [CONF]),
    (
        "of two runs of chunks",
        Blocks(tree="site", version=7, id=7, path="big.img", digest=BIG_DIGEST, block_bytes=983040, runs=[(0, 2), (9, 1)]),
        [],
    ),
    ("of three blocks", Hashes(tree="site", id=7),
     [content_digest("xxh3_128", bytes([number]) * 16384) for number in range(3)]),
    ("the file has changed", Hashes(tree="site", id=8, failed="big.img has changed"), []),
    ("a copy that is as it should be",
     Report(tree="site", state="current", version=7, root=ROOT_HEX, target=7, age_s=12.5, clean=True), []),
    (
        "a copy on its way",
        Report(
            tree="site", state="pulling", version=6, root=OLD_ROOT_HEX, target=7, files_behind=2, bytes_behind=900,
            bytes_done=300, bytes_per_s=150.0, age_s=3600.25,
        ),
        [],
    ),
    ("a copy that failed",
     Report(tree="site", state="failed", target=7, reason="tried again in 4 s", error="no space left on device"), []),
    ("a tree of its own, of which it leaves a name out",
     Report(
         tree="logs", state="current", version=7, root=ROOT_HEX, target=7, refused_count=1,
         refused=[("app/current", "it is a symbolic link")],
     ), []),
    ("applied and durable", Finish(tree="site", version=7), []),
    ("the source broke the protocol", Finish(tree="site", version=7, code="protocol_error", message="wrong digest"), []),
    ("look again", Order(tree="site", order="now"), []),
    ("go on although it is held", Order(tree="site", order="confirm"), []),
    *AGENT_SAMPLES,
    *JOB_SAMPLES, *JOINING_SAMPLES, *RIGHTS_SAMPLES, *ROTATION_SAMPLES,
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
    lines += [f"body   {shown(message, body)}" for body in bodies]
    return "\n".join([*lines, wrapped(frame.hex())])


def shown(message: Message, body: bytes) -> str:
    """A body for a reader: MessagePack as Python would write it, other bytes as text or in hexadecimal."""
    match message:
        case Hashes() | Carry() | Parcel(encoding=1) | Listing(encoding=1):
            return readable(body)
        case Changes(encoding=1) | Page(encoding=1) | Rows(encoding=1):
            return readable(body)
        case Ask():
            return f"{len(body)} bytes, the digests of all buckets"
        case List() | Listing() | Fetch():
            return readable(msgspec.msgpack.decode(body))
        case Parcel() | Shared():
            return repr(body.decode())
    return body.decode()


def readable(value: Any) -> str:
    """A value of MessagePack; bytes as h'…', and the listing of a directory as [[its entries]] within <>."""
    match value:
        case bytes() if value[:1] and 0x90 <= value[0] <= 0x9F and (entries := listed(value)) is not None:
            return f"<{readable(entries)}>"
        case bytes():
            return f"h'{value.hex()}'"
        case list():
            return f"[{', '.join(map(readable, value))}]"
        case str():
            return msgspec.json.encode(value).decode()
    return "nil" if value is None else str(value)


def listed(value: bytes) -> Any:
    """The entries when ``value`` is a listing, else None."""
    try:
        return msgspec.msgpack.decode(value) if checked_listing(value, listing_digest(value)) is not None else None
    except PeerError:
        return None


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


def samples_of(cls: type) -> list[tuple[Any, bytes]]:
    return [(message, b"".join(bodies)) for _, message, bodies in SAMPLES if type(message) is cls]


def test_the_listings_of_the_samples_are_proven_by_the_root_of_their_state() -> None:
    digests = {"": bytes.fromhex(samples_of(State)[0][0].root)}
    seen = {}
    for path, listing in msgspec.msgpack.decode(samples_of(Listing)[0][1]):
        for entry in checked_listing(listing, digests[path]):
            digests[entry.name] = entry.digest
            seen[entry.name] = entry.kind
    assert seen == {"app.conf": "f", "index.html": "f", "latest": "l", "www": "d"}
    pieces = [(digest, offset, size) for _, digest, offset, size in msgspec.msgpack.decode(samples_of(Fetch)[0][1])]
    parcel, body = samples_of(Parcel)[0]
    assert [size for _, _, size in pieces] == parcel.sizes
    at = 0
    for digest, offset, size in pieces:
        assert (offset, content_digest("xxh3_128", body[at : at + size])) == (0, digest)
        at += size
    assert at == len(body) == parcel.raw_bytes


def test_what_the_samples_say_of_their_bodies_is_so() -> None:
    for _, message, bodies in SAMPLES:
        body = b"".join(bodies)
        assert not body or message.kind in TAKES_ALL or message.kind < Trees.kind or message.kind in SIZED_KINDS
        if isinstance(message, Listing | Parcel):
            raw = zstandard.ZstdDecompressor().decompress(body, max_output_size=1 << 20) if message.encoding == ZSTD else body
            assert len(raw) == message.raw_bytes
            if isinstance(message, Parcel):
                assert sum(size for size in message.sizes if size > 0) == message.raw_bytes


def test_the_samples_use_every_field_of_the_messages() -> None:
    """A field that no sample sets could change its name unseen."""
    for cls in [*[cls for kind, cls in KINDS.items() if kind >= Trees.kind], TreeInfo]:
        found: list[Any] = [TREE_INFO] if cls is TreeInfo else [message for message, _ in samples_of(cls)]
        unset = [
            field.name
            for field in msgspec.structs.fields(cls)
            if all(getattr(message, field.name) == field.default for message in found)
        ]
        assert unset == [], cls
