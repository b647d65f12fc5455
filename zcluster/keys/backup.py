"""A backup of a master's keys: the ring, and when wanted the home's key files, in one private file.

Rules kept here:
- what is read is checked as strictly as the ring and the key files themselves, before anything is written;
- a key that was revoked since the backup stays revoked, and one that was rotated since keeps its newer key and key file;
- join tokens are not restored: what was used up or revoked since would admit again; those of a key that goes go with it;
- nothing that is there is lost unless that is asked for;
- key files are written first, the ring last and in one step: killed in between, the same import completes it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zcluster.config import Home, name_fault
from zcluster.errors import InvalidKey
from zcluster.keys.keyfile import MAX_KEY_FILE_BYTES, KeyFile
from zcluster.keys.private import make_private_dir, read_private, replace, write_new
from zcluster.keys.ring import MAX_REVOKED, Ring
from zcluster.keys.ringfile import Content, Entry, decode_ring, encode_ring, iso

SCHEMA = 1
WHAT = "zcluster keys"
MAX_BYTES = 256 << 20
MAX_FILES = 10_000

_FIELDS = {"what", "schema", "made_at", "ring", "files"}


@dataclass(frozen=True)
class Backup:
    """What a backup holds.

    Attributes:
        made_at: when, an ISO 8601 time in UTC.
        ring: the ring's content.
        files: the text of key files by their name without ``.key``; each has a secret.
    """

    made_at: str
    ring: Content
    files: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Backup(made_at={self.made_at!r}, keys={len(self.ring.entries)}, files={len(self.files)})"


@dataclass(frozen=True)
class Plan:
    """What an import does.

    Attributes:
        backup: what is imported.
        added, removed, changed: names of keys that come, that go, and that are another key or have another role than now.
        left_out: names of keys of the backup that were revoked since.
        files: key files that are written, with their text.
        replaced: those of them that are there now with something else in them.
    """

    backup: Backup
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    left_out: tuple[str, ...]
    files: Mapping[str, str]
    replaced: tuple[str, ...]

    @property
    def loses(self) -> bool:
        """Whether something that is there now would be gone."""
        return bool(self.removed or self.changed or self.replaced)

    def __repr__(self) -> str:
        return f"Plan(added={self.added!r}, removed={self.removed!r}, changed={self.changed!r}, files={sorted(self.files)!r})"


def export(home: Home, secrets: bool) -> bytes:
    """The bytes of a backup of ``home``; with ``secrets`` its key files are in it.

    Raises:
        InvalidKey: the ring or a key file cannot be read, or there are too many files.
    """
    ring = Ring(home.ring_file)
    paths = sorted(home.keys_dir.glob("*.key")) if secrets else []
    if len(paths) > MAX_FILES:
        raise InvalidKey(f"{home.keys_dir} has {len(paths)} key files, at most {MAX_FILES} are taken", hint="move some away")
    files = {path.stem: _key_text(path) for path in paths}
    said = json.loads(encode_ring(ring.content))
    document = {"what": WHAT, "schema": SCHEMA, "made_at": iso(time.time()), "ring": said, "files": files}
    return json.dumps(document, indent=1).encode() + b"\n"


def read_backup(path: Path) -> Backup:
    """The backup in ``path``.

    Raises:
        InvalidKey: there is none, others may read it, or something in it is wrong; no secret is quoted.
    """
    try:
        data, _found = read_private(path, MAX_BYTES, forbid=0o077)
    except FileNotFoundError:
        raise InvalidKey(f"there is no file {path}", hint="it is what `zcluster keys export --out` writes") from None
    return decode_backup(path, data)


def decode_backup(path: Path, data: bytes) -> Backup:
    """What ``data``, read from ``path``, holds. Raises as :func:`read_backup`."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidKey(f"{path} is no backup of keys: not JSON", hint="was it cut short?") from None
    if not isinstance(document, dict) or document.get("what") != WHAT or document.keys() != _FIELDS:
        raise InvalidKey(f"{path} is no backup of keys", hint="it is what `zcluster keys export` writes")
    if document["schema"] != SCHEMA or isinstance(document["schema"], bool):
        raise InvalidKey(f"{path} is a backup of another version", hint="use the zcluster that made it")
    if not isinstance(document["made_at"], str):
        raise InvalidKey(f"{path}: made_at is not a text")
    ring = decode_ring(path, json.dumps(document["ring"]).encode())
    return Backup(document["made_at"], ring, _files(path, document["files"]))


