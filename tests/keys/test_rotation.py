"""A key that is followed by another: in the ring, and in its owner's file."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from zcluster.config import Home
from zcluster.core.doors import Candidate, KnownKeys, KnownNode, candidates, of_master
from zcluster.errors import Busy, InvalidKey, NoSuchKey, ZClusterError
from zcluster.keys import KeyFile, Ring, generate, init_home, new_key, own_key
from zcluster.keys import keyfile as keyfile_module
from zcluster.keys import rotation as rotation_module
from zcluster.keys.private import locked
from zcluster.keys.ringfile import instant
from zcluster.keys.rotation import (
    MIN_OVERLAP_S,
    OwnKey,
    check_overlap,
    follow,
    forget_ended,
    learnt,
    proven,
    rotated_row,
    want,
    want_no_more,
)
from zcluster.wire.rotation import MAX_OVERLAP_S

NOW_S = 4_000_000_000.0
"""A time that is not over yet."""
NEW, NEWER, MASTER, DOOR = (generate().public for _ in range(4))


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    made = Ring(tmp_path / "ring.json")
    made.add("w", "worker", generate().public)
    made.add("c", "client", generate().public)
    return made


# -- the ring -----------------------------------------------------------------------------------------------------------


def test_the_new_key_is_the_key_and_the_older_one_is_admitted_for_a_while(ring: Ring) -> None:
    old = ring.get("w")
    entry = follow(ring, old.id, NEW, 60.0, NOW_S)
    assert (entry.id, entry.name, entry.role, entry.public) == (old.id, "w", "worker", NEW)
    assert entry.publics == (NEW, old.public)
    assert entry.door == (old.public, NEW)
    for each in (ring, Ring(ring.path)):
        assert each.by_public(NEW) == each.by_public(old.public) == each.by_id(old.id) == entry


def test_doing_it_again_changes_nothing(ring: Ring) -> None:
    first = follow(ring, ring.get("w").id, NEW, 60.0, NOW_S)
    assert follow(ring, first.id, NEW, 9_999.0, NOW_S + 30.0) == first


def test_a_key_of_before_is_admitted_until_its_time_and_not_a_moment_more(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    old = ring.get("w")
    entry = follow(ring, old.id, NEW, 10.0, NOW_S)
    monkeypatch.setattr("time.time", lambda: NOW_S + 9.99)
    assert ring.by_public(old.public) == entry
    monkeypatch.setattr("time.time", lambda: NOW_S + 10.0)
    assert ring.by_public(old.public) is None
    assert ring.by_public(NEW) == entry
    assert not ring.ended(NOW_S, NOW_S + 9.99)
    assert ring.ended(NOW_S + 9.99, NOW_S + 10.0)
    assert not ring.ended(NOW_S + 10.0, NOW_S + 11.0)


def test_an_overlap_is_never_shorter_than_it_says(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    old = ring.get("w")
    follow(ring, old.id, NEW, 1.0, NOW_S + 0.7)
    monkeypatch.setattr("time.time", lambda: NOW_S + 1.69)
    assert ring.by_public(old.public) is not None


def test_there_is_no_third_key_while_there_are_two(ring: Ring) -> None:
    old = follow(ring, ring.get("w").id, NEW, 60.0, NOW_S)
    attempts: list[Callable[[], object]] = [
        lambda: follow(ring, old.id, NEWER, 60.0, NOW_S + 59.0), lambda: want(ring, "w", 60.0, NOW_S + 59.0)
    ]  # fmt: skip
    for attempt in attempts:
        with pytest.raises(Busy, match="admitted until") as caught:
            attempt()
        assert caught.value.retry_after_s
    third = follow(ring, old.id, NEWER, 60.0, NOW_S + 61.0)
    assert third.publics == (NEWER, NEW)


def test_a_key_that_is_wanted_has_the_overlap_that_was_wanted(ring: Ring) -> None:
    entry = want(ring, "w", 300.0, NOW_S)
    assert Ring(ring.path).get("w").rotate_s == entry.rotate_s == 300.0
    with pytest.raises(Busy, match="already"):
        want(ring, "w", 300.0, NOW_S)
    done = follow(ring, entry.id, NEW, 5.0, NOW_S)
    assert done.rotate_s == 0.0
    assert done.previous[0].until == "2096-10-02T07:11:40+00:00"


def test_nobody_waits_for_who_cannot(ring: Ring) -> None:
    entry = want(ring, "w", 300.0, NOW_S)
    want_no_more(ring, entry.id)
    assert ring.get("w").rotate_s == 0.0
    want_no_more(ring, entry.id)
    want_no_more(ring, NEW)


@pytest.mark.parametrize("overlap_s", [MIN_OVERLAP_S, MAX_OVERLAP_S])
def test_overlaps_that_are_possible(overlap_s: float) -> None:
    assert check_overlap(overlap_s) == overlap_s


@pytest.mark.parametrize("overlap_s", [0.0, 0.999, MAX_OVERLAP_S + 1.0, -1.0, float("nan"), float("inf")])
def test_overlaps_that_are_not(ring: Ring, overlap_s: float) -> None:
    with pytest.raises(InvalidKey, match="overlap"):
        want(ring, "w", overlap_s, NOW_S)


@pytest.mark.parametrize(("said_s", "until_s"), [(0.0, 1.0), (1e12, MAX_OVERLAP_S)])
def test_what_a_peer_wishes_is_bounded(ring: Ring, said_s: float, until_s: float) -> None:
    entry = follow(ring, ring.get("w").id, NEW, said_s, NOW_S)
    assert instant(entry.previous[0].until) == NOW_S + until_s


def test_a_key_that_somebody_has_or_had_follows_none(ring: Ring) -> None:
    gone = ring.add("gone", "client", NEWER)
    ring.revoke("gone")
    for public in (ring.get("c").public, gone.public, "x" * 40):
        with pytest.raises(InvalidKey):
            follow(ring, ring.get("w").id, public, 60.0, NOW_S)
    assert ring.get("w").publics == (ring.get("w").id,)


def test_a_revoked_owner_gets_no_other_key_and_its_keys_are_all_gone(ring: Ring) -> None:
    entry = follow(ring, ring.get("w").id, NEW, 60.0, NOW_S)
    ring.revoke("w")
    assert all(ring.is_revoked(public) for public in entry.publics)
    with pytest.raises(NoSuchKey):
        follow(ring, entry.id, NEWER, 60.0, NOW_S)
    with pytest.raises(NoSuchKey):
        want(ring, "w", 60.0, NOW_S)


def test_the_first_key_of_a_revoked_owner_never_returns(ring: Ring) -> None:
    entry = follow(ring, ring.get("w").id, NEW, 60.0, NOW_S)
    forget_ended(ring, NOW_S + 60.0)
    assert ring.revoke("w").public == entry.public
    assert [each.public for each in ring.revocations("w")] == [entry.id, entry.public]
    with pytest.raises(InvalidKey, match="was revoked"):
        ring.add("w", "worker", entry.id)


def test_a_later_key_of_the_same_name_is_another_owner(ring: Ring) -> None:
    first = ring.get("w")
    ring.revoke("w")
    ring.add("w", "worker", NEWER)
    with pytest.raises(NoSuchKey):
        follow(ring, first.id, NEW, 60.0, NOW_S)


def test_the_keys_of_before_are_dropped_when_their_time_is_over(ring: Ring) -> None:
    entry = follow(ring, ring.get("w").id, NEW, 10.0, NOW_S)
    assert forget_ended(ring, NOW_S + 9.0) == 0
    assert forget_ended(ring, NOW_S + 10.0) == 1
    left = Ring(ring.path).get("w")
    assert (left.publics, left.id, left.door) == ((NEW,), entry.id, (NEW, ""))
    assert forget_ended(ring, NOW_S + 10.0) == 0


def test_what_is_shown_has_no_key_in_it() -> None:
    row = rotated_row("w", NEW, NEWER, "soon")
    assert row["state"] == "rotated"
    assert {NEW, NEWER}.isdisjoint(row.values())
    assert rotated_row("w", NEW)["state"] == "wanted"


# -- the file -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    key_file = KeyFile(
        "w", "worker", "c", generate(), MASTER, ("tcp://m:1",), ("tcp://m:2",), (KnownNode("d", DOOR, ("tcp://d:1",)),)
    )
    key_file.write(tmp_path / "w.key")
    return tmp_path / "w.key"


def owner(path: Path) -> OwnKey:
    return OwnKey(KeyFile.read(path), path)


def test_the_next_pair_is_in_the_file_before_anybody_hears_of_it(path: Path) -> None:
    own, before = owner(path), KeyFile.read(path)
    public = own.begin()
    now = KeyFile.read(path)
    assert now.next is not None
    assert now.next.public == public
    assert replace(now, next=None) == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert own.current == before.pair
    assert own.pairs == (before.pair, now.next)
    assert now.next.secret not in repr(now)


def test_beginning_again_takes_what_there_is(path: Path) -> None:
    public = owner(path).begin()
    assert owner(path).begin() == public


def test_when_the_session_has_moved_the_next_pair_is_the_pair(path: Path) -> None:
    own = owner(path)
    public = own.begin()
    assert own.use(public)
    own.finish(public)
    now = KeyFile.read(path)
    assert (now.pair.public, now.next) == (public, None)
    assert own.current == now.pair
    own.finish(public)
    own.finish(NEW)
    assert KeyFile.read(path) == now


def test_what_was_not_admitted_is_given_up(path: Path) -> None:
    own, before = owner(path), KeyFile.read(path)
    public = own.begin()
    own.give_up(NEW)
    assert KeyFile.read(path).next is not None
    own.give_up(public)
    assert KeyFile.read(path) == before


def test_the_other_pair_is_used_when_one_is_refused(path: Path) -> None:
    own = owner(path)
    assert not own.other()
    public = own.begin()
    old = own.current
    assert own.other()
    assert own.current.public == public
    assert own.other()
    assert own.current == old
    assert not own.use(NEW)
    assert own.current == old


def test_what_another_process_writes_is_seen_and_kept(path: Path) -> None:
    one, other = owner(path), owner(path)
    public = one.begin()
    assert other.look()
    assert not other.look()
    other.learn("", NEW)
    one.use(public)
    one.finish(public)
    now = KeyFile.read(path)
    assert (now.pair.public, now.master_next) == (public, NEW)
    assert other.current != now.pair
    assert other.look()
    assert other.current == now.pair


def test_a_file_that_cannot_be_read_again_changes_nothing(path: Path) -> None:
    own, before = owner(path), KeyFile.read(path)
    path.write_text("nonsense")
    with pytest.raises(InvalidKey):
        own.look()
    assert not own.look(), "it is told once"
    assert own.key_file == before
    path.unlink()
    with pytest.raises(InvalidKey):
        own.look()


def test_without_a_file_nothing_is_rotated_and_things_are_learnt_for_now(path: Path) -> None:
    own = OwnKey(KeyFile.read(path))
    with pytest.raises(InvalidKey):
        own.begin()
    own.learn("", NEW)
    assert own.key_file.known.masters == (MASTER, NEW)
    assert not own.look()
    assert KeyFile.read(path).master_next == ""


def test_a_file_that_cannot_be_written_stays_and_what_was_learnt_holds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, before = owner(path), path.read_bytes()

    def full(_path: Path, _data: bytes) -> None:
        raise InvalidKey("cannot write", hint="the file system is full")

    monkeypatch.setattr(keyfile_module, "replace", full)
    with pytest.raises(InvalidKey):
        own.begin()
    with pytest.raises(InvalidKey):
        own.learn("", NEW)
    assert own.key_file.known.masters == (MASTER, NEW)
    assert path.read_bytes() == before
    assert [name for name in os.listdir(path.parent) if name not in ("w.key", "w.key.lock")] == []


def test_a_file_does_not_grow_beyond_what_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = owner(path)
    monkeypatch.setattr(rotation_module, "MAX_KEY_FILE_BYTES", len(KeyFile.read(path).text()) + 10)
    with pytest.raises(InvalidKey, match="larger"):
        own.begin()
    assert KeyFile.read(path).next is None


def test_two_at_once_wait_for_each_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = owner(path)
    monkeypatch.setattr(rotation_module, "locked", lambda name: locked(name, 0.0))
    with locked(path.with_name("w.key.lock")), pytest.raises(Busy):
        own.begin()


def test_the_keys_of_others_are_learnt_and_take_the_place_of_those_before() -> None:
    old = KeyFile("a", "agent", "c", generate(), MASTER, nodes=(KnownNode("d", DOOR, ("tcp://d:1",)),))
    both = learnt(learnt(old, "", NEW), "d", NEWER)
    assert both.known == KnownKeys(MASTER, (KnownNode("d", DOOR, ("tcp://d:1",), NEWER),), NEW)
    assert learnt(both, "", MASTER) == both, "the present one follows nothing"
    assert learnt(both, "d", DOOR) == both
    assert learnt(both, "unknown", NEW) == both
    assert proven(both, MASTER) == both
    after = proven(proven(both, NEW), NEWER)
    assert after.known == KnownKeys(NEW, (KnownNode("d", NEWER, ("tcp://d:1",)),))


def test_a_file_with_all_that_may_follow_is_read_as_it_was_written(path: Path) -> None:
    own = owner(path)
    own.begin()
    own.learn("", NEW)
    own.learn("d", NEWER)
    assert KeyFile.read(path) == own.key_file
    own.proven(NEWER)
    assert KeyFile.read(path).nodes == (KnownNode("d", NEWER, ("tcp://d:1",)),)


@pytest.mark.parametrize(("text", "says"), [
    ("next = 1", "next must be a table"),
    (f'[next]\npublic = "{NEW}"', "next.secret is missing"),
    ('[next]\npublic = "x"', "40 characters"),
    (f'[next]\npublic = "{NEW}"\nsecret = "{generate().secret}"', "next public key does not belong"),
    (f'[next]\npublic = "{NEW}"\nsecrets = "x"', "unknown field"),
    (f'[nodes.e]\npublic = "{NEW}"\nnext = "x"', "40 characters"),
], ids=itertools.count())  # fmt: skip
def test_a_wrong_next_key_is_an_error_that_says_where(path: Path, text: str, says: str) -> None:
    head, rest = path.read_text().split("\n[master]")
    path.write_text(f"{head}\n{text}\n[master]{rest}" if text.startswith("next") else f"{head}\n[master]{rest}\n{text}\n")
    with pytest.raises(InvalidKey, match=says):
        KeyFile.read(path)


# -- what to try --------------------------------------------------------------------------------------------------------


def test_every_key_that_an_address_may_have_is_tried() -> None:
    keys = KnownKeys(MASTER, (KnownNode("d", DOOR, ("tcp://d:1",), NEWER),), NEW)
    assert of_master(["tcp://m:1"], keys) == [Candidate("tcp://m:1", MASTER), Candidate("tcp://m:1", NEW)]
    assert [place.public for place in candidates(["tcp://x:1"], keys)] == [MASTER, NEW, DOOR, NEWER]
    assert [place.public for place in candidates(["tcp://d:1"], keys)] == [DOOR, NEWER]
    assert [place.public for place in candidates(["d@tcp://x:1"], keys)] == [DOOR, NEWER]
    assert [place.public for place in candidates(["master@tcp://x:1"], keys)] == [MASTER, NEW]


# -- the home -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return init_home(tmp_path / "home", "c", addresses=("tcp://m:1",)).home


def master_begins(home: Home) -> str:
    return OwnKey(KeyFile.read(home.master_key), home.master_key).begin()


def test_no_key_file_has_the_master_s_next_secret_and_each_knows_the_public_key(home: Home, tmp_path: Path) -> None:
    public = master_begins(home)
    master = KeyFile.read(home.master_key)
    assert master.next is not None
    made, path = new_key(home, "w", "worker", tmp_path / "w.key")
    assert made.known.masters == (master.pair.public, public)
    assert made.next is None
    for secret in (master.pair.secret, master.next.secret):
        assert secret not in path.read_text()
        assert secret not in home.admin_key.read_text()


@pytest.mark.parametrize("killed", ["before the ring", "after the ring", "after the file"])
def test_a_master_that_was_killed_while_it_took_its_next_key_starts_again(home: Home, killed: str) -> None:
    old, public = KeyFile.read(home.master_key).pair.public, master_begins(home)
    ring = Ring(home.ring_file)
    if killed != "before the ring":
        follow(ring, ring.get("master").id, public, 1.0, 0.0)
    if killed == "after the file":
        OwnKey(KeyFile.read(home.master_key), home.master_key).finish(public)
    again = init_home(home, "c")
    now = KeyFile.read(home.master_key)
    assert again.master == now
    assert now.pair.public == now.master_public == (old if killed == "before the ring" else public)
    assert (now.next is None) is (killed != "before the ring")
    assert Ring(home.ring_file).by_public(now.pair.public) is not None


@pytest.mark.parametrize("killed", ["before the ring", "after the ring", "after the file"])
def test_an_administrator_s_key_that_is_being_rotated_does_not_keep_the_home_from_starting(home: Home, killed: str) -> None:
    own, ring = OwnKey(KeyFile.read(home.admin_key), home.admin_key), Ring(home.ring_file)
    public = own.begin()
    if killed != "before the ring":
        follow(ring, ring.get("admin").id, public, 1.0, 0.0)
    if killed == "after the file":
        own.finish(public)
    assert own_key(home, ring.get("admin")) == home.admin_key
    before = home.admin_key.read_bytes()
    init_home(home, "c")
    assert home.admin_key.read_bytes() == before


def test_an_administrator_s_key_that_was_rotated_elsewhere_does_not_either(home: Home) -> None:
    ring = Ring(home.ring_file)
    follow(ring, ring.get("admin").id, NEW, 1.0, 0.0)
    init_home(home, "c")
    assert Ring(home.ring_file).get("admin").public == NEW


def test_errors_are_ours(ring: Ring) -> None:
    attempts: list[Callable[[], object]] = [
        lambda: follow(ring, NEW, NEWER, 1.0, NOW_S), lambda: want(ring, "nobody", 60.0, NOW_S)
    ]  # fmt: skip
    for attempt in attempts:
        with pytest.raises(ZClusterError):
            attempt()


def test_a_link_to_a_key_file_stays_a_link(path: Path) -> None:
    link = path.parent / "elsewhere" / "key"
    link.parent.mkdir()
    link.symlink_to(path)
    own = OwnKey(KeyFile.read(link), link)
    public = own.begin()
    assert link.is_symlink()
    assert owner(path).begin() == public, "who comes by the file itself sees it"
    assert [each.name for each in link.parent.iterdir()] == [link.name], "one lock, beside the file"


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser gives files away")
def test_the_superuser_leaves_a_key_file_with_its_owner(path: Path) -> None:
    os.chown(path, 4711, 4712)
    os.chown(path.parent, 4711, 4712)
    owner(path).begin()
    for each in (path, path.with_name(f"{path.name}.lock")):
        found = os.stat(each)
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (4711, 4712, 0o600)
