"""Arguments without their secrets.

Rules kept here:
- what a schema marks ``writeOnly`` is hidden wherever it is: behind references, in objects, arrays and unions; where one
  alternative of a union marks it, it is hidden whichever was meant;
- where the schema has a secret, what it does not know or what is not of the type it says is hidden too: a misspelt name or a
  text in place of a list may hold the secret;
- it ends, whatever the schema: references that go round, unions and depth are bounded, and what is beyond is hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
MAX_DEPTH = 64
MAX_ALTERNATIVES = 64
"""Alternatives of one place, those behind references counted too."""

_ANYTHING: dict[str, Any] = {}
_SECRET: dict[str, Any] = {"writeOnly": True}
_ASSERTIONS = frozenset({"type", "enum", "const", "properties", "additionalProperties", "items", "prefixItems"})
_DEFINITIONS = "#/$defs/"


def redact(value: Any, schema: Mapping[str, Any]) -> Any:
    """``value`` with ``***`` in place of each part that ``schema`` (a JSON schema, as functions have them) marks as secret.

    Nothing of ``value`` is changed. What holds no secret comes back as it is, however deep.
    """
    return _Walk(schema).redacted(value, [schema], 0)


class _Walk:
    """One value beside its schema."""

    __slots__ = ("_definitions", "_root", "_secretive")

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        definitions = root.get("$defs")
        self._definitions: Mapping[str, Any] = definitions if isinstance(definitions, Mapping) else {}
        self._secretive: bool | None = None

    def redacted(self, value: Any, schemas: list[Any], depth: int) -> Any:
        """``value``, of which one of ``schemas`` holds, or none is known."""
        nodes = self._alternatives(schemas) if depth < MAX_DEPTH else []
        if any(node.get("writeOnly") is True for node in nodes):
            return HIDDEN
        if any(_ASSERTIONS.isdisjoint(node) for node in nodes):
            return value  # anything may be here, so no secret was declared
        if isinstance(value, Mapping) and any(node.get("type") == "object" for node in nodes):
            return {key: self.redacted(each, _of_key(nodes, key), depth + 1) for key, each in value.items()}
        if isinstance(value, list) and any(node.get("type") == "array" for node in nodes):
            return [self.redacted(each, _of_item(nodes, index), depth + 1) for index, each in enumerate(value)]
        if any(_fits(value, node) for node in nodes):
            return value
        return HIDDEN if self._has_secrets() else value

    def _alternatives(self, schemas: list[Any]) -> list[Mapping[str, Any]]:
        """What ``schemas`` come to when references are followed and unions are spread out."""
        found: list[Mapping[str, Any]] = []
        seen: set[int] = set()
        left = list(schemas)
        while left:
            node = left.pop()
            if node is True:
                node = _ANYTHING
            if not isinstance(node, Mapping) or id(node) in seen:
                continue
            seen.add(id(node))
            if len(seen) > MAX_ALTERNATIVES:
                return [_SECRET]
            more = [each for word in ("anyOf", "oneOf", "allOf") if isinstance(node.get(word), list) for each in node[word]]
            if "$ref" in node:
                more.append(self._referred(node["$ref"]))
            left += more
            if not more or node.get("writeOnly") is True:
                found.append(node)
        return found

    def _referred(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not reference.startswith(_DEFINITIONS):
            return _SECRET
        return self._definitions.get(reference.removeprefix(_DEFINITIONS), _SECRET)

    def _has_secrets(self) -> bool:
        if self._secretive is None:
            self._secretive = _marks_any(self._root)
        return self._secretive


def _marks_any(root: Any) -> bool:
    """Whether anything in the schema is marked."""
    left = [root]
    while left:
        node = left.pop()
        if isinstance(node, Mapping):
            if node.get("writeOnly") is True:
                return True
            left += node.values()
        elif isinstance(node, list):
            left += node
    return False


def _of_key(nodes: list[Mapping[str, Any]], key: Any) -> list[Any]:
    """The schemas of the value of ``key``."""
    out: list[Any] = []
    for node in nodes:
        known = node.get("properties")
        if isinstance(known, Mapping) and key in known:
            out.append(known[key])
        elif "additionalProperties" in node:
            out.append(node["additionalProperties"])
        elif node.get("type") == "object" and known is None:
            out.append(_ANYTHING)
    return out


def _of_item(nodes: list[Mapping[str, Any]], index: int) -> list[Any]:
    """The schemas of the item at ``index``."""
    out: list[Any] = []
    for node in nodes:
        first = node.get("prefixItems")
        if isinstance(first, list) and index < len(first):
            out.append(first[index])
        elif "items" in node:
            out.append(node["items"])
        elif node.get("type") == "array" and first is None:
            out.append(_ANYTHING)
    return out


def _fits(value: Any, node: Mapping[str, Any]) -> bool:
    """Whether ``value``, which is no object and no array, is what ``node`` says."""
    if isinstance(value, Mapping | list):
        return False
    if "const" in node:
        return bool(node["const"] == value)
    choices = node.get("enum")
    if isinstance(choices, list):
        return value in choices
    kind = node.get("type")
    match value:
        case None:
            return kind == "null"
        case bool():
            return kind == "boolean"
        case int():
            return kind in ("integer", "number")
        case float():
            return kind == "number"
    return kind == "string"
