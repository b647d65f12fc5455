"""What a source gives to its sinks: permission, listings, pieces, hashes; and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from machines import BROKEN, PLACE, Bench
from treemodel import directory, file, manifest, tree

from zcluster.core.sync import bodies
from zcluster.core.sync.effects import HashBlocks, Piece, Place, Read
from zcluster.core.sync.entry import Change, listing_digest
from zcluster.core.sync.serving import MAX_BLOCKS, MAX_OPEN_BLOCKS, MAX_OPEN_FETCHES, MAX_RECENT_CHANGES, Serving, Version
from zcluster.errors import PeerError
from zcluster.wire.trees import Blocks, Fetch, Finish, Go, Hashes, List, Listing, Parcel, Pull

MINE = manifest(tree(("a", file("a")), ("d/b", file("d/b")), ("e", directory("e"))))
ROOT = listing_digest(MINE[""])
CHUNK = 1 << 16
WINDOW = 1 << 18
DIGEST = "00" * 16


class Served:
    """Serving with a version 5, and its permits."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.bench = Bench()
        self.version: Version | None = Version(5, 3, ROOT, MINE)
        self.asked: list[int] = []
        self.released: list[int] = []
        self.serving = Serving(PLACE, self.bench.effects, WINDOW, CHUNK, lambda: self.version, self._ask, self._release)
        self._at_once = at_once

    def _ask(self, place: Place, session: int, now: float) -> None:
        self.asked.append(session)
        if self._at_once:
            self.serving.grant(session, now)

    def _release(self, place: Place, session: int, now: float) -> None:
        self.released.append(session)

    def pull(self, **have: Any) -> list[Any]:
        self.serving.pull(7, Pull(tree="t", version=5, **have), 0.0)
        return self.bench.messages()

    def fetch(self, sizes: list[int], id_: int = 1) -> None:
        pieces = [Piece(f"p{index}", b"d", 0, size) for index, size in enumerate(sizes)]
        self.serving.fetch(7, Fetch(tree="t", version=5, id=id_), bodies.pieces_body(pieces), 0.0)

    def blocks(self, count: int = 1, *, digest: str = DIGEST) -> None:
        message = Blocks(tree="t", version=5, id=1, path="a", digest=digest, block_bytes=16_384, runs=[(0, count)])
        self.serving.blocks(7, message, 0.0)

    def lists(self, paths: list[str], *, deep: bool = False, version: int = 5) -> list[Any]:
        self.serving.listings(7, List(tree="t", version=version, id=9, deep=deep), bodies.paths_body(paths))
        said = [(say.message, say.body) for say in self._said()]
        assert [message.last for message, _ in said if isinstance(message, Listing)] == [False] * (len(said) - 1) + [True]
        return said

    def _said(self) -> list[Any]:
        self.bench.take()
        said, self.bench.said = self.bench.said, []
        return said


GO = Go(tree="t", version=5, epoch=3, root=ROOT.hex())


def test_a_pull_waits_for_its_permit() -> None:
    served = Served(at_once=False)
    assert served.pull() == []
    assert served.asked == [7]
    assert not served.serving.busy
    served.serving.grant(7, 1.0)
    assert served.bench.messages() == [GO]
    assert served.serving.busy
    served.serving.finish(7, Finish(tree="t", version=5), 2.0)
    assert not served.serving.busy
    assert served.released == [7]


def test_a_permit_that_nobody_waits_for_is_given_back() -> None:
    served = Served()
    served.serving.grant(7, 0.0)
    assert served.released == [7]
    served.version = None
    assert served.pull() == []
    assert served.released == [7, 7]


def test_the_directories_that_are_asked_for_come_parents_first() -> None:
    served = Served()
    served.pull()
    ((_, body),) = served.lists([""])
    assert bodies.read_listings(body) == [("", MINE[""])]
    ((_, body),) = served.lists([""], deep=True)
    assert bodies.read_listings(body) == [("", MINE[""]), ("d", MINE["d"]), ("e", MINE["e"])]


def test_a_directory_that_the_version_does_not_have_is_the_sink_s_fault() -> None:
    served = Served()
    served.pull()
    with pytest.raises(PeerError, match="does not have: 'x'"):
        served.lists(["", "x"])


