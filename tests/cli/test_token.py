"""``zcluster token``, and where a joiner takes its token from."""

from __future__ import annotations

import io
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zcluster.cli.daemons import worker_key
from zcluster.cli.joining import VARIABLE, Offer, token_of
from zcluster.config import load
from zcluster.errors import InvalidKey, NoSuchKey, UsageError
from zcluster.keys import Ring, generate
from zcluster.keys.tokens import TokenText

PAIR = generate()
TOKEN = TokenText(PAIR, generate().public, "prod", ("tcp://m:7570",), "worker")


@pytest.fixture
def home(tmp_path: Path, zcluster: Callable[..., Any]) -> Path:
    assert zcluster("keys", "init").code == 0
    return tmp_path / "home"


def made(zcluster: Callable[..., Any], *words: str) -> dict[str, Any]:
    ran = zcluster("token", "create", "--role", "worker", *words, "-o", "json")
    assert ran.code == 0, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    return found


def test_create_prints_the_line_to_paste_and_says_that_it_is_a_secret(home: Path, zcluster: Callable[..., Any]) -> None:
    ran = zcluster("token", "create", "--role", "worker", "--name", "w1")
    assert ran.code == 0
    words = ran.out.split()
    assert words[:3] == ["zcluster", "worker", "--join"]
    assert len(words) == 4
    assert ran.out.count("\n") == 1
    text = TokenText.read(words[3])
    assert (text.role, text.name, text.addresses != ()) == ("worker", "w1", True)
    assert not any(address.startswith("ipc:") for address in text.addresses)
    ring = Ring(home / "keys" / "ring.json")
    assert ring.token_of(text.pair.public) is not None
    assert "secret" in ran.err
    assert text.pair.secret not in ran.err
    assert words[3] not in (home / "keys" / "ring.json").read_text()


def test_another_role_joins_by_another_command(home: Path, zcluster: Callable[..., Any]) -> None:
    ran = zcluster("token", "create", "--role", "client")
    assert ran.out.startswith("zcluster keys join zcj1-")


def test_a_token_in_a_file_is_printed_nowhere(home: Path, zcluster: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "token"
    found = made(zcluster, "--out", str(out))
    assert "token" not in found
    assert found["line"] == f"zcluster worker --join-file {out}"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    text = token_of(None, out)
    assert text is not None
    assert text.pair.secret not in json.dumps(found)
    again = zcluster("token", "create", "--role", "worker", "--out", str(out))
    assert again.code == 2
    assert "exists already" in again.err
    assert len(Ring(home / "keys" / "ring.json").tokens) == 1, "a token that nobody has is not left valid"


def test_tokens_are_listed_and_revoked_without_their_secret(home: Path, zcluster: Callable[..., Any]) -> None:
    first, second = made(zcluster), made(zcluster, "--uses", "5", "--ttl", "30d")
    ran = zcluster("token", "revoke", first["id"], "-o", "json")
    assert ran.code == 0
    assert json.loads(ran.out)["state"] == "revoked"
    items = {row["id"]: row for row in json.loads(zcluster("token", "ls", "-o", "json").out)["items"]}
    assert {id_: (row["state"], row["uses_left"]) for id_, row in items.items()} == {
        first["id"]: ("revoked", 1), second["id"]: ("valid", 5),
    }  # fmt: skip
    assert first["token"] not in str(items)
    assert sorted(zcluster("token", "ls", "-o", "name").out.split()) == sorted(items)
    missing = zcluster("token", "revoke", "nothing")
    assert missing.code == 5


@pytest.mark.parametrize(
    "words",
    [
        (), ("--role", "king"), ("--role", "master"), ("--role", "admin"), ("--role", "worker", "--ttl", "0"),
        ("--role", "worker", "--ttl", "31d"), ("--role", "worker", "--uses", "0"), ("--role", "worker", "--uses", "10001"),
        ("--role", "worker", "--name", "all"), ("--role", "worker", "--name", "admin"),
        ("--role", "worker", "--name", "w", "--uses", "2"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_token_is_a_usage_error(words: tuple[str, ...], home: Path, zcluster: Callable[..., Any]) -> None:
    ran = zcluster("token", "create", *words)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert dict(Ring(home / "keys" / "ring.json").tokens) == {}


def test_a_role_of_the_configuration_may_join(home: Path, zcluster: Callable[..., Any]) -> None:
    with (home / "zcluster.toml").open("a") as file:
        file.write('\n[roles.reader]\nfunctions = ["node.*"]\n[roles.boss]\nbase = "admin"\n')
    assert zcluster("token", "create", "--role", "reader").code == 0
    assert zcluster("token", "create", "--role", "boss").code == 2
    assert zcluster("token", "create", "--role", "boss", "--force").code == 0
    assert "did you mean 'reader'" in zcluster("token", "create", "--role", "raeder").err


# -- the joiner's side --------------------------------------------------------------------------------------------------


def test_a_token_comes_from_one_place_and_is_taken_out_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert token_of(None, None) is None
    assert token_of(TOKEN.text, None) == TOKEN
    monkeypatch.setenv(VARIABLE, TOKEN.text)
    assert token_of(None, None) == TOKEN
    assert token_of(None, None) is None, "no child inherits it"
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{TOKEN.text}\n"))
    assert token_of("-", None) == TOKEN
    file = tmp_path / "token"
    file.write_text(f"{TOKEN.text}\n")
    file.chmod(0o600)
    assert token_of(None, file) == TOKEN
    with pytest.raises(UsageError, match="given twice"):
        token_of(TOKEN.text, file)
    file.chmod(0o644)
    with pytest.raises(InvalidKey, match="open to other users"):
        token_of(None, file)
    with pytest.raises(InvalidKey, match="there is no file"):
        token_of(None, tmp_path / "none")


def test_an_empty_token_is_a_mistake_and_an_empty_variable_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text("\n")
    file.chmod(0o600)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    for join, join_file in (("", None), ("-", None), (None, file)):
        with pytest.raises(InvalidKey, match="the join token is empty"):
            token_of(join, join_file)
    monkeypatch.setenv(VARIABLE, "")
    assert token_of(None, None) is None


def test_a_worker_takes_no_token_of_another_role(zcluster: Callable[..., Any]) -> None:
    text = TokenText(PAIR, generate().public, "prod", ("tcp://m:7570",), "client").text
    ran = zcluster("worker", "--join", text)
    assert ran.code == 4
    assert "zcluster keys join" in ran.err
    assert text not in ran.err


def test_a_worker_that_has_joined_does_not_look_at_a_token(
    home: Path, zcluster: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert zcluster("keys", "new", "w1", "--role", "worker").code == 0
    loaded = load(home, environ={})
    for offer in (Offer("garbage", None), Offer(None, home / "gone"), Offer("-", None)):
        assert worker_key(loaded, offer).path == home / "keys" / "w1.key"
        assert "the token is not used" in capsys.readouterr().err
    assert worker_key(loaded, Offer(None, None)).key_file.name == "w1"
    assert "token" not in capsys.readouterr().err


def test_a_machine_without_a_key_and_without_a_token_makes_nothing(tmp_path: Path) -> None:
    for offer, error in ((Offer(None, None), NoSuchKey), (Offer("garbage", None), InvalidKey)):
        with pytest.raises(error):
            worker_key(load(tmp_path / "new", environ={}), offer)
        assert not (tmp_path / "new").exists()
