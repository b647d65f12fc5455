"""A version gets known listing by listing: only where it differs, in parts, and nothing that was not proven."""

from __future__ import annotations

import pytest
from treemodel import Tree, directory, file, manifest, tree

from zcluster.core.sync import walking
from zcluster.core.sync.entry import EMPTY_LISTING, Entry, Manifest, encode_listing, listing_digest
from zcluster.core.sync.rules import Rules
from zcluster.core.sync.walking import Walk
from zcluster.errors import PeerError, TooLarge
from zcluster.wire.trees import MAX_ITEMS

DIGEST = b"d" * 16


def files(*paths: str, content: str = "x") -> Tree:
    """A tree of these files."""
    return tree(*((path, file(path, content.ljust(16))) for path in paths))


def walk(theirs: Manifest, mine: Manifest | None = None, **rules: int) -> Walk:
    here = mine if mine is not None else {"": EMPTY_LISTING}
    return Walk(listing_digest(theirs[""]), here, listing_digest(here[""]), Rules(**rules))  # type: ignore[arg-type]


def beneath(theirs: Manifest, path: str) -> list[tuple[str, bytes]]:
    """What a deep question for ``path`` is answered with."""
    return [(each, theirs[each]) for each in sorted(theirs) if each == path or each.startswith(f"{path}/")]


def finish(it: Walk, theirs: Manifest) -> list[tuple[list[str], bool]]:
    """Answer all its questions; returns them."""
    questions = []
    while not it.complete:
        paths, deep = it.next_question()
        questions.append((paths, deep))
        it.add([each for path in paths for each in (beneath(theirs, path) if deep else [(path, theirs[path])])], True)
    return questions


def test_what_is_the_same_is_never_asked_for() -> None:
    theirs = manifest(files("a", "d/b"))
    assert walk(theirs, theirs).complete
    mine = manifest({**files("same/x", "other/y"), "other/y": file("y", "another one".ljust(16))})
    theirs = manifest(files("same/x", "other/y"))
    assert finish(walk(theirs, mine), theirs) == [([""], False), (["other"], False)]


def test_what_is_not_here_at_all_is_asked_for_with_all_beneath_and_first() -> None:
    theirs = manifest(files("new/a/b/c", "new/d/e", "old/x"))
    mine = manifest(files("old/y"))
    it = walk(theirs, mine)
    assert finish(it, theirs) == [([""], False), (["new"], True), (["old"], False)]
    assert it.theirs == theirs


def test_a_deep_answer_may_end_early_and_the_rest_is_asked_for() -> None:
    theirs = manifest(files("new/a/b", "new/c/d"))
    it = walk(theirs)
    it.add([("", theirs[""])], True)
    assert it.next_question() == (["new"], True)
    it.add([("new", theirs["new"]), ("new/a", theirs["new/a"])], True)
    assert it.next_question() == (["new/c"], True)
    it.add([("new/c", theirs["new/c"])], True)
    assert it.complete


@pytest.mark.parametrize("step", [1, 7, 1000])
@pytest.mark.parametrize("apart", [False, True])
def test_a_listing_may_come_in_parts_in_one_answer_or_many(step: int, apart: bool) -> None:
    theirs = manifest(files(*(f"file{number}" for number in range(9))))
    it, listing = walk(theirs), theirs[""]
    parts = [("", listing[start : start + step]) for start in range(0, len(listing), step)]
    if apart:
        for part in parts[:-1]:
            it.add([part], False)
            assert not it.complete
        it.add(parts[-1:], True)
    else:
        it.add(parts, True)
    assert it.complete
    assert it.theirs == theirs


def test_a_listing_is_whole_when_another_one_follows() -> None:
    theirs = manifest(files("new/a", "new/d/b"))
    it = walk(theirs)
    it.add([("", theirs[""])], True)
    it.add([("new", theirs["new"])], False)
    assert "new" not in it.theirs
    it.add([("new/d", theirs["new/d"])], False)
    assert "new" in it.theirs
    it.add([], True)
    assert it.complete


@pytest.mark.parametrize("end", [True, False], ids=["last", "before another"])
def test_a_listing_with_another_digest_is_refused(end: bool) -> None:
    theirs, forged = manifest(files("a")), manifest(files("a", content="y"))
    it = walk(theirs)
    with pytest.raises(PeerError, match="digest"):
        it.add([("", forged[""])] if end else [("", forged[""]), ("x", EMPTY_LISTING)], end)
    assert it.theirs == {}


