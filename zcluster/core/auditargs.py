"""Arguments as the audit log tells them.

Rules kept here:
- they are told only as redact.py leaves them, by every schema of the function that is known: what one node declares secret is
  secret, whatever the others say;
- without a schema that says which arguments there are, nothing is told;
- they are small, not nested deep, and such that every JSON writer can write them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import Any

import msgspec

from zcluster.core.auditing import MAX_ARGS_BYTES
from zcluster.core.redact import redact

MAX_DEPTH = 32
MAX_INTEGER = 2**63 - 1
MAX_SCHEMAS = 16
"""Different schemas of one function; with more its arguments are not told."""
MAX_SCHEMA_CHARS = 65_536
MAX_KEPT_SCHEMAS = 256
SECRET = "writeOnly"
"""What a schema says of an argument that is a secret."""


class Arguments:
    """Tells arguments without their secrets. Schemas that were used lately are kept read."""

    def __init__(self) -> None:
        self._schemas: OrderedDict[str, dict[str, Any] | None] = OrderedDict()

    def told(self, body: bytes, schemas: Collection[str]) -> dict[str, Any] | None:
        """The arguments in ``body`` as they may be written; None: they may not.

        Args:
            schemas: every schema of them that is known, as JSON.
        """
        if not 0 < len(body) <= MAX_ARGS_BYTES or not 0 < len(schemas) <= MAX_SCHEMAS:
            return None
        try:
            value = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        secrets = False
        for text in schemas:
            schema = self._schema(text)
            if schema is None:
                return None
            if SECRET in text:
                secrets, value = True, redact(value, schema)
        if not secrets and isinstance(value, dict) and all(map(_is_simple, value.values())) and all(map(_is_simple, value)):
            return value
        try:
            plain = _plain(value, MAX_DEPTH)
            fits = len(msgspec.json.encode(plain)) <= MAX_ARGS_BYTES
        except ValueError:
            return None
        return plain if fits and isinstance(plain, dict) else None

    def _schema(self, text: str) -> dict[str, Any] | None:
        if text in self._schemas:
            self._schemas.move_to_end(text)
            return self._schemas[text]
        schema = self._schemas[text] = _read_schema(text)
        if len(self._schemas) > MAX_KEPT_SCHEMAS:
            self._schemas.popitem(last=False)
        return schema


def _read_schema(text: str) -> dict[str, Any] | None:
    """The schema in ``text``, None when it does not say which arguments there are."""
    if len(text) > MAX_SCHEMA_CHARS:
        return None
    try:
        schema = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    says = isinstance(schema, dict) and schema.get("type") == "object" and isinstance(schema.get("properties"), dict)
    return schema if says else None


def _is_simple(value: Any) -> bool:
    """Whether ``value`` is such that every JSON writer writes it as it is."""
    kind = type(value)
    if kind is str:
        return bool(value.isascii())
    return kind is float or kind is bool or value is None or (kind is int and abs(value) <= MAX_INTEGER)


def _plain(value: Any, depth: int) -> Any:
    """``value`` as every JSON writer writes it. Raises ValueError when it cannot be."""
    if depth < 0:
        raise ValueError("nested too deep")
    if isinstance(value, dict):
        return {_plain(key, depth): _plain(each, depth - 1) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each, depth - 1) for each in value]
    if isinstance(value, str):
        value.encode()  # a lone surrogate is a UnicodeEncodeError, which is a ValueError
    elif isinstance(value, int) and abs(value) > MAX_INTEGER:
        return str(value)
    return value
