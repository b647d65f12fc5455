"""What reads bytes or text that somebody else has written, each with the promise that fuzzing holds it to.

Rules kept here:
- a decoder takes any bytes and returns, or raises AssertionError when a promise is broken; any other exception is a bug too;
- the promises: only documented errors come out (ZClusterError; ValueError only where the docstring says so), what was accepted
  is written and read again as the same, and nothing kept is larger than its bound;
- files that a decoder needs are in one private directory of this process.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import math
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from zcluster.cli.agent import parse_labels
from zcluster.cli.arguments import arguments, read_arguments
from zcluster.cli.moments import parse_moment_s
from zcluster.config import load, parse_address
from zcluster.config.names import name_fault
from zcluster.config.tomltext import TomlFault, key_lines, parse_toml
from zcluster.config.units import MAX_DURATION_S, MAX_SIZE_BYTES, format_bytes, parse_bytes, parse_duration_s
from zcluster.core.agents.filter import checked, parse
from zcluster.core.agents.row import check_row
from zcluster.core.agents.rowcodec import unpack_rows
from zcluster.core.auditargs import Arguments as Told
from zcluster.core.auditing import MAX_ARGS_BYTES, error_code
from zcluster.core.calls import decode_error
from zcluster.core.groups import parse_id, parse_line
from zcluster.core.redact import redact
from zcluster.core.sync.bodies import (
    changes_body,
    listings_body,
    paths_body,
    pieces_body,
    read_changes,
    read_listings,
    read_paths,
    read_pieces,
)
from zcluster.core.sync.entry import checked_listing, encode_listing, listing_count, listing_digest
from zcluster.core.sync.paths import link_fault, path_fault
from zcluster.core.tables.bodies import body_of, read_body
from zcluster.core.tables.state import read_state, state_bytes
from zcluster.core.targets import is_single, select
from zcluster.dapi.arguments import Arguments
from zcluster.errors import ZClusterError
from zcluster.files import journal
from zcluster.files.packing import MAX_RAW_BYTES, unpack
from zcluster.keys.keyfile import KeyFile
from zcluster.keys.ringfile import decode_ring, encode_ring
from zcluster.keys.tokens import TokenText
from zcluster.store.book_paging import plan_of
from zcluster.store.jobs_schema import decode_asked, decode_became, decode_rows
from zcluster.store.linefiles import NUMBER, Lines, Segments
from zcluster.wire import WireLimits, decode, encode
from zcluster.wire.frames import PREFIX_BYTES

NOW_S = 1_790_000_000.0
MAX_MESSAGE_CHARS = 4096
MAX_WORD_BYTES = 131_072
"""Of one word of a command line: Linux starts no program with a longer one."""
WIDE = WireLimits(frame_bytes=1 << 26, header_bytes=1 << 25)
"""What was read is written with escapes of its own: it may be longer than what came."""


@dataclass(frozen=True)
class Decoder:
    """One thing that reads what others have written."""

    name: str
    run: Callable[[bytes], None]
    dialect: str
    """What its input is made of: frame, json, toml, msgpack or text; mutations are made of that."""


DECODERS: dict[str, Decoder] = {}
_MEMORY = Path("/dev/shm")
_HOME = Path(tempfile.mkdtemp(prefix="zcluster-fuzz-", dir=_MEMORY if _MEMORY.is_dir() else None))
"""In memory where that can be: what is written durably thousands of times keeps no disk busy."""
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)


def decoder(name: str, dialect: str) -> Callable[[Callable[[bytes], None]], Callable[[bytes], None]]:
    """Notes what it decorates."""

    def note(run: Callable[[bytes], None]) -> Callable[[bytes], None]:
        DECODERS[name] = Decoder(name, run, dialect)
        return run

    return note


REFUSED = object()


def attempt(read: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    """What ``read`` returns, or REFUSED when it refuses in the way that errors have here: a message of bounded length."""
    try:
        return read(*arguments, **more)
    except ZClusterError as error:
        message = error.message
    assert message, "an error says what happened"
    assert len(message) < MAX_MESSAGE_CHARS, "an error does not repeat what came"
    return REFUSED


def text_of(data: bytes) -> str:
    """The text that a command line would make of ``data``."""
    return data.decode("utf-8", "surrogateescape")


def private_file(name: str, data: bytes) -> Path:
    """A file that only we may read."""
    path = _HOME / name
    path.touch(mode=0o600)
    path.write_bytes(data)
    return path


# -- the wire


@decoder("frame", "frame")
def _frame(data: bytes) -> None:
    found = attempt(decode, data, WireLimits())
    if found is REFUSED:
        return
    message, at = found
    assert PREFIX_BYTES <= at <= len(data)
    again = encode(message, [data[at:]])
    assert decode(again, WIDE)[0] == message
    for limits in (WireLimits(frame_bytes=len(data) - 1), WireLimits(header_bytes=at - PREFIX_BYTES - 1)):
        assert attempt(decode, data, limits) is REFUSED, "one byte beyond a limit is refused"
    assert decode(data, WireLimits(len(data), at - PREFIX_BYTES))[1] == at, "at the limit it is not"


BODIES: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]] = {
    "paths": (read_paths, paths_body),
    "listings": (read_listings, listings_body),
    "changes": (read_changes, changes_body),
    "pieces": (read_pieces, pieces_body),
}


def _body(name: str) -> Callable[[bytes], None]:
    read, write = BODIES[name]

    def run(data: bytes) -> None:
        found = attempt(read, data)
        assert found is REFUSED or read(write(found)) == found

    return run


for _name in BODIES:
    decoder(f"tree-{_name}", "msgpack")(_body(_name))


@decoder("tree-listing", "msgpack")
def _listing(data: bytes) -> None:
    listing_count(data)
    found = attempt(checked_listing, data, listing_digest(data))
    if found is not REFUSED:
        names = [entry.name.encode() for entry in found]
        assert names == sorted(set(names))
        again = encode_listing(found)
        assert checked_listing(again, listing_digest(again)) == found


@decoder("tree-paths-allowed", "text")
def _paths(data: bytes) -> None:
    path, _, target = text_of(data).partition("\n")
    if not path_fault(path):
        assert path.encode(), "it can be written"
        assert not path.startswith("/")
        assert ".." not in path.split("/")
    link_fault(path, target)


@decoder("packed", "msgpack")
def _packed(data: bytes) -> None:
    for raw_bytes in (len(data), int.from_bytes(data[:3], "big"), MAX_RAW_BYTES):
        for encoding in (0, 1, 2):
            found = attempt(unpack, encoding, data, raw_bytes)
            assert found is REFUSED or len(found) == raw_bytes <= MAX_RAW_BYTES


@decoder("agent-rows", "json")
def _rows(data: bytes) -> None:
    for count in (0, 1, 2, 3):
        found = attempt(unpack_rows, 0, len(data), count, data)
        if found is not REFUSED:
            found.cap_epochs(5)
            attempt(found.plain)
            assert all(epoch <= 5 for _id, epoch, _held in found.claims())


@decoder("table-items", "json")
def _items(data: bytes) -> None:
    found = attempt(read_body, data, "groups/")
    assert found is REFUSED or read_body(body_of(found), "groups/") == found


@decoder("error-body", "json")
def _error(data: bytes) -> None:
    code = error_code(data)
    assert code.isascii()
    assert 0 < len(code) <= 64
    assert isinstance(decode_error(data, "master"), ZClusterError)


# -- what requests carry


def _typed(text: str, count: int = 1, ratio: float = 0.5, tags: list[str] | None = None, deep: Any = None) -> None:
    """A function with an argument of each sort."""


def _anything(value: Any = None) -> None:
    """A function that takes whatever comes."""


_ARGUMENTS = [Arguments("typed", _typed), Arguments("anything", _anything)]


@decoder("arguments", "json")
def _arguments(data: bytes) -> None:
    for each in _ARGUMENTS:
        found = attempt(each.decode, data)
        if found is REFUSED:
            continue
        values = dict(zip(each.names, found, strict=True))
        for value in values.values():
            assert not isinstance(value, float) or math.isfinite(value)
        assert each.decode(msgspec.json.encode(values)) == found


_SECRET = {"type": "object", "properties": {"password": {"type": "string", "writeOnly": True}, "n": {"type": "integer"}}}
_ROUND = {"type": "object", "properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"anyOf": [{"$ref": "#/$defs/x"}]}}}
_SCHEMAS = [json.dumps(_SECRET), json.dumps(_ROUND)]


@decoder("audit-arguments", "json")
def _audit(data: bytes) -> None:
    body, _, schema = data.partition(b"\n")
    told = Told()
    with contextlib.suppress(UnicodeDecodeError):
        for schemas in ([_SCHEMAS[0]], _SCHEMAS, [*_SCHEMAS, schema.decode()]):
            found = told.told(body, schemas)
            assert found is None or len(msgspec.json.encode(found)) <= MAX_ARGS_BYTES
            if found is not None and isinstance(found.get("password"), str):
                assert found["password"] == "***"


@decoder("redact", "json")
def _redact(data: bytes) -> None:
    first, _, second = data.partition(b"\n")
    try:
        value, schema = msgspec.json.decode(first), msgspec.json.decode(second)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if isinstance(schema, dict):
        before = msgspec.json.encode(value)
        redact(value, schema)
        assert msgspec.json.encode(value) == before, "what is redacted is not changed"
        secret = {"type": "object", "properties": {"s": {"type": "string", "writeOnly": True}}, "$defs": schema}
        if isinstance(value, dict) and "s" in value:
            assert redact(value, secret)["s"] == "***"


# -- files


@decoder("key-file", "toml")
def _key_file(data: bytes) -> None:
    path = private_file("a.key", data)
    found = attempt(KeyFile.read, path)
    if found is not REFUSED:
        assert found.pair.secret not in repr(found)
        again = _HOME / "again.key"
        again.unlink(missing_ok=True)
        found.write(again)
        assert KeyFile.read(again) == found


@decoder("ring-file", "json")
def _ring_file(data: bytes) -> None:
    found = attempt(decode_ring, Path("ring.json"), data)
    assert found is REFUSED or decode_ring(Path("ring.json"), encode_ring(found)) == found


@decoder("token", "text")
def _token(data: bytes) -> None:
    found = attempt(TokenText.read, text_of(data))
    if found is not REFUSED:
        assert found.pair.secret not in repr(found)
        assert TokenText.read(found.text) == found


@decoder("toml", "toml")
def _toml(data: bytes) -> None:
    most, wrong = data.count(b"\n") + 1, None
    try:
        document = parse_toml(data)
    except TomlFault as fault:
        wrong = fault
    if wrong is not None:
        assert (0 <= wrong.line <= most, str(wrong)) == (True, "not valid TOML")
        return
    lines = key_lines(data.decode())
    for key in document:
        assert (key,) in lines or any(place[0] == key for place in lines), "a key has its line"
    assert all(1 <= line <= most for line in lines.values())


@decoder("settings", "toml")
def _settings(data: bytes) -> None:
    home = _HOME / "home"
    home.mkdir(exist_ok=True, mode=0o700)
    (home / "zcluster.toml").write_bytes(data)
    found = attempt(load, home, environ={})
    assert found is REFUSED or load(home, environ={}).settings == found.settings


@decoder("line-log", "json")
def _line_log(data: bytes) -> None:
    place = _HOME / "log"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    (place / f"{1:020}.log").write_bytes(data)
    disk = Segments(place, 1 << 20, 4)
    next_ = disk.open()
    try:
        said = disk.read(0, 100)
        assert all(isinstance(line[NUMBER], int) for line in said)
        disk.write([Lines(next_, next_, b'{"sequence":%d,"name":"after"}\n' % next_)])
        assert {"sequence": next_, "name": "after"} in disk.read(next_ - 1, 10), "what comes after is kept"
    finally:
        disk.close(next_ + 1)


@decoder("table-state", "json")
def _state(data: bytes) -> None:
    state = read_state(data)
    assert read_state(state_bytes(state)) == state


@decoder("journal", "msgpack")
def _journal(data: bytes) -> None:
    record = journal.decode(data)
    if record is not None:
        assert journal.decode(journal.encode(record)) == record


@decoder("job-row", "json")
def _job_row(data: bytes) -> None:
    for read in (decode_rows, decode_asked, decode_became):
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):  # what the reader takes for a damaged row
            read(data)


# -- the command line


@decoder("duration", "text")
def _duration(data: bytes) -> None:
    found = attempt(parse_duration_s, text_of(data))
    assert found is REFUSED or (0 <= found <= MAX_DURATION_S and parse_duration_s(found) == found)


@decoder("size", "text")
def _size(data: bytes) -> None:
    found = attempt(parse_bytes, text_of(data))
    assert found is REFUSED or (0 <= found <= MAX_SIZE_BYTES and parse_bytes(format_bytes(found)) == found)


@decoder("moment", "text")
def _moment(data: bytes) -> None:
    found = attempt(parse_moment_s, text_of(data), NOW_S)
    assert found is REFUSED or math.isfinite(found)


@decoder("command-arguments", "json")
def _words(data: bytes) -> None:
    data = data[:MAX_WORD_BYTES]
    found = attempt(arguments, [text_of(data)])
    if found is not REFUSED:
        json.dumps(found, allow_nan=False)
    attempt(read_arguments, io.BytesIO(data), 1 << 16)
    attempt(parse_labels, tuple(text_of(data).split("\n")))


@decoder("agent-filter", "text")
def _filter(data: bytes) -> None:
    found = attempt(parse, text_of(data), NOW_S)
    assert found is REFUSED or checked(found) is found, "what parse returns keeps the bounds"


@decoder("agent-fields", "json")
def _agent_fields(data: bytes) -> None:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(fields, dict):
        attempt(check_row, fields)


@decoder("page-cursor", "text")
def _cursor(data: bytes) -> None:
    sort, _, cursor = text_of(data).partition("\n")
    attempt(plan_of, None, None, sort, 10, cursor)


@decoder("names", "text")
def _names(data: bytes) -> None:
    text = text_of(data)
    name_fault(text)
    is_single(text)
    attempt(select, text, ["worker-1", "worker-2", "x"], "master")
    attempt(parse_address, text)
    attempt(parse_address, text, bind=True)
    attempt(parse_line, text)
    attempt(parse_id, text)
