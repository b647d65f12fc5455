"""Who changed the ring can tell whether a running master goes by it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from zcluster.keys import Ring, generate
from zcluster.keys.applied import forget_applied, is_applied, note_applied, wait_applied


def test_the_note_says_which_version_holds(tmp_path: Path) -> None:
    assert is_applied(tmp_path, 1) is None
    note_applied(tmp_path, 5)
    assert [is_applied(tmp_path, version) for version in (4, 5, 6)] == [True, True, False]
    note_applied(tmp_path, 6)
    assert is_applied(tmp_path, 6) is True
    assert [path.name for path in tmp_path.iterdir()] == ["ring.applied"], "it is replaced, and nothing is left over"
    forget_applied(tmp_path)
    forget_applied(tmp_path)
    assert is_applied(tmp_path, 6) is None


def test_each_change_of_the_ring_is_a_later_version(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "ring.json")
    versions = [ring.version]
    for name in ("a", "b"):
        ring.add(name, "worker", generate().public)
        versions.append(ring.version)
    ring.revoke("a")
    assert versions == sorted(set(versions))
    assert ring.version > versions[-1]
    assert Ring(tmp_path / "ring.json").version == ring.version, "whoever reads it"


def test_a_wait_ends_at_once_when_it_holds_or_nobody_is_there_and_else_in_time(tmp_path: Path) -> None:
    assert wait_applied(tmp_path, 1, timeout_s=60.0) is None
    note_applied(tmp_path, 1)
    assert wait_applied(tmp_path, 1, timeout_s=60.0) is True
    assert wait_applied(tmp_path, 2, timeout_s=0.0) is False


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "nonsense", '{"pid": "x", "version": 1}', '{"pid": 1e400, "version": 1}', '{"pid": [], "version": 1}'],
)
def test_what_is_no_note_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "ring.applied").write_text(text)
    assert is_applied(tmp_path, 1) is None


def test_the_note_of_a_process_that_is_gone_says_nothing(tmp_path: Path) -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    (tmp_path / "ring.applied").write_text(json.dumps({"pid": pid, "version": 9}))
    assert is_applied(tmp_path, 1) is None