def plan(home: Home, backup: Backup) -> Plan:
    """What importing ``backup`` into ``home`` does.

    Raises:
        InvalidKey: what is in the home cannot be read, or the two do not fit together.
    """
    now = Ring(home.ring_file).content if home.ring_file.exists() else Content({})
    ring, left_out = merged(now, backup.ring)
    decode_ring(home.ring_file, encode_ring(ring))  # held to every rule of a ring, before anything is written
    kept, revoked = ring.entries, {each.public for each in ring.revoked}
    admitted = {public for entry in kept.values() for public in entry.publics}
    here = {name: _key_text(home.key_file(name)) for name in backup.files if home.key_file(name).exists()}
    files = {
        name: text
        for name, text in backup.files.items()
        # what the key was rotated to since is in the file that is here, and nowhere else
        if here.get(name) != text
        and (public := _public(name, text)) not in revoked
        and not (name in here and public not in admitted and _public(name, here[name]) in admitted)
    }
    return Plan(
        backup,
        tuple(sorted(kept.keys() - now.entries.keys())),
        tuple(sorted(now.entries.keys() - kept.keys())),
        tuple(sorted(name for name in kept.keys() & now.entries.keys() if kept[name] != now.entries[name])),
        left_out,
        files,
        tuple(sorted(files.keys() & here.keys())),
    )


def carry_out(home: Home, planned: Plan) -> None:
    """Do it; the caller keeps a master from running there meanwhile.

    Raises:
        InvalidKey: something cannot be written. Busy: another process kept the ring locked.
    """
    for directory in (home.path, home.keys_dir):
        if not directory.is_dir():
            make_private_dir(directory)
    for name, text in sorted(planned.files.items()):
        path = home.key_file(name)
        (replace if name in planned.replaced else write_new)(path, text.encode())
    # what was revoked since the plan was made is revoked: the ring of this moment counts
    Ring(home.ring_file).change(lambda now: (merged(now, planned.backup.ring)[0], None))


def merged(now: Content, backup: Content) -> tuple[Content, tuple[str, ...]]:
    """The ring after the import of ``backup`` where ``now`` is, and the names of the keys that are left out."""
    revoked = {each.public: each for each in (*backup.revoked, *now.revoked)}
    by_id = {entry.id: entry for entry in now.entries.values()}
    kept: dict[str, Entry] = {}
    left_out = []
    for name, entry in backup.entries.items():
        mine = by_id.get(entry.id)
        if mine is None and not revoked.keys().isdisjoint((entry.id, *entry.publics)):
            left_out.append(name)
        else:
            kept[name] = entry if mine is None else _newer(entry, mine)
    makers = {"", *(entry.id for entry in kept.values())}
    tokens = {id_: token for id_, token in now.tokens.items() if token.creator in makers}
    ring = Content(kept, tuple(revoked.values())[-MAX_REVOKED:], tokens, now.rejected)
    return ring, tuple(sorted(left_out))


def _newer(entry: Entry, mine: Entry) -> Entry:
    """Of one owner's two entries the one to keep: what it is called and may do is the backup's, its key the later one."""
    if mine.public != entry.public and (mine.public == mine.id or mine.public in entry.publics):
        return entry  # the ring that is here is the older one
    return Entry(entry.name, entry.role, mine.public, entry.created_at, mine.id, mine.previous, mine.token, mine.rotate_s)


def _public(name: str, text: str) -> str:
    return KeyFile.parse(Path(f"{name}.key"), text.encode()).pair.public


def _key_text(path: Path) -> str:
    """The text of a key file that can be read as one."""
    data, _found = read_private(path, MAX_KEY_FILE_BYTES, forbid=0o077)
    KeyFile.parse(path, data)
    return data.decode()


def _files(path: Path, raw: Any) -> dict[str, str]:
    if not isinstance(raw, dict) or len(raw) > MAX_FILES:
        raise InvalidKey(f"{path}: files is not a table of at most {MAX_FILES} key files")
    for name, text in raw.items():
        fault = name_fault(name)
        if fault:
            raise InvalidKey(f"{path}: {fault}")
        if not isinstance(text, str) or len(text) > MAX_KEY_FILE_BYTES:
            raise InvalidKey(f"{path}: the key file of {name!r} is not a text of at most {MAX_KEY_FILE_BYTES} bytes")
        KeyFile.parse(Path(f"{path}: {name}.key"), text.encode())
    return raw
