"""The tables there are, and where each is."""

from __future__ import annotations

TABLES = ("groups", "config", "ring")
DOOR_TABLES = frozenset({"ring"})
"""Tables that concern only workers with a door."""


def prefix_of(table: str) -> str:
    """Where the keys of ``table`` are, in the store of the master and of each worker."""
    return f"{table}/"


def topic_of(table: str) -> bytes:
    """The topic under which ``table`` is published."""
    return b"table." + table.encode()
