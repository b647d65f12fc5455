"""The keys that wait to be accepted: the file in which a master leaves them for the commands on its machine.

Rules kept here:
- the file is a note of what the master has seen, no more: what is accepted or rejected is decided in the ring;
- a fingerprint is compared whole and in constant time; a part of one means nobody.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zcluster.config import Home
from zcluster.core.joining import MAX_STRANGERS, Stranger
from zcluster.errors import InvalidKey, NoSuchKey
from zcluster.keys.pair import check_public, fingerprint
from zcluster.keys.private import read_private, replace
from zcluster.keys.ring import Ring
from zcluster.keys.ringedits import with_entries
from zcluster.keys.ringfile import Content, Entry, Rejected, iso

SCHEMA = 1
MAX_BYTES = 1 << 20
MAX_ADDRESS_CHARS = 256

_FIELDS = {"public": str, "address": str, "first_s": float, "last_s": float, "tries": int}


def pending_file(home: Home | Path) -> Path:
    """Where it is."""
    return Home.of(home).run_dir / "pending.json"


def write_pending(home: Home | Path, strangers: Iterable[Stranger]) -> None:
    """Write it anew.

    Raises:
        InvalidKey: it cannot be written.
    """
    replace(pending_file(home), json.dumps({"schema": SCHEMA, "keys": [asdict(each) for each in strangers]}).encode())


def read_pending(home: Home | Path) -> list[Stranger]:
    """What the master has seen; nothing when it has never run.

    Raises:
        InvalidKey: the file cannot be read.
    """
    path = pending_file(home)
    try:
        data, _found = read_private(path, MAX_BYTES, forbid=0o022)
        document = json.loads(data)
    except FileNotFoundError:
        return []
    except (ValueError, RecursionError):
        document = None
    keys = document.get("keys") if isinstance(document, dict) and document.get("schema") == SCHEMA else None
    if not isinstance(keys, list) or len(keys) > MAX_STRANGERS or not all(_is_stranger(each) for each in keys):
        raise InvalidKey(f"{path} is not what a master writes", hint="remove it; the master writes it again")
    return [Stranger(**each) for each in keys]


def waiting(strangers: Iterable[Stranger], ring: Ring) -> list[Stranger]:
    """Those of ``strangers`` that nobody has decided on."""
    rejected = {each.public for each in ring.rejected}
    revoked = {each.public for each in ring.revoked}
    return [each for each in strangers if ring.by_public(each.public) is None and each.public not in rejected | revoked]


def find(strangers: Iterable[Stranger], wanted: str) -> Stranger:
    """The one whose key has the fingerprint ``wanted``.

    Raises:
        NoSuchKey: there is none.
    """
    mark = wanted.strip().encode(errors="replace")  # what a shell gives need not be a text
    found = [each for each in strangers if secrets.compare_digest(fingerprint(each.public).encode(), mark)]
    if not found:
        raise NoSuchKey(
            f"no key with the fingerprint {wanted[:80]!r} waits to be accepted",
            hint="give the whole fingerprint, as the new machine printed it; `zcluster keys pending` lists those that have tried",
        )
    return found[0]


def reject(ring: Ring, public: str) -> None:
    """Let the key of this public key no longer wait; it may still be added by hand.

    Raises:
        Busy: another process kept the ring locked.
    """

    def edit(content: Content) -> tuple[Content, None]:
        if any(each.public == public for each in content.rejected):
            return content, None
        return content._replace(rejected=(*content.rejected, Rejected(public, iso(time.time())))), None

    ring.change(edit)


def accept(ring: Ring, public: str, name: str, role: str) -> Entry:
    """Admit a key that waits.

    Raises:
        InvalidKey: the name or role is not possible or taken, or the key was decided on meanwhile.
        Busy: another process kept the ring locked.
    """

    def edit(content: Content) -> tuple[Content, Entry]:
        entry = Entry(name, role, public, iso(time.time()))
        return with_entries(content, [entry]), entry

    return ring.change(edit)


def _is_stranger(item: Any) -> bool:
    if not isinstance(item, dict) or item.keys() != _FIELDS.keys():
        return False
    if not all(type(item[name]) is kind for name, kind in _FIELDS.items()) or len(item["address"]) > MAX_ADDRESS_CHARS:
        return False
    try:
        check_public(item["public"])
    except InvalidKey:
        return False
    return True
