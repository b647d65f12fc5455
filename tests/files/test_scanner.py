"""One look at one directory: its raw rows, their signature, what is young, and digests that are exchanged in place."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcluster.core.sync.entry import Entry, encode_listing
from zcluster.core.sync.rules import Rules
from zcluster.files import rows as listing_rows
from zcluster.files.contents import COARSE_YOUNG_NS, YOUNG_NS, Hashing, is_young
from zcluster.files.held import parse_stats, with_digest
from zcluster.files.rows import Rows, read_rows
from zcluster.files.scanner import Known, compare

NOW_NS = 1_700_000_000_123_456_789


def rows_of(path: Path, *, at_root: bool = False, clock_ns: Callable[[], int] = lambda: NOW_NS) -> Rows:
    fd = os.open(path, os.O_RDONLY)
    try:
        return read_rows(fd, at_root=at_root, clock_ns=clock_ns)
    finally:
        os.close(fd)


def test_the_signature_changes_with_each_thing_that_stat_says(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"1")
    seen = {rows_of(tmp_path).signature()}

    def changed() -> bool:
        before = len(seen)
        seen.add(rows_of(tmp_path).signature())
        return len(seen) > before

    assert not changed()
    os.utime(path, ns=(0, 1))
    assert changed()
    path.chmod(0o600)
    assert changed()
    path.write_bytes(b"22")
    os.utime(path, ns=(0, 1))
    assert changed()
    path.rename(tmp_path / "g")
    assert changed()
    (tmp_path / "d").mkdir()
    assert changed()


def test_what_changes_beneath_a_directory_is_not_its_own_change(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    before = rows_of(tmp_path)
    (tmp_path / "d" / "f").write_bytes(b"1")
    os.utime(tmp_path / "d", ns=(0, 1))
    assert rows_of(tmp_path).signature() == before.signature()
    assert before.directories == ["d"]
    (tmp_path / "d").rename(tmp_path / "e")
    (tmp_path / "d").mkdir()
    (tmp_path / "e" / "f").unlink()
    (tmp_path / "e").rmdir()
    assert rows_of(tmp_path).signature() != before.signature()


def test_the_own_directory_is_hidden_at_the_root_only(tmp_path: Path) -> None:
    (tmp_path / ".zcluster").mkdir()
    assert rows_of(tmp_path, at_root=True).names == []
    assert rows_of(tmp_path).names == [".zcluster"]


def test_many_names_are_read_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_rows, "_BATCH", 3)
    for number in range(7):
        (tmp_path / f"{number}").write_bytes(b"1")
    rows = rows_of(tmp_path)
    assert sorted(rows.names) == [str(number) for number in range(7)]
    assert len(rows.packed) == 7 * 40


@given(st.lists(st.integers(-(2**70), 2**70), min_size=5, max_size=10))
def test_numbers_of_any_size_are_packed(numbers: list[int]) -> None:
    assert len(listing_rows._pack(numbers)) == 8 * len(numbers)


class Item:
    """An entry of a directory whose stat goes wrong."""

    def __init__(self, name: str, code: int) -> None:
        self.name = name
        self._code = code

    def stat(self, *, follow_symlinks: bool) -> os.stat_result:
        assert not follow_symlinks
        raise OSError(self._code, os.strerror(self._code))


class Found:
    """What os.scandir gives."""

    def __init__(self, *items: Item) -> None:
        self._items = iter(items)

    def __iter__(self) -> Iterator[Item]:
        return self._items

    def __enter__(self) -> Found:
        return self

    def __exit__(self, *_: object) -> None:
        self._items = iter(())


def test_a_name_that_goes_meanwhile_and_one_that_cannot_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Found(Item("gone", errno.ENOENT), Item("bad", errno.EIO))
    monkeypatch.setattr(os, "scandir", lambda _fd: found)
    rows = rows_of(tmp_path)
    assert rows.raced
    assert rows.failed == [("bad", os.strerror(errno.EIO))]
    old = Entry("bad", "f", 1, 2, 0o644, b"d" * 16)
    known = Known({"bad": (old, 3, 4), "gone": (Entry("gone", "f", 0, 0, 0o644, b"e" * 16), 5, 6)})
    look = compare("at", -1, rows, known, Rules(), Hashing("xxh3_128", lambda: NOW_NS))
    # What could not be looked at stays as it was; what is gone is gone, but the directory is looked at again.
    assert parse_stats(look.listing, look.stats) == {"bad": (old, 3, 4)}
    assert look.errors == [("at/bad", os.strerror(errno.EIO))]
    assert look.unsettled
    assert not look.complete


@pytest.mark.parametrize(
    ("stamp_ns", "young"),
    [
        (NOW_NS, True),
        (NOW_NS - YOUNG_NS, True),
        (NOW_NS - YOUNG_NS - 1, False),
        (NOW_NS + 5 + YOUNG_NS, True),
        (NOW_NS + 5 + YOUNG_NS + 1, False),
        (0, False),
    ],
)
def test_young(stamp_ns: int, young: bool) -> None:
    assert is_young(stamp_ns, NOW_NS, NOW_NS + 5) is young


def test_whole_seconds_are_young_for_longer() -> None:
    second_ns = 1_700_000_000_000_000_000
    assert is_young(second_ns, second_ns + COARSE_YOUNG_NS, second_ns + COARSE_YOUNG_NS)
    assert not is_young(second_ns, second_ns + COARSE_YOUNG_NS + 1, second_ns + COARSE_YOUNG_NS + 1)


DIGESTS = st.binary(min_size=32, max_size=32)
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=40)


@given(st.dictionaries(NAMES, st.tuples(st.integers(0, 0o777), DIGESTS), min_size=1, max_size=6), DIGESTS, st.data())
def test_a_digest_exchanged_in_place_is_as_if_encoded_anew(
    directories: dict[str, tuple[int, bytes]], new: bytes, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(directories)))

    def listing() -> bytes:
        return encode_listing(Entry(name, "d", 0, 0, mode, digest) for name, (mode, digest) in directories.items())

    before = listing()
    mode, old = directories[name]
    directories[name] = (mode, new)
    assert with_digest(before, name, old, new) == listing()
    assert with_digest(before, name + "?", old, new) == b""
    if old != new:
        assert with_digest(before, name, new, old) == b""


def test_what_looks_like_an_entry_within_a_digest_is_none() -> None:
    old, new = b"o" * 32, b"n" * 32
    forged = (b"\xa1b\xa1d\x00\x00\x01\xc4\x20" + old)[:32]
    entries = [Entry("a", "d", 0, 0, 0o755, forged), Entry("b", "d", 0, 0, 0o755, old)]
    changed = encode_listing([entries[0], Entry("b", "d", 0, 0, 0o755, new)])
    assert with_digest(encode_listing(entries), "b", old, new) == changed
