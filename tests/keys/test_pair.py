"""Key pairs: their text has one form, and the secret never shows."""

from __future__ import annotations

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from zcluster.errors import InvalidKey
from zcluster.keys import KeyPair, check_public, fingerprint, generate, public_of

PUBLIC = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
"""The server key of ZeroMQ's own examples."""


def test_a_pair_is_libzmqs_and_its_secret_is_in_no_repr() -> None:
    pair = generate()
    assert check_public(pair.public) == pair.public == public_of(pair.secret)
    assert zmq.curve_public(pair.secret.encode()) == pair.public.encode()
    assert pair.secret not in f"{pair!r} {pair} {[pair]} {(pair,)}"
    assert pair.public in repr(pair)
    assert generate() != pair


def test_many_generated_keys_are_accepted() -> None:
    for _ in range(200):
        check_public(generate().public)


def test_a_known_key_is_accepted_and_has_a_stable_fingerprint() -> None:
    assert check_public(PUBLIC) == PUBLIC
    assert fingerprint(PUBLIC) == fingerprint(PUBLIC)
    prefix, groups = fingerprint(PUBLIC).split(":")
    assert prefix == "SHA256"
    assert [len(group) for group in groups.split("-")] == [5] * 5
    assert fingerprint(generate().public) != fingerprint(PUBLIC)


def test_the_fingerprint_is_of_the_decoded_key() -> None:
    # computed once with hashlib and base64 from the 32 bytes
    raw = z85.decode(PUBLIC.encode())
    import base64
    import hashlib

    text = base64.b32encode(hashlib.sha256(raw).digest()).decode()
    assert fingerprint(PUBLIC).removeprefix("SHA256:").replace("-", "") == text[:25]


@pytest.mark.parametrize(
    ("public", "match"),
    [
        ("", "40 characters, this one has 0"),
        (PUBLIC[:-1], "40 characters, this one has 39"),
        (PUBLIC + "0", "40 characters, this one has 41"),
        (PUBLIC[:-1] + "~", "only Z85 characters, this one has '~'"),
        (PUBLIC[:-1] + "\n", "only Z85 characters"),
        (PUBLIC[:-1] + "é", "only Z85 characters"),
        ("#####" * 8, "not the text of a Curve25519 public key"),
        ("0" * 40, "not the text of a Curve25519 public key"),
    ],
)
def test_what_is_no_public_key_says_why(public: str, match: str) -> None:
    with pytest.raises(InvalidKey, match=match) as caught:
        check_public(public)
    assert "keys show" in caught.value.hint
    with pytest.raises(InvalidKey):
        fingerprint(public)


def encode(number: int) -> str:
    return z85.encode(number.to_bytes(32, "little")).decode()


def test_a_second_spelling_of_the_same_point_is_refused() -> None:
    number = int.from_bytes(z85.decode(PUBLIC.encode()), "little")
    with pytest.raises(InvalidKey):
        check_public(encode(number | 1 << 255))
    with pytest.raises(InvalidKey):
        check_public(encode((1 << 255) - 19))
    assert check_public(encode((1 << 255) - 20))
    assert check_public(encode(2))
    with pytest.raises(InvalidKey):
        check_public(encode(1))


@given(st.binary(min_size=32, max_size=32).map(lambda raw: raw[:31] + bytes([raw[31] & 0x3F])))
def test_the_decoder_agrees_with_pyzmqs(raw: bytes) -> None:
    if int.from_bytes(raw, "little") > 1:
        assert check_public(z85.encode(raw).decode())


@given(st.text(min_size=40, max_size=40))
def test_any_text_is_accepted_or_refused_but_nothing_else(text: str) -> None:
    try:
        assert z85.encode(z85.decode(check_public(text).encode())).decode() == text
    except InvalidKey as error:
        assert "public key" in error.message  # noqa: PT017


@pytest.mark.parametrize("secret", ["", "SECRETSECRET", "#" * 40, "~" * 40])
def test_a_malformed_secret_is_not_quoted(secret: str) -> None:
    with pytest.raises(InvalidKey, match="malformed") as caught:
        public_of(secret)
    assert not secret or secret not in str(caught.value)


def test_without_curve_no_pair_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq, "has", lambda capability: capability != "curve")
    with pytest.raises(InvalidKey, match="no CURVE"):
        generate()


def test_pairs_compare_by_value() -> None:
    assert KeyPair("a", "b") == KeyPair("a", "b") != KeyPair("a", "c")
