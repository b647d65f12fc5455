"""docs/protocol.md says what the code does: each message, field, type, bound, flag, status, error and counter.

The bytes of its example come from the code; `ZCLUSTER_REWRITE_GOLDEN=1 pytest tests/docs/test_protocol.py` writes them
into the page again (look at the diff: a change of these bytes is a change of the protocol).
"""

from __future__ import annotations

import hashlib
import os
import re
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Meta, Struct

from zcluster.config.sync import SyncSettings
from zcluster.core import admission, eventflow, eventnames
from zcluster.core.agents import orders, rowcodec, sending, taking
from zcluster.core.calls import INITIAL_ITEMS
from zcluster.core.dispatch import QueueLimits
from zcluster.core.master import Master, MasterLimits
from zcluster.core.peers import Identity
from zcluster.core.roster import SILENT_AFTER_HEARTBEATS
from zcluster.core.sync.blocks import BLOCK_BYTES, CHUNK_BYTES
from zcluster.core.sync.bodies import held_digest
from zcluster.core.sync.entry import EMPTY_LISTING, HASH_BYTES, MAX_NAME_BYTES, Change, Entry, listing_digest
from zcluster.core.sync.fetching import FETCH_PATH_CHARS
from zcluster.core.sync.hub import MAX_WRONG_BEATS, STALLED_S
from zcluster.core.sync.paths import MAX_DEPTH, MAX_PATH_BYTES, case_twins, link_fault, name_fault, path_fault
from zcluster.core.sync.pulling import ANSWER_S
from zcluster.core.sync.serving import MAX_BLOCKS, MAX_OPEN_BLOCKS, MAX_OPEN_FETCHES
from zcluster.core.sync.walking import MAX_PATH_CHARS
from zcluster.core.targets import MAX_GLOB_CHARS, MAX_GLOBS, MAX_PARTS
from zcluster.errors import ERRORS
from zcluster.keys import may_call, may_send
from zcluster.keys.rights import FUNCTION_ROLES, ROLES
from zcluster.wire import (
    KINDS,
    LATE_KINDS,
    PREFIX_BYTES,
    VERSION,
    VERSIONS,
    FunctionInfo,
    Grant,
    Hello,
    Of,
    ReplyGroup,
    RequestGroup,
    Requests,
    ResultGroup,
    Results,
    Status,
    WireLimits,
    Work,
    WorkGroup,
    decode,
    encode,
)
from zcluster.wire.agents import AgentOrder, Door, EventInfo, SharedFile
from zcluster.wire.jobs import AcceptedGroup, JobFlag, JobGroup, JobRefusal, KnownJob, LargeOutcome, OutcomeGroup
from zcluster.wire.joining import KnownKey
from zcluster.wire.messages import Mark, RequestFlag
from zcluster.wire.rights import Held, RoleInfo
from zcluster.wire.trees import MAX_ITEMS, TreeInfo

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "protocol.md"
TEXT = PAGE.read_text(encoding="utf-8")
GROUPS: tuple[type[Struct], ...] = (
    FunctionInfo, Grant, RequestGroup, WorkGroup, ResultGroup, ReplyGroup, TreeInfo, Entry, Change, Door, SharedFile,
    AgentOrder, EventInfo, Mark, JobGroup, AcceptedGroup, KnownJob, JobRefusal, OutcomeGroup, LargeOutcome,
    Held, KnownKey, RoleInfo,
)  # fmt: skip
LANES = {
    "batch": {"REQUESTS", "WORK", "RESULTS", "REPLIES"},
    "bulk": {"CHUNK"} | {cls.__name__.upper() for kind, cls in KINDS.items() if kind in LATE_KINDS},
}
OUR_OWN = {"master_lost", "invalid_key", "no_such_key"}
BYE_ONLY = {"no_session"}


def section(title: str) -> str:
    """The text under a heading, up to the next heading of the same or a higher level."""
    found = re.search(rf"^(#+) {re.escape(title)}$\n(.*?)(?=^#{{1,6}} |\Z)", TEXT, re.M | re.S)
    assert found is not None, f"no section {title!r}"
    return found[2]


def tables(text: str) -> list[list[list[str]]]:
    """The Markdown tables of ``text``, each as rows of cells, without the heading and the rule."""
    out = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines()]
        out.append(rows[2:])
    return out


POWERS = {2**53 - 1: "2^53-1", 2**63 - 1: "2^63-1", -(2**63): "-2^63"}


def number(value: Any) -> str:
    return POWERS.get(value, str(value))


