"""How the contents of a plan come in: never more than the window, many small files at once, and large ones by what differs."""

from __future__ import annotations

import pytest
from machines import BROKEN, PLACE, Bench

from zcluster.core.sync import bodies, fetching
from zcluster.core.sync.blocks import BLOCK_BYTES, BLOCK_HASH_BYTES, CHUNK_BLOCKS, CHUNK_BYTES, block_count
from zcluster.core.sync.effects import Begin, Begun, Coarse, Fine, FinishLarge, Piece, Put
from zcluster.core.sync.entry import FILE, Entry
from zcluster.core.sync.fetching import FETCH_FILES, FETCH_PATH_CHARS, MAX_COMPARING, Fetching
from zcluster.errors import PeerError, ZClusterError
from zcluster.wire.trees import Blocks, Fetch, Hashes, Parcel

WINDOW = 1 << 20
CHUNK = 1 << 16
LARGE = 3 * CHUNK_BYTES
LAST_ID = 40


def entry(path: str, size: int) -> Entry:
    return Entry(path.rpartition("/")[2], FILE, size, 0, 0o644, path.encode()[:16].ljust(16, b"."))


class In:
    """A fetching of these files (path: bytes), and the source's side of it."""

    def __init__(self, files: dict[str, int], window: int = WINDOW, chunk: int = CHUNK, here: tuple[str, ...] = ()) -> None:
        self.bench = Bench()
        self.asked: list[tuple[int, list[Piece]]] = []
        """FETCHes that are not answered."""
        self.blocks: list[Blocks] = []
        self.ends: list[ZClusterError | None] = []
        wanted = [(path, entry(path, size)) for path, size in files.items()]
        self.it = Fetching(
            PLACE, 7, wanted, window, chunk, self.bench.effects, LAST_ID, self._say,
            lambda error, now: self.ends.append(error), here=here,
        )  # fmt: skip
        self.it.start(0.0)

    def _say(self, message: Fetch | Blocks, body: bytes) -> None:
        assert (message.tree, message.version) == (PLACE[0], 7)
        if isinstance(message, Fetch):
            self.asked.append((message.id, bodies.read_pieces(body)))
        else:
            self.blocks.append(message)

    @property
    def asked_bytes(self) -> int:
        return sum(piece.size for _, pieces in self.asked for piece in pieces)

    def parcel(self, id_: int, sizes: list[int], first: int = 0, *, last: bool = True) -> None:
        size = sum(each for each in sizes if each > 0)
        self.it.parcel(Parcel(tree="t", id=id_, raw_bytes=size, first=first, sizes=sizes, last=last), b"x" * size, 0.0)

    def answer(self) -> list[Piece]:
        """The oldest FETCH is answered in full, and what it brings is on the disk."""
        id_, pieces = self.asked.pop(0)
        self.parcel(id_, [piece.size for piece in pieces])
        self.bench.end(Put, 0)
        return pieces

    def answer_all(self) -> list[Piece]:
        pieces = []
        while self.asked:
            pieces += self.answer()
        return pieces

    def question(self) -> Blocks:
        """The one BLOCKS that is not answered."""
        (message,) = self.blocks
        self.blocks = []
        return message

    def hash(self, message: Blocks, more: int = 0) -> None:
        count = sum(count for _, count in message.runs)
        self.it.hashes(Hashes(tree="t", id=message.id), b"h" * (BLOCK_HASH_BYTES * count + more), 0.0)

    def coarse(self, differ: list[int]) -> In:
        """Begin with the large file, of which these chunks differ."""
        self.bench.end(Begin, Begun(True))
        self.hash(self.question())
        self.bench.end(Coarse, differ)
        return self

    def doing(self, kind: type[object]) -> int:
        return sum(isinstance(action, kind) for action in self.bench.actions())


# -- small files --------------------------------------------------------------------------------------------------------


def test_nothing_wanted_is_over_at_once() -> None:
    assert In({}).ends == [None]


