"""Counts of everything that happens, by name: each limit that is hit and each fault has one."""

from __future__ import annotations


class Counters:
    """Numbers that only grow."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: dict[str, int] = {}

    def add(self, name: str, amount: int = 1) -> None:
        """Add ``amount`` to the count of ``name``."""
        self.values[name] = self.values.get(name, 0) + amount