def bounds(meta: Meta | None) -> str:
    if meta is None:
        return ""
    if meta.ge is not None:
        return f" {number(meta.ge)} to {number(meta.le)}" if meta.le is not None else f" from {number(meta.ge)}"
    if meta.gt is not None:
        return f" above {meta.gt}, up to {meta.le}"
    return f" {meta.min_length} to {meta.max_length}" if meta.min_length else f" up to {meta.max_length}"


def described(annotation: Any, meta: Meta | None = None) -> str:
    """A field's type in the words of the page."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        inner, found = typing.get_args(annotation)
        return described(inner, found)
    if origin in (types.UnionType, typing.Union):
        return " or ".join("null" if part is type(None) else described(part) for part in typing.get_args(annotation))
    if origin is list:
        (inner,) = typing.get_args(annotation)
        count = f"{meta.min_length or 0} to {meta.max_length} " if meta is not None else ""
        return f"list of {count}{described(inner)}"
    if origin is dict:
        _, inner = typing.get_args(annotation)
        return "object" if inner is Any else f"object of {described(inner)}"
    if origin is typing.Literal:
        return " or ".join(f"`{choice}`" for choice in typing.get_args(annotation))
    if origin is tuple:
        return "array of " + ", ".join(map(described, typing.get_args(annotation)))
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return annotation.__name__
    words = {int: "integer", float: "number", str: "text", bool: "boolean", bytes: "bytes"}
    return words[annotation] + bounds(meta)


def default_of(field: msgspec.structs.FieldInfo) -> str:
    if field.default is not msgspec.NODEFAULT:
        return f"`{msgspec.json.encode(field.default).decode()}`"
    if field.default_factory is not msgspec.NODEFAULT:
        return f"`{msgspec.json.encode(field.default_factory()).decode()}`"
    return ""


def fields_of(cls: type[Struct]) -> list[list[str]]:
    """The rows that the page has to have for ``cls``: name, type, default."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return [[f"`{field.name}`", described(hints[field.name]), default_of(field)] for field in msgspec.structs.fields(cls)]


def rows_of(cls: type[Struct]) -> list[list[str]]:
    if cls in GROUPS:
        holder = re.search(rf"^{cls.__name__} is an (object|array)\b.*?\n\n((?:^\|.*\n)+)", TEXT, re.M | re.S)
        assert holder is not None, f"{cls.__name__} is not described"
        assert (holder[1] == "array") is bool(cls.__struct_config__.array_like)
        return tables(holder[2])[0]
    return tables(section(cls.__name__.upper()))[0]


@pytest.mark.parametrize("cls", [*KINDS.values(), *GROUPS], ids=lambda cls: str(cls.__name__))
def test_every_field_is_described_as_it_is(cls: type[Struct]) -> None:
    rows = rows_of(cls)
    assert [row[:3] for row in rows] == fields_of(cls)
    assert [row[0] for row in rows if not row[3] and row[0] not in ("`groups`", "`grants`")] == []


@pytest.mark.parametrize(("kind", "cls"), KINDS.items(), ids=lambda value: getattr(value, "__name__", str(value)))
def test_every_message_has_its_kind_form_and_lane(kind: int, cls: type[Struct]) -> None:
    name = cls.__name__.upper()
    lane = next((lane for lane, names in LANES.items() if name in names), "control")
    form = "array" if cls.__struct_config__.array_like else "object"
    assert section(name).lstrip().startswith(f"Kind {kind}, {form}, {lane}. ")


def test_no_message_is_described_that_does_not_exist() -> None:
    messages = TEXT[TEXT.index("## Messages") : TEXT.index("## Sessions")]
    assert re.findall(r"^### (\w+)$", messages, re.M) == [cls.__name__.upper() for cls in KINDS.values()]


def constants(cls: type) -> dict[str, int]:
    return {name: value for name, value in vars(cls).items() if name.isupper()}


def test_flags_and_statuses_are_all_there() -> None:
    flags = {row[0].strip("`"): int(row[1]) for row in tables(section("REQUESTS"))[2]}
    statuses = {row[0].strip("`"): int(row[1]) for row in tables(section("Statuses"))[0]}
    assert flags == constants(RequestFlag)
    assert statuses == constants(Status)
    assert {row[0].strip("`"): int(row[1]) for row in tables(section("JOBS"))[2]} == constants(JobFlag)
    of = next(row[3] for row in rows_of(Grant) if row[0] == "`of`")
    assert [int(value) for value in re.findall(r"(\d):", of)] == sorted(constants(Of).values())


