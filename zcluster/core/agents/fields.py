"""The fields of an agent, as filters, ``--select`` and ``--sort`` name them.

Rules kept here:
- ``os``, ``labels`` and ``metrics`` are open: what follows their dot is looked up in them; a label's key may hold dots;
- each field has one kind, and the kind says what may be asked of it;
- an unknown field is an error that names the nearest known one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from zcluster.config.names import nearest
from zcluster.core.agents.row import Row
from zcluster.errors import UsageError

Kind = Literal["text", "version", "time", "number", "groups", "open", "object"]
DEFAULT_GROUP = "default"
"""Where an agent is that nobody put anywhere."""
KINDS: dict[str, Kind] = {
    "id": "text", "name": "text", "address": "text", "version": "version", "os": "object", "node": "text", "status": "text",
    "first_seen": "time", "last_seen": "time", "groups": "groups", "labels": "object", "metrics": "object", "config": "text",
    "tree": "text", "epoch": "number", "held": "text",
}  # fmt: skip
"""All fields, in the order in which they are shown."""
OPEN = ("os", "labels", "metrics")
MAX_FIELD_CHARS = 128
MAX_DEPTH = 8
_SAMPLES = (*KINDS, "group", "os.platform", "os.version", "os.arch", "labels.", "metrics.cpu", "metrics.memory")

Scalar = str | float | int


@dataclass(frozen=True, slots=True)
class Field:
    """A field, or something in an open one."""

    name: str
    """As it is called in answers."""
    column: str
    kind: Kind
    path: tuple[str, ...] = ()


def field_of(text: str) -> Field:
    """The field that ``text`` names. Raises UsageError with the nearest known one."""
    if text in KINDS:
        return Field(text, text, KINDS[text])
    if text == "group":
        return Field("groups", "groups", "groups")
    column, dot, rest = text.partition(".")
    if dot and column in OPEN and rest and len(text) <= MAX_FIELD_CHARS:
        path = (rest,) if column == "labels" else tuple(rest.split("."))
        if all(path) and len(path) <= MAX_DEPTH and text.isprintable() and not {'"', "\\"} & set(text):
            return Field(text, column, "open", path)
    near = nearest(text, _SAMPLES) if len(text) <= MAX_FIELD_CHARS else ""
    hint = f"did you mean {near!r}?" if near else f"fields are {', '.join(KINDS)}; os.NAME, labels.NAME, metrics.NAME"
    raise UsageError(f"an agent has no field {text[:80]!r}", hint=hint)


def groups_of(row: Row) -> list[str]:
    """The groups of an agent: ``default`` when there are none."""
    return row.groups or [DEFAULT_GROUP]


def scalar_at(row: Row, field: Field) -> Scalar | None:
    """The text or number of a field that is not ``groups`` or an object; None when it is missing (or is itself a list or an
    object). True and false are 1 and 0."""
    found: Any = getattr(row, field.column)
    for key in field.path:
        if not isinstance(found, dict):
            return None
        found = found.get(key)
    if isinstance(found, bool):
        return int(found)
    return found if isinstance(found, str | int | float) else None


def shown(row: Row, field: Field) -> Any:
    """What an answer holds for the field: as the row has it, None where there is nothing."""
    if field.kind == "groups":
        return list(groups_of(row))
    found: Any = getattr(row, field.column)
    for key in field.path:
        found = found.get(key) if isinstance(found, dict) else None
    return found
