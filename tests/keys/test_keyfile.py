"""Key files: written private, read strictly, never quoted."""

from __future__ import annotations

import itertools
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from zcluster.errors import InvalidKey
from zcluster.keys import KeyFile, KeyPair, generate
from zcluster.keys.keyfile import MAX_KEY_FILE_BYTES

PAIR = generate()
MASTER = generate()
KEY = KeyFile("worker-1", "worker", "prod", PAIR, MASTER.public, ("tcp://alpha:7570", "tcp://[::1]:7570"), ("tcp://alpha:7571",))


def written(path: Path, text: str) -> Path:
    path.unlink(missing_ok=True)
    path.touch(0o600)
    path.write_text(text)
    return path


def test_a_key_file_reads_back_and_is_0600(tmp_path: Path) -> None:
    KEY.write(tmp_path / "w.key")
    assert KeyFile.read(tmp_path / "w.key") == KEY
    assert stat.S_IMODE((tmp_path / "w.key").stat().st_mode) == 0o600
    bare = replace(KEY, addresses=(), publish=())
    bare.write(tmp_path / "bare.key")
    assert KeyFile.read(tmp_path / "bare.key") == bare


def test_an_existing_file_is_not_overwritten_by_write_but_by_rewrite(tmp_path: Path) -> None:
    path = tmp_path / "w.key"
    KEY.write(path)
    moved = replace(KEY, addresses=("tcp://beta:7570",))
    with pytest.raises(InvalidKey, match="exists already"):
        moved.write(path)
    assert KeyFile.read(path) == KEY
    moved.rewrite(path)
    assert KeyFile.read(path) == moved
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_secret_is_in_the_file_and_nowhere_else() -> None:
    assert PAIR.secret in KEY.text()
    assert PAIR.secret not in f"{KEY!r} {KEY}"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o666])
def test_a_file_that_others_may_use_is_refused_with_the_repair(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "w.key"
    KEY.write(path)
    path.chmod(mode)
    with pytest.raises(InvalidKey, match="open to other users") as caught:
        KeyFile.read(path)
    assert caught.value.hint == f"run: chmod 600 {path}"


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidKey, match="there is no key file") as caught:
        KeyFile.read(tmp_path / "none.key")
    assert "zcluster keys new" in caught.value.hint


def test_the_size_is_bounded(tmp_path: Path) -> None:
    text = KEY.text()
    fill = MAX_KEY_FILE_BYTES - len(text)
    assert KeyFile.read(written(tmp_path / "k", text + "#" * fill)) == KEY
    with pytest.raises(InvalidKey, match="larger than"):
        KeyFile.read(written(tmp_path / "k", text + "#" * (fill + 1)))


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (PAIR.public, MASTER.public, "the public key does not belong to the secret key"),
        (PAIR.public, "short", "40 characters"),
        (PAIR.secret, "short", "the secret key is malformed"),
        (f'secret = "{PAIR.secret}"', "", "secret is missing"),
        (f'secret = "{PAIR.secret}"', "secret = 5", "secret is not a text"),
        ('name = "worker-1"', 'name = "all"', "reserved"),
        ('name = "worker-1"', 'name = "-x"', "expected a name"),
        ('role = "worker"', 'role = "-worker"', "unknown role '-worker'"),
        ('cluster = "prod"', 'cluster = ""', "expected a name"),
        ('cluster = "prod"', "", "cluster is missing"),
        ("schema = 1", "schema = 2", "of another version"),
        ("schema = 1", "schema = true", "of another version"),
        ("schema = 1", "shema = 1", "unknown field"),
        ("[master]", "[master]\nextra = 1", "unknown field"),
        ("[master]", "[[master]]", "master must be a table"),
        (f'"{MASTER.public}"', '"' + "0" * 40 + '"', "not the text of a Curve25519"),
        (f'public = "{MASTER.public}"', "", "master.public is missing"),
        ("tcp://alpha:7570", "tcp://*:7570", "wildcard"),
        ('["tcp://alpha:7571"]', '"tcp://alpha:7571"', "master.publish must be a list"),
        ('["tcp://alpha:7571"]', "[1]", "master.publish must be a list"),
        ('["tcp://alpha:7571"]', str(["tcp://a:1"] * 17), "at most 16 addresses"),
        ("schema = 1", "schema", "not valid TOML"),
    ],
    ids=itertools.count(),  # not the keys, which are new each time: pytest-xdist wants the same names in each process
)
def test_a_broken_file_says_which_part_and_quotes_no_secret(tmp_path: Path, old: str, new: str, match: str) -> None:
    text = KEY.text().replace(old, new, 1)
    assert text != KEY.text()
    with pytest.raises(InvalidKey, match=match) as caught:
        KeyFile.read(written(tmp_path / "w.key", text))
    assert str(tmp_path / "w.key") in caught.value.message
    assert PAIR.secret not in str(caught.value)
    assert caught.value.hint


def test_a_line_that_is_broken_is_named_but_not_shown(tmp_path: Path) -> None:
    text = KEY.text().replace(f'secret = "{PAIR.secret}"', f'secret = "{PAIR.secret}')
    with pytest.raises(InvalidKey, match=r"w\.key:7: not a key file") as caught:
        KeyFile.read(written(tmp_path / "w.key", text))
    error: BaseException | None = caught.value
    while error is not None:
        assert PAIR.secret not in repr(error)
        error = error.__context__


def test_a_pair_of_another_algorithm_cannot_be_smuggled_in(tmp_path: Path) -> None:
    other = replace(KEY, pair=KeyPair(generate().public, PAIR.secret))
    other.write(tmp_path / "w.key")
    with pytest.raises(InvalidKey, match="does not belong"):
        KeyFile.read(tmp_path / "w.key")


def test_the_largest_number_of_addresses_is_read(tmp_path: Path) -> None:
    full = replace(KEY, addresses=tuple(f"tcp://h{index}:1" for index in range(16)))
    full.write(tmp_path / "w.key")
    assert KeyFile.read(tmp_path / "w.key") == full
    assert os.listdir(tmp_path) == ["w.key"]


def test_a_key_that_is_joining_says_so_until_it_has_joined(tmp_path: Path) -> None:
    path = tmp_path / "k"
    replace(KEY, joining=True).write(path)
    assert KeyFile.read(path).joining
    assert "joining" not in KEY.text()
    KEY.rewrite(path)
    assert KeyFile.read(path) == KEY
    with pytest.raises(InvalidKey, match="joining is neither true nor false"):
        KeyFile.parse(path, KEY.text().replace("schema = 1", 'schema = 1\njoining = "yes"').encode())
