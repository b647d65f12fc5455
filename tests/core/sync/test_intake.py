"""What a listing may say: each thing that it may not is refused, at its limit and one beyond."""

from __future__ import annotations

from typing import Any

import pytest

from zcluster.core.sync import intake as module
from zcluster.core.sync import walking
from zcluster.core.sync.entry import DIRECTORY, FILE, LINK, Change, Entry, encode_listing, listing_count, listing_digest
from zcluster.core.sync.intake import Intake, check_totals
from zcluster.core.sync.paths import MAX_DEPTH, MAX_PATH_BYTES
from zcluster.core.sync.rules import Rules
from zcluster.core.sync.walking import Walk
from zcluster.errors import PeerError, TooLarge

SMALL = Rules(max_file_bytes=100, max_files=3, max_bytes=200)


def a_file(name: str = "f", **other: Any) -> Entry:
    fields: dict[str, Any] = {"size": 1, "mtime_ns": 1, "mode": 0o644, "digest": bytes(16), "target": ""}
    return Entry(name=name, kind=FILE, **{**fields, **other})


def a_directory(name: str = "d", **other: Any) -> Entry:
    fields: dict[str, Any] = {"size": 0, "mtime_ns": 0, "mode": 0o755, "digest": bytes(32), "target": ""}
    return Entry(name=name, kind=DIRECTORY, **{**fields, **other})


def a_link(name: str = "l", target: str = "f", **other: Any) -> Entry:
    fields: dict[str, Any] = {"size": 0, "mtime_ns": 0, "mode": 0, "digest": b""}
    return Entry(name=name, kind=LINK, target=target, **{**fields, **other})


def test_an_ordinary_listing_is_fine() -> None:
    intake = Intake(Rules(symlinks="copy"))
    intake.add("", [a_directory(), a_file(), a_link()])
    intake.add("d", [a_file("g", size=5)])
    assert (intake.files, intake.bytes) == (3, 6)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (a_file(".."), "component"),
        (a_file("a/b"), "'/'"),
        (a_file("a\0"), "control"),
        (a_file("a\udc80"), "UTF-8"),
        (a_file(".zcluster"), "own"),
        (a_file("con"), "Windows"),
        (a_file(digest=bytes(15)), "not a file's"),
        (a_file(digest=bytes(32)), "not a file's"),
        (a_file(target="x"), "not a file's"),
        (a_directory(digest=bytes(16)), "not a directory's"),
        (a_directory(size=1), "not a directory's"),
        (a_directory(mtime_ns=1), "not a directory's"),
        (a_directory(target="x"), "not a directory's"),
        (a_link(size=1), "not a link's"),
        (a_link(digest=bytes(16)), "not a link's"),
        (a_link(mode=0o777), "not a link's"),
        (a_link(target="/etc"), "absolute"),
        (a_link(target="../../x"), "outside"),
        (a_link(target=""), "empty"),
    ],
    ids=repr,
)
def test_what_no_tree_may_have_is_refused(entry: Entry, words: str) -> None:
    with pytest.raises(PeerError, match=words):
        Intake(Rules(symlinks="copy")).add("d", [entry])
    if entry.name.isprintable() and "/" not in entry.name:
        with pytest.raises(PeerError, match=words):
            Intake(Rules(symlinks="copy")).change(Change(f"d/{entry.name}", None, entry))


def test_links_are_refused_where_the_tree_has_none() -> None:
    with pytest.raises(PeerError, match="has none"):
        Intake(Rules()).add("", [a_link()])


def test_an_up_tree_takes_its_own_hash_only() -> None:
    rules = Rules(hash="blake2b_256")
    Intake(rules).add("", [a_file(digest=bytes(32))])
    with pytest.raises(PeerError):
        Intake(rules).add("", [a_file()])


def test_names_that_differ_by_case_only_are_refused() -> None:
    with pytest.raises(PeerError, match="case"):
        Intake(Rules()).add("", [a_file("A"), a_file("b"), a_directory("a")])


