"""``zcluster agent`` before it connects, and the keys of a fleet."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zcluster.agents import process
from zcluster.agents.lean import UNUSED, leave_out_unused
from zcluster.agents.process import AgentOptions, check_descriptors
from zcluster.cli.agent import fleet_keys, parse_labels
from zcluster.core.agents.row import MAX_LABEL_VALUE_CHARS, MAX_LABELS
from zcluster.errors import InvalidKey, UsageError
from zcluster.keys import KeyFile, Ring, new_keys


@pytest.fixture
def home(zcluster: Callable[..., Any], tmp_path: Path) -> Path:
    """A home that ``keys init`` has made."""
    assert zcluster("keys", "init", "--cluster", "lab").code == 0
    return tmp_path / "home"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, AgentOptions]]:
    """What would have been run."""
    found: list[tuple[Any, AgentOptions]] = []

    def record(keys: Any, options: AgentOptions) -> int:
        found.append((keys, options))
        return 0

    monkeypatch.setattr(process, "serve", record)
    monkeypatch.setattr(process, "simulate", record)
    return found


def test_labels_are_keys_and_values() -> None:
    assert parse_labels(("site=ber", "expr=a=b", "empty=")) == {"site": "ber", "expr": "a=b", "empty": ""}
    assert len(parse_labels(tuple(f"k{number}=v" for number in range(MAX_LABELS)))) == MAX_LABELS


@pytest.mark.parametrize(
    "words",
    [("site",), ("=x",), ("a b=x",), ("k=" + "x" * (MAX_LABEL_VALUE_CHARS + 1),), tuple(f"k{n}=" for n in range(MAX_LABELS + 1))],
)
def test_labels_beyond_their_bounds_are_usage_errors(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        parse_labels(words)


def test_one_agent_is_run_with_its_key(
    home: Path, zcluster: Callable[..., Any], served: list[tuple[Any, AgentOptions]], tmp_path: Path
) -> None:
    zcluster("keys", "new", "a1", "--role", "agent")
    key = str(home / "keys" / "a1.key")
    assert zcluster("agent", "--key", key, "--node", "tcp://n:1", "--label", "site=ber").code == 0
    assert zcluster("agent", "--key", key, "--state", str(tmp_path / "s"), "--files", str(tmp_path / "f")).code == 0
    (first, options), (_, placed) = served
    place = home / "data" / "agents" / "a1"
    assert first.key_file.name == "a1"
    assert (options.nodes, options.labels) == (("tcp://n:1",), {"site": "ber"})
    assert (options.state_dir, options.files_dir) == (place, place / "files")
    assert (placed.state_dir, placed.files_dir) == (tmp_path / "s", tmp_path / "f")


def test_what_is_missing_or_wrong_is_said(home: Path, zcluster: Callable[..., Any], served: list[Any], tmp_path: Path) -> None:
    zcluster("keys", "new", "c1", "--role", "client")
    zcluster("keys", "new", "a1", "--role", "agent")
    key = str(home / "keys" / "a1.key")
    for words, code, said in (
        ((), 2, "needs its key file"),
        (("--key", str(home / "keys" / "c1.key")), 4, "role agent"),
        (("--key", key, "--node", "nonsense"), 2, "nonsense"),
        (("--key", key, "--label", "x"), 2, "no label"),
        (("--key", key, "--keys", str(tmp_path)), 2, "--simulate"),
        (("--simulate", "2"), 2, "--keys"),
        (("--simulate", "2", "--keys", str(tmp_path / "none")), 2, "0 key files"),
    ):
        ran = zcluster("agent", *words)
        assert (ran.code, said in ran.err) == (code, True), (words, ran.err)
    assert served == []


def test_a_fleet_has_its_keys_made_in_one_change(
    home: Path, zcluster: Callable[..., Any], served: list[tuple[Any, AgentOptions]], tmp_path: Path
) -> None:
    out = tmp_path / "fleet"
    ran = zcluster("keys", "new", "--role", "agent", "--count", "3", "--prefix", "sim-", "--out", str(out), "-o", "json")
    assert json.loads(ran.out)["count"] == 3
    ring = Ring(home / "keys" / "ring.json")
    for name in ("sim-00001", "sim-00002", "sim-00003"):
        assert (out / f"{name}.key").stat().st_mode & 0o777 == 0o600
        assert ring.get(name).public == KeyFile.read(out / f"{name}.key").pair.public
        assert ring.get(name).role == "agent"
    assert zcluster("agent", "--simulate", "2", "--keys", str(out)).code == 0
    assert [key.name for key in served[0][0]] == ["sim-00001", "sim-00002"]
    with pytest.raises(UsageError):
        fleet_keys(4, out, None)


@pytest.mark.parametrize(
    "words",
    [
        ("x", "--count", "2"), ("--count", "2", "--prefix", "s-"), ("--prefix", "s-", "--out", "d"),
        ("--count", "2", "--out", "d"), (),
    ],
)  # fmt: skip
def test_many_keys_need_all_that_names_them(home: Path, zcluster: Callable[..., Any], words: tuple[str, ...]) -> None:
    assert zcluster("keys", "new", "--role", "agent", *words).code == 2


def test_many_keys_are_made_all_or_none(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "fleet"
    new_keys(home, "sim-", 2, "agent", out)
    before = (home / "keys" / "ring.json").read_bytes()
    with pytest.raises(InvalidKey):
        new_keys(home, "sim-", 3, "agent", tmp_path / "again")
    with pytest.raises(InvalidKey):
        new_keys(home, "other-", 2, "agent", out / "sim-00001.key")
    with pytest.raises(InvalidKey):
        new_keys(home, "bad name ", 2, "agent", out)
    assert list((tmp_path / "again").iterdir()) == []
    assert (home / "keys" / "ring.json").read_bytes() == before


def test_too_few_descriptors_are_said_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (100, 10_100))
    check_descriptors(5_000, monitored=False)
    with pytest.raises(UsageError, match="10102 file descriptors"):
        check_descriptors(5_001, monitored=False)
    with pytest.raises(UsageError):
        check_descriptors(5_000, monitored=True)


def test_a_process_that_has_its_libraries_already_is_left_alone() -> None:
    import sys

    before = {name: sys.modules.get(name) for name in UNUSED}
    leave_out_unused()
    assert {name: sys.modules.get(name) for name in UNUSED} == before
