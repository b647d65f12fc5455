"""The text of the ring's file: JSON, schema 2; schema 1 is read too.

Rules kept here:
- what is read is checked as strictly as what is added: a ring that was edited by hand is held to the same rules;
- a broken file is InvalidKey that names the entry; it is never read in part;
- fields that this version does not know are refused: they may restrict a key;
- a public key is there once: as a key in use, as one of before, as a token's or as a revoked one; two entries never have one id.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from zcluster.config import name_fault
from zcluster.errors import InvalidKey
from zcluster.keys.pair import check_public
from zcluster.keys.rights import check_role
from zcluster.wire.rotation import MAX_OVERLAP_S

SCHEMA = 2
MAX_RING_BYTES = 64 << 20
MAX_TIME_CHARS = 40
MAX_PREVIOUS = 4
"""Keys of before that one entry has."""
MAX_TOKENS = 1_000
MAX_TOKEN_USES = 10_000
MAX_REJECTED = 1_000
TOKEN_ID_CHARS = 12


class Previous(NamedTuple):
    """A key that its owner is leaving: admitted like the entry's own ``until`` then (an ISO 8601 time in UTC)."""

    public: str
    until: str


@dataclass(frozen=True)
class Entry:
    """An admitted key.

    Attributes:
        name, role, public: what the ring calls it, what it may do, and the key that is in use.
        created_at: when it was admitted, an ISO 8601 time in UTC.
        id: who it is, whatever key it has: its first public key. Sessions, jobs and agents belong to an id.
        previous: keys that it had before and that are still admitted for a while.
        token: the id of the join token by which it came, or empty.
        rotate_s: its owner is to have another key, and this one is to be admitted for so long besides; 0: nobody wants that.
    """

    name: str
    role: str
    public: str
    created_at: str
    id: str = ""
    previous: tuple[Previous, ...] = ()
    token: str = ""
    rotate_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", self.public)

    @property
    def publics(self) -> tuple[str, ...]:
        """The key in use, and those of before."""
        return (self.public, *(each.public for each in self.previous))

    @property
    def door(self) -> tuple[str, str]:
        """The key that the door of this worker has now, and the one that it will have (empty: the same)."""
        return (self.previous[-1].public, self.public) if self.previous else (self.public, "")


@dataclass(frozen=True)
class Revoked:
    """A key that is no longer admitted. ``revoked_at`` is an ISO 8601 time in UTC."""

    name: str
    role: str
    public: str
    revoked_at: str


@dataclass(frozen=True)
class Token:
    """A join token: a key whose holder may have another one admitted.

    Attributes:
        id: how commands call it; no secret.
        public: its public key; the secret is in the token's text and nowhere else.
        role: of the keys that it admits.
        name: of the one key that it admits; empty: the joiner may wish.
        uses_left: how many more keys it admits.
        created_at, expires_at: ISO 8601 times in UTC.
        creator: the id of the key that made it; empty: it was made on the master's home.
        revoked_at: when it was revoked; empty: it was not.
    """

    id: str
    public: str
    role: str
    name: str
    uses_left: int
    created_at: str
    expires_at: str
    creator: str = ""
    revoked_at: str = ""


@dataclass(frozen=True)
class Rejected:
    """A key that asked to be admitted and was rejected; it may still be added by hand."""

    public: str
    rejected_at: str


class Content(NamedTuple):
    """All that the file holds: the admitted keys by name, the revoked ones, the oldest first, the tokens by id, and the keys
    that were rejected, the oldest first."""

    entries: Mapping[str, Entry]
    revoked: tuple[Revoked, ...] = ()
    tokens: Mapping[str, Token] = {}
    rejected: tuple[Rejected, ...] = ()


Record = TypeVar("Record")

_ENTRY_1 = ("name", "role", "public", "created_at")
_ENTRY_2 = (*_ENTRY_1, "id", "previous", "token", "rotate_s")
_REVOKED = ("name", "role", "public", "revoked_at")
_TOKEN = ("id", "public", "role", "name", "uses_left", "created_at", "expires_at", "creator", "revoked_at")
_REJECTED = ("public", "rejected_at")