def test_depth_and_length_are_bounded() -> None:
    deep = "/".join("d" * (MAX_DEPTH - 1))
    Intake(Rules()).add(deep, [a_file()])
    Intake(Rules()).add(f"{deep}/d", [])
    with pytest.raises(PeerError, match="levels"):
        Intake(Rules()).add(f"{deep}/d", [a_file()])
    for char, size in (("x", 1), ("\xe4", 2)):
        long = "/".join(["d" * 200] * 20)
        room = MAX_PATH_BYTES - len(long) - 1
        name = char * (room // size) + "y" * (room % size)
        Intake(Rules()).add(long, [a_file(name)])
        with pytest.raises(PeerError, match="bytes"):
            Intake(Rules()).add(long, [a_file(name + "y")])


def test_sizes_and_counts_are_bounded_by_the_rules() -> None:
    intake = Intake(SMALL)
    intake.add("", [a_file("a", size=100), a_file("b", size=100)])
    intake.add("d", [a_file("c", size=0)])
    with pytest.raises(TooLarge, match="more than 3 files"):
        intake.add("e", [a_file("d", size=0)])
    with pytest.raises(TooLarge, match="at most 100"):
        Intake(SMALL).add("", [a_file(size=101)])
    with pytest.raises(TooLarge, match="more than 200 bytes"):
        Intake(SMALL).add("", [a_file("a", size=100), a_file("b", size=100), a_file("c", size=1)])


def test_directories_are_bounded() -> None:
    intake = Intake(SMALL)
    intake.add("", [a_directory(f"d{number}") for number in range(module.MIN_DIRECTORIES)])
    with pytest.raises(TooLarge, match="directories"):
        intake.add("d0", [a_directory()])


def test_a_manifest_of_ten_million_entries_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.MAX_ENTRIES < 10_000_000
    monkeypatch.setattr(module, "MAX_ENTRIES", 10)
    intake = Intake(Rules())
    intake.add("", [a_file(str(number)) for number in range(10)])
    with pytest.raises(TooLarge):
        intake.add("d", [a_file()])


def test_the_bytes_of_listings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_HELD_BYTES", 1)
    rules = Rules(max_files=4, symlinks="copy")
    intake = Intake(rules)
    target = "t/" * 970
    intake.add("", [a_link(target=target)])
    with pytest.raises(TooLarge, match="manifest"):
        intake.add("d", [a_link(target="x")])


def test_what_intake_keeps_does_not_grow() -> None:
    intake = Intake(Rules())
    before = len(vars(intake))
    for number in range(100):
        intake.add(f"d{number}", [a_file(f"f{each}") for each in range(10)])
    assert len(vars(intake)) == before
    assert all(isinstance(value, int | Rules) for value in vars(intake).values())


@pytest.mark.parametrize(
    "change",
    [
        Change("../x", None, a_file("x")),
        Change("/x", None, a_file("x")),
        Change("a//x", None, a_file("x")),
        Change("a/.zcluster/x", None, a_file("x")),
        Change("a/x", None, a_file("y")),
        Change("a/x", a_file("y"), None),
        Change("a/x", None, None),
        Change("", None, a_file("x")),
        Change("../../etc/passwd", a_file("passwd"), None),
    ],
    ids=repr,
)
def test_a_change_names_its_own_path(change: Change) -> None:
    with pytest.raises(PeerError):
        Intake(Rules()).change(change)


def test_changes_are_bounded_as_listings_are() -> None:
    intake = Intake(SMALL)
    for name in "abc":
        intake.change(Change(f"d/{name}", a_file(name, size=1000), a_file(name)))
    with pytest.raises(TooLarge):
        intake.change(Change("d/e", None, a_file("e")))
    with pytest.raises(TooLarge):
        Intake(SMALL).change(Change("x", None, a_file("x", size=101)))
    Intake(SMALL).change(Change("x", a_file("x", size=101), None))


def test_the_totals_of_a_copy_are_bounded() -> None:
    check_totals(SMALL, 3, 200)
    check_totals(Rules(), 10**9, 10**15)
    with pytest.raises(TooLarge):
        check_totals(SMALL, 4, 200)
    with pytest.raises(TooLarge):
        check_totals(SMALL, 3, 201)


def test_a_refusal_names_the_path_in_bounded_words() -> None:
    with pytest.raises(PeerError) as caught:
        Intake(Rules()).add("/".join(["d" * 250] * 15), [a_file("con")])
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("beyond", [False, True])
def test_the_entries_of_a_directory_are_counted_before_they_are_made(beyond: bool) -> None:
    intake = Intake(SMALL)
    intake.add("", [a_file(), a_directory()])
    count = 3 + module.MIN_DIRECTORIES - 2 + beyond
    if not beyond:
        intake.expect("d", count)
        return
    with pytest.raises(TooLarge, match="more than 1027 files and directories"):
        intake.expect("d", count)


@pytest.mark.parametrize("count", [0, 15, 16, 65_535, 65_536])
def test_a_listing_tells_its_count_by_its_head(count: int) -> None:
    assert listing_count(encode_listing(a_file(f"{index:05}") for index in range(count))) == count


@pytest.mark.parametrize("data", [b"", b"\xc0", b"\x81", b"\xdd\xff\xff\xff\xff"])
def test_a_listing_that_is_none_or_claims_much_makes_nothing(data: bytes) -> None:
    assert listing_count(data) == (2**32 - 1 if data[:1] == b"\xdd" else 0)


def test_a_flat_directory_beyond_the_limits_is_refused_before_its_entries_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000,000 entries of one directory are refused in the memory of their listing."""
    listing = encode_listing(a_file(f"{index:05}") for index in range(3 + module.MIN_DIRECTORIES + 1))

    def make(*_: object) -> list[Entry]:
        raise AssertionError("its entries are made")

    monkeypatch.setattr(walking, "checked_listing", make)
    walk = Walk(listing_digest(listing), {}, b"", SMALL)
    with pytest.raises(TooLarge, match="more than 1027"):
        walk.add([("", listing)], last=True)
