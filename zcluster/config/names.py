"""Names of clusters, nodes and keys, and the nearest known word for a mistyped one.

Rules kept here:
- a name is 1 to 64 of the letters, digits, dot, underscore and hyphen (ASCII), and starts with neither '-' nor '.',
  so that it is safe as a file name, on a command line and inside a target list or glob;
- "all" and "any" are targets, never names. ("master" is a target too: only a master's key may have that name,
  which the ring holds.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MAX_NAME_CHARS = 64
RESERVED_NAMES = frozenset({"all", "any"})

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


def name_fault(name: str) -> str:
    """What is wrong with ``name``, in a few words; empty when nothing is."""
    if name.lower() in RESERVED_NAMES:
        return f"the name {name!r} is reserved: it is a target"
    if _NAME.fullmatch(name) is None:
        return (
            f"expected a name of 1 to {MAX_NAME_CHARS} letters, digits, '.', '_' or '-', "
            f"not starting with '-' or '.', got {name[:80]!r}"
        )
    return ""


def nearest(word: str, known: Iterable[str]) -> str:
    """The one of ``known`` that ``word`` was probably meant to be, or empty."""
    import difflib  # only a mistake needs it: 5 ms that a good start does not pay

    found = difflib.get_close_matches(word[:200], sorted(known), n=1, cutoff=0.6)
    return found[0] if found else ""
