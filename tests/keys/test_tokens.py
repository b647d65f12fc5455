"""Join tokens: their text, what is refused, and what one does to the ring."""

from __future__ import annotations

import base64
import json
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zcluster.errors import InvalidKey, NoSuchKey, NotAllowed, ZClusterError
from zcluster.keys import Entry, KeyPair, Ring, Token, generate, public_of
from zcluster.keys.ringedits import holders
from zcluster.keys.ringfile import Content, instant, iso
from zcluster.keys.tokens import (
    CHECK_BYTES,
    MAX_TOKEN_CHARS,
    PREFIX,
    Joins,
    TokenText,
    _check,
    addresses_of,
    create_token,
    forget_token,
    refusal,
    revoke_token,
)

MASTER = generate()
TEXT = TokenText(generate(), MASTER.public, "prod", ("tcp://m:7570", "tcp://[::1]:7570"), "worker", "w1")
KEYS = [generate().public for _ in range(6)]
AT = "2024-01-01T00:00:00+00:00"
LATER_S = 4e9


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    return Ring(tmp_path / "ring.json")


def made(ring: Ring, **options: Any) -> tuple[Token, KeyPair]:
    return create_token(ring, options.pop("role", "worker"), **{"ttl_s": 3600.0, **options})


def joined(ring: Ring, token: Token, public: str, wish: str = "w", now_s: float = 0.0) -> Entry:
    def edit(content: Content) -> tuple[Content, Entry]:
        joins = Joins(content, now_s)
        entry = joins.join(token.public, public, wish)
        return joins.content, entry

    return ring.change(edit)


# -- the text -----------------------------------------------------------------------------------------------------------


def test_a_text_says_what_was_put_in_and_no_repr_has_the_secret() -> None:
    text = TEXT.text
    assert TokenText.read(f" {text}\n") == TEXT
    assert text.startswith(PREFIX)
    assert text.removeprefix(PREFIX).replace("-", "").replace("_", "").isalnum(), "it needs no quotes on a command line"
    assert TEXT.pair.secret not in repr(TEXT)


@pytest.mark.parametrize("at", range(len(PREFIX), 400, 7))
def test_a_text_that_was_changed_anywhere_is_damaged_and_not_quoted(at: int) -> None:
    text = TEXT.text
    at = max(len(PREFIX), at % len(text))
    other = "A" if text[at] != "A" else "B"
    for changed in (text[:at] + other + text[at + 1 :], text[:at], text + "A"):
        with pytest.raises(InvalidKey, match="damaged") as caught:
            TokenText.read(changed)
        assert changed[len(PREFIX) + 6 :] not in str(caught.value) or len(changed) < len(PREFIX) + 12


def text_of(**fields: Any) -> str:
    said = {
        "master": MASTER.public, "secret": TEXT.pair.secret, "cluster": "prod", "addresses": ["tcp://m:7570"], "role": "worker",
        "name": "",
    }  # fmt: skip
    said.update(fields)
    return sealed(json.dumps({name: value for name, value in said.items() if value is not None}).encode())


def sealed(data: bytes) -> str:
    return PREFIX + base64.urlsafe_b64encode(_check(data) + data).decode().rstrip("=")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "begins with"),
        ("zcj2-abc", "begins with"),
        (PREFIX, "damaged"),
        (PREFIX + "!!!!", "characters that no token has"),
        (PREFIX + "ü", "characters that no token has"),
        (PREFIX + "A" * MAX_TOKEN_CHARS, "at most"),
        (sealed(b"\xff"), "not JSON inside"),
        (sealed(b"[" * 5000), "not JSON inside"),
        (sealed(b"[]"), "exactly the fields"),
        (text_of(more="x"), "exactly the fields"),
        (text_of(secret=None), "exactly the fields"),
        (text_of(secret=5), "not a text"),
        (text_of(secret="short"), "malformed"),
        (text_of(master="x" * 40), "public key"),
        (text_of(cluster=5), "not a text"),
        (text_of(cluster="a b"), "expected a name"),
        (text_of(name="all"), "reserved"),
        (text_of(role="joiner"), "unknown role"),
        (text_of(addresses="tcp://m:7570"), "must be a list"),
        (text_of(addresses=["tcp://m:7570"] * 17), "at most 16"),
        (text_of(addresses=["http://m"]), "wrong"),
    ],
)
def test_a_forged_text_says_which_part_is_wrong(text: str, match: str) -> None:
    with pytest.raises(InvalidKey, match=match) as caught:
        TokenText.read(text)
    assert TEXT.pair.secret not in f"{caught.value} {caught.value.hint}"