def test_a_listing_that_lacks_its_last_part_is_refused() -> None:
    theirs = manifest(files("a", "b"))
    with pytest.raises(PeerError, match="digest"):
        walk(theirs).add([("", theirs[""][:-1])], True)


@pytest.mark.parametrize("path", ["x", "d", "a/b"])
def test_a_listing_that_nobody_needs_is_refused(path: str) -> None:
    theirs = manifest(files("a"))
    with pytest.raises(PeerError, match="nobody needs"):
        walk(theirs).add([(path, EMPTY_LISTING)], True)


@pytest.mark.parametrize("same", [False, True], ids=["twice", "same as here"])
def test_a_listing_that_is_known_is_refused(same: bool) -> None:
    theirs = manifest(files("a", "d/b", "e/c"))
    it = walk(theirs, manifest(files("d/b")) if same else None)
    it.add([("", theirs[""])], True)
    if not same:
        it.add([("d", theirs["d"])], True)
    with pytest.raises(PeerError, match="nobody needs"):
        it.add([("d", theirs["d"])], True)


@pytest.mark.parametrize("before", [0, 3])
def test_an_answer_with_nothing_is_refused_and_a_part_of_it_may_be(before: int) -> None:
    it = walk(manifest(files("a")))
    it.next_question()
    for _ in range(before):
        it.add([], False)
    with pytest.raises(PeerError, match="nothing"):
        it.add([], True)


def test_what_one_question_brought_does_not_excuse_the_next_one() -> None:
    theirs = manifest(files("d/a"))
    it = walk(theirs)
    it.next_question()
    it.add([("", theirs[""])], True)
    it.next_question()
    with pytest.raises(PeerError, match="nothing"):
        it.add([], True)


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_listing_is_bounded(beyond: int, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = manifest(files(*(f"file{number}" for number in range(9))))
    listing = theirs[""]
    monkeypatch.setattr(walking, "MAX_LISTING_BYTES", len(listing) - beyond)
    it = walk(theirs)
    it.add([("", listing[:10])], False)
    if beyond:
        with pytest.raises(PeerError, match="a listing of more than"):
            it.add([("", listing[10:])], True)
    else:
        it.add([("", listing[10:])], True)
        assert it.complete


@pytest.mark.parametrize("beyond", [0, 1])
def test_the_tree_s_own_bounds_hold_over_all_listings(beyond: int) -> None:
    theirs = manifest(files("a", "d/b", "d/c"))
    it = walk(theirs, max_files=3 - beyond)
    it.add([("", theirs[""])], True)
    if beyond:
        with pytest.raises(TooLarge, match="more than 2 files"):
            it.add([("d", theirs["d"])], True)
    else:
        it.add([("d", theirs["d"])], True)
        assert it.complete


def test_a_listing_that_says_that_it_has_too_many_entries_is_not_even_read() -> None:
    listing = b"\xdd\xff\xff\xff\xff"
    it = Walk(listing_digest(listing), {"": EMPTY_LISTING}, listing_digest(EMPTY_LISTING), Rules(max_files=10))
    with pytest.raises(TooLarge, match="more than"):
        it.add([("", listing)], True)


@pytest.mark.parametrize("name", ["..", ".zcluster", "a/b", "a\nb"])
def test_a_name_that_no_tree_may_have_is_refused_although_its_digest_is_right(name: str) -> None:
    listing = encode_listing([Entry(name, "f", 1, 0, 0o644, DIGEST)])
    with pytest.raises(PeerError, match="the source has"):
        walk({"": listing}).add([("", listing)], True)


@pytest.mark.parametrize("number", [MAX_ITEMS, MAX_ITEMS + 1])
def test_one_question_is_for_so_many_directories_at_most(number: int) -> None:
    theirs = manifest({f"d{index}": directory(f"d{index}") for index in range(number)})
    questions = finish(walk(theirs), theirs)
    assert [len(paths) for paths, _ in questions] == [1, MAX_ITEMS, 1][: 3 if number > MAX_ITEMS else 2]


@pytest.mark.parametrize(("room", "asked"), [(30, 3), (29, 2), (1, 1)])
def test_one_question_is_for_so_many_characters_at_most_and_never_for_none(
    room: int, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = manifest({f"directory{index}": directory(f"directory{index}") for index in range(3)})
    monkeypatch.setattr(walking, "MAX_PATH_CHARS", room)
    it = walk(theirs)
    it.add([("", theirs[""])], True)
    assert len(it.next_question()[0]) == asked
