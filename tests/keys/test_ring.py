"""The ring: what it admits, what it refuses, how it is saved and read again."""

from __future__ import annotations

import itertools
import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from zcluster.errors import Busy, InvalidKey, NoSuchKey
from zcluster.keys import Entry, NewKey, Previous, Ring, generate
from zcluster.keys.private import locked
from zcluster.keys.ringfile import Content, encode_ring

KEYS = [generate().public for _ in range(8)]
AT = "2024-01-01T00:00:00+00:00"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ring.json"


def entries_of(path: Path) -> list[tuple[str, str, str]]:
    return [(entry.name, entry.role, entry.public) for entry in Ring(path).entries.values()]


def test_a_missing_file_is_an_empty_ring(path: Path) -> None:
    ring = Ring(path)
    assert dict(ring.entries) == {}
    assert ring.by_public(KEYS[0]) is None
    assert not ring.changed()
    assert not ring.reload_if_changed()
    ring.load()
    assert os.listdir(path.parent) == []


def test_an_added_key_is_found_by_name_and_by_public_key(path: Path) -> None:
    ring = Ring(path)
    entry = ring.add("worker-1", "worker", KEYS[0])
    assert (entry.name, entry.role, entry.public) == ("worker-1", "worker", KEYS[0])
    assert entry.created_at.endswith("+00:00")
    for each in (ring, Ring(path)):
        assert each.get("worker-1") == each.by_public(KEYS[0]) == entry
        assert each.by_public(KEYS[1]) is None
        assert not each.changed()


def test_the_file_is_private_and_readable_json(path: Path) -> None:
    Ring(path).add("b", "worker", KEYS[0])
    Ring(path).add("a", "client", KEYS[1])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    document = json.loads(path.read_bytes())
    assert document["schema"] == 2
    assert [entry["name"] for entry in document["entries"]] == ["a", "b"]
    assert set(document["entries"][0]) == {"name", "role", "public", "created_at", "id", "previous", "token", "rotate_s"}
    assert sorted(os.listdir(path.parent)) == ["ring.json", "ring.json.lock"]


def test_the_entries_cannot_be_changed_from_outside(path: Path) -> None:
    with pytest.raises(TypeError):
        Ring(path).entries["x"] = Entry("x", "admin", KEYS[0], AT)  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "role", "public", "match"),
    [
        ("worker-1", "worker", KEYS[1], "has a key 'worker-1' already"),
        ("other", "worker", KEYS[0], "in the ring already: the key 'worker-1' has it"),
        ("all", "worker", KEYS[1], "reserved"),
        ("any", "worker", KEYS[1], "reserved"),
        ("-x", "worker", KEYS[1], "expected a name"),
        (".x", "worker", KEYS[1], "expected a name"),
        ("x" * 65, "worker", KEYS[1], "expected a name"),
        ("master", "worker", KEYS[1], "only for a key of role master"),
        ("x", "joiner", KEYS[1], "unknown role 'joiner'"),
        ("x", "-boss", KEYS[1], "unknown role '-boss'"),
        ("x", "worker", "short", "40 characters"),
    ],
    ids=itertools.count(),
)
def test_what_cannot_be_added_changes_nothing(path: Path, name: str, role: str, public: str, match: str) -> None:
    ring = Ring(path)
    ring.add("worker-1", "worker", KEYS[0])
    before = path.read_bytes()
    with pytest.raises(InvalidKey, match=match):
        ring.add(name, role, public)
    assert path.read_bytes() == before
    assert list(ring.entries) == ["worker-1"]


def test_the_name_master_is_for_a_master(path: Path) -> None:
    assert Ring(path).add("master", "master", KEYS[0]).name == "master"


def test_many_are_added_all_or_none(path: Path) -> None:
    ring = Ring(path)
    with pytest.raises(InvalidKey, match="the key 'a' has it"):
        ring.add_many([NewKey("a", "worker", KEYS[0]), NewKey("b", "worker", KEYS[0])])
    with pytest.raises(InvalidKey, match="has a key 'a' already"):
        ring.add_many([NewKey("a", "worker", KEYS[0]), NewKey("a", "worker", KEYS[1])])
    assert not path.exists()
    assert len(ring.add_many(NewKey(f"w{index}", "worker", key) for index, key in enumerate(KEYS))) == len(KEYS)
    assert len(Ring(path).entries) == len(KEYS)


