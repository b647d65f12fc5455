"""CURVE key pairs as Z85 text.

Rules kept here:
- a secret is in no repr, no message and no log;
- a public key has exactly one accepted text: 40 characters that decode to a canonical Curve25519 point (below 2^255 - 19).
  A second spelling of the same key could otherwise pass for a new one after the first was revoked;
- zmq is imported when a pair is made or compared, not before.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field

from zcluster.errors import InvalidKey

KEY_CHARS = 40
KEY_BYTES = 32

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_VALUES = {char: value for value, char in enumerate(_ALPHABET)}
_PRIME = (1 << 255) - 19


@dataclass(frozen=True)
class KeyPair:
    """A public key and its secret key, both Z85 text of 40 characters."""

    public: str
    secret: str = field(repr=False)


def generate() -> KeyPair:
    """A new pair from libzmq's generator.

    Raises:
        InvalidKey: this libzmq was built without CURVE.
    """
    import zmq

    if not zmq.has("curve"):
        raise InvalidKey("this libzmq has no CURVE encryption", hint="install a pyzmq wheel, or libzmq with libsodium")
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode("ascii"), secret.decode("ascii"))


def public_of(secret: str) -> str:
    """The public key that belongs to ``secret``.

    Raises:
        InvalidKey: the secret is not of the right form; it is not quoted.
    """
    import zmq

    if _decode(secret) is None:
        raise InvalidKey("the secret key is malformed", hint="restore the key file, or make a new one: zcluster keys new")
    return zmq.curve_public(secret.encode("ascii")).decode("ascii")


def check_public(public: str) -> str:
    """``public`` itself.

    Raises:
        InvalidKey: it is no public key: wrong length, no Z85, or no canonical Curve25519 point.
    """
    hint = "a public key is 40 characters of Z85, as `zcluster keys show` prints it"
    if len(public) != KEY_CHARS:
        raise InvalidKey(f"a public key has {KEY_CHARS} characters, this one has {len(public)}", hint=hint)
    odd = next((char for char in public if char not in _VALUES), "")
    if odd:
        raise InvalidKey(f"a public key has only Z85 characters, this one has {odd!r}", hint=hint)
    raw = _decode(public)
    # below 2: zero and one are no points that a pair can have, and what a placeholder looks like
    if raw is None or not 1 < int.from_bytes(raw, "little") < _PRIME:
        raise InvalidKey(f"{public!r} is not the text of a Curve25519 public key", hint=hint)
    return public


def fingerprint(public: str) -> str:
    """A short text to compare by eye: "SHA256:" and five groups of five base32 characters (125 bits).

    Raises:
        InvalidKey: ``public`` is no public key.
    """
    raw = _decode(check_public(public))
    assert raw is not None
    text = base64.b32encode(hashlib.sha256(raw).digest()).decode("ascii")[:25]
    return "SHA256:" + "-".join(text[start : start + 5] for start in range(0, 25, 5))


def _decode(text: str) -> bytes | None:
    """The 32 bytes that ``text`` is Z85 of, or None."""
    if len(text) != KEY_CHARS:
        return None
    raw = bytearray()
    for start in range(0, KEY_CHARS, 5):
        word = 0
        for char in text[start : start + 5]:
            value = _VALUES.get(char)
            if value is None:
                return None
            word = word * 85 + value
        if word >= 1 << 32:
            return None
        raw += word.to_bytes(4, "big")
    return bytes(raw)
