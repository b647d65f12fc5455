"""``zcluster keys pending | accept | reject | request``, and ``keys export | import``, without a master."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zcluster.core.joining import Stranger
from zcluster.keys import KeyFile, Ring, fingerprint, generate
from zcluster.keys.pending import write_pending
from zcluster.process import OneProcess

KEYS = [generate().public for _ in range(2)]
MASTER = generate().public


@pytest.fixture
def home(tmp_path: Path, zcluster: Callable[..., Any]) -> Path:
    assert zcluster("keys", "init").code == 0
    write_pending(tmp_path / "home", [Stranger(key, "10.0.0.7", 1.0, 2.0, 3) for key in KEYS])
    return tmp_path / "home"


def pending(zcluster: Callable[..., Any]) -> list[str]:
    names: list[str] = zcluster("keys", "pending", "-o", "name").out.split()
    return names


def test_who_waits_is_shown_and_accepted_or_rejected_by_the_whole_fingerprint(home: Path, zcluster: Callable[..., Any]) -> None:
    first, second = (fingerprint(key) for key in KEYS)
    assert pending(zcluster) == [first, second]
    row = json.loads(zcluster("keys", "pending", "-o", "json").out)["items"][0]
    assert (row["address"], row["tries"], row["last_at"]) == ("10.0.0.7", 3, "1970-01-01T00:00:02+00:00")
    assert zcluster("keys", "accept", "w1", "--fingerprint", first[:-1]).code == 5
    ran = zcluster("keys", "accept", "w1", "--fingerprint", first, "-o", "json")
    assert ran.code == 0
    assert json.loads(ran.out)["role"] == "worker"
    assert Ring(home / "keys" / "ring.json").get("w1").public == KEYS[0]
    assert zcluster("keys", "reject", second).code == 0
    assert pending(zcluster) == []
    assert zcluster("keys", "accept", "w2", "--fingerprint", second).code == 5


def test_an_accepted_key_has_a_role_that_there_is(home: Path, zcluster: Callable[..., Any]) -> None:
    mark = fingerprint(KEYS[0])
    assert zcluster("keys", "accept", "w1", "--fingerprint", mark, "--role", "king").code == 2
    assert zcluster("keys", "accept", "all", "--fingerprint", mark).code == 2
    assert zcluster("keys", "accept", "c", "--fingerprint", mark, "--role", "client").code == 0


def test_a_request_makes_a_key_file_that_is_joining_and_says_what_to_do(tmp_path: Path, zcluster: Callable[..., Any]) -> None:
    words = ("--master", "tcp://m:7570", "--master-key", MASTER)
    ran = zcluster("keys", "request", *words, "--name", "w1", "-o", "json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    path = tmp_path / "home" / "keys" / "w1.key"
    key_file = KeyFile.read(path)
    assert (found["file"], found["fingerprint"]) == (str(path), fingerprint(key_file.pair.public))
    assert (key_file.joining, key_file.master_public, key_file.addresses) == (True, MASTER, ("tcp://m:7570",))
    assert f"zcluster keys accept w1 --fingerprint {found['fingerprint']} --role worker" in ran.err
    assert key_file.pair.secret not in f"{ran.out}{ran.err}"
    assert zcluster("keys", "request", *words, "--name", "w1").code == 2, "it replaces no key file"
    for wrong in (("--name", "all"), ("--role", "joiner"), ("--cluster", "a b"), ("--master", "http://x")):
        assert zcluster("keys", "request", *words, "--out", str(tmp_path / "x"), *wrong).code == 2
    assert not (tmp_path / "x").exists()


def test_to_join_needs_a_token_or_a_key_that_waits(zcluster: Callable[..., Any]) -> None:
    ran = zcluster("keys", "join")
    assert (ran.code, ran.out) == (2, "")
    assert "no token" in ran.err


@pytest.mark.parametrize("name", ["../x", "a b", "all", ""])
def test_a_joiner_wishes_for_a_name_that_there_can_be(home: Path, zcluster: Callable[..., Any], name: str) -> None:
    token = zcluster("token", "create", "--role", "client", "-o", "json").out
    ran = zcluster("keys", "join", json.loads(token)["token"], "--name", name)
    assert (ran.code, ran.out, list(home.rglob("x.key"))) == (2, "", [])


# -- a backup -----------------------------------------------------------------------------------------------------------


def test_a_backup_is_written_privately_and_restored_elsewhere(home: Path, zcluster: Callable[..., Any], tmp_path: Path) -> None:
    out, other = tmp_path / "backup", tmp_path / "other"
    assert zcluster("keys", "export", "--secrets").code == 2
    assert zcluster("keys", "export", "--secrets", "--out", str(out)).code == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert zcluster("keys", "export", "--secrets", "--out", str(out)).code == 2, "it replaces no file"
    ran = zcluster("keys", "import", str(out), "--home", str(other), "--dry-run", "-o", "json")
    assert json.loads(ran.out)["added"] == ["admin", "master"]
    assert not other.exists()
    assert zcluster("keys", "import", str(out), "--home", str(other)).code == 0
    assert KeyFile.read(other / "keys" / "master.key") == KeyFile.read(home / "keys" / "master.key")
    plain = zcluster("keys", "export").out
    assert json.loads(plain)["files"] == {}
    assert KeyFile.read(home / "keys" / "master.key").pair.secret not in plain


def test_nothing_is_lost_without_force(home: Path, zcluster: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "backup"
    zcluster("keys", "export", "--out", str(out))
    zcluster("keys", "new", "w", "--role", "worker")
    ran = zcluster("keys", "import", str(out))
    assert ran.code == 2
    assert "would lose what is there now: w" in ran.err
    assert "w" in Ring(home / "keys" / "ring.json").entries
    assert zcluster("keys", "import", str(out), "--force").code == 0
    assert "w" not in Ring(home / "keys" / "ring.json").entries


def test_nothing_is_imported_where_a_master_runs(home: Path, zcluster: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "backup"
    zcluster("keys", "export", "--out", str(out))
    lock = OneProcess(home / "run" / "master.lock")
    try:
        assert zcluster("keys", "import", str(out)).code == 2
        assert zcluster("keys", "import", str(out), "--dry-run").code == 0
    finally:
        lock.close()
