"""Whose file it is in a merged directory: the first worker's, until it removes it; then the next one's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from zcluster.core.sync.entry import DIRECTORY, FILE, LINK, Change, Entry, Kind
from zcluster.core.sync.ownership import MAX_CONFLICTS, Conflict, Merge, Place, Remove, merge


class Paper:
    """The book in memory."""

    def __init__(self) -> None:
        self.owners: dict[str, str] = {}
        self.queues: dict[str, tuple[str, ...]] = {}

    def owner(self, path: str) -> str:
        return self.owners.get(path, "")

    def waiting(self, path: str) -> Sequence[str]:
        return self.queues.get(path, ())

    def owned_beneath(self, path: str) -> Iterable[str]:
        return (one for one in sorted(self.owners) if one.startswith(f"{path}/"))

    def waiting_beneath(self, path: str) -> Iterable[str]:
        return [one for one in sorted(self.queues) if one.startswith(f"{path}/")]

    def take(self, result: Merge) -> None:
        self.owners = {path: owner for path, owner in (self.owners | result.owners).items() if owner}
        self.queues = {path: queue for path, queue in (self.queues | result.waiting).items() if queue}

    def do(self, worker: str, *changes: Change) -> Merge:
        result = merge(worker, changes, self)
        self.take(result)
        return result


def entry(path: str, kind: Kind = FILE) -> Entry:
    return Entry(path.rpartition("/")[2], kind, 1, 1, 0o644, b"d" * 32)


def new(path: str, kind: Kind = FILE) -> Change:
    return Change(path, None, entry(path, kind))


def gone(path: str, kind: Kind = FILE) -> Change:
    return Change(path, entry(path, kind), None)


def changed(path: str) -> Change:
    return Change(path, entry(path), entry(path))


def test_the_first_worker_owns_the_path() -> None:
    book = Paper()
    result = book.do("w1", new("d/a"), new("l", LINK), new("d", DIRECTORY))
    assert result.actions == [Place("d/a", "w1"), Place("l", "w1")]
    assert book.owners == {"d/a": "w1", "l": "w1"}
    assert result.conflicts == []


def test_a_second_worker_waits_and_is_told_with_both_names() -> None:
    book = Paper()
    book.do("w1", new("a"))
    result = book.do("w2", new("a"))
    assert result.actions == []
    assert result.conflicts == [Conflict("a", "w2", "w1", "a")]
    assert str(result.conflicts[0]) == "a of w2: a belongs to w1"
    assert str(Conflict("a/b", "w2", "", "a")) == "a/b of w2: a is there and not from a worker"
    assert book.do("w2", changed("a")).actions == [], "its changes change nothing"
    assert book.queues == {"a": ("w2",)}


def test_a_change_of_the_owner_is_brought() -> None:
    book = Paper()
    book.do("w1", new("a"))
    book.do("w2", new("a"))
    assert book.do("w1", changed("a")).actions == [Place("a", "w1")]


def test_what_the_owner_removes_goes_to_the_next_in_the_order_of_arrival() -> None:
    book = Paper()
    for worker in ("w3", "w1", "w2"):
        book.do(worker, new("a"))
    assert book.do("w3", gone("a")).actions == [Remove("a", "w3"), Place("a", "w1")]
    assert book.do("w3", new("a")).conflicts == [Conflict("a", "w3", "w1", "a")]
    assert book.queues == {"a": ("w2", "w3")}
    assert book.do("w2", gone("a")).actions == []
    assert book.do("w1", gone("a")).actions == [Remove("a", "w1"), Place("a", "w3")]
    assert book.do("w3", gone("a")).actions == [Remove("a", "w3")]
    assert not book.owners
    assert not book.queues


def test_a_file_excludes_a_directory_of_its_name_and_the_reverse() -> None:
    book = Paper()
    book.do("w1", new("x"))
    assert book.do("w2", new("x/y/z")).conflicts == [Conflict("x/y/z", "w2", "w1", "x")]
    assert book.do("w3", new("x/y")).conflicts == [Conflict("x/y", "w3", "w1", "x")]
    result = book.do("w1", gone("x"))
    assert result.actions[0] == Remove("x", "w1")
    assert len(result.actions) == 2, "one of the two gets it, the other one waits"
    book.do("w4", new("x"))
    assert book.do("w3", gone("x/y")).actions == [Remove("x/y", "w3"), Place("x", "w4")], "the outer one first"
    assert book.do("w4", gone("x")).actions == [Remove("x", "w4"), Place("x/y/z", "w2")]
    book.do("w1", new("x"))
    assert book.do("w2", gone("x/y/z")).actions == [Remove("x/y/z", "w2"), Place("x", "w1")]


def test_a_file_that_becomes_a_directory_at_its_owner() -> None:
    book = Paper()
    book.do("w1", new("x"))
    change = Change("x", entry("x"), entry("x", DIRECTORY))
    assert book.do("w1", new("x/y"), change).actions == [Remove("x", "w1"), Place("x/y", "w1")]
    back = Change("x", entry("x", DIRECTORY), entry("x"))
    assert book.do("w1", back, gone("x/y")).actions == [Remove("x/y", "w1"), Place("x", "w1")]


def test_a_worker_does_not_lose_a_directory_in_which_it_renames() -> None:
    book = Paper()
    book.do("w1", new("x/y"))
    book.do("w2", new("x"))
    assert book.do("w1", gone("x/y"), new("x/z")).actions == [Remove("x/y", "w1"), Place("x/z", "w1")]


def test_who_waited_for_a_name_gets_it_before_the_worker_that_released_it() -> None:
    book = Paper()
    book.do("w1", new("x/y"))
    book.do("w2", new("x"))
    result = book.do("w1", gone("x/y"), new("x"))
    assert result.actions == [Remove("x/y", "w1"), Place("x", "w2")]
    assert result.conflicts == [Conflict("x", "w1", "w2", "x")]


def test_names_that_only_begin_alike_do_not_exclude_each_other() -> None:
    book = Paper()
    result = book.do("w1", new("a"), new("a.b"), new("a-b/c"), new("ab/c"))
    assert len(result.actions) == 4


def test_conflicts_are_told_up_to_a_bound() -> None:
    book = Paper()
    files = [new(f"f{i:05}") for i in range(MAX_CONFLICTS + 1)]
    book.do("w1", *files)
    assert book.do("w2", *files[1:]).conflict_count == MAX_CONFLICTS
    result = book.do("w3", *files)
    assert (len(result.conflicts), result.conflict_count) == (MAX_CONFLICTS, MAX_CONFLICTS + 1)


def excludes(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


PATHS = ["x", "x/y", "x/y/z", "x/w", "a", "a/b", "x.y"]
STEPS = st.lists(st.tuples(st.sampled_from(["w1", "w2", "w3"]), st.sets(st.sampled_from(PATHS), max_size=4)), max_size=12)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_the_rules_hold_whatever_workers_do(steps: list[tuple[str, set[str]]]) -> None:
    book = Paper()
    has: dict[str, set[str]] = {"w1": set(), "w2": set(), "w3": set()}
    placed: dict[str, str] = {}
    for worker, wanted in steps:
        files = {path for path in wanted if not any(excludes(path, other) and path != other for other in wanted)}
        before = dict(book.owners)
        changes = [new(path) for path in files - has[worker]] + [gone(path) for path in has[worker] - files]
        result = book.do(worker, *changes)
        has[worker] = files
        for action in result.actions:
            if isinstance(action, Remove):
                assert placed.pop(action.path) == action.worker == worker
            else:
                assert not any(excludes(action.path, other) for other in placed)
                placed[action.path] = action.worker
        assert placed == book.owners
        for path, owner in before.items():
            assert path not in has[owner] or book.owners[path] == owner, "nobody loses what it has"
        for one, files in has.items():
            for path in files:
                assert (book.owner(path) == one) != (one in book.waiting(path))
        for path, queue in book.queues.items():
            assert all(path in has[one] for one in queue)
            assert any(excludes(path, owned) for owned in book.owners), "nobody waits for nothing"
