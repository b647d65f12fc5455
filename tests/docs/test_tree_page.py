"""docs/protocol.md suffices for file sync: a sink written from that page alone gets a tree from the source's machine.

The sink below knows bytes, JSON, MessagePack and hashes, and nothing of zcluster; it stands for another implementation.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import xxhash

from zcluster.core.sync.effects import Do, Effects, Read, Say
from zcluster.core.sync.entry import Change, Entry, content_digest, encode_listing, listing_digest
from zcluster.core.sync.serving import FRAME_BYTES, LIST_BYTES, Serving, Version
from zcluster.wire import WireLimits, decode, encode
from zcluster.wire.trees import Fetch, Finish, List, Parcel, Pull

CHUNK_BYTES = 983_040

# -- the page's sink ------------------------------------------------------------------------------------------------------

GO, LIST, LISTING, FETCH, PARCEL, FINISH, PULL = 35, 36, 37, 38, 39, 43, 34


def blake(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32).digest()


class PageSink:
    """A sink of one tree: frames in, frames out."""

    def __init__(self, tree: str) -> None:
        self.tree, self.files, self.listings = tree, dict[str, bytes](), dict[str, bytes]()
        self.out: list[bytes] = []
        self.version = 0
        self.changes: list[Any] = []
        self.changed_since = False
        self._last_id = 0
        self._needed: dict[str, bytes] = {}
        self._parts: list[Any] = []
        self._asked: dict[int, list[Any]] = {}

    def say(self, kind: int, body: Any = None, **header: Any) -> None:
        text = json.dumps({"tree": self.tree, **header}).encode()
        data = b"" if body is None else msgspec.msgpack.encode(body)
        self.out.append(struct.pack(">BBBBI", 0x5A, 1, kind, 0, len(text)) + text + data)

    def next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def receive(self, frame: bytes) -> None:
        magic, version, kind, reserved, length = struct.unpack_from(">BBBBI", frame)
        assert (magic, version, reserved) == (0x5A, 1, 0)
        header, body = json.loads(frame[8 : 8 + length]), frame[8 + length :]
        assert header["tree"] == self.tree
        if "raw_bytes" in header and not header.get("encoding", 0):
            assert header["raw_bytes"] == len(body)
        if kind == GO:
            self.go(header)
        elif kind == LISTING and header.get("id", 0) == 0:
            self.changes += msgspec.msgpack.decode(body)
            self.changed_since = self.changed_since or header.get("last", False)
        elif kind == LISTING:
            assert not header.get("failed"), header
            self.listing(msgspec.msgpack.decode(body), header.get("last", False))
        elif kind == PARCEL:
            self.parcel(header, body)

    def go(self, header: dict[str, Any]) -> None:
        self.version = header["version"]
        if not header.get("changes"):
            self._needed = {"": bytes.fromhex(header["root"])}
            self.ask()

    def ask(self) -> None:
        if self._needed:
            self.say(LIST, list(self._needed)[:4096], version=self.version, id=self.next_id(), deep=True)
            return
        wanted = [
            [f"{path}/{name}".lstrip("/"), digest, 0, size]
            for path, listing in self.listings.items()
            for name, kind, size, _, _, digest, _ in msgspec.msgpack.decode(listing)
            if kind == "f"
        ]
        for start in range(0, len(wanted), 100):
            id_ = self.next_id()
            self._asked[id_] = wanted[start : start + 100]
            self.say(FETCH, self._asked[id_], version=self.version, id=id_)

    def listing(self, items: list[Any], last: bool) -> None:
        self._parts += items
        if not last:
            return
        whole: dict[str, bytes] = {}
        for path, part in self._parts:
            whole[path] = whole.get(path, b"") + part
        self._parts = []
        assert whole
        for path, listing in whole.items():
            assert blake(listing) == self._needed.pop(path)
            self.listings[path] = listing
            entries = msgspec.msgpack.decode(listing)
            names = [entry[0].encode() for entry in entries]
            assert names == sorted(set(names))
            self._needed |= {f"{path}/{entry[0]}".lstrip("/"): entry[5] for entry in entries if entry[1] == "d"}
        self.ask()

    def parcel(self, header: dict[str, Any], body: bytes) -> None:
        items = self._asked[header["id"]]
        at = 0
        for (path, digest, _, wanted), size in zip(items[header.get("first", 0) :], header["sizes"], strict=False):
            assert size == wanted
            content = body[at : at + size]
            at += size
            assert xxhash.xxh3_128_digest(content) == digest
            self.files[path] = content
        assert at == len(body)
        if header.get("last"):
            del self._asked[header["id"]]
            if not self._asked:
                self.say(FINISH, version=self.version)


# -- the source's machine -------------------------------------------------------------------------------------------------


class Source:
    """Serving, with contents in memory."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.effects = Effects()
        self.released = 0
        self.versions: list[Version] = []
        self.publish(files)
        self.serving = Serving(
            ("site", ""), self.effects, 8_388_608, CHUNK_BYTES, lambda: self.versions[-1],
            lambda place, session, now: self.serving.grant(session, now), self._release,
        )  # fmt: skip

    def _release(self, place: object, session: int, now: float) -> None:
        self.released += 1

    def publish(self, files: dict[str, bytes]) -> None:
        self.files = files
        mine: dict[str, bytes] = {}
        directories: dict[str, list[Entry]] = {"": []}
        for path, content in files.items():
            directory, _, name = path.rpartition("/")
            while directory not in directories:
                directories[directory] = []
                directory = directory.rpartition("/")[0]
            entry = Entry(name, "f", len(content), 5, 0o644, content_digest("xxh3_128", content))
            directories[path.rpartition("/")[0]].append(entry)
        for directory in sorted(directories, key=lambda path: -path.count("/") if path else 1):
            listing = mine[directory] = encode_listing(directories[directory])
            if directory:
                above, _, name = directory.rpartition("/")
                directories[above].append(Entry(name, "d", 0, 0, 0o755, listing_digest(listing)))
        self.versions.append(Version(len(self.versions) + 1, 1, listing_digest(mine[""]), mine))

    def receive(self, frame: bytes) -> None:
        message, offset = decode(frame, WireLimits())
        body = frame[offset:]
        match message:
            case Pull():
                self.serving.pull(1, message, 0.0)
            case List():
                self.serving.listings(1, message, body)
            case Fetch():
                self.serving.fetch(1, message, body, 0.0)
            case Finish():
                self.serving.finish(1, message, 0.0)
            case _:
                raise AssertionError(message)

    def frames(self) -> Iterator[bytes]:
        effects = deque(self.effects.take())
        while effects:
            effect = effects.popleft()
            if isinstance(effect, Say):
                yield encode(effect.message, [effect.body])
            elif isinstance(effect, Do) and isinstance(effect.action, Read):
                pieces = effect.action.pieces
                contents = [self.files[piece.path][piece.offset : piece.offset + piece.size] for piece in pieces]
                body = b"".join(contents)
                sizes = [len(content) for content in contents]
                parcel = Parcel(tree="site", id=effect.action.id, raw_bytes=len(body), sizes=sizes, last=True)
                self.effects.done(effect.job, [(parcel, body)], 0.0)
                effects += self.effects.take()