def test_a_forged_secret_is_another_key_that_no_ring_knows(ring: Ring) -> None:
    token, pair = made(ring)
    other = TokenText.read(text_of(secret=generate().secret))
    assert ring.token_of(pair.public) == token
    assert ring.token_of(other.pair.public) is None
    assert public_of(pair.secret) == token.public


# -- the ring -----------------------------------------------------------------------------------------------------------


def test_a_token_admits_a_key_in_one_change_and_says_so(ring: Ring) -> None:
    token, _pair = made(ring, uses=2)
    entry = joined(ring, token, KEYS[0])
    assert (entry.name, entry.role, entry.public, entry.id, entry.token) == ("w", "worker", KEYS[0], KEYS[0], token.id)
    again = Ring(ring.path)
    assert again.get("w") == entry
    assert again.tokens[token.id].uses_left == 1
    assert again.by_public(token.public) is None, "a token is no key of the ring"


def test_who_asks_again_gets_the_same_answer_and_costs_nothing_even_when_it_is_used_up(ring: Ring) -> None:
    token, _pair = made(ring)
    entry = joined(ring, token, KEYS[0])
    before = ring.path.read_bytes()
    assert joined(ring, token, KEYS[0], "another", LATER_S) == entry
    assert ring.path.read_bytes() == before
    with pytest.raises(NotAllowed, match="used up"):
        joined(ring, token, KEYS[1])