def test_the_ring_is_bounded(path: Path) -> None:
    ring = Ring(path, max_entries=2)
    ring.add("a", "worker", KEYS[0])
    ring.add("b", "worker", KEYS[1])
    with pytest.raises(InvalidKey, match="the ring is full: it holds 2 keys"):
        ring.add("c", "worker", KEYS[2])
    ring.revoke("a")
    ring.add("c", "worker", KEYS[2])
    Ring(path).add("d", "worker", KEYS[3])
    with pytest.raises(InvalidKey, match="more than 2 keys"):
        ring.reload_if_changed()
    assert set(ring.entries) == {"b", "c"}


def test_a_revoked_key_is_out_at_once_and_remembered(path: Path) -> None:
    ring = Ring(path)
    ring.add("w", "worker", KEYS[0])
    record = ring.revoke("w")
    assert (record.name, record.role, record.public) == ("w", "worker", KEYS[0])
    for each in (ring, Ring(path)):
        assert each.by_public(KEYS[0]) is None
        assert dict(each.entries) == {}
        assert each.revocations("w") == [record] == list(each.revoked)
        with pytest.raises(NoSuchKey, match=rf"was revoked at {record.revoked_at[:10]}"):
            each.get("w")


def test_a_revoked_public_key_never_returns_but_its_name_may(path: Path) -> None:
    ring = Ring(path)
    ring.add("w", "worker", KEYS[0])
    ring.revoke("w")
    for name in ("w", "other"):
        with pytest.raises(InvalidKey, match=r"was revoked at .* \(it was 'w'\)"):
            ring.add(name, "worker", KEYS[0])
    assert ring.add("w", "client", KEYS[1]).role == "client"
    assert ring.get("w").public == KEYS[1]
    assert len(ring.revocations("w")) == 1


def test_the_record_of_revoked_keys_is_bounded_and_drops_the_oldest(path: Path) -> None:
    ring = Ring(path, max_revoked=2)
    for index in range(3):
        ring.add(f"w{index}", "worker", KEYS[index])
        ring.revoke(f"w{index}")
    assert [each.name for each in ring.revoked] == ["w1", "w2"]
    assert [each.name for each in Ring(path).revoked] == ["w1", "w2"]
    assert [each.name for each in Ring(path, max_revoked=1).revoked] == ["w2"]


def test_an_unknown_key_names_the_nearest(path: Path) -> None:
    ring = Ring(path)
    ring.add("worker-1", "worker", KEYS[0])
    with pytest.raises(NoSuchKey, match="'wroker-1'") as caught:
        ring.revoke("wroker-1")
    assert caught.value.hint == "did you mean 'worker-1'?"
    with pytest.raises(NoSuchKey) as caught:
        ring.get("zzz")
    assert "keys ls" in caught.value.hint


def test_a_key_is_renamed_with_its_role_and_time(path: Path) -> None:
    ring = Ring(path)
    old = ring.add("w", "worker", KEYS[0])
    ring.add("x", "worker", KEYS[1])
    assert ring.rename("w", "y") == Entry("y", "worker", KEYS[0], old.created_at)
    assert sorted(Ring(path).entries) == ["x", "y"]
    for bad in ("x", "all", "master"):
        with pytest.raises(InvalidKey):
            ring.rename("y", bad)
    with pytest.raises(NoSuchKey):
        ring.rename("w", "z")
    assert ring.by_public(KEYS[0]) == ring.get("y")


def test_taking_back_leaves_no_trace_and_only_of_that_entry(path: Path) -> None:
    ring = Ring(path)
    entry = ring.add("w", "worker", KEYS[0])
    ring.take_back(entry)
    assert (dict(ring.entries), ring.revoked) == ({}, ())
    other = ring.add("w", "worker", KEYS[1])
    ring.take_back(entry)
    assert ring.get("w") == other
    assert ring.add("v", "worker", KEYS[0])