def encode_ring(content: Content) -> bytes:
    """The file's bytes: one key a line, sorted by name, so that two versions compare well."""
    parts = (
        ("entries", [content.entries[name] for name in sorted(content.entries)]),
        ("revoked", content.revoked),
        ("tokens", [content.tokens[id_] for id_ in sorted(content.tokens)]),
        ("rejected", content.rejected),
    )
    lists = ",\n".join(f'"{name}": [\n{_lines(records)}]' for name, records in parts)
    return f'{{"schema": {SCHEMA},\n{lists}}}\n'.encode()


def decode_ring(path: Path, data: bytes, checked: Container[str] = ()) -> Content:
    """What ``data``, read from ``path``, holds.

    Args:
        path: the file, for messages.
        data: its content.
        checked: public keys that are known to be well-formed; a large ring is read again in half the time.

    Raises:
        InvalidKey: it is broken; the message names the place.
    """
    hint = f"restore {path.name} from a backup; nobody new is admitted until then"
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidKey(f"{path}: the ring is broken: not JSON", hint=hint) from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema not in (1, SCHEMA) or isinstance(schema, bool):
        raise InvalidKey(f"{path}: not a ring of schema 1 or {SCHEMA}", hint=hint)
    try:
        return _decode(document, schema, checked)
    except InvalidKey as error:
        raise InvalidKey(f"{path}: the ring is broken: {error.message}", hint=hint) from None