def converse(sink: PageSink, source: Source) -> int:
    """Pass frames until nobody has anything to say; returns how many there were."""
    count = 0
    while count < 10_000:
        for frame in sink.out:
            source.receive(frame)
        sink.out = []
        frames = list(source.frames())
        for frame in frames:
            assert len(frame) <= 1_048_576
            sink.receive(frame)
        count += len(frames)
        if not frames and not sink.out and not source.effects.open_jobs:
            return count
    raise AssertionError("the conversation does not end")


SMALL = {"app.conf": b"listen = 80\n", "www/index.html": b"<h1>", "www/de/index.html": b"", "é/日": b"x"}
WIDE = {f"many/{number:05}-{'n' * 60}": b"%d" % (number % 7) for number in range(9_000)}
DEEP = {"/".join(["d"] * depth) + "/f": b"%d" % depth for depth in range(1, 64)}
BROAD = {f"{top}/{number:04}-{'b' * 200}/f": b"f" for top in "abcdefgh" for number in range(1400)}


@pytest.mark.parametrize("files", [{}, SMALL, WIDE, DEEP, BROAD], ids=["empty", "small", "wide", "deep", "broad"])
def test_a_sink_of_the_page_gets_the_tree(files: dict[str, bytes]) -> None:
    source, sink = Source(files), PageSink("site")
    sink.say(PULL, version=1)
    converse(sink, source)
    assert sink.files == files
    assert sink.listings == source.versions[0].mine
    assert blake(sink.listings[""]) == source.versions[0].root
    assert source.released == (1 if files else 0)


def test_a_large_directory_takes_several_frames() -> None:
    """The test above would not see how a listing goes on if these fitted one frame."""
    assert max(map(len, Source(WIDE).versions[0].mine.values())) > FRAME_BYTES
    assert sum(map(len, Source(BROAD).versions[0].mine.values())) > LIST_BYTES


def test_what_a_sink_of_the_page_asks_for_is_read_as_it_means_it() -> None:
    sink = PageSink("site")
    sink.say(PULL, version=7, have=6, have_root="ab")
    assert decode(sink.out[0], WireLimits())[0] == Pull(tree="site", version=7, have=6, have_root="ab")


def test_the_changes_since_the_version_that_a_sink_has() -> None:
    source, sink = Source(SMALL), PageSink("site")
    before = source.versions[0]
    source.publish(SMALL | {"new": b"n"})
    entry = Entry("new", "f", 1, 5, 0o644, content_digest("xxh3_128", b"n"))
    source.serving.remember(before.number, before.root, [Change("new", None, entry)])
    sink.say(PULL, version=2, have=1, have_root=before.root.hex())
    converse(sink, source)
    assert sink.changed_since
    assert sink.changes == [["new", None, ["new", "f", 1, 5, 0o644, entry.digest, ""]]]
    assert sink.version == 2


def test_a_sink_that_has_the_newest_is_told_that_nothing_changed() -> None:
    source, sink = Source(SMALL), PageSink("site")
    sink.say(PULL, version=1, have=1, have_root=source.versions[0].root.hex())
    assert converse(sink, source) == 2
    assert (sink.changed_since, sink.changes) == (True, [])