@pytest.mark.parametrize("version", [4, 6])
def test_a_list_of_another_version_has_failed(version: int) -> None:
    served = Served()
    served.pull()
    ((message, _),) = served.lists([""], version=version)
    assert message.failed
    served.serving.finish(7, Finish(tree="t", version=5), 0.0)
    ((message, _),) = served.lists([""])
    assert message.failed


def test_what_has_begun_may_be_finished_although_there_is_a_newer_version() -> None:
    served = Served()
    served.pull()
    served.version = Version(6, 3, b"r", {"": b"\x90"})
    ((message, body),) = served.lists([""])
    assert not message.failed
    assert bodies.read_listings(body) == [("", MINE[""])]


def test_a_large_listing_goes_in_parts_and_each_fits_a_frame() -> None:
    served = Served()
    large = {f"{index:04}{'x' * 240}": file(f"{index:04}{'x' * 240}") for index in range(9000)}
    mine = manifest({**large, "d": directory("d"), "d/b": file("d/b")})
    served.version = Version(5, 3, listing_digest(mine[""]), mine)
    served.pull()
    said = served.lists([""], deep=True)
    assert len(said) > 2
    assert max(len(body) for _, body in said) < 1_000_000
    parts: dict[str, bytes] = {}
    for _, body in said:
        for path, part in bodies.read_listings(body):
            parts[path] = parts.get(path, b"") + part
    assert parts == mine


def test_the_changes_since_what_the_sink_has_follow_go() -> None:
    served = Served()
    a1, a2, a3, b = file("a", "1"), file("a", "22"), file("a", "333"), file("b")
    served.serving.remember(3, b"r3", [Change("a", a1, a2), Change("b", None, b)])
    served.serving.remember(4, b"r4", [Change("a", a2, a3), Change("b", b, None)])
    go, listing = served.pull(have=3, have_root=b"r3".hex())
    assert go.changes
    assert (listing.id, listing.last) == (0, True)
    assert served.serving.changes_since(3) == 4
    assert served.serving.changes_since(4) == 2
    assert served.serving.changes_since(2) is None
    served.serving.end(7, 0.0)
    served.serving.pull(7, Pull(tree="t", version=5, have=3, have_root=b"r3".hex()), 0.0)
    served.bench.take()
    assert bodies.read_changes(served.bench.said[1].body) == [Change("a", a1, a3)]


@pytest.mark.parametrize("have", [{}, {"have": 3, "have_root": "ff"}, {"have": 2, "have_root": b"r3".hex()}])
def test_a_sink_with_something_else_compares(have: dict[str, Any]) -> None:
    served = Served()
    served.serving.remember(3, b"r3", [Change("b", None, file("b"))])
    served.serving.remember(4, b"r4", [Change("b", None, file("b"))])
    assert served.pull(**have) == [GO]


def test_a_sink_that_has_the_version_has_no_changes() -> None:
    go, listing = Served().pull(have=5, have_root=ROOT.hex())
    assert go.changes
    assert listing.raw_bytes == 1


def test_the_changes_that_are_kept_are_bounded() -> None:
    serving = Served().serving
    change = Change("b", None, file("b"))
    serving.remember(3, b"r3", [change] * 10)
    serving.remember(4, b"r4", [change] * (MAX_RECENT_CHANGES - 10))
    assert serving.changes_since(3) == MAX_RECENT_CHANGES
    serving.remember(5, b"r5", [change])
    assert serving.changes_since(3) is None
    assert serving.changes_since(4) == MAX_RECENT_CHANGES - 9


def test_pieces_are_answered_as_they_were_read() -> None:
    served = Served()
    served.pull()
    served.fetch([1, 2])
    parcel = Parcel(tree="t", id=1, raw_bytes=3, sizes=[1, 2], last=True)
    assert served.bench.end(Read, [(parcel, b"xyz")]).id == 1
    assert served.bench.messages() == [parcel]


def test_pieces_that_cannot_be_read_or_belong_to_no_pull_are_gone() -> None:
    served = Served()
    gone = [Parcel(tree="t", id=1, raw_bytes=0, sizes=[-1, -1], last=True)]
    served.fetch([1, 2])
    assert served.bench.messages() == gone
    served.pull()
    served.fetch([1, 2])
    served.bench.end(Read, BROKEN)
    assert served.bench.messages() == gone


def test_what_was_read_for_a_pull_that_is_over_is_not_sent() -> None:
    served = Served()
    served.pull()
    served.fetch([1])
    served.blocks()
    served.serving.end(7, 0.0)
    served.bench.end(Read, [(Parcel(tree="t", id=1, raw_bytes=1, sizes=[1], last=True), b"x")])
    served.bench.end(HashBlocks, b"h" * 16)
    assert served.bench.messages() == []


