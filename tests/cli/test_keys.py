"""``zcluster keys`` in a home of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zcluster.keys import KeyFile, Ring, generate, public_of


@pytest.fixture
def home(zcluster: Callable[..., Any], tmp_path: Path) -> Path:
    """A home that ``keys init`` has made."""
    assert zcluster("keys", "init", "--cluster", "lab").code == 0
    return tmp_path / "home"


def dashed_key() -> str:
    """A valid public key that begins with '-'."""
    for number in range(1 << 32):
        secret = f"{number:05d}".rjust(40, "0")
        public = public_of(secret)
        if public.startswith("-"):
            return public
    raise AssertionError("no key begins with '-'")


def test_init_makes_a_home_once(home: Path, zcluster: Callable[..., Any]) -> None:
    before = (home / "keys" / "master.key").read_bytes()
    data = json.loads(zcluster("keys", "init", "-o", "json").out)
    assert (data["name"], data["cluster"], data["created"]) == ("master", "lab", [])
    assert (home / "keys" / "master.key").read_bytes() == before


def test_new_writes_a_private_file_that_holds_all(home: Path, zcluster: Callable[..., Any]) -> None:
    ran = zcluster("keys", "new", "worker-1", "--role", "worker")
    path = home / "keys" / "worker-1.key"
    assert ran.code == 0
    assert str(path) in ran.out
    assert ran.err == f"start it with: zcluster worker --key {path}\n"
    assert path.stat().st_mode & 0o777 == 0o600
    made = KeyFile.read(path)
    assert (made.name, made.role, made.cluster) == ("worker-1", "worker", "lab")
    assert made.addresses
    assert Ring(home / "keys" / "ring.json").get("worker-1").public == made.pair.public


def test_no_command_prints_a_secret(home: Path, zcluster: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "me.key"
    printed = ""
    commands = [("new", "me", "--role", "client", "--out", str(out)), ("ls",), ("show", "me"), ("revoke", "me"), ("init",)]
    for form in ("wide", "json"):
        for words in commands:
            ran = zcluster("keys", *words, "-o", form)
            assert ran.code == 0, ran.err
            printed += ran.out + ran.err
        secret = KeyFile.read(out).pair.secret
        assert secret not in printed
        out.unlink()
    assert KeyFile.read(home / "keys" / "master.key").pair.secret not in printed


def test_add_admits_a_public_key(home: Path, zcluster: Callable[..., Any]) -> None:
    public = generate().public
    assert zcluster("keys", "add", "--role", "worker", "--", "w", public).code == 0
    assert Ring(home / "keys" / "ring.json").get("w").public == public


@pytest.mark.parametrize("order", ["end", "start", "middle", "explicit"])
def test_a_public_key_that_begins_with_a_dash_is_no_option(order: str, home: Path, zcluster: Callable[..., Any]) -> None:
    public = dashed_key()
    words = {
        "end": ["w", "--role", "worker", public],
        "start": [f"--home={home}", "w", public, "--role", "worker"],
        "middle": ["w", public, "--role=worker"],
        "explicit": ["--role", "worker", "--", "w", public],
    }[order]
    ran = zcluster("keys", "add", *words)
    assert ran.code == 0, ran.err
    assert Ring(home / "keys" / "ring.json").get("w").public == public


def test_an_option_as_long_as_a_key_stays_an_option(home: Path, zcluster: Callable[..., Any]) -> None:
    option = f"--home={'/x' * 16}x"
    assert len(option) == 40
    assert "/x/x" in zcluster("keys", "add", "w", generate().public.replace("-", "0"), "--role", "worker", option).err


def test_ls_and_show_tell_the_same(home: Path, zcluster: Callable[..., Any]) -> None:
    items = json.loads(zcluster("keys", "ls", "-o", "json").out)["items"]
    assert [(item["name"], item["role"]) for item in items] == [("admin", "admin"), ("master", "master")]
    shown = json.loads(zcluster("keys", "show", "admin", "-o", "json").out)
    assert shown == {"schema": 1, **items[0], "file": str(home / "keys" / "admin.key")}


def test_revoke_ends_a_key(home: Path, zcluster: Callable[..., Any]) -> None:
    zcluster("keys", "new", "w", "--role", "worker")
    assert zcluster("keys", "revoke", "w").code == 0
    assert "w" not in zcluster("keys", "ls", "-o", "name").out.split()
    ran = zcluster("keys", "revoke", "w")
    assert ran.code == 5
    assert "was revoked" in ran.err


def test_keys_can_be_revoked_while_the_configuration_is_broken(home: Path, zcluster: Callable[..., Any]) -> None:
    zcluster("keys", "new", "w", "--role", "worker")
    (home / "zcluster.toml").write_text("[nonsense")
    assert zcluster("keys", "revoke", "w").code == 0


@pytest.mark.parametrize("words", [("ls",), ("show", "a"), ("revoke", "a"), ("add", "a", "x" * 40, "--role", "client")])
def test_without_a_ring_the_hint_is_to_make_one(words: tuple[str, ...], zcluster: Callable[..., Any], tmp_path: Path) -> None:
    ran = zcluster("keys", *words)
    assert (ran.code, ran.out) == (2, "")
    assert "zcluster keys init" in ran.err
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("words", [("new", "w"), ("new", "w", "--role", "king"), ("new", "-w", "--role", "worker"), ("new",)])
def test_a_wrong_call_is_a_usage_error(words: tuple[str, ...], home: Path, zcluster: Callable[..., Any]) -> None:
    assert zcluster("keys", *words).code == 2


def test_what_is_missing_is_told_in_one_readable_line(home: Path, zcluster: Callable[..., Any]) -> None:
    ran = zcluster("keys", "new", "b")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "Choose from: admin, client, worker, agent, master" in ran.err
    assert "\\n" not in ran.err
    assert "\\t" not in ran.err


@pytest.mark.parametrize(("name", "recovery"), [("master", "make every key again"), ("admin", "keys new admin --role admin")])
def test_the_home_s_own_keys_are_revoked_only_by_force(
    name: str, recovery: str, home: Path, zcluster: Callable[..., Any]
) -> None:
    before = (home / "keys" / "ring.json").read_bytes()
    ran = zcluster("keys", "revoke", name)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert f"{name!r} is this home's own {name} key" in ran.err
    assert "--force" in ran.err
    assert recovery in ran.err
    assert (home / "keys" / "ring.json").read_bytes() == before
    assert zcluster("keys", "revoke", name, "--force").code == 0
    assert name not in zcluster("keys", "ls", "-o", "name").out.split()


def test_a_key_of_its_own_name_is_found_even_when_its_file_cannot_be_read(home: Path, zcluster: Callable[..., Any]) -> None:
    (home / "keys" / "admin.key").write_text("broken")
    assert zcluster("keys", "revoke", "admin").code == 2
    (home / "keys" / "admin.key").unlink()
    assert zcluster("keys", "revoke", "admin").code == 0


def test_the_recovery_that_is_named_works(home: Path, zcluster: Callable[..., Any], tmp_path: Path) -> None:
    zcluster("keys", "revoke", "admin", "--force")
    (home / "keys" / "admin.key").rename(tmp_path / "old.key")
    assert zcluster("keys", "new", "admin", "--role", "admin").code == 0
    assert zcluster("keys", "init").code == 0
    assert Ring(home / "keys" / "ring.json").get("admin").public == KeyFile.read(home / "keys" / "admin.key").pair.public


def test_another_admin_key_needs_no_force(home: Path, zcluster: Callable[..., Any]) -> None:
    zcluster("keys", "new", "me", "--role", "admin")
    assert zcluster("keys", "revoke", "me").code == 0
