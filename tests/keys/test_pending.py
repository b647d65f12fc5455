"""Keys that wait to be accepted: the master's note of them, and what is decided."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from zcluster.config import Home
from zcluster.core.joining import Stranger
from zcluster.errors import InvalidKey, NoSuchKey
from zcluster.keys import Ring, fingerprint, generate
from zcluster.keys.pending import accept, find, pending_file, read_pending, reject, waiting, write_pending
from zcluster.keys.ringfile import MAX_REJECTED, Rejected

KEYS = [generate().public for _ in range(4)]
STRANGERS = [Stranger(key, f"10.0.0.{n}", 1.0, 2.0, 3) for n, key in enumerate(KEYS)]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "run").mkdir()
    return Home(tmp_path)


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    return Ring(tmp_path / "ring.json")


def test_what_is_written_is_read(home: Home) -> None:
    assert read_pending(home) == []
    write_pending(home, STRANGERS)
    assert read_pending(home) == STRANGERS
    assert stat.S_IMODE(pending_file(home).stat().st_mode) == 0o600
    write_pending(home, [])
    assert read_pending(home) == []


GOOD = {"public": KEYS[0], "address": "a", "first_s": 1.0, "last_s": 1.0, "tries": 1}


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"[" * 100_000, b'{"schema": 2, "keys": []}', b'{"schema": 1}',
        *(json.dumps({"schema": 1, "keys": keys}).encode() for keys in (
            5, [5], [GOOD | {"public": "x"}], [GOOD | {"more": 1}], [GOOD | {"tries": True}], [GOOD | {"first_s": "1"}],
            [GOOD | {"address": "x" * 257}], [GOOD] * 257,
        )),
    ],
)  # fmt: skip
def test_a_file_that_no_master_writes_is_an_error(home: Home, data: bytes) -> None:
    pending_file(home).write_bytes(data)
    pending_file(home).chmod(0o600)
    with pytest.raises(InvalidKey, match="not what a master writes"):
        read_pending(home)


def test_a_file_that_others_may_write_is_refused(home: Home) -> None:
    write_pending(home, STRANGERS)
    pending_file(home).chmod(0o620)
    with pytest.raises(InvalidKey, match="open to other users"):
        read_pending(home)


def test_only_the_whole_fingerprint_finds_a_key() -> None:
    whole = fingerprint(KEYS[1])
    assert find(STRANGERS, f" {whole}\n") == STRANGERS[1]
    for wrong in (whole[:-1], whole + "A", whole.lower(), "", "SHA256:", fingerprint(generate().public), KEYS[1], "ü", "\udcff"):
        with pytest.raises(NoSuchKey, match="waits to be accepted"):
            find(STRANGERS, wrong)


def test_who_was_decided_on_waits_no_longer(ring: Ring) -> None:
    assert waiting(STRANGERS, ring) == STRANGERS
    entry = accept(ring, KEYS[0], "w1", "worker")
    assert Ring(ring.path).get("w1") == entry
    reject(ring, KEYS[1])
    reject(ring, KEYS[1])
    ring.add("gone", "worker", KEYS[2])
    ring.revoke("gone")
    assert waiting(STRANGERS, ring) == [STRANGERS[3]]
    assert [each.public for each in Ring(ring.path).rejected] == [KEYS[1]]
    assert ring.is_rejected(KEYS[1])
    assert ring.is_revoked(KEYS[2])


def test_a_rejected_key_may_still_be_added_by_hand_and_a_revoked_one_not_be_accepted(ring: Ring) -> None:
    reject(ring, KEYS[0])
    ring.add("w", "worker", KEYS[0])
    assert ring.rejected == ()
    ring.revoke("w")
    with pytest.raises(InvalidKey, match="was revoked"):
        accept(ring, KEYS[0], "w", "worker")
    with pytest.raises(InvalidKey, match="expected a name"):
        accept(ring, KEYS[1], "-w", "worker")


def test_rejections_are_bounded(ring: Ring) -> None:
    many = tuple(Rejected(KEYS[0], "") for _ in range(MAX_REJECTED))
    ring.change(lambda content: (content._replace(rejected=many), None))
    reject(ring, KEYS[1])
    assert len(ring.rejected) == MAX_REJECTED
    assert ring.rejected[-1].public == KEYS[1]
