"""What a version changed, counted and listed in bounded memory."""

from __future__ import annotations

import random

import pytest

from zcluster.core.sync.classify import changes_between, differences
from zcluster.core.sync.entry import DIRECTORY, FILE, Entry, count_files, encode_listing, join, listing_digest


def manifest(files: dict[str, str]) -> dict[str, bytes]:
    """The manifest of these files, path to content."""
    children: dict[str, dict[str, str | None]] = {"": {}}
    for path, content in files.items():
        directory, _, name = path.rpartition("/")
        children.setdefault(directory, {})[name] = content
        while directory:
            above, _, name = directory.rpartition("/")
            children.setdefault(above, {})[name] = None
            directory = above
    listings: dict[str, bytes] = {}
    for path in sorted(children, key=lambda path: path.count("/") + bool(path), reverse=True):
        entries = []
        for name, content in children[path].items():
            if content is None:
                digest = listing_digest(listings[join(path, name)])
                entries.append(Entry(name, DIRECTORY, 0, 0, 0o755, digest))
            else:
                entries.append(Entry(name, FILE, len(content), 1, 0o644, content.encode().ljust(16, b"-")))
        listings[path] = encode_listing(entries)
    return listings


def some_files(random_: random.Random) -> dict[str, str]:
    names = ["a", "b", "c/d", "c/e", "c/f/g", "h/i", "h/j/k"]
    return {name: str(random_.randrange(3)) for name in names if random_.random() < 0.6}


@pytest.mark.parametrize("seed", range(200))
def test_they_are_what_comparing_finds(seed: int) -> None:
    random_ = random.Random(seed)
    before, after = manifest(some_files(random_)), manifest(some_files(random_))
    wanted = sorted(changes_between(before, after), key=lambda change: change.path)
    found = differences(before, after)
    assert found.changes == wanted
    assert (found.added, found.changed, found.removed) == count_files(wanted)


def test_too_many_are_counted_and_not_listed() -> None:
    before, after = manifest({}), manifest({f"d{n}/f{n}": "x" for n in range(5)})
    assert len(differences(before, after, max_listed=10).changes or []) == 10
    found = differences(before, after, max_listed=9)
    assert found.changes is None
    assert (found.added, found.changed, found.removed) == (5, 0, 0)