def test_many_are_admitted_in_one_change_and_the_ring_is_walked_once(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    anybodys, named = made(ring, uses=3)[0], made(ring, name="db")[0]
    walks: list[int] = []

    def counted(content: Content) -> dict[str, str]:
        walks.append(1)
        return holders(content)

    monkeypatch.setattr("zcluster.keys.ringedits.holders", counted)
    joins = Joins(ring.content, 0.0)
    told: list[str] = []
    for token, public in (
        (anybodys, KEYS[0]), (anybodys, "x" * 40), (named, KEYS[1]), (named, KEYS[2]), (anybodys, KEYS[1]), (anybodys, KEYS[0]),
        (anybodys, KEYS[2]), (anybodys, KEYS[3]), (anybodys, KEYS[4]),
    ):  # fmt: skip
        try:
            told.append(joins.join(token.public, public, "w").name)
        except ZClusterError as error:
            told.append(error.code)
    assert told == ["w", "invalid_key", "db", "not_allowed", "invalid_key", "w", "w-2", "w-3", "not_allowed"]
    assert walks == [1]
    left = joins.content.tokens
    assert (joins.count, left[anybodys.id].uses_left, left[named.id].uses_left) == (4, 0, 0)
    assert sorted(joins.content.entries) == ["db", "w", "w-2", "w-3"]


def test_names_are_given_in_turn(ring: Ring) -> None:
    ring.add("w-2", "client", KEYS[5])
    token, _pair = made(ring, uses=4)
    assert [joined(ring, token, key, "w").name for key in KEYS[:3]] == ["w", "w-3", "w-4"]
    assert joined(ring, token, KEYS[3], "\x1b[2J all!").name == "2J-all"


def test_a_named_token_gives_its_name_or_nothing(ring: Ring) -> None:
    token, _pair = made(ring, name="db")
    ring.add("db", "worker", KEYS[5])
    with pytest.raises(InvalidKey, match="has a key 'db' already"):
        joined(ring, token, KEYS[0], "w")
    assert ring.tokens[token.id].uses_left == 1
    ring.rename("db", "old")
    assert joined(ring, token, KEYS[0], "w").name == "db"


@pytest.mark.parametrize("reason", ["expired", "used up", "revoked", "unknown"])
def test_a_token_that_is_over_is_refused_with_its_reason_and_changes_nothing(ring: Ring, reason: str) -> None:
    token, _pair = made(ring)
    now_s = 0.0
    match reason:
        case "expired":
            now_s = LATER_S
        case "used up":
            joined(ring, token, KEYS[1])
        case "revoked":
            revoke_token(ring, token.id)
        case _:
            token = replace(token, public=KEYS[2])
    before = ring.path.read_bytes()
    with pytest.raises(NotAllowed, match=reason):
        joined(ring, token, KEYS[0], now_s=now_s)
    assert ring.path.read_bytes() == before


def test_a_token_ends_at_its_second(ring: Ring) -> None:
    token = replace(made(ring)[0], expires_at=iso(1000.0))
    assert refusal(token, 999.999) == ""
    assert refusal(token, 1000.0) == "expired"


def test_neither_a_revoked_key_nor_one_of_the_ring_joins(ring: Ring) -> None:
    token, _pair = made(ring, uses=3)
    ring.add("gone", "worker", KEYS[0])
    ring.revoke("gone")
    ring.add("here", "client", KEYS[1])
    for public, match in ((KEYS[0], "was revoked"), (KEYS[1], "in the ring already"), (token.public, "in the ring already")):
        with pytest.raises(InvalidKey, match=match):
            joined(ring, token, public)
    assert ring.tokens[token.id].uses_left == 3


def test_of_two_at_once_a_token_of_one_use_admits_one(ring: Ring) -> None:
    token, _pair = made(ring)
    outcomes: list[Entry | ZClusterError] = []
    gate = threading.Barrier(4)

    def one(public: str) -> None:
        mine = Ring(ring.path)
        gate.wait()
        try:
            outcomes.append(joined(mine, token, public))
        except ZClusterError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=one, args=(public,)) for public in KEYS[:4]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(type(each).__name__ for each in outcomes) == ["Entry", "NotAllowed", "NotAllowed", "NotAllowed"]
    assert len(Ring(ring.path).entries) == 1


def test_a_full_disk_admits_nobody_and_counts_no_use(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    token, _pair = made(ring)

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(InvalidKey, match="No space left"):
            joined(ring, token, KEYS[0])
    assert ring.tokens[token.id].uses_left == 1
    assert Ring(ring.path).by_public(KEYS[0]) is None
    assert joined(ring, token, KEYS[0]).name == "w"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"role": "master"}, "does not join"),
        ({"role": "joiner"}, "unknown role"),
        ({"role": "admin"}, "do everything"),
        ({"role": "ops", "bases": {"ops": "admin"}}, "do everything"),
        ({"name": "all"}, "reserved"),
        ({"name": "master"}, "only for a key of role master"),
        ({"name": "taken"}, "has a key 'taken' already"),
        ({"ttl_s": 0.0}, "at most 30 days"),
        ({"ttl_s": float("nan")}, "at most 30 days"),
        ({"ttl_s": 30 * 86_400 + 1.0}, "at most 30 days"),
        ({"uses": 0}, "at least 1 use"),
        ({"uses": 10_001}, "at most 10000"),
        ({"uses": 2, "name": "w"}, "1 use where it has a name"),
        ({"creator": KEYS[5]}, "no longer admitted"),
    ],
)
def test_what_cannot_be_a_token_is_not_made(ring: Ring, options: dict[str, Any], match: str) -> None:
    ring.add("taken", "worker", KEYS[0])
    with pytest.raises((InvalidKey, NotAllowed), match=match):
        made(ring, **options)
    assert dict(ring.tokens) == {}


