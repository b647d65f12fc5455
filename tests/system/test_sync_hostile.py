"""Hostile workers with admitted keys: what they say of trees changes nothing but their own, in bounded memory.

Rule kept here: a hostile worker is a raw DEALER that speaks the protocol of trees as it likes.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil  # type: ignore[import-untyped]
import zmq
import zstandard
from synced_trees import tree_table, write
from waiting import counter, eventually

from zcluster import wire
from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient
from zcluster.core.sync.entry import DIRECTORY, FILE, Entry, content_digest, encode_listing, listing_digest
from zcluster.keys import KeyFile
from zcluster.wire import trees

PATIENCE_S = 20.0
GROWTH_BYTES = 128 << 20
LIMITS = wire.WireLimits()


class Raw:
    """A worker's key and a socket."""

    def __init__(self, key_path: Path) -> None:
        key = KeyFile.read(key_path)
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDTIMEO, int(PATIENCE_S * 1000))
        self.socket.curve_publickey = key.pair.public.encode()
        self.socket.curve_secretkey = key.pair.secret.encode()
        self.socket.curve_serverkey = key.master_public.encode()
        self.socket.connect(key.addresses[0])
        self.send(wire.Hello(versions=[1], instance="hostile"))

    def send(self, message: wire.Message, body: bytes = b"") -> None:
        self.socket.send(wire.encode(message) + body)

    def wait_for(self, *kinds: type[Any], wait_s: float = PATIENCE_S) -> tuple[Any, bytes] | None:
        """The next message of one of these kinds; None when none comes in time."""
        deadline_s = time.monotonic() + wait_s
        while (left_s := deadline_s - time.monotonic()) > 0 and self.socket.poll(int(min(left_s, 0.3) * 1000) + 1) >= 0:
            self.send(wire.Beat())
            if self.socket.poll(0):
                frame = self.socket.recv()
                message, start = wire.decode(frame, LIMITS)
                if isinstance(message, kinds):
                    return message, frame[start:]
        return None

    def close(self) -> None:
        self.socket.close()
        self.context.term()


def run(parent: Path, attack: Callable[[Raw, LocalCluster], None]) -> dict[str, Any]:
    """Let ``attack`` happen beside an honest worker whose copy has to be kept up; what the master tells of it afterwards."""
    for name in ("private", "mine"):
        (parent / name).mkdir()
    write(parent / "private", {"secret": "of worker-1"})
    config = tree_table("private", parent / "private", 'workers = "worker-1"')
    config += tree_table("mine", parent / "mine", 'direction = "up"\nworkers = "mallory"')
    told: dict[str, Any] = {}

    async def main() -> None:
        async with LocalCluster(1, config=config) as cluster, AsyncClient(key=cluster.admin_key) as client:
            raw = Raw(cluster.new_key("mallory", "worker"))
            try:
                await asyncio.to_thread(attack, raw, cluster)
                write(parent / "private", {"more": "still served"})
                copy = cluster.home / "trees" / "worker-1" / "private" / "more"
                await eventually(copy.exists, "the honest worker is served")
                told["errors"] = await counter(client, "event_sync_protocol_error")
                told["rows"] = await client.sync.status("mine")
            finally:
                raw.close()

    asyncio.run(main())
    return told


def sync_memory(cluster: LocalCluster) -> int:
    """Bytes that the master's sync process has."""
    (process,) = (each for each in psutil.Process(cluster.pids["master"]).children() if "zcluster.files" in each.cmdline())
    return int(process.memory_info().rss)


def present(raw: Raw, root: bytes, version: int = 1) -> trees.List:
    """Say that there is a version with this root, and come to the first question about it."""
    raw.send(trees.State(tree="mine", version=version, epoch=0, root=root.hex(), files=1, bytes=1))
    assert raw.wait_for(trees.Pull) is not None
    raw.send(trees.Go(tree="mine", version=version, epoch=0, root=root.hex()))
    asked = raw.wait_for(trees.List)
    assert asked is not None
    question: trees.List = asked[0]
    return question


def answer(raw: Raw, question: trees.List, listings: list[tuple[str, bytes]], *, last: bool = True) -> None:
    body = msgspec.msgpack.encode(listings)
    raw.send(trees.Listing(tree="mine", version=question.version, id=question.id, raw_bytes=len(body), last=last), body)