def instant(text: str) -> float:
    """Seconds since 1970 of ``text``, an ISO 8601 time.

    Raises:
        InvalidKey: it is none, or says no time zone.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidKey(f"{text[:MAX_TIME_CHARS]!r} is not a time") from None
    if found.tzinfo is None:
        raise InvalidKey(f"{text!r} is a time without a time zone")
    return found.timestamp()


def iso(at_s: float) -> str:
    """``at_s`` (seconds since 1970) as the ring writes times: ISO 8601, UTC, whole seconds."""
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds")


def _lines(records: Collection[object]) -> str:
    return ",\n".join(json.dumps(vars(record)) for record in records)


def _decode(document: dict[str, Any], schema: int, checked: Container[str]) -> Content:
    def records(where: str, names: tuple[str, ...], read: Callable[[dict[str, Any], Container[str]], Record]) -> list[Record]:
        raw = document.get(where)
        if not isinstance(raw, list):
            raise InvalidKey(f"{where} is not a list")
        wanted = frozenset(names)
        for index, item in enumerate(raw):
            if not isinstance(item, dict) or item.keys() != wanted:
                raise InvalidKey(f"{where}[{index}] does not have exactly the fields {', '.join(names)}")
        return [_record(item, read, f"{where}[{index}]", checked) for index, item in enumerate(raw)]

    entries = records("entries", _ENTRY_1 if schema == 1 else _ENTRY_2, _entry)
    revoked = records("revoked", _REVOKED, _revoked)
    tokens = records("tokens", _TOKEN, _token) if schema != 1 else []
    rejected = records("rejected", _REJECTED, _rejected) if schema != 1 else []
    by_id = _by_id(tokens)
    return Content(_unique(entries, revoked, tokens), tuple(revoked), by_id, tuple(rejected))


def _record(
    item: dict[str, Any], read: Callable[[dict[str, Any], Container[str]], Record], where: str, checked: Container[str]
) -> Record:
    try:
        return read(item, checked)
    except InvalidKey as error:
        raise InvalidKey(f"{where}: {error.message}") from None


def _entry(item: dict[str, Any], checked: Container[str]) -> Entry:
    _check_texts(item, other=("previous", "rotate_s"))
    _check_named(item, checked)
    _check_times(item, "created_at")
    rotate_s = item.get("rotate_s", 0)
    if not isinstance(rotate_s, int | float) or isinstance(rotate_s, bool) or not 0 <= rotate_s <= MAX_OVERLAP_S:
        raise InvalidKey(f"rotate_s is not a number from 0 to {MAX_OVERLAP_S:g}")
    if item.get("id"):
        _check_key(item["id"], checked)
    _check_token_id(item.get("token", ""))
    return Entry(**{**item, "previous": _previous(item.get("previous", []), checked)})


def _previous(raw: Any, checked: Container[str]) -> tuple[Previous, ...]:
    if not isinstance(raw, list) or len(raw) > MAX_PREVIOUS:
        raise InvalidKey(f"previous is not a list of at most {MAX_PREVIOUS} keys")
    found = []
    for each in raw:
        if not isinstance(each, list) or len(each) != 2 or not all(isinstance(text, str) for text in each):
            raise InvalidKey("previous does not have a key and a time")
        _check_key(each[0], checked)
        instant(each[1])
        found.append(Previous(*each))
    return tuple(found)


def _revoked(item: dict[str, Any], checked: Container[str]) -> Revoked:
    _check_texts(item)
    _check_named(item, checked)
    _check_times(item, "revoked_at")
    return Revoked(**item)


def _token(item: dict[str, Any], checked: Container[str]) -> Token:
    _check_texts(item, other=("uses_left",))
    uses_left = item["uses_left"]
    if not isinstance(uses_left, int) or isinstance(uses_left, bool) or not 0 <= uses_left <= MAX_TOKEN_USES:
        raise InvalidKey(f"uses_left is not a number from 0 to {MAX_TOKEN_USES}")
    if not item["id"]:
        raise InvalidKey("a token without an id")
    _check_token_id(item["id"])
    if item["name"]:
        _check_named(item, checked)
    else:
        check_role(item["role"])
        _check_key(item["public"], checked)
    if item["creator"]:
        _check_key(item["creator"], checked)
    for name in ("created_at", "expires_at"):
        instant(item[name])
    _check_times(item, "revoked_at")
    return Token(**item)


def _rejected(item: dict[str, Any], checked: Container[str]) -> Rejected:
    _check_texts(item)
    _check_key(item["public"], checked)
    _check_times(item, "rejected_at")
    return Rejected(**item)


def _check_texts(item: dict[str, Any], other: tuple[str, ...] = ()) -> None:
    for name, value in item.items():
        if name not in other and not isinstance(value, str):
            raise InvalidKey(f"{name} is not a text")


def _check_named(item: dict[str, Any], checked: Container[str]) -> None:
    fault = name_fault(item["name"])
    if fault:
        raise InvalidKey(fault)
    check_role(item["role"])
    _check_key(item["public"], checked)
    if item["name"] == "master" and item["role"] != "master":
        raise InvalidKey("the name 'master' is only for a key of role master")


def _check_key(public: str, checked: Container[str]) -> None:
    if public not in checked:
        check_public(public)


def _check_times(item: dict[str, Any], name: str) -> None:
    if len(item[name]) > MAX_TIME_CHARS:
        raise InvalidKey(f"{name} is not a time")


def _check_token_id(text: str) -> None:
    if text and (len(text) != TOKEN_ID_CHARS or not text.isascii() or not text.isalnum()):
        raise InvalidKey("a token's id is not what a token's id looks like")


def _by_id(tokens: list[Token]) -> dict[str, Token]:
    if len(tokens) > MAX_TOKENS:
        raise InvalidKey(f"{len(tokens)} tokens, at most {MAX_TOKENS} are possible")
    by_id = {token.id: token for token in tokens}
    if len(by_id) != len(tokens):
        raise InvalidKey("two tokens have one id")
    return by_id


def _unique(entries: list[Entry], revoked: list[Revoked], tokens: list[Token]) -> dict[str, Entry]:
    by_name: dict[str, Entry] = {}
    ids: dict[str, str] = {}
    seen = {each.public: f"the revoked {each.name!r}" for each in revoked}
    for entry in entries:
        if entry.name in by_name:
            raise InvalidKey(f"two keys are called {entry.name!r}")
        for public in entry.publics:
            if public in seen:
                raise InvalidKey(f"{entry.name!r} has the public key of {seen[public]}")
            seen[public] = repr(entry.name)
        if entry.id in ids:
            raise InvalidKey(f"{entry.name!r} has the id of {ids[entry.id]}")
        by_name[entry.name] = entry
        ids[entry.id] = repr(entry.name)
    for entry in entries:
        # a key that was somebody's first one is nobody else's, whatever became of it
        for public in entry.publics:
            if ids.get(public, repr(entry.name)) != repr(entry.name):
                raise InvalidKey(f"{entry.name!r} has the first public key of {ids[public]}")
    for token in tokens:
        if token.public in seen or token.public in ids:
            raise InvalidKey(f"the token {token.id} has the public key of {seen.get(token.public) or ids[token.public]}")
        seen[token.public] = f"the token {token.id}"
    return by_name
