"""The row of an agent: plain data, and the rules for what it may hold.

Rules kept here:
- an id is 1 to 128 characters of letters, digits and ``._:@-``, and does not begin with ``-`` or ``.``;
- every text and number of labels, metrics and os is bounded; what is beyond is refused with its place, never cut in silence;
- ``held`` says what gave the row its node: a live session of the agent, or a report of a program (import).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import orjson
from msgspec import Struct

from zcluster.config.names import name_fault, nearest
from zcluster.errors import InvalidArguments, TooLarge, UsageError

STATUSES = ("never", "active", "silent", "disconnected", "removed")
Status = Literal["never", "active", "silent", "disconnected", "removed"]
Held = Literal["session", "report"]
ID = re.compile(r"[A-Za-z0-9_:@][A-Za-z0-9._:@-]{0,127}")
MAX_LABELS = 64
MAX_LABEL_KEY_CHARS = 64
MAX_LABEL_VALUE_CHARS = 256
MAX_METRICS_BYTES = 16_384
MAX_OS_BYTES = 2_048
MAX_TEXT_CHARS = {"name": 256, "address": 256, "version": 64, "config": 64, "tree": 64}
MAX_TIME_S = 1e12
MAX_EPOCH = 2**53 - 1
MAX_GROUPS = 64


class Row(Struct, kw_only=True):
    """What is known of one agent."""

    id: str
    name: str = ""
    address: str = ""
    version: str = ""
    os: dict[str, Any] = {}
    """``platform``, ``version``, ``arch``, and what else the host says."""
    node: str = ""
    """The node that it belongs to."""
    status: Status = "never"
    first_seen: float = 0.0
    """Seconds since 1970."""
    last_seen: float = 0.0
    """When it was last heard, as far as the row knows; of an active agent its node has heard since."""
    groups: list[str] = []
    labels: dict[str, str] = {}
    metrics: dict[str, Any] = {}
    config: str = ""
    """Digest of the configuration that it applied."""
    tree: str = ""
    """Digest of the shared files that it holds."""
    epoch: int = 0
    """Number of the session (or milliseconds since 1970 of the report) that gave it its node."""
    held: Held = "report"


FIELDS = Row.__struct_fields__
_BYTES = {"os": MAX_OS_BYTES, "metrics": MAX_METRICS_BYTES}
_CONTROL = re.compile(rb"\\(?:[bfnrt]|u00[01])|\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xa8-\xae]|\xe2\x81[\xa6-\xa9]")
"""In JSON: an escaped control character, or one beyond ASCII (C1, line separators, changes of direction)."""
_BACKSLASHES = re.compile(rb"\\\\")


def check_row(fields: Mapping[str, Any]) -> Row:
    """The row that ``fields`` are, ``id`` among them; what is absent is empty.

    Raises:
        InvalidArguments: a field is unknown, has the wrong type, or holds what it must not; the message names its place.
        TooLarge: it is beyond its bound.
    """
    for name in fields:
        if name not in FIELDS:
            near = nearest(str(name), FIELDS)
            hint = f"did you mean {near!r}?" if near else f"fields are {', '.join(FIELDS)}"
            raise InvalidArguments(f"an agent has no field {str(name)[:80]!r}", hint=hint)
    check_id(fields.get("id", ""))
    for name, value in fields.items():
        fault = field_fault(name, value)
        if fault is not None:
            raise fault
    return Row(**fields)


def check_id(id_: object) -> str:
    """``id_``, if it is an id of an agent. Raises InvalidArguments."""
    if not isinstance(id_, str) or ID.fullmatch(id_) is None:
        raise InvalidArguments(f"id: expected 1 to 128 letters, digits or ._:@-, not beginning with - or ., got {_short(id_)}")
    return id_


def field_fault(name: str, value: Any) -> UsageError | None:
    """What is wrong with ``value`` as the field ``name`` (one of FIELDS, but the id)."""
    if name in MAX_TEXT_CHARS:
        return _text_fault(name, value, MAX_TEXT_CHARS[name])
    if name in _BYTES:
        return object_fault(name, value)
    if name == "labels":
        return labels_fault(value)
    if name in ("first_seen", "last_seen"):
        ok = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_TIME_S
        return None if ok else InvalidArguments(f"{name}: expected seconds since 1970, got {_short(value)}")
    if name == "epoch":
        ok = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_EPOCH
        return None if ok else InvalidArguments(f"epoch: expected a number from 0 to {MAX_EPOCH}, got {_short(value)}")
    if name == "groups":
        return _groups_fault(value)
    if name == "node":
        fault = "" if value == "" else name_fault(value) if isinstance(value, str) else "expected text"
        return InvalidArguments(f"node: {fault}") if fault else None
    words = {"status": STATUSES, "held": ("session", "report")}.get(name)
    if words is not None and value not in words:
        return InvalidArguments(f"{name}: expected one of {', '.join(words)}, got {_short(value)}")
    return None


def labels_fault(labels: Any) -> UsageError | None:
    """What is wrong with labels."""
    if not isinstance(labels, dict):
        return InvalidArguments(f"labels: expected an object of texts, got {_short(labels)}")
    if len(labels) > MAX_LABELS:
        return TooLarge(f"labels: {len(labels)} labels, at most {MAX_LABELS} are allowed")
    for key, value in labels.items():
        if not isinstance(key, str) or not key:
            return InvalidArguments("labels: a key is text of at least one character")
        if len(key) > MAX_LABEL_KEY_CHARS:
            return TooLarge(f"labels: a key of {len(key)} characters, at most {MAX_LABEL_KEY_CHARS} are allowed")
        if not key.isprintable() or "=" in key or " " in key:
            return InvalidArguments(f"labels: the key {key!r} holds a space, a '=' or a control character")
        fault = _text_fault(f"labels.{key}", value, MAX_LABEL_VALUE_CHARS)
        if fault is not None:
            return fault
    return None


def object_fault(name: str, value: Any) -> UsageError | None:
    """What is wrong with ``os`` or ``metrics``: an object of JSON, bounded, without control characters in its texts."""
    if not isinstance(value, dict):
        return InvalidArguments(f"{name}: expected an object, got {_short(value)}")
    try:
        encoded = orjson.dumps(value, option=orjson.OPT_STRICT_INTEGER)
    except (TypeError, RecursionError) as error:
        return InvalidArguments(f"{name}: it is no plain JSON: {error}")
    if len(encoded) > _BYTES[name]:
        return TooLarge(f"{name}: {len(encoded)} bytes, at most {_BYTES[name]} are allowed")
    # An escaped backslash is no control character, whatever letter follows it.
    if _CONTROL.search(_BACKSLASHES.sub(b"", encoded)):
        return InvalidArguments(f"{name}: a text in it holds a control character")
    if name == "os" and not isinstance(value.get("platform", ""), str):
        return InvalidArguments(f"os.platform: expected text, got {_short(value['platform'])}")
    return None


def _text_fault(place: str, value: Any, most: int) -> UsageError | None:
    if not isinstance(value, str):
        return InvalidArguments(f"{place}: expected text, got {_short(value)}")
    if len(value) > most:
        return TooLarge(f"{place}: {len(value)} characters, at most {most} are allowed")
    return None if value.isprintable() else InvalidArguments(f"{place}: it holds a control character")


def _groups_fault(value: Any) -> UsageError | None:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        return InvalidArguments(f"groups: expected a list of names, got {_short(value)}")
    if len(value) > MAX_GROUPS:
        return TooLarge(f"groups: {len(value)} groups, at most {MAX_GROUPS} are allowed")
    fault = next(filter(None, map(name_fault, value)), "")
    return InvalidArguments(f"groups: {fault}") if fault else None


def _short(value: object) -> str:
    if isinstance(value, str):
        return repr(value[:80])
    return repr(value)[:80] if isinstance(value, int | float) or value is None else type(value).__name__