def test_who_may_send_what() -> None:
    (rows,) = tables(section("Identity and the key file"))
    said = {row[0].strip("`"): (set(row[1].split(", ")), set(re.findall(r"`(\w+)`", row[2]))) for row in rows}
    kinds = [cls.__name__ for cls in KINDS.values()]
    assert said == {
        role: (
            {kind.upper() for kind in kinds if may_send(role, kind.lower())},
            {needed for needed in FUNCTION_ROLES if may_call(role, needed)},
        )
        for role in ROLES
    }


def test_every_error_code_is_there() -> None:
    said = [row[0].strip("`") for row in tables(section("Errors"))[1]]
    assert len(said) == len(set(said))
    assert set(said) | OUR_OWN == set(ERRORS)
    assert [code for code in OUR_OWN if f"`{code}`" not in section("Errors")] == []
    goodbyes = {row[0].strip("`") for row in tables(section("Sessions"))[0]}
    assert goodbyes <= set(ERRORS) | BYE_ONLY


def test_every_field_of_an_error_is_there() -> None:
    error = ERRORS["busy"]("text", hint="h", node="n", request_id="1.1", retry_after_s=1.0)
    assert {row[0].strip("`") for row in tables(section("Errors"))[0]} == set(error.to_dict())


def counters_in_code() -> Iterator[str]:
    """The names that are counted, as far as they are written out."""
    for folder in ("core", "core/sync", "brokers"):
        for path in sorted((ROOT / "zcluster" / folder).glob("*.py")):
            source = path.read_text(encoding="utf-8")
            for line in re.findall(r"(?:counters\.add|self\._count)\((.*)", source):
                yield from (name for name in re.findall(r'(f?"[a-z_]+[^"]*")', line))


def test_every_counter_is_there() -> None:
    text = section("What is refused, and how it is counted")
    said = set(re.findall(r"`([a-z_]+)(?:…)?`", text))
    found = set(counters_in_code())
    assert len(found) > 15
    missing = []
    for name in found:
        plain = name.removeprefix("f").strip('"').partition("{")[0]
        if plain not in said:
            missing.append(plain)
    assert missing == []


def test_numbers_of_the_text_are_those_of_the_code() -> None:
    assert f"protocol version **{VERSION}**" in TEXT
    assert VERSIONS == (1,)
    assert "offset | bytes | content |\n|---|---|---|\n| 0 | 1 | 0x5A (`Z`) |" in section("Frame")
    assert f"| {PREFIX_BYTES} | H |" in section("Frame")
    limits = WireLimits()
    assert str(limits.frame_bytes) in section("Frame")
    assert str(limits.header_bytes) in section("Frame")
    assert f"**{INITIAL_ITEMS}** items" in section("Streams")
    assert SILENT_AFTER_HEARTBEATS == 2
    assert f"at most {MAX_PARTS} parts and\n{MAX_GLOBS} globs of at most {MAX_GLOB_CHARS} characters" in section("Targets")
    assert f"at most {admission.MAX_GLOBS} globs" in section("Targets")
    assert f"({QueueLimits().attempts} attempts" in section("When the session is lost")


def test_numbers_of_trees_are_those_of_the_code() -> None:
    text = section("Bodies")
    assert text.count(f"array of at most {MAX_ITEMS} ") == 2
    names = section("Paths")
    assert f"has more than {MAX_NAME_BYTES} bytes" in names
    assert f"a path of more than {MAX_PATH_BYTES} bytes or {MAX_DEPTH} names" in names
    assert f"at most {MAX_NAME_BYTES} bytes" in rows_of(Entry)[0][3]
    assert f"`sync.window_bytes` (default {SyncSettings().window_bytes})" in section("Contents")
    assert f"`sync.pulls` (default {SyncSettings().pulls})" in section("How a pull goes")
    assert {row[0].strip("`"): int(row[1]) for row in tables(section("Contents"))[0]} == HASH_BYTES
    contents = " ".join(section("Contents").split())
    assert f"or beyond {MAX_OPEN_FETCHES} unanswered FETCHes or {MAX_OPEN_BLOCKS} unanswered BLOCKS" in contents
    assert f"MUST have at most {MAX_BLOCKS} blocks together" in contents
    assert f"blocks of {CHUNK_BYTES} bytes first" in contents
    assert f"then ask for those of {BLOCK_BYTES} bytes" in contents
    assert f"and {STALLED_S:.0f} s in which the sink said nothing of the tree" in section("How a pull goes")
    assert MAX_PATH_CHARS == FETCH_PATH_CHARS
    assert f"SHOULD have at most {MAX_PATH_CHARS} characters together" in text
    assert f"no answer for {ANSWER_S:.0f} s" in " ".join(section("When the other side breaks the rules").split())
    assert MAX_WRONG_BEATS == 2
    assert "`.zcluster`" in names


