"""The book's database: its tables, and rows as SQLite has them.

Rules kept here:
- all columns are there for every row (empty, never null): questions are answered yes or no;
- ``version_key`` and ``platform`` are made from version and os when a row is written: they are what the indexes hold;
- the indexes hold one short column each; the pages of an index grow at few places, so that taking many rows stays fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson

from zcluster.core.agents.fields import KINDS
from zcluster.core.agents.row import ID, Row
from zcluster.core.agents.versions import version_key
from zcluster.store.sqlite_file import Layout

SCHEMA = """
CREATE TABLE state (one INTEGER PRIMARY KEY CHECK (one = 0), id TEXT NOT NULL, last INTEGER NOT NULL, groups INTEGER NOT NULL);
CREATE TABLE agents (
    n INTEGER PRIMARY KEY, id TEXT NOT NULL, change INTEGER NOT NULL, name TEXT NOT NULL, address TEXT NOT NULL,
    version TEXT NOT NULL, version_key TEXT NOT NULL, os TEXT NOT NULL, platform TEXT NOT NULL, node TEXT NOT NULL,
    status TEXT NOT NULL, first_seen REAL NOT NULL, last_seen REAL NOT NULL, labels TEXT NOT NULL, metrics TEXT NOT NULL,
    config TEXT NOT NULL, tree TEXT NOT NULL, epoch INTEGER NOT NULL, held TEXT NOT NULL, was TEXT NOT NULL DEFAULT '');
CREATE UNIQUE INDEX agents_id ON agents (id);
CREATE INDEX agents_change ON agents (change);
CREATE INDEX agents_status ON agents (status);
CREATE INDEX agents_node ON agents (node);
CREATE INDEX agents_platform ON agents (platform);
CREATE INDEX agents_version ON agents (version_key);
CREATE TABLE groups_of (agent TEXT PRIMARY KEY, names TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE members (name TEXT NOT NULL, agent TEXT NOT NULL, PRIMARY KEY (name, agent)) WITHOUT ROWID;
CREATE TABLE cursors (node TEXT PRIMARY KEY, source TEXT NOT NULL, upto INTEGER NOT NULL) WITHOUT ROWID;
"""
WRITER_CACHE_KIB = 65_536
"""The indexes of a million agents and more: ids come in any order, and a page that was put out is read for the next row."""
LAYOUT = Layout("book of agents", 1001, SCHEMA, "INSERT INTO state VALUES (0, ?, 0, 0)", WRITER_CACHE_KIB)

COLUMNS = (
    "id", "change", "name", "address", "version", "version_key", "os", "platform", "node", "status", "first_seen", "last_seen",
    "labels", "metrics", "config", "tree", "epoch", "held",
)  # fmt: skip
QUIET = frozenset({"change", "first_seen", "last_seen"})
JSON_COLUMNS = ("os", "labels", "metrics")
GROUPS = "(SELECT names FROM groups_of WHERE agent = agents.id)"
_TAKEN = {
    "epoch": "CASE WHEN node = excluded.node AND held = excluded.held THEN max(epoch, excluded.epoch) ELSE excluded.epoch END",
    "first_seen": "CASE WHEN first_seen > 0 AND (first_seen < excluded.first_seen OR excluded.first_seen = 0) THEN first_seen "
    "ELSE excluded.first_seen END",
    "last_seen": "max(last_seen, excluded.last_seen)",
}
"""What becomes of a column when a chunk says it of a row that there is."""


def _upsert(values: dict[str, str], guard: str = "1") -> str:
    """Insert a row or, where ``guard`` holds, update it; one that would stay as it is is not touched."""
    written = [name for name in COLUMNS if name not in ("id", "change")]
    value = {name: values.get(name, f"excluded.{name}") for name in written}
    loud = [name for name in written if name not in QUIET]

    def differ(names: Sequence[str]) -> str:
        return f"({', '.join(names)}) IS NOT ({', '.join(value[name] for name in names)})"

    return (
        f"INSERT INTO agents ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) ON CONFLICT (id) DO UPDATE SET "
        + ", ".join(f"{name} = {value[name]}" for name in written)
        + f", was = '', change = CASE WHEN {differ(loud)} THEN excluded.change ELSE change END "
        f"WHERE {guard} AND (was != '' OR {differ(written)})"
    )


PUT = _upsert({})
TAKE = _upsert(_TAKEN)
TAKE_OWN = _upsert(_TAKEN, "node IN ('', excluded.node) AND status != 'removed'")
"""As TAKE, but what another node has, or was removed, stays as it is."""


def json_text(value: object) -> str:
    """``value`` as the book keeps it."""
    return orjson.dumps(value).decode()


def ids_text(ids: Iterable[str]) -> str:
    """``ids`` for json_each; what is no id is left out: no row has it."""
    return orjson.dumps([id_ for id_ in ids if ID.fullmatch(id_)]).decode()


def params_of(row: Row, number: int) -> tuple[Any, ...]:
    """The values of COLUMNS."""
    return (
        row.id, number, row.name, row.address, row.version, version_key(row.version), json_text(row.os),
        row.os.get("platform", ""), row.node, row.status, row.first_seen, row.last_seen, json_text(row.labels),
        json_text(row.metrics), row.config, row.tree, row.epoch, row.held,
    )  # fmt: skip


def derived(fields: dict[str, Any]) -> dict[str, Any]:
    """The columns that ``fields`` (without groups) of a row are."""
    columns = {name: json_text(value) if name in JSON_COLUMNS else value for name, value in fields.items() if name != "groups"}
    if "version" in fields:
        columns["version_key"] = version_key(fields["version"])
    if "os" in fields:
        columns["platform"] = fields["os"].get("platform", "")
    return columns


def reading(columns: Sequence[str]) -> tuple[str, Callable[[Sequence[Any]], Row]]:
    """What to select for these fields of a row, and how a row is made of it; fields that are not read are empty."""
    loads = {place: name for place, name in enumerate(columns) if name in (*JSON_COLUMNS, "groups")}
    names = tuple(columns)

    def made(values: Sequence[Any]) -> Row:
        fields = dict(zip(names, values, strict=True))
        for name in loads.values():
            text = fields[name]
            fields[name] = orjson.loads(text) if text else ["default"]
        return Row(**{"id": "", **fields})

    return ", ".join(GROUPS if name == "groups" else name for name in columns), made


ALL = tuple(KINDS)