def test_two_rings_on_one_file_see_each_others_changes(path: Path) -> None:
    one, two = Ring(path), Ring(path)
    one.add("a", "worker", KEYS[0])
    assert two.changed()
    two.add("b", "worker", KEYS[1])
    assert sorted(two.entries) == ["a", "b"]
    assert one.reload_if_changed()
    assert sorted(one.entries) == ["a", "b"]
    assert not one.reload_if_changed()
    two.revoke("a")
    with pytest.raises(InvalidKey, match="was revoked"):
        one.add("c", "worker", KEYS[0])
    assert one.by_public(KEYS[0]) is None


def test_every_save_changes_the_time_even_when_the_clock_stands_still(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcluster.keys.ring.time.time_ns", lambda: 1_700_000_000_000_000_000)
    ring, reader = Ring(path), Ring(path)
    times = []
    for key in KEYS:
        # the same size each time: only the time and the inode can tell
        ring.add("w", "worker", key)
        times.append(path.stat().st_mtime_ns)
        assert reader.reload_if_changed()
        assert reader.get("w").public == key
        ring.take_back(ring.get("w"))
    assert times == sorted(set(times))


def test_a_locked_ring_is_busy_and_unchanged(path: Path) -> None:
    ring = Ring(path, lock_wait_s=0)
    ring.add("w", "worker", KEYS[0])
    with locked(path.with_name("ring.json.lock")):
        for change in (lambda: ring.add("x", "worker", KEYS[1]), lambda: ring.revoke("w"), lambda: ring.rename("w", "x")):
            with pytest.raises(Busy):
                change()
    assert list(ring.entries) == ["w"]
    ring.add("x", "worker", KEYS[1])


def test_a_failing_save_leaves_the_file_and_the_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Ring(path)
    ring.add("w", "worker", KEYS[0])
    before = path.read_bytes()

    def fail(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(InvalidKey, match="No space left"):
            ring.revoke("w")
    assert path.read_bytes() == before
    assert ring.by_public(KEYS[0]) is not None
    assert not ring.changed()
    assert ring.revoke("w").name == "w"


GOOD = {"name": "w", "role": "worker", "public": KEYS[0], "created_at": AT}
GONE = {"name": "w", "role": "worker", "public": KEYS[0], "revoked_at": AT}


def document(entries: object, revoked: object, schema: object = 1) -> bytes:
    return json.dumps({"schema": schema, "entries": entries, "revoked": revoked}).encode()


BROKEN = {
    "empty": (b"", "not JSON"),
    "half": (document([GOOD], [])[:-20], "not JSON"),
    "binary": (b"\xff\xfe", "not JSON"),
    "deep": (b"[" * 200000, "not JSON"),
    "list": (b"[]", "not a ring of schema 1 or 2"),
    "schema": (document([], [], 3), "not a ring of schema 1 or 2"),
    "no entries": (b'{"schema": 1, "revoked": []}', "entries is not a list"),
    "no revoked": (b'{"schema": 1, "entries": []}', "revoked is not a list"),
    "no dict": (document([1], []), r"entries\[0\] does not have exactly"),
    "missing": (document([{"name": "w"}], []), r"entries\[0\] does not have exactly the fields name, role, public, created_at"),
    "extra": (document([GOOD | {"expires": "x"}], []), r"entries\[0\] does not have exactly"),
    "type": (document([GOOD | {"name": 5}], []), r"entries\[0\]: name is not a text"),
    "name": (document([GOOD | {"name": "all"}], []), r"entries\[0\]: the name 'all' is reserved"),
    "role": (document([GOOD | {"role": "joiner"}], []), r"entries\[0\]: unknown role"),
    "public": (document([GOOD | {"public": "x"}], []), r"entries\[0\]: a public key has 40"),
    "time": (document([GOOD | {"created_at": "x" * 41}], []), "created_at is not a time"),
    "master": (document([GOOD | {"name": "master"}], []), "only for a key of role master"),
    "names": (document([GOOD, GOOD | {"public": KEYS[1]}], []), "two keys are called 'w'"),
    "publics": (document([GOOD, GOOD | {"name": "v"}], []), "'v' has the public key of 'w'"),
    "revoked": (document([GOOD | {"name": "v"}], [GONE]), "'v' has the public key of the revoked 'w'"),
    "revoked type": (document([], [GOOD]), r"revoked\[0\] does not have exactly"),
}


GOOD_2 = GOOD | {"id": KEYS[0], "previous": [[KEYS[1], AT]], "token": "", "rotate_s": 0}
TOKEN = {
    "id": "a1b2c3d4e5f6", "public": KEYS[2], "role": "worker", "name": "", "uses_left": 1, "created_at": AT, "expires_at": AT,
    "creator": KEYS[0], "revoked_at": "",
}  # fmt: skip


def document_2(entries: object = (), revoked: object = (), tokens: object = (), rejected: object = ()) -> bytes:
    lists = {"entries": entries, "revoked": revoked, "tokens": tokens, "rejected": rejected}
    return json.dumps({"schema": 2, **lists}).encode()


BROKEN |= {
    "fields of 1": (document_2([GOOD]), "exactly the fields name, role, public, created_at, id, previous, token"),
    "previous": (document_2([GOOD_2 | {"previous": [[KEYS[1]]]}]), r"entries\[0\]: previous does not have a key and a time"),
    "until": (document_2([GOOD_2 | {"previous": [[KEYS[1], "soon"]]}]), "'soon' is not a time"),
    "zone": (document_2([GOOD_2 | {"previous": [[KEYS[1], "2024-01-01"]]}]), "without a time zone"),
    "many previous": (document_2([GOOD_2 | {"previous": [[key, AT] for key in KEYS[1:6]]}]), "a list of at most 4"),
    "own previous": (document_2([GOOD_2 | {"previous": [[KEYS[0], AT]]}]), "'w' has the public key of 'w'"),
    "ids": (document_2([GOOD_2, GOOD_2 | {"name": "v", "public": KEYS[3], "previous": []}]), "'v' has the id of 'w'"),
    "another's first": (
        document_2([GOOD_2 | {"public": KEYS[3]}, GOOD_2 | {"name": "v", "id": KEYS[4], "previous": []}]),
        "'v' has the first public key of 'w'",
    ),
    "token of entry": (document_2([GOOD_2 | {"token": "?"}]), "not what a token's id looks like"),
    "no tokens": (b'{"schema": 2, "entries": [], "revoked": []}', "tokens is not a list"),
    "uses": (document_2(tokens=[TOKEN | {"uses_left": 10_001}]), r"tokens\[0\]: uses_left is not a number from 0 to 10000"),
    "bool uses": (document_2(tokens=[TOKEN | {"uses_left": True}]), "uses_left is not a number"),
    "no id": (document_2(tokens=[TOKEN | {"id": ""}]), "a token without an id"),
    "two tokens": (document_2(tokens=[TOKEN, TOKEN | {"public": KEYS[3]}]), "two tokens have one id"),
    "token's key": (document_2([GOOD_2], tokens=[TOKEN | {"public": KEYS[1]}]), "has the public key of 'w'"),
    "expires": (document_2(tokens=[TOKEN | {"expires_at": ""}]), "'' is not a time"),
    "many tokens": (document_2(tokens=[TOKEN] * 1_001), "1001 tokens, at most 1000"),
    "rejected": (document_2(rejected=[{"public": "x", "rejected_at": AT}]), r"rejected\[0\]: a public key has 40"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_an_error_and_the_old_content_stays(path: Path, case: str) -> None:
    data, match = BROKEN[case]
    ring = Ring(path)
    ring.add("old", "worker", KEYS[7])
    path.write_bytes(data)
    with pytest.raises(InvalidKey, match=match) as caught:
        ring.reload_if_changed()
    assert str(path) in caught.value.message
    assert ring.by_public(KEYS[7]) is not None
    assert not ring.reload_if_changed(), "it is told once, and not read again until it changes"
    with pytest.raises(InvalidKey, match=match):
        ring.add("new", "worker", KEYS[6])
    assert path.read_bytes() == data, "a broken ring is never overwritten"
    with pytest.raises(InvalidKey, match=match):
        Ring(path)
    path.write_bytes(document([GOOD], []))
    assert ring.reload_if_changed()
    assert list(ring.entries) == ["w"]


def test_a_ring_that_is_gone_is_an_error_and_is_not_made_anew(path: Path) -> None:
    ring = Ring(path)
    ring.add("w", "worker", KEYS[0])
    path.unlink()
    for change in (ring.reload_if_changed, lambda: ring.add("x", "worker", KEYS[1])):
        with pytest.raises(InvalidKey, match="is gone"):
            change()
    assert ring.by_public(KEYS[0]) is not None
    assert not path.exists()
    assert not ring.reload_if_changed()
    Ring(path).add("y", "worker", KEYS[2])
    assert ring.reload_if_changed()
    assert list(ring.entries) == ["y"]


def test_a_ring_that_others_may_write_is_refused(path: Path) -> None:
    reader = Ring(path)
    reader.add("w", "worker", KEYS[0])
    path.chmod(0o620)
    with pytest.raises(InvalidKey, match="open to other users"):
        Ring(path)
    with pytest.raises(InvalidKey, match="open to other users"):
        reader.reload_if_changed()
    assert not reader.reload_if_changed()
    path.chmod(0o644)
    assert reader.reload_if_changed(), "a repaired mode is a change"
    assert "w" in Ring(path).entries


def test_a_ring_that_cannot_be_looked_at_is_an_error_and_not_an_empty_ring(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidKey, match="cannot read"):
        Ring(tmp_path / "file" / "ring.json")


def test_a_file_edited_by_hand_is_read(path: Path) -> None:
    ring = Ring(path)
    ring.add("w", "worker", KEYS[0])
    path.write_bytes(document([GOOD | {"name": "edited"}], []))
    assert ring.reload_if_changed()
    assert list(ring.entries) == ["edited"]
    assert ring.by_public(KEYS[0]) == Entry("edited", "worker", KEYS[0], AT)


def test_an_encoded_ring_is_the_same_for_the_same_content() -> None:
    one = {name: Entry(name, "worker", KEYS[index], AT) for index, name in enumerate("ab")}
    other = dict(reversed(one.items()))
    assert encode_ring(Content(one, ())) == encode_ring(Content(other, ()))


def test_a_ring_of_schema_1_is_read_and_becomes_2_at_the_next_change(path: Path) -> None:
    path.write_bytes(document([GOOD], [GONE | {"name": "v", "public": KEYS[1]}]))
    path.chmod(0o600)
    ring = Ring(path)
    entry = ring.get("w")
    assert (entry.id, entry.previous, entry.token) == (KEYS[0], (), "")
    assert json.loads(path.read_bytes())["schema"] == 1, "reading changes nothing"
    ring.add("x", "worker", KEYS[2])
    assert json.loads(path.read_bytes())["schema"] == 2
    again = Ring(path)
    assert (dict(again.entries), again.revoked) == (dict(ring.entries), ring.revoked)
    assert again.get("w") == entry


def test_a_key_of_before_is_admitted_until_its_time_and_never_again_after_a_revocation(path: Path) -> None:
    ring = Ring(path)
    old = ring.add("w", "worker", KEYS[0])
    for until, admitted in (("2999-01-01T00:00:00+00:00", True), (AT, False)):
        new = replace(old, public=KEYS[1], previous=(Previous(KEYS[0], until),))
        ring.change(lambda content, new=new: (content._replace(entries={"w": new}), None))  # type: ignore[misc]
        for each in (ring, Ring(path)):
            assert each.by_public(KEYS[1]) == each.by_id(KEYS[0]) == new
            assert each.by_public(KEYS[0]) == (new if admitted else None)
            assert each.by_id(KEYS[1]) is None
    for key in KEYS[:2]:
        with pytest.raises(InvalidKey, match="in the ring already"):
            ring.add("x", "worker", key)
    assert ring.revoke("w").public == KEYS[1]
    for key in KEYS[:2]:
        with pytest.raises(InvalidKey, match="was revoked"):
            ring.add("x", "worker", key)


def test_a_change_is_of_what_the_file_holds_now_and_nothing_is_written_without_one(path: Path) -> None:
    ring = Ring(path)
    Ring(path).add("w", "worker", KEYS[0])
    assert ring.change(lambda content: (content, sorted(content.entries))) == ["w"]
    before = path.stat().st_mtime_ns
    ring.change(lambda content: (content, None))
    assert path.stat().st_mtime_ns == before