def test_the_digest_of_a_worker_s_copies_is_what_the_page_says() -> None:
    root = listing_digest(EMPTY_LISTING).hex()
    held = hashlib.blake2b(msgspec.msgpack.encode([["site", 1, root]]), digest_size=16).hexdigest()
    text = section("Reports and orders")
    assert f"`{root}`" in text
    assert f"`{held}`" in text
    assert held == held_digest([("site", 1, root)])
    assert held_digest([]) == ""
    rows = [("a", 2, root), ("z", 0, ""), ("é", 1, root)]
    assert held_digest(rows) == held_digest(reversed(rows))


FAULTY = [
    "", ".", "..", "a/b", "a\0b", "a\x1bb", "a\x7f", "a\x85", "e\u0301", "x" * 256, "\udcff", "dot.", "space ", "CON", "nul.txt",
    "com0", "lpt9.tar.gz", "COM\u00b9", "conout$", ".zCluster", ".zclu\u200cster", "\u061c", "\u200e", "\u200f",
    *map(chr, range(0x2028, 0x202F)), *map(chr, range(0x2066, 0x206A)),
]  # fmt: skip
"""What the page says must be refused."""
FINE = ["x" * 255, "é", ".hidden", "zcluster", "com", "com10", "console", "a b", "naïve.txt", "\u2027", "\u202f", "日本"]


def test_the_names_that_the_page_forbids_are_refused_and_others_are_not() -> None:
    assert [name for name in FAULTY if not name_fault(name)] == []
    assert [name for name in FINE if name_fault(name)] == []
    assert case_twins(["a", "A", "b"]) == {"a", "A"}
    assert not path_fault("/".join("x" * MAX_DEPTH))
    assert path_fault("/".join("x" * (MAX_DEPTH + 1)))


def test_the_links_that_the_page_forbids_are_refused_and_others_are_not() -> None:
    assert [target for target in ("", "/a", "a/../b", "../..", "con", "x" * 4097) if not link_fault("d/l", target)] == []
    assert [target for target in ("a", "../a", "./a//b", "a/") if link_fault("d/l", target)] == []


# -- the example --------------------------------------------------------------------------------------------------------


def example() -> list[tuple[str, bytes]]:
    """The frames of an echo call, with a title each: the messages of the peers are made here, the master's by the master."""
    master = Master("master", "zcluster", 1, MasterLimits(), may_send, may_call, 0.0, software="0.1.0")
    node, client = Identity("k1", "worker-1", "worker"), Identity("k2", "laptop", "client")
    info = FunctionInfo(name="echo", idempotent=True)
    join = Hello(versions=[1], instance="w", slots=8, functions=[info])
    master.receive("node", node, join, b"", 0, 0.0)
    master.take(0.0)
    out: list[tuple[str, bytes]] = []

    def send(title: str, frame: bytes, route: str, identity: Identity) -> None:
        message, offset = decode(frame, WireLimits())
        out.append((title, frame))
        master.receive(route, identity, message, frame, offset, 0.0)

    def take(titles: dict[str, str]) -> None:
        for route, outgoing in master.take(0.0):
            for message, bodies in outgoing:
                name = type(message).__name__.upper()
                assert isinstance(route, str)
                out.append((f"{name}, {titles[route]}", encode(message, bodies)))

    hello = Hello(versions=[1], software="example 1.0", instance="a1b2c3")
    send("HELLO, client to master", encode(hello), "client", client)
    take({"client": "master to client"})
    body = b'{"value":42}'
    request = Requests([RequestGroup("echo", "any", 5000, 5, 0, 1, [len(body)])])
    send("REQUESTS, client to master", encode(request, [body]), "client", client)
    take({"node": "master to worker"})
    work, _ = decode(out[-1][1], WireLimits())
    assert isinstance(work, Work)
    result = Results([ResultGroup(work.groups[0].first_leg, Status.VALUE, [2])])
    send("RESULTS, worker to master", encode(result, [b"42"]), "node", node)
    take({"client": "master to client"})
    return out