@pytest.mark.parametrize("beyond", [False, True])
def test_one_piece_is_at_most_a_chunk(beyond: bool) -> None:
    served = Served()
    served.pull()
    refused(served, beyond, lambda: served.fetch([CHUNK + beyond]))


@pytest.mark.parametrize("beyond", [False, True])
def test_what_is_asked_for_at_once_is_at_most_two_windows(beyond: bool) -> None:
    served = Served()
    served.pull()
    count = 2 * WINDOW // CHUNK
    served.fetch([CHUNK] * (count - 1) + [CHUNK - 1])
    refused(served, beyond, lambda: served.fetch([1 + beyond], 2))


@pytest.mark.parametrize("beyond", [False, True])
def test_the_questions_that_are_not_answered_are_bounded(beyond: bool) -> None:
    served = Served()
    served.pull()
    for id_ in range(MAX_OPEN_FETCHES - 1 + beyond):
        served.fetch([0], id_)
    refused(served, beyond, lambda: served.fetch([0], 1000))


@pytest.mark.parametrize("beyond", [False, True])
def test_the_questions_for_hashes_that_are_not_answered_are_bounded(beyond: bool) -> None:
    served = Served()
    served.pull()
    for _ in range(MAX_OPEN_BLOCKS - 1 + beyond):
        served.blocks()
    refused(served, beyond, served.blocks)


def test_answered_questions_make_room_for_others() -> None:
    served = Served()
    served.pull()
    for _ in range(2 * MAX_OPEN_BLOCKS):
        served.blocks()
        served.bench.end(HashBlocks, b"h" * 16)
    for id_ in range(2 * MAX_OPEN_FETCHES):
        served.fetch([CHUNK], id_)
        served.bench.end(Read, [])
    assert served.serving.busy


def test_a_new_pull_waits_for_what_the_one_before_asked_for() -> None:
    served = Served()
    served.pull()
    served.fetch([1])
    served.blocks()
    assert served.pull() == []
    served.serving.finish(7, Finish(tree="t", version=5), 0.0)
    assert served.pull() == []
    assert not served.serving.busy
    served.fetch([1], 2)
    served.bench.messages()
    served.bench.end(Read, [(Parcel(tree="t", id=1, raw_bytes=1, sizes=[1], last=True), b"x")])
    assert served.bench.messages() == []
    served.bench.end(HashBlocks, b"h" * 16)
    assert served.bench.messages() == [GO]
    assert served.pull() == [GO]


def test_a_pull_that_was_given_up_while_it_waited_does_not_begin() -> None:
    served = Served()
    served.pull()
    served.fetch([1])
    assert served.pull() == []
    served.serving.end(7, 0.0)
    served.bench.end(Read, [])
    assert served.bench.messages() == []
    assert not served.serving.busy


@pytest.mark.parametrize("beyond", [False, True])
def test_one_question_is_for_a_bounded_number_of_blocks(beyond: bool) -> None:
    served = Served()
    served.pull()
    if not beyond:
        served.blocks(MAX_BLOCKS)
        assert [type(action) for action in served.bench.actions()] == [HashBlocks]
        return
    with pytest.raises(PeerError, match="more than 32768 blocks"):
        served.blocks(MAX_BLOCKS + 1)


def test_hashes_come_or_the_file_has_changed() -> None:
    served = Served()
    served.blocks()
    (answer,) = served.bench.messages()
    assert answer.failed
    served.pull()
    served.blocks()
    served.bench.end(HashBlocks, b"h" * 16)
    served.bench.take()
    assert (served.bench.said[0].message, served.bench.said[0].body) == (Hashes(tree="t", id=1), b"h" * 16)
    for result in (None, BROKEN):
        served.bench.messages()
        served.blocks()
        served.bench.end(HashBlocks, result)
        (answer,) = served.bench.messages()
        assert answer.failed
    with pytest.raises(PeerError, match="not hexadecimal"):
        served.blocks(digest="xy")


def refused(served: Served, beyond: bool, ask: Any) -> None:
    """At the bound it is done; one beyond ends the pull."""
    if not beyond:
        ask()
        assert served.serving.busy
        return
    with pytest.raises(PeerError):
        ask()
    assert not served.serving.busy
    assert served.released == [7]
