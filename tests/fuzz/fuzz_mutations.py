"""Changes to valid inputs: of their bytes, and of the values in what they say.

Rules kept here:
- everything follows from the dice that are handed in: a number is always the same input;
- an input has at most MAX_BYTES; what is to be larger than that is a bomb, and made on purpose (BOMBS).
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from zcluster.wire import KINDS
from zcluster.wire.frames import PREFIX, PREFIX_BYTES

CORPUS = Path(__file__).resolve().parents[1] / "corpus"
GOLDEN = Path(__file__).resolve().parents[1] / "golden"
MAX_BYTES = 1 << 16
DEEP = 1_000_000

_JSON = [
    b"0", b"-0", b"1", b"-1", b"9007199254740993", b"1" * 100, b"1e3", b"1e999", b"-1e-999", b"NaN", b"Infinity", b"null",
    b"true", b'""', b'"\\u0000"', b'"\\ud800"', b'"\xff"', b"[]", b"{}", b"[[", b"{\"a\":", b",", b":", b"]", b"}", b"\\",
    b"\n", b"\x00", b'"password"', b'"s"', b'"sequence":', b'"$ref":"#/$defs/x"', b'"writeOnly":true',
]  # fmt: skip
_TOML = [
    b"\n", b"\r", b"=", b"[", b"]", b"[[", b"]]", b"{", b"}", b'"', b"'", b'"""', b"'''", b"#", b".", b",", b"\\",
    b'"\\u0000"', b"0x7f", b"1_000", b"inf", b"nan", b"1979-05-27", b"true", b"\xff", b"\x00", b"\xef\xbb\xbf",
    b"\n[master]\n", b"\n[[sync.tree]]\n", b"schema = 1\n", b"[roles.x]\n", b'bind = "tcp://*:1"\n', b"1" * 30,
]  # fmt: skip
_MSGPACK = [
    b"\xc0", b"\xc1", b"\x90", b"\x91", b"\x93", b"\x80", b"\xa0", b"\xa1", b"\xc4\x00", b"\xc4\xff", b"\xc6\xff\xff\xff\xff",
    b"\xca\x7f\xc0\x00\x00", b"\xcf" + b"\xff" * 8, b"\xd3\x80" + bytes(7), b"\xd9\xff", b"\xdb\xff\xff\xff\xff",
    b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xde\xff\xff", b"\xc7\x08\x05", b"\x28\xb5\x2f\xfd",
]  # fmt: skip
_TEXT = [
    b"0", b"1", b"9" * 40, b"-1", b".", b"..", b"/", b":", b"@", b"*", b"[", b"]", b"?", b"=", b",", b" ", b"\t", b"\n",
    b"\x00", b"\xff", b"ms", b"KiB", b"e9", b"tcp://", b"ipc://", b"any", b"all", b"master", b"agent:", b"group:", b"(", b")",
    b" and ", b" or ", b"not ", b">", b"~", b"T", b"Z", b"+01:00", b"zcj1-", "é".encode(), "\u202e".encode(),
    "\U00010000".encode(),
]  # fmt: skip
TOKENS = {"frame": _JSON, "json": _JSON, "toml": _TOML, "msgpack": _MSGPACK, "text": _TEXT}
REPLACEMENTS: list[Any] = [
    0, 1, -1, 2**31, 2**53, 2**63, 2**64, 10**40, 0.5, 1e300, float("nan"), float("inf"), True, False, None, "", "a", "all",
    "*", "\0", "\ud800", "é" * 200, "x" * 5000, [], [0], [[]], [None] * 9, {}, {"a": 1}, {"": {}}, [{}], "#/$defs/x",
    "object", "2026-01-01T00:00:00Z",
]  # fmt: skip
BOMBS: dict[str, bytes] = {
    "deep lists": b"[" * DEEP,
    "deep lists, closed": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP,
    "deep argument": b'{"value":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "long integer": b'{"value":' + b"9" * DEEP + b"}",
    "integer of 100 digits": b'{"value":' + b"9" * 100 + b"}",
    "long float": b'{"value":0.' + b"1" * DEEP + b"}",
    "large exponent": b'{"value":1e' + b"9" * 1000 + b"}",
    "not a number": b'{"value":NaN}',
    "a name twice": b'{"value":1,"value":2}',
    "a name twice, in disguise": b'{"value":1,"\\u0076alue":2}',
    "a name often": b"{" + b'"a":1,' * 100_000 + b'"a":1}',
    "long text": b'{"value":"' + b"x" * (1 << 24) + b'"}',
    "many escapes": b'{"value":"' + b"\\u0041" * 500_000 + b'"}',
    "lone surrogates": b'{"value":"' + b"\\ud800" * 1000 + b'"}',
    "many values": b'{"value":[' + b"0," * 500_000 + b"0]}",
    "many brackets": b'{"value":[' + b"[]," * 300_000 + b"[]]}",
    "zeros": bytes(1 << 20),
    "blanks": b" " * (1 << 20) + b"{}",
}
"""Inputs that are large on purpose; each decoder of JSON gets each."""


def corpus(name: str) -> dict[str, bytes]:
    """The inputs of a decoder that are kept: seeds, and what has ever failed."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / name).glob("*")) if path.is_file()}


def seeds(name: str) -> list[bytes]:
    """What the mutations of a decoder's inputs begin with."""
    found = list(corpus(name).values())
    return [*found, *golden_frames()] if name == "frame" else found


def golden_frames() -> list[bytes]:
    """Every frame of tests/golden/."""
    digits = set("0123456789abcdef")
    blocks = [block for path in sorted(GOLDEN.glob("*.txt")) for block in path.read_text(encoding="utf-8").strip().split("\n\n")]
    return [bytes.fromhex("".join(line for line in block.splitlines() if set(line) <= digits)) for block in blocks]


def mutated(data: bytes, dice: random.Random, dialect: str, others: Sequence[bytes]) -> bytes:
    """``data`` with some changes, of its values where it has any, of its bytes, or of both."""
    if dialect == "frame" and dice.random() < 0.6:
        data = _mutated_frame(data, dice)
    elif dialect == "json" and dice.random() < 0.6:
        data = b"\n".join(_mutated_json(part, dice) for part in data.split(b"\n"))
    if dice.random() < 0.6:
        data = _mutated_bytes(data, dice, TOKENS[dialect], others)
    return data[:MAX_BYTES]


def _mutated_frame(data: bytes, dice: random.Random) -> bytes:
    if len(data) < PREFIX_BYTES:
        return data
    magic, version, kind, reserved, length = PREFIX.unpack_from(data)
    body = data[PREFIX_BYTES + length :]
    header = _mutated_json(data[PREFIX_BYTES : PREFIX_BYTES + length], dice)
    if dice.random() < 0.1:
        kind = dice.choice(sorted(KINDS))
    if dice.random() < 0.05:
        version, reserved = dice.randrange(256), dice.randrange(256)
    if dice.random() < 0.2:
        body = bytes(dice.randrange(40))
    length = len(header) if dice.random() < 0.95 else dice.choice([0, len(header) + 1, len(header) - 1, 2**32 - 1])
    return PREFIX.pack(magic, version, kind, reserved, max(length, 0)) + header + body


def _mutated_json(data: bytes, dice: random.Random) -> bytes:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    for _ in range(dice.randint(1, 3)):
        found = list(_places(value))
        if not found:
            return json.dumps(_replacement(dice)).encode("utf-8", "surrogatepass")
        container, key = dice.choice(found)
        match dice.randrange(5):
            case 0 if isinstance(container, dict):
                del container[key]
            case 1 if isinstance(container, dict):
                container[dice.choice(["", "a", "x" * 300, "\0", "schema", "$ref"])] = copy.deepcopy(container[key])
            case 2 if isinstance(container, list):
                container.insert(key, copy.deepcopy(container[key]))
            case 3:
                container[key] = _replacement(dice, type(container[key]))
            case _:
                container[key] = _replacement(dice)
    text = json.dumps(value, ensure_ascii=dice.random() < 0.5, separators=(",", ":") if dice.random() < 0.5 else None)
    return text.encode("utf-8", "surrogatepass")


def _replacement(dice: random.Random, kind: type = object) -> Any:
    """Any value, or one of ``kind`` where there is one; its own, so that no value comes to hold itself."""
    same = [each for each in REPLACEMENTS if type(each) is kind]
    return copy.deepcopy(dice.choice(same or REPLACEMENTS))


def _places(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Where in a JSON value something can be replaced: (container, key)."""
    items = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    for key, inner in list(items):
        yield value, key
        if depth < 50:
            yield from _places(inner, depth + 1)


def _mutated_bytes(data: bytes, dice: random.Random, tokens: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    out = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(out) + 1)
        match dice.randrange(7):
            case 0 if out:
                out[at % len(out)] = dice.randrange(256)
            case 1:
                del out[at : at + dice.randrange(1, 16)]
            case 2:
                out[at:at] = out[at : at + dice.randrange(1, 64)]
            case 3:
                out = out[:at]
            case 4 if others:
                out[at:] = dice.choice(others)[at:]
            case 5 if out:
                out[at : at + 4] = dice.choice(tokens)
            case _:
                out[at:at] = dice.choice(tokens)
    return bytes(out)