def hex_dump(frame: bytes) -> str:
    """16 bytes a line: offset, bytes, text."""
    lines = []
    for start in range(0, len(frame), 16):
        piece = frame[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
        lines.append(f"{start:04x}  {piece.hex(' '):<47}  {text}")
    return "\n".join(lines)


def example_text(frames: list[tuple[str, bytes]]) -> str:
    return "\n\n".join(f"{title}, {len(frame)} bytes:\n\n```hex\n{hex_dump(frame)}\n```" for title, frame in frames)


def read_example(text: str) -> list[tuple[str, bytes]]:
    """The titles and frames in the page, from the hexadecimal digits alone."""
    out = []
    for title, size, dump in re.findall(r"^([^\n]+), (\d+) bytes:\n\n```hex\n(.*?)\n```", text, re.M | re.S):
        frame = b"".join(bytes.fromhex(line[6:53]) for line in dump.splitlines())
        assert len(frame) == int(size), title
        out.append((title, frame))
    return out


def test_the_example_is_what_the_code_says() -> None:
    frames = example()
    if os.environ.get("ZCLUSTER_REWRITE_GOLDEN") == "1":
        head, heading, rest = TEXT.partition("## A complete example\n\n")
        introduction = rest.partition("\n\n")[0]
        PAGE.write_text(f"{head}{heading}{introduction}\n\n{example_text(frames)}\n", encoding="utf-8")
        return
    assert read_example(TEXT) == frames
    assert example_text(frames) in TEXT


def test_the_example_has_the_four_messages_and_the_answer() -> None:
    frames = read_example(TEXT)
    names = [title.partition(",")[0] for title, _ in frames]
    assert names == ["HELLO", "WELCOME", "CATALOG", "REQUESTS", "WORK", "RESULTS", "REPLIES"]
    assert frames[-1][1].endswith(b"]]42")


@pytest.mark.parametrize("change", [lambda text: text.replace("65536", "65537"), lambda text: text.replace("`slots`", "`slot`")])
def test_a_wrong_field_would_be_found(change: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.TEXT", change(TEXT))
    with pytest.raises(AssertionError):
        test_every_field_is_described_as_it_is(Hello)


def test_the_page_of_traps_names_places_that_exist() -> None:
    text = (ROOT / "docs" / "decisions" / "0007-traps-of-libzmq.md").read_text(encoding="utf-8")
    places = set(re.findall(r"`(zcluster/[\w/.]+)`", text))
    assert len(places) > 10
    assert [place for place in places if not (ROOT / place).exists()] == []
    source = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "zcluster").rglob("*.py")))
    names = re.findall(r"`([A-Z_]{5,}|[A-Z][a-z]+(?:\.[a-z_]+)?|[a-z]+_[a-z_]+)`", text)
    words = [word for name in names for word in name.split(".")]
    elsewhere = {"ROUTER_HANDOVER", "RECONNECT_IVL_MAX", "MAXMSGSIZE", "LINGER"}
    assert [word for word in words if word not in elsewhere and not re.search(rf"\b{word}\b", source)] == []


def test_the_bounds_of_rows_are_there() -> None:
    text = section("Rows go up") + section("Orders about agents") + section("ROWS")
    assert f"At most {sending.WINDOW} may be" in text
    assert f"at most {rowcodec.MAX_ROWS} rows" in text
    assert f"more than {rowcodec.CHUNK_BYTES} is refused" in text
    assert f"comes for {sending.ANSWER_S:.0f} s" in text
    assert f"up to {sending.MAX_PAUSE_S:.0f} s" in text
    assert f"for {orders.MAX_KEPT:,} agents at most" in text
    assert f"when {taking.MAX_WAITING_BYTES >> 20} MiB of them wait" in section("What is refused, and how it is counted")


def test_the_bounds_of_workers_events_are_there() -> None:
    text = " ".join(section("Events of workers").split())
    assert f"`{eventnames.NAME.pattern}`" in text
    names = set(re.findall(r"`([a-z_]+)`", text.partition("MUST NOT be one")[2].partition("more than 64 names")[0]))
    assert names == {*eventnames.MASTERS, *eventnames.UNTOLD, *eventnames.MASTERS_BEGIN}
    assert f"more than {eventflow.MAX_NAMES} names" in text
    assert f"{eventnames.MAX_FIELDS} fields, {eventnames.MAX_PARTS} values in {eventnames.MAX_DEPTH} levels" in text
    assert f"{eventnames.MAX_ITEMS} in one list or object, and {eventnames.MAX_FIELDS_BYTES:,} bytes" in text
    assert f"{eventnames.MAX_KEY_CHARS} characters, a text {eventnames.MAX_TEXT_CHARS:,} on one line" in text
    assert f"each {eventflow.EVERY_S:g} s, of at most {eventflow.MAX_MESSAGE_BYTES:,} bytes" in text
    assert f"takes {eventflow.PER_S} a second of each worker, and {eventflow.BURST} at once" in text
    assert f"{eventflow.MAX_WAITING:,} at most" in text
