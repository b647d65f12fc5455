"""Any tree becomes any other one by what the core plans for it, also when a crash comes in between."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zcluster.core.sync.classify import classify
from zcluster.core.sync.entry import (
    DIRECTORY,
    FILE,
    LINK,
    Entry,
    content_digest,
    decode_listing,
    encode_listing,
    join,
    listing_digest,
)
from zcluster.core.sync.plan import make_plan
from zcluster.core.sync.rules import Rules
from zcluster.files import durable

RULES = Rules(symlinks="copy", exclude=("mine",))
NAMES = st.sampled_from(["a", "b", "Dir", "dir", "z"])


@dataclass(frozen=True)
class Leaf:
    """A file, or a link when it has a target."""

    data: bytes = b""
    target: str = ""
    mode: int = 0o644


LEAVES = st.builds(Leaf, st.sampled_from([b"", b"one", b"two"]), mode=st.sampled_from([0o644, 0o600])) | st.builds(
    lambda target: Leaf(target=target), st.sampled_from(["a", "b"])
)


def one_spelling(tree: dict[str, Any]) -> dict[str, Any]:
    """Names that differ by case only never stand side by side."""
    return {name: tree[name] for name in {name.casefold(): name for name in tree}.values()}


TREES = st.recursive(LEAVES, lambda inner: st.dictionaries(NAMES, inner, max_size=4).map(one_spelling), max_leaves=12).filter(
    lambda tree: isinstance(tree, dict)
)


def manifest_of(root: Path, directory: str = "") -> dict[str, bytes]:
    """What a source has, without what is not covered."""
    found: dict[str, bytes] = {}
    entries = []
    for item in os.scandir(root / directory):
        if item.name in (".zcluster", "mine"):
            continue
        info, path = item.stat(follow_symlinks=False), join(directory, item.name)
        if item.is_symlink():
            entries.append(Entry(item.name, LINK, 0, 0, 0, b"", os.readlink(item.path)))
        elif item.is_dir():
            found |= manifest_of(root, path)
            entries.append(Entry(item.name, DIRECTORY, 0, 0, stat.S_IMODE(info.st_mode), listing_digest(found[path])))
        else:
            data = Path(item.path).read_bytes()
            digest = content_digest("xxh3_128", data)
            entries.append(Entry(item.name, FILE, len(data), info.st_mtime_ns, stat.S_IMODE(info.st_mode), digest))
    found[directory] = encode_listing(entries)
    return found


def build(root: Path, tree: dict[str, Any]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, item in tree.items():
        if isinstance(item, dict):
            build(root / name, item)
        elif item.target:
            os.symlink(item.target, root / name)
        else:
            (root / name).write_bytes(item.data)
            (root / name).chmod(item.mode)
            os.utime(root / name, ns=(item.mode, item.mode))


def commit(bench: Any, treedir: Any, source: Path) -> list[tuple[str, str]]:
    """One version: what the source has, staged and committed; what could not be done."""
    theirs = manifest_of(source)
    plan = make_plan(classify(theirs, manifest_of(bench.root), RULES), RULES)
    fetch = [*plan.fetch, *((path, entry) for path, entry, _from in plan.copies)]
    staging = bench.staging(treedir)
    for path, entry in fetch:
        staging.put(path, entry, (source / path).read_bytes())
    for path, entry in plan.link:
        staging.put_link(path, entry)
    steps = {name: getattr(plan, name) for name in ("link", "touch", "make_dirs", "move_away", "delete_files", "delete_dirs")}
    applied = staging.commit(bench.steps(fetch=fetch, **steps), b"s")
    return [*applied.errors, *plan.blocked]


def names_of(manifest: dict[str, bytes]) -> set[str]:
    return {join(directory, entry.name) for directory, listing in manifest.items() for entry in decode_listing(listing)}


@given(TREES, TREES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_tree_becomes_any_other(
    tmp_path_factory: pytest.TempPathFactory, bench: Any, before: dict[str, Any], after: dict[str, Any]
) -> None:
    place = tmp_path_factory.mktemp("trees")
    bench.close()
    bench.root = place / "sink"
    build(bench.root, before)
    build(place / "source", after)
    treedir = bench.open()
    assert commit(bench, treedir, place / "source") == []
    assert manifest_of(bench.root) == manifest_of(place / "source")
    assert bench.staged() == []


class CutOff(BaseException):
    """Stands for a process that dies: nothing in between may catch it."""


@given(TREES, TREES, st.sampled_from(["journaled", "renaming", "renamed", "deleted", "state"]), st.integers(1, 4))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_cut_anywhere_comes_to_the_same_tree(
    tmp_path_factory: pytest.TempPathFactory, bench: Any, before: dict[str, Any], after: dict[str, Any], step: str, times: int
) -> None:
    place = tmp_path_factory.mktemp("trees")
    for name in ("whole", "cut"):
        build(place / name, before)
        (place / name / "mine").write_bytes(b"not covered")
    build(place / "source", after)
    bench.close()
    bench.root = place / "whole"
    commit(bench, bench.open(), place / "source")
    bench.close()
    bench.root = place / "cut"
    left = times

    def cut(reached: str) -> None:
        nonlocal left
        left -= reached == step
        if left == 0:
            raise CutOff

    treedir = bench.open()
    durable.crash_point = cut
    try:
        commit(bench, treedir, place / "source")
    except CutOff:
        pass
    finally:
        durable.crash_point = None
    bench.close()
    assert bench.open().state() == b"s"
    assert manifest_of(bench.root) == manifest_of(place / "whole")
    assert (bench.root / "mine").read_bytes() == b"not covered"
    assert names_of(manifest_of(bench.root)) == names_of(manifest_of(place / "whole"))
    assert bench.staged() == []
