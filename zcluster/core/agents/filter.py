"""Filters over agents: ``status=active and os.platform=debian and labels.site=ber and version<4.9``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Op = Literal["=", "!=", "<", "<=", ">", ">=", "~"]


@dataclass(frozen=True, slots=True)
class Compare:
    """One field of a row against one value; ``~`` is a glob."""

    field: str
    op: Op
    value: str


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite."""

    of: Condition


@dataclass(frozen=True, slots=True)
class Both:
    """``and``."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """``or``."""

    parts: tuple[Condition, ...]


Condition = Compare | Not | Both | Either
