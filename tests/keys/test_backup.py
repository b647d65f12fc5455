"""A backup of the keys: what is in it, what is refused, and what importing it does."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zcluster.config import Home
from zcluster.errors import InvalidKey
from zcluster.keys import KeyFile, Previous, Ring, generate, init_home, new_key
from zcluster.keys.backup import MAX_FILES, carry_out, decode_backup, export, plan, read_backup
from zcluster.keys.rotation import OwnKey, follow, forget_ended
from zcluster.keys.tokens import create_token

FILE = Path("backup.json")
LATER = "2999-01-01T00:00:00+00:00"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = init_home(tmp_path / "home", "prod", addresses=["tcp://m:7570"]).home
    new_key(made, "w1", "worker")
    return made


def taken(home: Home, secrets: bool = True) -> Any:
    return decode_backup(FILE, export(home, secrets))


def brought(home: Home, backup: Any) -> None:
    carry_out(home, plan(home, backup))


def test_a_home_is_the_same_on_another_machine(home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    planned = plan(other, taken(home))
    assert (planned.added, planned.loses) == (("admin", "master", "w1"), False)
    carry_out(other, planned)
    assert dict(Ring(other.ring_file).entries) == dict(Ring(home.ring_file).entries)
    for name in ("master", "admin", "w1"):
        assert KeyFile.read(other.key_file(name)) == KeyFile.read(home.key_file(name))
        assert stat.S_IMODE(other.key_file(name).stat().st_mode) == 0o600
    again = plan(other, taken(home))
    assert (again.added, again.changed, again.removed, dict(again.files)) == ((), (), (), {})


def test_without_secrets_there_is_none_in_it(home: Home) -> None:
    data = export(home, secrets=False)
    secrets = [KeyFile.read(path).pair.secret for path in home.keys_dir.glob("*.key")]
    assert len(secrets) == 3
    assert not any(secret in data.decode() for secret in secrets)
    backup = decode_backup(FILE, data)
    assert (set(backup.ring.entries), dict(backup.files)) == ({"admin", "master", "w1"}, {})
    whole = taken(home)
    assert not any(secret in f"{whole!r} {plan(home, whole)!r}" for secret in secrets)


def test_a_key_that_was_revoked_since_stays_revoked(home: Home) -> None:
    backup = taken(home)
    home.key_file("w1").unlink()
    Ring(home.ring_file).revoke("w1")
    planned = plan(home, backup)
    assert (planned.left_out, planned.added, dict(planned.files)) == (("w1",), (), {})
    carry_out(home, planned)
    ring = Ring(home.ring_file)
    assert "w1" not in ring.entries
    assert [each.name for each in ring.revoked] == ["w1"]
    assert not home.key_file("w1").exists()


def test_a_key_that_is_revoked_between_the_plan_and_its_end_stays_revoked(home: Home) -> None:
    planned = plan(home, taken(home))
    Ring(home.ring_file).revoke("w1")
    carry_out(home, planned)
    assert "w1" not in Ring(home.ring_file).entries


def test_what_the_backup_had_revoked_is_revoked_on_a_new_machine(home: Home, tmp_path: Path) -> None:
    public = Ring(home.ring_file).get("w1").public
    Ring(home.ring_file).revoke("w1")
    other = Home(tmp_path / "other")
    brought(other, taken(home))
    with pytest.raises(InvalidKey, match="was revoked"):
        Ring(other.ring_file).add("w1", "worker", public)


def test_a_key_that_was_rotated_since_keeps_its_newer_key(home: Home) -> None:
    backup = taken(home)
    ring, public = Ring(home.ring_file), generate().public
    old = ring.get("w1")
    new = replace(old, public=public, previous=(Previous(old.public, LATER),))
    ring.change(lambda content: (content._replace(entries={**content.entries, "w1": new}), None))
    planned = plan(home, backup)
    assert planned.changed == ()
    carry_out(home, planned)
    assert Ring(home.ring_file).get("w1") == new


def test_a_ring_that_is_older_than_the_backup_gets_the_newer_keys(home: Home) -> None:
    older = home.ring_file.read_bytes()
    ring, publics = Ring(home.ring_file), [generate().public for _ in range(2)]
    id_ = ring.get("w1").id
    for public in publics:
        follow(ring, id_, public, 1.0, 0.0)
        forget_ended(ring, 1e9)
        backup = taken(home)
        home.ring_file.write_bytes(older)
        brought(home, backup)
        assert Ring(home.ring_file).get("w1").public == public
        ring.load()


def test_a_key_file_that_was_rotated_since_keeps_its_newer_key(home: Home) -> None:
    backup = taken(home)
    own = OwnKey(KeyFile.read(home.master_key), home.master_key)
    public = own.begin()
    follow(Ring(home.ring_file), own.key_file.pair.public, public, 1.0, 0.0)
    own.finish(public)
    forget_ended(Ring(home.ring_file), 1e9)
    planned = plan(home, backup)
    assert (planned.loses, dict(planned.files)) == (False, {})
    carry_out(home, planned)
    kept = Ring(home.ring_file).by_public(KeyFile.read(home.master_key).pair.public)
    assert kept is not None, "a master with the older key could not start"
    assert kept.name == "master"


def test_a_key_that_was_rotated_and_revoked_since_does_not_come_back(home: Home) -> None:
    backup = taken(home)
    ring = Ring(home.ring_file)
    follow(ring, ring.get("w1").id, generate().public, 1.0, 0.0)
    forget_ended(ring, 1e9)
    ring.revoke("w1")
    planned = plan(home, backup)
    assert planned.left_out == ("w1",)
    carry_out(home, planned)
    assert "w1" not in Ring(home.ring_file).entries


def test_tokens_of_a_key_that_goes_go_with_it(home: Home) -> None:
    backup = taken(home)
    ring = Ring(home.ring_file)
    late = ring.add("late", "admin", generate().public)
    kept = [create_token(ring, "worker", ttl_s=60.0, creator=creator)[0].id for creator in ("", ring.get("admin").id)]
    create_token(ring, "worker", ttl_s=60.0, creator=late.id)
    brought(home, backup)
    assert sorted(Ring(home.ring_file).tokens) == sorted(kept)


def test_tokens_are_not_restored(home: Home) -> None:
    ring = Ring(home.ring_file)
    create_token(ring, "worker", ttl_s=60.0)
    backup = taken(home)
    ring.change(lambda content: (content._replace(tokens={}), None))
    mine, _pair = create_token(ring, "worker", ttl_s=60.0)
    brought(home, backup)
    assert set(Ring(home.ring_file).tokens) == {mine.id}


def test_what_would_be_lost_is_said(home: Home) -> None:
    backup = taken(home)
    new_key(home, "w2", "worker")
    home.key_file("w1").unlink()
    KeyFile.read(home.admin_key).for_other("w1", "worker", generate()).write(home.key_file("w1"))
    planned = plan(home, backup)
    assert planned.loses
    assert (planned.removed, planned.replaced) == (("w2",), ("w1",))
    carry_out(home, planned)
    assert set(Ring(home.ring_file).entries) == {"admin", "master", "w1"}
    assert KeyFile.read(home.key_file("w1")).pair.public == Ring(home.ring_file).get("w1").public


def test_an_import_that_was_killed_before_the_ring_is_completed_by_the_same_again(home: Home, tmp_path: Path) -> None:
    other, backup = Home(tmp_path / "other"), taken(home)
    planned = plan(other, backup)
    other.keys_dir.mkdir(parents=True)
    other.master_key.write_text(backup.files["master"])
    other.master_key.chmod(0o600)
    assert plan(other, backup).loses is False
    brought(other, backup)
    assert set(Ring(other.ring_file).entries) == set(planned.backup.ring.entries)


def broken(**fields: Any) -> bytes:
    good = {
        "what": "zcluster keys",
        "schema": 1,
        "made_at": LATER,
        "ring": {"schema": 1, "entries": [], "revoked": []},
        "files": {},
    }
    return json.dumps({name: value for name, value in {**good, **fields}.items() if value is not None}).encode()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no backup"),
        (broken(what="other"), "no backup"),
        (broken(files=None), "no backup"),
        (broken(more=1), "no backup"),
        (broken(schema=2), "another version"),
        (broken(schema=True), "another version"),
        (broken(made_at=5), "not a text"),
        (broken(ring=5), "not a ring"),
        (broken(ring={"schema": 1, "entries": [5], "revoked": []}), r"entries\[0\]"),
        (broken(files=[]), "not a table"),
        (broken(files={str(number): "" for number in range(MAX_FILES + 1)}), "at most 10000"),
        (broken(files={"../x": ""}), "expected a name"),
        (broken(files={"x": 5}), "not a text"),
        (broken(files={"x": "y" * 65_537}), "at most 65536 bytes"),
        (broken(files={"x": "secret = 5"}), "x.key: "),
    ],
)
def test_what_is_no_backup_is_refused_whole(home: Home, data: bytes, match: str) -> None:
    before = home.ring_file.read_bytes()
    with pytest.raises(InvalidKey, match=match):
        brought(home, decode_backup(FILE, data))
    assert home.ring_file.read_bytes() == before


def test_a_backup_that_others_may_read_is_refused(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "backup.json"
    path.write_bytes(export(home, secrets=True))
    path.chmod(0o640)
    with pytest.raises(InvalidKey, match="open to other users"):
        read_backup(path)
    with pytest.raises(InvalidKey, match="there is no file"):
        read_backup(tmp_path / "none")
    path.chmod(0o600)
    assert set(read_backup(path).files) == {"admin", "master", "w1"}
