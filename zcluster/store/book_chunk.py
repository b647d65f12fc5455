"""Chunks of rows that a worker sent, checked.

Rules kept here:
- a chunk follows the cursor of its worker, or begins a book that is not known: anything else changes nothing;
- a row that is broken is refused alone, the others are taken; a field that is unknown is left out: newer nodes say more;
- each row is checked by the rules of core/agents/row.py. Most are plain ASCII without escapes: for them the types and bounds
  are enough, because a control character in JSON is either escaped or not ASCII.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from orjson import dumps

from zcluster.core.agents.row import ID, MAX_METRICS_BYTES, MAX_OS_BYTES, Row, check_row
from zcluster.core.agents.rowcodec import Fields, SaidRows
from zcluster.core.agents.versions import version_key
from zcluster.errors import UsageError
from zcluster.store.book import Cursor, RowText
from zcluster.store.book_schema import params_of

Params = tuple[Any, ...]
"""A row's values for the columns of book_schema.COLUMNS."""

SAID = Fields.__struct_fields__
_EXACT = orjson.OPT_STRICT_INTEGER
_WRONG_KEY = re.compile(rb'[{,]"[^"]*[ =][^"]*":')
"""In the JSON of labels without escapes: a key with a space or '='. One search for a chunk costs less than one for a key."""


@dataclass(slots=True)
class Chunk:
    """A chunk's rows in order, the last word of each agent only."""

    put: list[Row] = field(default_factory=list)
    gone: list[tuple[str, int]] = field(default_factory=list)
    """Ids and epochs of agents that were removed at the worker."""
    invalid: list[tuple[str, str]] = field(default_factory=list)


def follows(cursor: Cursor, source: str, base: int, upto: int) -> bool:
    """Whether a chunk is the next one."""
    return upto >= base and base == (cursor.upto if source == cursor.source else 0)


def chunk_rows(rows: Sequence[RowText] | SaidRows, node: str) -> Chunk:
    """The rows that ``node`` sent, each looked at."""
    chunk = Chunk()
    for row in _last_words(rows.plain() if isinstance(rows, SaidRows) else rows):
        _add(chunk, row, node)
    return chunk


def chunk_params(
    rows: Sequence[RowText] | SaidRows, node: str, last: int
) -> tuple[list[Params], list[tuple[str, int]], list[tuple[str, str]]]:
    """The rows of a chunk as the database takes them, numbered after ``last``; what is gone; what is refused."""
    quick = _quick(rows, node, last) if isinstance(rows, SaidRows) else None
    if quick is not None:
        return *quick, []
    chunk = chunk_rows(rows, node)
    return [params_of(row, number) for number, row in enumerate(chunk.put, last + 1)], chunk.gone, chunk.invalid


def _quick(rows: SaidRows, node: str, last: int) -> tuple[list[Params], list[tuple[str, int]]] | None:
    """As chunk_params, if all rows are plainly right and each agent is there once; None: each has to be looked at."""
    said = rows.read
    if said is None or not rows.raw.isascii() or b"\\" in rows.raw or b"\x7f" in rows.raw:
        return None
    ids = {one.id for one in said}
    if len(ids) != len(said) or not all(map(ID.fullmatch, ids)) or not {one.op for one in said} <= {"put", "gone"}:
        return None
    put: list[Params] = []
    all_labels: list[bytes] = []
    for one in said:
        if one.op == "put":
            f = one.fields
            try:
                os, labels, metrics = dumps(f.os, option=_EXACT), dumps(f.labels), dumps(f.metrics, option=_EXACT)
            except (TypeError, RecursionError):
                return None
            platform = f.os.get("platform", "")
            if len(os) > MAX_OS_BYTES or len(metrics) > MAX_METRICS_BYTES or type(platform) is not str:
                return None
            last += 1
            all_labels.append(labels)
            put.append((
                one.id, last, f.name, f.address, f.version, version_key(f.version), os.decode(), platform, node, f.status,
                f.first_seen, f.last_seen, labels.decode(), metrics.decode(), f.config, f.tree, one.epoch, one.held,
            ))  # fmt: skip
    if _WRONG_KEY.search(b"".join(all_labels)):
        return None
    return put, [(one.id, one.epoch) for one in said if one.op == "gone"]


def _last_words(rows: Sequence[RowText]) -> list[RowText]:
    last: dict[Any, RowText] = {}
    for place, row in enumerate(rows):
        id_ = row[0] if len(row) == 5 and isinstance(row[0], str) else place
        last.pop(id_, None)
        last[id_] = row
    return list(last.values())


def _add(chunk: Chunk, row: RowText, node: str) -> None:
    id_ = row[0] if row and isinstance(row[0], str) else ""
    try:
        if len(row) != 5 or row[1] not in ("put", "gone") or not isinstance(row[4], dict):
            raise UsageError("it is no row")
        fields = {name: value for name, value in row[4].items() if name in SAID}
        made = check_row({**fields, "id": id_, "epoch": row[2], "held": row[3]})
    except UsageError:
        # With its place cut: an id that is none is anything.
        chunk.invalid.append((id_[:128], "invalid"))
        return
    if row[1] == "gone":
        chunk.gone.append((made.id, made.epoch))
    else:
        made.node = node
        chunk.put.append(made)
