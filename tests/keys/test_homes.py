"""A master's home: made once, completed after a crash, and never made again behind an operator's back."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from zcluster.config import Home, load
from zcluster.errors import InvalidKey, NoSuchKey
from zcluster.keys import KeyFile, Ring, generate, init_home, new_key, worker_key_path

ADDRESSES = ("tcp://alpha:7570",)
PUBLISH = ("tcp://alpha:7571",)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def snapshot(home: Home) -> dict[str, bytes]:
    return {str(path.relative_to(home.path)): path.read_bytes() for path in sorted(home.path.rglob("*")) if path.is_file()}


def test_the_first_start_makes_everything_private(home: Home) -> None:
    done = init_home(home, "prod", "m1", ADDRESSES, PUBLISH)
    assert done.first_start
    assert list(done.created) == [
        home.path,
        home.keys_dir,
        home.data_dir,
        home.run_dir,
        home.config_file,
        home.master_key,
        home.ring_file,
        home.admin_key,
    ]
    for path in done.created:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    master, admin = KeyFile.read(home.master_key), KeyFile.read(home.admin_key)
    assert master == done.master
    assert (master.name, master.role, master.cluster) == ("m1", "master", "prod")
    assert (admin.name, admin.role) == ("admin", "admin")
    assert master.pair.public == master.master_public == admin.master_public != admin.pair.public
    assert admin.addresses == master.addresses == ADDRESSES
    assert admin.publish == master.publish == PUBLISH
    ring = Ring(home.ring_file)
    assert {entry.name: (entry.role, entry.public) for entry in ring.entries.values()} == {
        "m1": ("master", master.pair.public),
        "admin": ("admin", admin.pair.public),
    }
    assert load(home.path, {}, {}).settings.cluster.name == "prod"


def test_the_next_start_changes_nothing(home: Home) -> None:
    init_home(home, "prod", "", ADDRESSES, PUBLISH)
    before = snapshot(home)
    for again in (
        init_home(home, "prod", "", ADDRESSES, PUBLISH),
        init_home(home.path, "prod"),
        init_home(home, "prod", "master"),
    ):
        assert (again.created, again.updated, again.first_start) == ((), (), False)
        assert again.master.name == "master"
    assert snapshot(home) == before


def test_other_addresses_are_written_into_the_same_keys(home: Home) -> None:
    first = init_home(home, "prod", "", ADDRESSES, PUBLISH)
    moved = init_home(home, "prod", "", ("tcp://beta:1",))
    assert moved.updated == (home.master_key, home.admin_key)
    assert moved.master.pair == first.master.pair
    assert (moved.master.addresses, moved.master.publish) == (("tcp://beta:1",), PUBLISH)
    assert KeyFile.read(home.admin_key).addresses == ("tcp://beta:1",)


def test_an_existing_configuration_and_directory_stay(home: Home) -> None:
    home.path.mkdir(mode=0o755)
    home.config_file.write_text("# mine\n")
    done = init_home(home, "prod")
    assert home.config_file.read_text() == "# mine\n"
    assert home.config_file not in done.created
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o755
    assert stat.S_IMODE(home.keys_dir.stat().st_mode) == 0o700


def test_a_separate_configuration_directory_is_made(home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("zcluster.config.home.SYSTEM_HOME", home.path)
    monkeypatch.setattr("zcluster.config.home.SYSTEM_CONFIG_DIR", tmp_path / "etc" / "zcluster")
    monkeypatch.setattr("zcluster.config.home.SYSTEM_RUN_DIR", tmp_path / "run")
    done = init_home(home, "prod")
    assert {tmp_path / "etc/zcluster", tmp_path / "etc/zcluster/zcluster.toml", tmp_path / "run"} <= set(done.created)
    assert not (home.path / "zcluster.toml").exists()
    assert init_home(home, "prod").created == ()


class Stopped(BaseException):
    """Stands for the end of the process at one step."""


def stop_at(patch: pytest.MonkeyPatch, count: int) -> None:
    """End the next steps that change the disk after ``count`` of them."""
    left = [count]

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def step(*args: object, **kwargs: object) -> object:
            if left[0] == 0:
                raise Stopped
            left[0] -= 1
            return call(*args, **kwargs)

        return step

    for name in ("mkdir", "link", "replace"):
        patch.setattr(os, name, counted(getattr(os, name)))


def test_a_start_that_ended_at_any_step_is_completed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0
    for steps in range(100):
        home = Home(tmp_path / str(steps))
        with monkeypatch.context() as patch:
            stop_at(patch, steps)
            try:
                init_home(home, "prod", "", ADDRESSES, PUBLISH)
            except Stopped:
                stopped = True
            else:
                stopped = False
        known = KeyFile.read(home.master_key).pair if home.master_key.exists() else None
        done = init_home(home, "prod", "", ADDRESSES, PUBLISH)
        assert known in (None, done.master.pair), "a key that was made is kept"
        assert sorted(Ring(home.ring_file).entries) == ["admin", "master"]
        assert KeyFile.read(home.admin_key).role == "admin"
        assert load(home.path, {}, {}).settings.cluster.name == "prod"
        assert init_home(home, "prod", "", ADDRESSES, PUBLISH).created == ()
        if not stopped:
            break
    assert 8 <= steps < 100, "every step was a place to stop at"


def test_the_name_of_a_master_stays(home: Home) -> None:
    init_home(home, "prod", "m1")
    with pytest.raises(InvalidKey, match="called 'm1', not 'm2'"):
        init_home(home, "prod", "m2")


@pytest.mark.parametrize(("cluster", "node"), [("a b", ""), ("prod", "all"), ("prod", "-x")])
def test_a_bad_name_makes_nothing(home: Home, cluster: str, node: str) -> None:
    with pytest.raises(InvalidKey):
        init_home(home, cluster, node)
    assert not home.path.exists()


def test_a_lost_master_key_is_not_replaced_by_another(home: Home) -> None:
    init_home(home, "prod")
    home.master_key.unlink()
    with pytest.raises(InvalidKey, match=r"key file .* is gone"):
        init_home(home, "prod")
    assert not home.master_key.exists()


def test_a_revoked_master_key_does_not_return(home: Home) -> None:
    init_home(home, "prod")
    Ring(home.ring_file).revoke("master")
    with pytest.raises(InvalidKey, match="was revoked"):
        init_home(home, "prod")


def test_an_admin_key_that_was_moved_or_revoked_is_not_made_again(home: Home) -> None:
    init_home(home, "prod")
    home.admin_key.rename(home.path / "moved.key")
    assert init_home(home, "prod").created == ()
    Ring(home.ring_file).revoke("admin")
    assert init_home(home, "prod").created == ()
    (home.path / "moved.key").rename(home.admin_key)
    init_home(home, "prod")
    assert list(Ring(home.ring_file).entries) == ["master"]


def test_a_renamed_key_is_still_the_same_key(home: Home) -> None:
    init_home(home, "prod")
    Ring(home.ring_file).rename("admin", "ops")
    assert init_home(home, "prod").created == ()
    assert sorted(Ring(home.ring_file).entries) == ["master", "ops"]


def test_a_lost_ring_is_made_from_the_keys(home: Home) -> None:
    done = init_home(home, "prod")
    home.ring_file.unlink()
    assert init_home(home, "prod").created == (home.ring_file,)
    assert Ring(home.ring_file).get("master").public == done.master.pair.public
    assert sorted(Ring(home.ring_file).entries) == ["admin", "master"]


def test_a_master_key_of_another_role_is_refused(home: Home) -> None:
    init_home(home, "prod")
    home.master_key.unlink()
    KeyFile.read(home.admin_key).write(home.master_key)
    with pytest.raises(InvalidKey, match="is a key of role admin"):
        init_home(home, "prod")


def test_a_key_file_and_a_ring_that_disagree_are_refused(home: Home) -> None:
    done = init_home(home, "prod")
    ring = Ring(home.ring_file)
    ring.take_back(ring.get("master"))
    ring.add("odd", "client", done.master.pair.public)
    with pytest.raises(InvalidKey, match="has role master, but the ring says client"):
        init_home(home, "prod")


def test_a_new_key_is_admitted_and_has_all_its_owner_needs(home: Home) -> None:
    master = init_home(home, "prod", "", ADDRESSES, PUBLISH).master
    key, path = new_key(home, "worker-1", "worker")
    assert path == home.key_file("worker-1")
    assert KeyFile.read(path) == key
    assert (key.name, key.role, key.cluster, key.master_public) == ("worker-1", "worker", "prod", master.pair.public)
    assert (key.addresses, key.publish) == (ADDRESSES, PUBLISH)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    entry = Ring(home.ring_file).get("worker-1")
    assert (entry.role, entry.public) == ("worker", key.pair.public)


def test_a_new_key_goes_where_it_is_told(home: Home, tmp_path: Path) -> None:
    init_home(home, "prod")
    assert new_key(home.path, "c", "client", tmp_path / "c.key")[1] == tmp_path / "c.key"
    assert not home.key_file("c").exists()


def test_a_file_that_exists_is_refused_and_nothing_is_admitted(home: Home, tmp_path: Path) -> None:
    init_home(home, "prod")
    (tmp_path / "there.key").write_text("x")
    (tmp_path / "link.key").symlink_to("nowhere")
    for name in ("there.key", "link.key"):
        with pytest.raises(InvalidKey, match="exists already"):
            new_key(home, "c", "client", tmp_path / name)
    assert "c" not in Ring(home.ring_file).entries
    assert (tmp_path / "there.key").read_text() == "x"


def test_a_file_that_cannot_be_written_takes_the_key_back(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init_home(home, "prod")
    with pytest.raises(InvalidKey, match="No such file") as caught:
        new_key(home, "c", "client", tmp_path / "none" / "c.key")
    assert caught.value.hint == "make its directory first"

    def interrupt(*_args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", interrupt)
        with pytest.raises(KeyboardInterrupt):
            new_key(home, "c", "client")
    ring = Ring(home.ring_file)
    assert sorted(ring.entries) == ["admin", "master"]
    assert ring.revoked == ()
    assert not list(home.keys_dir.glob("*.tmp"))
    new_key(home, "c", "client")


@pytest.mark.parametrize(
    ("name", "role"), [("all", "client"), ("../x", "client"), ("master", "worker"), ("admin", "client"), ("x", "joiner")]
)
def test_what_the_ring_refuses_makes_no_file(home: Home, name: str, role: str) -> None:
    init_home(home, "prod")
    before = snapshot(home)
    with pytest.raises(InvalidKey):
        new_key(home, name, role)
    assert snapshot(home) == before


def test_without_a_master_there_are_no_keys(home: Home) -> None:
    with pytest.raises(InvalidKey, match="no master key") as caught:
        new_key(home, "c", "client")
    assert "keys init" in caught.value.hint
    assert not home.path.exists()


def test_the_only_worker_key_is_found_and_several_need_a_name(home: Home) -> None:
    init_home(home, "prod")
    with pytest.raises(NoSuchKey, match="no worker key"):
        worker_key_path(home)
    new_key(home, "w1", "worker")
    assert worker_key_path(home) == home.key_file("w1")
    new_key(home, "w2", "worker")
    with pytest.raises(NoSuchKey, match=r"several worker keys \(w1, w2\)"):
        worker_key_path(home)
    assert worker_key_path(home.path, "w2") == home.key_file("w2")
    with pytest.raises(NoSuchKey, match="there is no key file"):
        worker_key_path(home, "w3")


def test_no_secret_is_in_what_is_returned(home: Home) -> None:
    done = init_home(home, "prod")
    assert done.master.pair.secret not in repr(done)
    assert generate().secret not in repr(done)
