"""An argument that nobody is to read by accident.

Rules kept here:
- the text of a Secret comes out by :meth:`Secret.reveal` alone: no str, repr, format, JSON, pickle or traceback shows it;
- in a schema a secret is ``writeOnly``: by that the audit log and whoever else shows arguments leave it out;
- what a function says when it fails is searched for the secrets of its call, as they are and as they look when they are quoted.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Collection
from typing import Any, Final, NoReturn

import msgspec

from zcluster.errors import MAX_TEXT_CHARS, one_line

HIDDEN: Final = "***"
MIN_CHARS = 4
"""Shorter secrets are not searched for: they are in any text."""
MAX_SECRETS = 256
WITHHELD = f"not told: the call has more than {MAX_SECRETS} secrets"
SCHEMA: dict[str, Any] = {"type": "string", "writeOnly": True, "format": "password"}


class Secret:
    """Text that does not show itself: ``def login(user: str, password: zcluster.Secret)``.

    Requests give it as text. Two are equal when their texts are, which is compared in constant time; one is never equal to a
    ``str``. It cannot be pickled and is not JSON: a function does not return it.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"a Secret is made of text, not of {type(text).__name__}")
        self._text = text

    def reveal(self) -> str:
        """The text."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({HIDDEN!r})"

    def __str__(self) -> str:
        return HIDDEN

    def __format__(self, spec: str) -> str:
        return HIDDEN

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_bytes(self._text), _bytes(other._text))

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a Secret is not pickled: reveal() it where its text has to go elsewhere")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def from_json(kind: type, value: Any) -> Secret:
    """For msgspec (``dec_hook``): the Secret that a request gives as text."""
    if kind is not Secret:
        raise NotImplementedError(f"{kind.__name__} cannot come from JSON")
    if not isinstance(value, str):
        raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
    return Secret(value)


def schema_of_type(kind: type) -> dict[str, Any]:
    """For msgspec (``schema_hook``): the schema of a Secret."""
    if kind is not Secret:
        raise NotImplementedError(f"{kind.__name__} has no JSON schema")
    return dict(SCHEMA)


def holds_secret(kind: Any) -> bool:
    """Whether there is a Secret in the type of an argument. Raises TypeError where a schema could not tell it."""
    found, seen, left = False, set(), [msgspec.inspect.type_info(kind)]
    while left:
        info = left.pop()
        if id(info) in seen:
            continue
        seen.add(id(info))
        found = found or _is_secret(info)
        if isinstance(info, msgspec.inspect.DictType) and _is_secret(info.key_type):
            raise TypeError("a Secret cannot be the key of a dictionary")
        left += _parts(info)
    return found


def _is_secret(info: Any) -> bool:
    return isinstance(info, msgspec.inspect.CustomType) and info.cls is Secret


def _parts(info: Any) -> list[Any]:
    out: list[Any] = []
    for name in info.__struct_fields__:
        value = getattr(info, name)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, msgspec.inspect.Type | msgspec.inspect.Field):
                out.append(each)
    return out


def hide(text: str, secrets: Collection[str]) -> str:
    """``text`` with each of ``secrets`` (those of at least MIN_CHARS) replaced, also where it stands quoted or escaped.

    Of a call with more than MAX_SECRETS nothing is told.
    """
    if len(secrets) > MAX_SECRETS:
        return WITHHELD
    forms = {form for secret in secrets if len(secret) >= MIN_CHARS for form in _forms(secret)}
    # The longest first: one secret may be a part of another.
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, HIDDEN)
    return _hide_cut(text, forms)


def _forms(secret: str) -> set[str]:
    """How ``secret`` may look in a text: as it is, on one line, in a repr, in the repr of its bytes, in JSON."""
    return {
        secret,
        one_line(secret) if len(secret) < MAX_TEXT_CHARS else secret,
        repr(secret)[1:-1],
        repr(_bytes(secret))[2:-1],
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
    }


def _hide_cut(text: str, forms: Collection[str]) -> str:
    """``text`` without the beginnings of secrets before a "…": an error's message ends so where it was cut."""
    pieces = text.split("…")
    for index, piece in enumerate(pieces[:-1]):
        pieces[index] = min((_without_beginning(piece, form) for form in forms), key=len, default=piece)
    return "…".join(pieces)


def _without_beginning(text: str, form: str) -> str:
    beginning = form[:MIN_CHARS]
    at = text.find(beginning, max(0, len(text) - min(len(form), MAX_TEXT_CHARS)))
    while at >= 0:
        if form.startswith(text[at:]):
            return text[:at] + HIDDEN
        at = text.find(beginning, at + 1)
    return text