def test_the_limits_themselves_are_allowed(ring: Ring) -> None:
    assert made(ring, ttl_s=30 * 86_400.0, uses=10_000)[0].uses_left == 10_000
    assert made(ring, role="admin", force=True)[0].role == "admin"
    assert made(ring, role="ops", bases={"ops": "client"})[0].role == "ops"


def test_tokens_are_bounded_and_those_that_are_over_make_room(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcluster.keys.tokens.MAX_TOKENS", 3)
    over, *live = (made(ring)[0] for _ in range(3))
    joined(ring, over, KEYS[0])
    token = made(ring)[0]
    assert set(ring.tokens) == {token.id, *(each.id for each in live)}
    before = ring.path.read_bytes()
    with pytest.raises(InvalidKey, match="there are 3 tokens"):
        made(ring)
    assert ring.path.read_bytes() == before
    revoke_token(ring, live[0].id)
    assert made(ring)[0].id in ring.tokens
    assert len(ring.tokens) == 3


def test_a_revoked_key_takes_its_tokens_with_it_and_no_others(ring: Ring) -> None:
    ring.add("boss", "admin", KEYS[0])
    ring.add("other", "admin", KEYS[1])
    mine, theirs, nobodys = (made(ring, creator=key)[0] for key in (KEYS[0], KEYS[1], ""))
    ring.revoke("boss")
    assert {id_: token.revoked_at != "" for id_, token in ring.tokens.items()} == {
        mine.id: True,
        theirs.id: False,
        nobodys.id: False,
    }


def test_a_token_whose_maker_is_gone_admits_nobody(ring: Ring) -> None:
    ring.add("boss", "admin", KEYS[0])
    token, _pair = made(ring, creator=KEYS[0])
    ring.change(lambda content: (content._replace(entries={}), None))  # as by hand
    with pytest.raises(NotAllowed, match="the key that made the token is no longer admitted"):
        joined(ring, token, KEYS[1])


def test_a_name_for_which_there_is_a_token_is_nobody_elses(ring: Ring) -> None:
    anybodys, named = made(ring, uses=10)[0], made(ring, name="db", ttl_s=60.0)[0]
    before_s = instant(named.created_at)
    assert joined(ring, anybodys, KEYS[0], "db", before_s).name == "db-2"
    assert joined(ring, named, KEYS[1], "x", before_s).name == "db"
    late = made(ring, name="late", ttl_s=60.0)[0]
    assert joined(ring, anybodys, KEYS[2], "late", instant(late.expires_at)).name == "late", "it has expired"


def test_what_a_revoked_key_joined_by_lets_nobody_back_in(ring: Ring) -> None:
    came_by, named = made(ring, uses=10)[0], made(ring, name="w2")[0]
    assert joined(ring, came_by, KEYS[0], "w1").name == "w1"
    ring.add("w2", "worker", KEYS[2])  # by hand, while there is a token for that name
    ring.revoke("w1")
    ring.revoke("w2")
    for token in (came_by, named):
        with pytest.raises(NotAllowed, match="revoked"):
            joined(ring, token, KEYS[1], "w1")


def test_revoking_twice_is_once_and_an_unknown_id_is_an_error(ring: Ring) -> None:
    token, _pair = made(ring)
    first = revoke_token(ring, token.id)
    assert first.revoked_at
    assert revoke_token(ring, token.id) == first
    with pytest.raises(NoSuchKey, match="no token 'zz'"):
        revoke_token(ring, "zz")
    forget_token(ring, token.id)
    assert dict(ring.tokens) == {}


def test_a_token_says_the_addresses_of_now_or_those_that_were_noted() -> None:
    assert addresses_of(("tcp://a:1",), ("tcp://b:1",)) == ("tcp://a:1",)
    assert addresses_of((), ("tcp://b:1",)) == ("tcp://b:1",)
    with pytest.raises(InvalidKey, match="knows no address"):
        addresses_of((), ())


def test_the_checksum_is_what_the_page_says() -> None:
    assert len(_check(b"")) == CHECK_BYTES == 4
