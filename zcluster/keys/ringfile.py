"""The text of the ring's file: JSON, schema 1.

Rules kept here:
- what is read is checked as strictly as what is added: a ring that was edited by hand is held to the same rules;
- a broken file is InvalidKey that names the entry; it is never read in part;
- fields that this version does not know are refused: they may restrict a key.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from zcluster.config import name_fault
from zcluster.errors import InvalidKey
from zcluster.keys.pair import check_public
from zcluster.keys.rights import check_role

SCHEMA = 1
MAX_RING_BYTES = 64 << 20
MAX_TIME_CHARS = 40


@dataclass(frozen=True)
class Entry:
    """An admitted key. ``created_at`` is an ISO 8601 time in UTC."""

    name: str
    role: str
    public: str
    created_at: str


@dataclass(frozen=True)
class Revoked:
    """A key that is no longer admitted. ``revoked_at`` is an ISO 8601 time in UTC."""

    name: str
    role: str
    public: str
    revoked_at: str


class Content(NamedTuple):
    """All that the file holds: the admitted keys by name, and the revoked ones, the oldest first."""

    entries: Mapping[str, Entry]
    revoked: tuple[Revoked, ...]


Record = TypeVar("Record", Entry, Revoked)


def encode_ring(content: Content) -> bytes:
    """The file's bytes: one key a line, sorted by name, so that two versions compare well."""
    entries = [content.entries[name] for name in sorted(content.entries)]
    return (f'{{"schema": {SCHEMA},\n"entries": [\n{_lines(entries)}],\n"revoked": [\n{_lines(content.revoked)}]}}\n').encode()


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
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise InvalidKey(f"{path}: not a ring of schema {SCHEMA}", hint=hint)
    try:
        entries = _records(Entry, document.get("entries"), "entries", checked)
        revoked = _records(Revoked, document.get("revoked"), "revoked", checked)
        return Content(_unique(entries, revoked), tuple(revoked))
    except InvalidKey as error:
        raise InvalidKey(f"{path}: the ring is broken: {error.message}", hint=hint) from None


def _lines(records: list[Entry] | tuple[Revoked, ...]) -> str:
    return ",\n".join(json.dumps(asdict(record)) for record in records)


def _records(kind: type[Record], raw: Any, where: str, checked: Container[str]) -> list[Record]:
    if not isinstance(raw, list):
        raise InvalidKey(f"{where} is not a list")
    names = tuple(field.name for field in fields(kind))
    return [_record(kind, names, item, f"{where}[{index}]", checked) for index, item in enumerate(raw)]


def _record(kind: type[Record], names: tuple[str, ...], item: Any, where: str, checked: Container[str]) -> Record:
    if not isinstance(item, dict) or set(item) != set(names) or not all(isinstance(value, str) for value in item.values()):
        raise InvalidKey(f"{where} does not have exactly the texts {', '.join(names)}")
    record = kind(**item)
    fault = name_fault(record.name)
    if fault:
        raise InvalidKey(f"{where}: {fault}")
    try:
        check_role(record.role)
        if record.public not in checked:
            check_public(record.public)
    except InvalidKey as error:
        raise InvalidKey(f"{where}: {error.message}") from None
    if record.name == "master" and record.role != "master":
        raise InvalidKey(f"{where}: the name 'master' is only for a key of role master")
    if len(item[names[-1]]) > MAX_TIME_CHARS:
        raise InvalidKey(f"{where}: {names[-1]} is not a time")
    return record


def _unique(entries: list[Entry], revoked: list[Revoked]) -> dict[str, Entry]:
    by_name: dict[str, Entry] = {}
    seen = {each.public: f"the revoked {each.name!r}" for each in revoked}
    for entry in entries:
        if entry.name in by_name:
            raise InvalidKey(f"two keys are called {entry.name!r}")
        if entry.public in seen:
            raise InvalidKey(f"{entry.name!r} has the public key of {seen[entry.public]}")
        by_name[entry.name] = entry
        seen[entry.public] = repr(entry.name)
    return by_name