@pytest.mark.parametrize(("window", "asked"), [(10 * CHUNK, 10), (10 * CHUNK - 1, 10), (10 * CHUNK + 1, 11), (1, 1)])
def test_what_is_asked_for_and_not_on_the_disk_is_at_most_the_window_and_one_question(window: int, asked: int) -> None:
    fetching = In({f"f{number}": CHUNK for number in range(20)}, window)
    assert len(fetching.asked) == asked
    id_, pieces = fetching.asked.pop(0)
    fetching.parcel(id_, [CHUNK])
    assert len(fetching.asked) == asked - 1, "it has come, and is not on the disk"
    fetching.bench.end(Put, CHUNK)
    assert len(fetching.asked) == asked
    done = len(pieces) + len(fetching.answer_all())
    assert (done, fetching.ends) == (20, [None])
    assert (fetching.it.files_left, fetching.it.bytes_left, fetching.it.bytes_done) == (0, 0, 20 * CHUNK)


def test_empty_files_take_room_in_the_window_too() -> None:
    fetching = In({f"f{number}": 0 for number in range(CHUNK + 4 * FETCH_FILES)}, window=1, chunk=CHUNK)
    assert len(fetching.asked) == CHUNK // FETCH_FILES


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [
        ([CHUNK // 2, CHUNK // 2], [2]),
        ([CHUNK // 2, CHUNK // 2 + 1], [1, 1]),
        ([CHUNK, 0], [2]),
        ([CHUNK, 1], [1, 1]),
        ([1] * FETCH_FILES, [FETCH_FILES]),
        ([1] * (FETCH_FILES + 1), [FETCH_FILES, 1]),
    ],
)  # fmt: skip
def test_small_files_come_many_at_a_time_up_to_a_chunk_and_a_number(sizes: list[int], batches: list[int]) -> None:
    fetching = In({f"f{number}": size for number, size in enumerate(sizes)})
    assert [len(pieces) for _, pieces in fetching.asked] == batches
    assert [id_ for id_, _ in fetching.asked] == [LAST_ID + 1 + number for number in range(len(batches))]


def test_one_question_fits_its_frame_however_long_its_paths_are() -> None:
    fetching = In({f"{number:04}{'/n' * 2046}": 1 for number in range(FETCH_FILES)})
    chars = [sum(len(piece.path) for piece in pieces) for _, pieces in fetching.asked]
    assert sum(len(pieces) for _, pieces in fetching.asked) == FETCH_FILES
    assert FETCH_PATH_CHARS < max(chars) <= FETCH_PATH_CHARS + 4096


@pytest.mark.parametrize("parts", [[1, 3], [2, 2], [1, 1, 1, 1], [4]])
def test_an_answer_may_come_in_parts(parts: list[int]) -> None:
    fetching = In(dict.fromkeys("abcd", 5))
    ((id_, _),) = fetching.asked
    first = 0
    for count in parts:
        assert fetching.it.waits
        fetching.parcel(id_, [5] * count, first, last=first + count == 4)
        first += count
        put = fetching.bench.end(Put, 0)
        assert [piece.path for piece in put.pieces] == list("abcd")[first - count : first]
    assert not fetching.it.waits
    assert fetching.ends == [None]


@pytest.mark.parametrize(
    ("sizes", "first", "last"),
    [
        ([5, 5, 5], 0, True),
        ([5, 5, 5], 0, False),
        ([5], 0, True),
        ([5], 1, True),
        ([5, 4], 0, True),
        ([5, 0], 0, True),
        ([], 0, False),
    ],
    ids=["more, last", "more", "less, last", "a gap", "shorter", "empty", "nothing"],
)  # fmt: skip
def test_an_answer_that_does_not_fit_its_question_is_the_source_s_fault(sizes: list[int], first: int, last: bool) -> None:
    fetching = In({"a": 5, "b": 5})
    with pytest.raises(PeerError, match=r"pieces|piece of"):
        fetching.parcel(LAST_ID + 1, sizes, first, last=last)
    assert fetching.doing(Put) == 0


def test_a_part_that_comes_twice_is_the_source_s_fault() -> None:
    fetching = In({"a": 5, "b": 5})
    fetching.parcel(LAST_ID + 1, [5], last=False)
    with pytest.raises(PeerError, match="1 of 2 have come"):
        fetching.parcel(LAST_ID + 1, [5], last=False)


def test_answers_to_nothing_or_after_the_end_have_no_effect() -> None:
    fetching = In({"a": 5, "b": 5})
    fetching.parcel(LAST_ID, [5, 5])
    fetching.it.hashes(Hashes(tree="t", id=LAST_ID + 1), b"", 0.0)
    assert fetching.bench.actions() == []
    fetching.it.stop()
    fetching.parcel(LAST_ID + 1, [5, 5])
    assert fetching.bench.actions() == []
    assert fetching.ends == []


def test_a_piece_that_is_gone_does_not_stop_the_others() -> None:
    fetching = In({"a": 5, "b": 5, "c": CHUNK})
    (one, _), (other, _) = fetching.asked
    fetching.parcel(one, [-1, 5])
    fetching.bench.end(Put, 5)
    assert (fetching.it.changed, fetching.ends) == (1, [])
    fetching.parcel(other, [CHUNK])
    fetching.bench.end(Put, CHUNK)
    assert (fetching.it.changed, fetching.ends) == (1, [None])


def test_a_disk_that_fails_ends_it_once() -> None:
    fetching = In({"a": CHUNK, "b": CHUNK, "c": CHUNK}, window=2 * CHUNK)
    for id_, _ in fetching.asked:
        fetching.parcel(id_, [CHUNK])
    fetching.asked = []
    fetching.bench.end(Put, BROKEN)
    fetching.bench.end(Put, BROKEN)
    assert fetching.ends == [BROKEN]
    assert fetching.asked == []


# -- large files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "large"), [(CHUNK, False), (CHUNK + 1, True)])
def test_a_file_is_large_from_a_chunk_on(size: int, large: bool) -> None:
    fetching = In({"big": size})
    assert (fetching.doing(Begin) == 1, fetching.asked == []) == (large, large)


def test_a_large_file_with_nothing_to_compare_with_comes_in_pieces_of_a_chunk() -> None:
    fetching = In({"big": 2 * CHUNK + 1})
    fetching.bench.end(Begin, Begun(False))
    pieces = [piece for _, pieces in fetching.asked for piece in pieces]
    assert [(piece.offset, piece.size) for piece in pieces] == [(0, CHUNK), (CHUNK, CHUNK), (2 * CHUNK, 1)]
    assert all(piece.path == "big" and piece.digest == entry("big", 0).digest for piece in pieces)
    while fetching.asked:
        assert fetching.doing(FinishLarge) == 0
        fetching.answer()
    assert fetching.it.files_left == 1
    fetching.bench.end(FinishLarge, None)
    assert (fetching.it.files_left, fetching.it.bytes_left, fetching.ends) == (0, 0, [None])


def test_pieces_of_a_large_file_wait_for_the_window() -> None:
    fetching = In({"big": 20 * CHUNK}, window=4 * CHUNK)
    fetching.bench.end(Begin, Begun(False))
    got = []
    while fetching.asked:
        assert fetching.asked_bytes <= 4 * CHUNK
        got += fetching.answer()
    assert [piece.offset for piece in got] == [number * CHUNK for number in range(20)]
    fetching.bench.end(FinishLarge, None)
    assert fetching.ends == [None]


def test_a_large_file_is_asked_for_only_where_it_differs() -> None:
    fetching = In({"big": LARGE + 1})
    fetching.bench.end(Begin, Begun(True))
    coarse = fetching.question()
    assert (coarse.path, coarse.digest) == ("big", entry("big", 0).digest.hex())
    assert (coarse.block_bytes, list(coarse.runs)) == (CHUNK_BYTES, [(0, 4)])
    assert fetching.it.waits
    fetching.hash(coarse)
    assert not fetching.it.waits
    fetching.bench.end(Coarse, [1, 3])
    fine = fetching.question()
    assert (fine.block_bytes, list(fine.runs)) == (BLOCK_BYTES, [(CHUNK_BLOCKS, CHUNK_BLOCKS), (3 * CHUNK_BLOCKS, 1)])
    assert fine.id > coarse.id > LAST_ID
    fetching.hash(fine)
    assert fetching.doing(FinishLarge) == 0
    action = fetching.bench.end(Fine, [(CHUNK_BYTES, BLOCK_BYTES), (LARGE, 1)])
    assert list(action.runs) == list(fine.runs)
    pieces = fetching.answer_all()
    assert [(piece.offset, piece.size) for piece in pieces] == [(CHUNK_BYTES, BLOCK_BYTES), (LARGE, 1)]
    fetching.bench.end(FinishLarge, None)
    assert fetching.ends == [None]


def test_where_there_is_a_file_its_source_hashes_while_this_side_begins() -> None:
    fetching = In({"big": LARGE}, here=("big",))
    fetching.hash(fetching.question())
    assert fetching.doing(Coarse) == 0, "it has not begun"
    fetching.bench.end(Begin, Begun(True))
    assert fetching.blocks == []
    fetching.bench.end(Coarse, [])
    assert fetching.doing(FinishLarge) == 1


def test_hashes_that_are_not_needed_after_all_have_no_effect() -> None:
    fetching = In({"big": LARGE}, here=("big",))
    question = fetching.question()
    fetching.bench.end(Begin, Begun(False))
    assert fetching.asked
    fetching.hash(question)
    assert fetching.doing(Coarse) == 0


def test_a_file_that_changed_before_this_side_has_begun_is_left() -> None:
    fetching = In({"big": LARGE, "bigger": LARGE + 1}, here=("big",))
    fetching.it.hashes(Hashes(tree="t", id=fetching.question().id, failed="it has changed"), b"", 0.0)
    fetching.bench.end(Begin, Begun(True))
    assert (fetching.it.changed, fetching.blocks) == (1, []), "the first one's beginning says nothing of the second one"
    fetching.bench.end(Begin, Begun(True))
    assert fetching.question().path == "bigger"


def test_a_large_file_of_which_all_is_here_is_only_checked() -> None:
    fetching = In({"big": LARGE}).coarse([])
    assert (fetching.blocks, fetching.asked) == ([], [])
    fetching.bench.end(FinishLarge, None)
    assert fetching.ends == [None]


@pytest.mark.parametrize("more", [-1, 1, BLOCK_HASH_BYTES])
@pytest.mark.parametrize("fine", [False, True])
def test_other_hashes_than_were_asked_for_are_the_source_s_fault(fine: bool, more: int) -> None:
    fetching = In({"big": LARGE})
    if fine:
        fetching.coarse([0])
    else:
        fetching.bench.end(Begin, Begun(True))
    with pytest.raises(PeerError, match="bytes of hashes"):
        fetching.hash(fetching.question(), more)
    assert fetching.doing(Coarse) == fetching.doing(Fine) == 0


@pytest.mark.parametrize("fine", [False, True])
def test_a_large_file_that_changed_is_left_and_the_next_one_begun(fine: bool) -> None:
    fetching = In({"big": LARGE, "other": CHUNK + 1})
    if fine:
        fetching.coarse([0])
    else:
        fetching.bench.end(Begin, Begun(True))
    question = fetching.question()
    fetching.it.hashes(Hashes(tree="t", id=question.id, failed="it has changed"), b"", 0.0)
    assert (fetching.it.changed, fetching.it.files_left) == (1, 1)
    assert fetching.bench.end(Begin, Begun(False)).path == "other"
    fetching.it.hashes(Hashes(tree="t", id=question.id), b"h" * 16, 0.0)
    fetching.answer_all()
    fetching.bench.end(FinishLarge, None)
    assert fetching.ends == [None]


def test_a_large_file_of_which_a_piece_is_gone_is_left_when_its_other_pieces_are_here() -> None:
    fetching = In({"big": 3 * CHUNK, "other": CHUNK + 1})
    fetching.bench.end(Begin, Begun(False))
    first, second, third = (id_ for id_, _ in fetching.asked)
    fetching.parcel(first, [-1])
    fetching.parcel(second, [CHUNK])
    fetching.bench.end(Put, 0)
    fetching.bench.end(Put, CHUNK)
    assert fetching.doing(Begin) == 0
    fetching.parcel(third, [CHUNK])
    fetching.bench.end(Put, CHUNK)
    assert fetching.doing(FinishLarge) == 0
    assert fetching.bench.end(Begin, Begun(True)).path == "other"
    assert fetching.it.changed == 1


def fine_questions(monkeypatch: pytest.MonkeyPatch, chunks: int) -> In:
    """A large file of which all differs: one question for the hashes of each chunk."""
    monkeypatch.setattr(fetching, "FINE_BLOCKS", CHUNK_BLOCKS)
    return In({"big": chunks * CHUNK_BYTES}).coarse(list(range(chunks)))


def test_the_next_hashes_are_asked_for_while_some_are_compared_and_no_more_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    fetching = fine_questions(monkeypatch, 4)
    for _ in range(MAX_COMPARING):
        fetching.hash(fetching.question())
    assert fetching.doing(Fine) == MAX_COMPARING == 2
    assert fetching.blocks == []
    runs = [tuple(fetching.bench.end(Fine, []).runs)]
    while fetching.blocks:
        fetching.hash(fetching.question())
        assert fetching.doing(Fine) <= MAX_COMPARING
        runs.append(tuple(fetching.bench.end(Fine, []).runs))
    assert fetching.doing(FinishLarge) == 0, "the last answer is still being compared"
    runs.append(tuple(fetching.bench.end(Fine, []).runs))
    assert runs == [((number * CHUNK_BLOCKS, CHUNK_BLOCKS),) for number in range(4)]
    fetching.bench.end(FinishLarge, None)
    assert fetching.ends == [None]


def test_ranges_are_fetched_while_hashes_are_still_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    fetching = fine_questions(monkeypatch, 2)
    fetching.hash(fetching.question())
    fetching.bench.end(Fine, [(0, BLOCK_BYTES)])
    assert [piece.offset for piece in fetching.answer()] == [0]
    assert fetching.doing(FinishLarge) == 0
    fetching.hash(fetching.question())
    fetching.bench.end(Fine, [(CHUNK_BYTES, BLOCK_BYTES)])
    fetching.answer_all()
    fetching.bench.end(FinishLarge, None)
    assert fetching.ends == [None]


def test_a_comparison_that_ends_after_its_file_was_left_says_nothing_of_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "FINE_BLOCKS", CHUNK_BLOCKS)
    it = In({"big": 2 * CHUNK_BYTES, "other": LARGE}).coarse([0, 1])
    it.hash(it.question())
    it.it.hashes(Hashes(tree="t", id=it.question().id, failed="it has changed"), b"", 0.0)
    it.bench.end(Fine, [(0, BLOCK_BYTES)])
    assert it.asked == []
    assert it.bench.end(Begin, Begun(True)).path == "other"
    assert it.question().path == "other"


def test_one_question_for_hashes_has_no_more_runs_than_its_message_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MAX_RUNS", 3)
    it = In({"big": 14 * CHUNK_BYTES}).coarse([0, 2, 4, 6, 8, 10, 12])
    counts = []
    while it.blocks:
        question = it.question()
        counts.append(len(question.runs))
        it.hash(question)
        it.bench.end(Fine, [])
    assert counts == [3, 3, 1]


@pytest.mark.parametrize("kind", [Begin, Coarse, Fine, FinishLarge])
def test_a_disk_that_fails_with_a_large_file_ends_it_with_its_error(kind: type[object]) -> None:
    fetching = In({"big": LARGE})
    if kind is not Begin:
        fetching.bench.end(Begin, Begun(True))
        fetching.hash(fetching.question())
    if kind in (Fine, FinishLarge):
        fetching.bench.end(Coarse, [0] if kind is Fine else [])
    if kind is Fine:
        fetching.hash(fetching.question())
    fetching.bench.end(kind, BROKEN)
    assert fetching.ends == [BROKEN]


@pytest.mark.parametrize("kind", [Begin, Coarse, Fine, FinishLarge])
def test_what_ends_after_it_was_stopped_has_no_effect(kind: type[object]) -> None:
    fetching = In({"big": LARGE})
    result: object = Begun(True)
    if kind is not Begin:
        fetching.coarse([0]) if kind is Fine else None
    if kind is Fine:
        fetching.hash(fetching.question())
        result = [(0, 1)]
    if kind is Coarse:
        fetching.bench.end(Begin, Begun(True))
        fetching.hash(fetching.question())
        result = [0]
    if kind is FinishLarge:
        fetching.coarse([])
        result = None
    fetching.blocks = []
    fetching.it.stop()
    fetching.bench.end(kind, result)
    assert (fetching.asked, fetching.blocks, fetching.ends) == ([], [], [])
    assert fetching.bench.actions() == []


def test_the_number_of_blocks_is_that_of_the_file() -> None:
    fetching = In({"big": CHUNK_BYTES + 1})
    fetching.bench.end(Begin, Begun(True))
    assert list(fetching.question().runs) == [(0, block_count(CHUNK_BYTES + 1, CHUNK_BYTES))] == [(0, 2)]
