"""What is hard to decode: JSON that is deep, long, doubled or huge, in headers and in arguments, and decompression bombs.

The master's own functions read arguments on its loop, so that is where they are sent; a worker's are beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import orjson
import zstandard
from ground import Child, Ground, Link, Shared, ground_of
from measured import MIB, Attack, at_most, none, some, told
from peers import Peer

from zcluster import wire
from zcluster.bench.figures import Figure
from zcluster.clients import AsyncClient
from zcluster.errors import ZClusterError
from zcluster.wire.agents import Rows, Taken

DEPTH = 1_000_000
STALL_MS = 200
GROWTH_MIB = 512
"""Of the master: two bodies of 64 MiB may be under way, and what they become."""
PACE_S = 0.001
REFUSED = ("invalid_arguments", "too_large")
ANSWERED = ("", "function_failed")
"""By the function itself; the second when its value is nested deeper than JSON is written."""


def arguments(size_bytes: int) -> Iterator[tuple[str, str, bytes]]:
    """What it is, the function, and its arguments; each is to be refused."""
    half = size_bytes // 2 - 16
    yield "arrays in arrays", "echo", b'{"value":' + b"[" * DEPTH + b"]" * DEPTH + b"}"
    yield "objects in objects", "echo", b'{"value":' + b'{"a":' * (DEPTH // 3) + b"1" + b"}" * (DEPTH // 3) + b"}"
    yield "an integer of 100 digits", "node.sleep", b'{"seconds":' + b"9" * 100 + b"}"
    yield "an integer of a million digits", "echo", b'{"value":' + b"9" * 1_000_000 + b"}"
    yield "a float beyond all", "node.sleep", b'{"seconds":1e999}'
    yield "a name given twice", "echo", b'{"value":1,"value":2}'
    yield "a name given twice in disguise", "echo", b'{"value":1,"v\\u0061lue":2}'
    yield "a string without an end", "echo", b'{"value":"' + b"x" * (size_bytes - 20)
    yield "a string that is no text", "echo", b'{"value":"' + b"\xff" * (size_bytes - 20) + b'"}'
    yield "a string of escapes", "node.sleep", b'{"seconds":"' + b"\\u0041" * (size_bytes // 6 - 10) + b'"}'
    yield "very many empty arrays", "echo", b'{"value":[' + b"[]," * (half * 2 // 3) + b"[]]"
    yield "very many unknown names", "echo", b'{"value":1,' + b",".join(b'"%d":1' % n for n in range(size_bytes // 16)) + b"}"
    yield "numbers near the smallest", "echo", b'{"value":[' + b"1e-309," * (size_bytes // 16) + b"1]}"
    yield "numbers of 19 digits near it", "echo", b'{"value":[' + b"1234567890123456789e-340," * (size_bytes // 32) + b"1]}"
    yield "quotes in many texts", "echo", b'{"value":["' + (b'\\",' * 1100 + b'","') * (size_bytes // 3500) + b'"]}'
    yield "integers of 4000 digits", "echo", b'{"value":[' + (b"9" * 4000 + b",") * (size_bytes // 4002) + b"1]}"
    yield "a long unknown name", "echo", b'{"value":1,"' + b"n" * half + b'":1}'
    yield "a long name of escapes", "echo", b'{"value":1,"' + b"\\n" * (half // 2) + b'":1}'
    yield "blanks", "echo", b" " * size_bytes
    yield "a name given twice behind a text", "echo", b'{"value":"' + b"x" * half + b'","value":1}'
    yield "very many ones", "echo", b'{"value":[' + b"1," * half + b"x]}"


def well_formed(size_bytes: int) -> Iterator[tuple[str, str, bytes]]:
    """What may be answered, or refused as too much, without a stall."""
    yield "a string of 64 MiB", "echo", b'{"value":"' + b"x" * (size_bytes - 20) + b'"}'
    texts = (("of escapes", b"\\n"), ("of quotes", b'\\"'), ("of euros", "€".encode()), ("of words", "Grüße, ".encode()))
    for what, text in texts:
        yield f"a string {what}", "echo", b'{"value":"' + text * ((size_bytes - 20) // len(text)) + b'"}'
    yield "a string with one wide character", "echo", b'{"value":"' + b"x" * (size_bytes - 20) + "😀".encode() + b'"}'
    yield "few escapes in a long string", "echo", b'{"value":"' + b"xxxxxx\\n" * min(3_900_000, size_bytes // 8 - 20) + b'"}'
    yield "texts", "echo", b'{"value":[' + b'"abcdefghijklmnopqrst",' * min(199_000, size_bytes // 32) + b"1]}"
    yield "numbers", "echo", b'{"value":[' + b"0.1234567890123456," * min(199_000, size_bytes // 32) + b"1]}"
    yield "numbers between two others", "echo", b'{"value":[' + b"9007199254740993.0," * min(199_000, size_bytes // 32) + b"1]}"
    yield "empty arrays", "echo", b'{"value":[' + b"[]," * ((size_bytes - 40) // 3) + b"[]]}"
    yield "a thousand deep", "echo", b'{"value":' + b"[" * 900 + b"]" * 900 + b"}"


def headers() -> Iterator[tuple[int, bytes]]:
    """Kinds and headers that are none."""
    kinds = (wire.Hello.kind, wire.Beat.kind, wire.Requests.kind, wire.Credit.kind, wire.Cancel.kind)
    for kind in kinds:
        yield kind, b"[" * 500_000
        yield kind, b'{"a":' * 100_000
        yield kind, b'{"pad":' + b"[" * 250_000 + b"]" * 250_000 + b"}"
        yield kind, b'{"versions":[' + b"9" * 100 + b"]}"
        yield kind, b'[[["echo","any",' + b"9" * 100 + b",5,0,1,[0]]]]"
        yield kind, b'{"instance":"' + b"x" * 520_000 + b'"}'
        yield kind, b'{"instance":"\xff"}'
        yield kind, b'{"versions":[1],"versions":["x"],"instance":"a","instance":7}'
        yield kind, b'{"ids":[' + b"1," * 250_000 + b"1]}"


def say_headers(link: Link, key: str, rounds: int) -> int:
    """All of them; returns how many were refused."""
    peer, refused = Peer(key), 0
    peer.hello()
    peer.wait_for(wire.Welcome)
    prefix = wire.encode(wire.Beat())
    for _ in range(rounds):
        for kind, header in headers():
            peer.socket.send(prefix[:2] + bytes([kind]) + prefix[3:4] + len(header).to_bytes(4, "big") + header)
            found = peer.wait_for(wire.Refusal, wire.Bye, wire.Beat)
            refused += isinstance(found, wire.Refusal)
            # An unknown name in a header is passed over, whatever its value, as the protocol says.
            assert isinstance(found, wire.Refusal) or kind == wire.Beat.kind, (kind, header[:40], found)
    peer.close()
    return refused


def bombs() -> list[tuple[str, bytes]]:
    """Chunks of rows that would be a quarter of a GiB, or say that they are not."""
    plain, bomb_bytes = bytes(MIB), 256
    packer = zstandard.ZstdCompressor(level=1).compressobj(size=bomb_bytes * MIB)
    large = b"".join(packer.compress(plain) for _ in range(bomb_bytes)) + packer.flush()
    packer = zstandard.ZstdCompressor(level=1, write_content_size=False).compressobj()
    silent = b"".join(packer.compress(plain) for _ in range(bomb_bytes)) + packer.flush()
    said = (bomb_bytes * MIB).to_bytes(4, "little")
    forged = large[:16].replace(said, (256 * 1024).to_bytes(4, "little")) + large[16:]
    return [("says its size", large), ("says nothing", silent), ("lies", forged)]


def drop_bombs(link: Link, key: str, rounds: int) -> int:
    """All of them; returns how many were refused."""
    peer, refused = Peer(key), 0
    peer.hello(parts=["agents"])
    peer.wait_for(Taken)
    for _ in range(rounds):
        for _, packed in bombs():
            for raw_bytes in (256 * 1024, 16 * MIB):
                rows = Rows(source="book", base=0, upto=1, count=1, more=False, encoding=1, raw_bytes=raw_bytes)
                peer.send(rows, packed)
                refused += peer.wait_for(wire.Refusal, Taken).code == "protocol_error"
    peer.close()
    return refused


def call_raw(link: Link, key: str, target: str, size_bytes: int, rounds: int) -> tuple[int, list[str]]:
    """Calls with arguments that are none, then with some that are; returns how many were refused, and what went otherwise."""
    return asyncio.run(_call_raw(key, target, size_bytes, rounds))


async def _call_raw(key: str, target: str, size_bytes: int, rounds: int) -> tuple[int, list[str]]:
    refused, strange = 0, []
    async with AsyncClient(key=Path(key), timeout=60) as client:
        for _ in range(rounds):
            for what, function, body in arguments(size_bytes):
                code = await outcome(client, function, body, target)
                refused += code in REFUSED
                strange += [] if code in REFUSED else [f"{what}: {code}"]
            for what, function, body in well_formed(size_bytes):
                code = await outcome(client, function, body, target)
                strange += [] if code in (*REFUSED, *ANSWERED) else [f"{what}: {code}"]
    return refused, strange


async def outcome(client: AsyncClient, function: str, body: bytes, target: str) -> str:
    """The code of the error, empty when there is none."""
    try:
        # A fragment leaves as it is.
        await client.call(function, orjson.Fragment(body), target=target)  # type: ignore[arg-type]
    except ZClusterError as error:
        return error.code
    return ""


@dataclass(frozen=True)
class Scale:
    size_bytes: int
    rounds: int
    quiet_s: float


SMALL, FULL = Scale(4 * MIB, 1, 1.0), Scale(64 * MIB, 3, 5.0)


def run(shared: Shared | None) -> Sequence[Figure]:
    scale = SMALL if shared else FULL
    with ground_of(shared) as ground:
        honest = ground.honest(pace_s=PACE_S)
        quiet = honest.quiet(scale.quiet_s)
        stalls, failed = {}, 0
        refused, strange = 0, list[str]()
        with ground.watch() as watch:
            for what, child in attackers(ground, scale):
                with honest.measuring() as during:
                    said = child().hear(600.0)
                stalls[what], failed = during().longest_s, failed + during().failed + during().wrong
                if isinstance(said, int):
                    refused += said
                else:
                    refused, strange = refused + said[0], strange + said[1]
        return [
            some("messages and calls refused with a clear error", refused),
            none("calls that ended otherwise", len(strange)),
            told("longest time without an answer, quiet", quiet.longest_s * 1e3, "ms"),
            *(at_most(f"longest stall: {what}", stall_s * 1e3, STALL_MS, "ms") for what, stall_s in stalls.items()),
            at_most("memory of the master", watch.grown_bytes / MIB, GROWTH_MIB, "MiB"),
            none("wrong or missing answers to an honest client", failed),
            none("nodes that died", ground.deaths),
        ]


def attackers(ground: Ground, scale: Scale) -> list[tuple[str, Callable[[], Child]]]:
    """What is sent, and who sends it."""
    client, worker = ground.key("bodies"), ground.key("bomber", "worker")
    return [
        ("headers", partial(ground.attacker, say_headers, client, scale.rounds)),
        ("arguments to a worker", partial(ground.attacker, call_raw, client, "worker-1", scale.size_bytes, scale.rounds)),
        ("arguments to the master", partial(ground.attacker, call_raw, client, "master", scale.size_bytes, scale.rounds)),
        ("decompression bombs", partial(ground.attacker, drop_bombs, worker, scale.rounds)),
    ]


ATTACK = Attack(
    "bodies",
    "JSON: depth 10^6, 100-digit integers, duplicate keys, 64 MiB strings, 20 million empty arrays, slow numbers, "
    "texts of escapes and quotes, long names; decompression bombs",
    "refused with a clear error, the loop never stalls over 200 ms", run,
)  # fmt: skip