def test_a_tree_that_does_not_concern_a_worker_is_not_for_it(tmp_path: Path) -> None:
    def attack(raw: Raw, cluster: LocalCluster) -> None:
        found = raw.wait_for(trees.Trees)
        assert found is not None
        (info,) = found[0].trees
        assert (info.tree, info.hash) == ("mine", "blake2b_256")
        digest = content_digest("xxh3_128", b"of worker-1")
        raw.send(trees.Pull(tree="private", version=1))
        raw.send(trees.List(tree="private", version=1, id=1, deep=True), msgspec.msgpack.encode([""]))
        raw.send(trees.Fetch(tree="private", version=1, id=2), msgspec.msgpack.encode([("secret", digest, 0, 11)]))
        raw.send(trees.Order(tree="mine", order="confirm"))
        raw.send(trees.Trees(epoch=1, chunk_bytes=16_384, window_bytes=16_384))
        assert raw.wait_for(trees.Go, trees.Listing, trees.Parcel, trees.State, wait_s=1.0) is None

    assert run(tmp_path, attack)["errors"] >= 3, "PULL, LIST and FETCH"


NAMES = ("..", "../x", "/etc", "a/b", ".zcluster", "con", "a\0b", "a\nb", "x" * 255 + "y")


def test_names_that_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    def attack(raw: Raw, cluster: LocalCluster) -> None:
        raw.wait_for(trees.Trees)
        for version, name in enumerate(NAMES, 1):
            entry = Entry(name, FILE, 1, 0, 0o644, content_digest("blake2b_256", b"x"))
            listing = encode_listing([entry])
            answer(raw, present(raw, listing_digest(listing), version), [("", listing)])
            end = raw.wait_for(trees.Finish, trees.Fetch)
            assert end is not None, name
            assert isinstance(end[0], trees.Finish), name
            assert end[0].code, name

    run(tmp_path, attack)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if ".zcluster" not in path.parts}
    assert found == {"private", "private/secret", "private/more", "mine", "mine/mallory"}


def test_a_manifest_of_ten_million_entries_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    def attack(raw: Raw, cluster: LocalCluster) -> None:
        raw.wait_for(trees.Trees)
        file = content_digest("blake2b_256", b"x")
        parts = [
            encode_listing(Entry(f"f{n:06}", FILE, 1, 0, 0o644, file) for n in range(start, start + 9000))
            for start in range(0, 13 * 9000, 9000)
        ]
        digests = [*map(listing_digest, parts), *(os.urandom(32) for _ in range(987))]
        root = encode_listing(Entry(f"d{n:04}", DIRECTORY, 0, 0, 0o755, digest) for n, digest in enumerate(digests))
        before = sync_memory(cluster)
        question = present(raw, listing_digest(root))
        answer(raw, question, [("", root)], last=False)
        for number, part in enumerate(parts):
            answer(raw, question, [(f"d{number:04}", part)], last=False)
        end = raw.wait_for(trees.Finish)
        assert end is not None
        assert "100000 files" in end[0].message
        assert sync_memory(cluster) - before < GROWTH_BYTES

    (row,) = run(tmp_path, attack)["rows"]
    assert row["reason"]


def test_a_bomb_and_a_forged_content_come_to_nothing(tmp_path: Path) -> None:
    def attack(raw: Raw, cluster: LocalCluster) -> None:
        raw.wait_for(trees.Trees)
        good = b"g" * 16
        listing = encode_listing([Entry("f", FILE, 16, 0, 0o644, content_digest("blake2b_256", good))])
        before = sync_memory(cluster)
        answer(raw, present(raw, listing_digest(listing)), [("", listing)])
        asked = raw.wait_for(trees.Fetch)
        assert asked is not None
        bomb = zstandard.compress(bytes(1 << 30))
        raw.send(trees.Parcel(tree="mine", id=asked[0].id, encoding=1, raw_bytes=16, sizes=[16], last=True), bomb)
        end = raw.wait_for(trees.Finish)
        assert end is not None
        assert end[0].code
        assert sync_memory(cluster) - before < GROWTH_BYTES
        assert raw.wait_for(trees.Pull) is not None, "it is tried again"
        raw.send(trees.Go(tree="mine", version=1, epoch=0, root=listing_digest(listing).hex()))
        question = raw.wait_for(trees.List)
        assert question is not None
        answer(raw, question[0], [("", listing)])
        asked = raw.wait_for(trees.Fetch)
        assert asked is not None
        raw.send(trees.Parcel(tree="mine", id=asked[0].id, raw_bytes=16, sizes=[16], last=True), b"b" * 16)
        end = raw.wait_for(trees.Finish)
        assert end is not None
        assert end[0].code

    run(tmp_path, attack)
    assert not (tmp_path / "mine" / "mallory" / "f").exists()
