"""Which names and paths a tree may have, whoever they come from.

Rules kept here:
- a path is relative and normal, its components are NFC text that no file system and no terminal takes for something else,
  and it is the same path on every node; what breaks that is refused with the reason in words;
- names that only Windows or a case-blind file system would confuse are refused everywhere, so that a tree that is
  good on one node is good on all;
- a symbolic link never leads out of its tree, also not by way of another link;
- ``.zcluster`` in any spelling is the sync's own and never part of a tree.

Patterns, limits and kinds are zcluster.core.sync.rules' and intake's matter.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from zcluster.core.sync.entry import MAX_NAME_BYTES

OWN_DIRECTORY = ".zcluster"
"""The hidden directory of each root: marker, lock, staging, journal."""

MAX_PATH_BYTES = 4096
MAX_DEPTH = 64
"""Components of a path."""

_DEVICE = r"(?:[cC][oO][nN]|[pP][rR][nN]|[aA][uU][xX]|[nN][uU][lL]|[cC][oO][mM][0-9]|[lL][pP][tT][0-9]) *(?:[./]|\Z)"
_SPECIAL = r"\.[zZ][cC][lL][uU][sS][tT][eE][rR](?:/|\Z)|[cC][oO][nN](?:[iI][nN]|[oO][uU][tT])\$"
_PLAIN = rf"(?!{_DEVICE}|{_SPECIAL})[ -.0-~]{{1,255}}+(?<![ .])"
_PLAIN_NAME = re.compile(_PLAIN).fullmatch
_PLAIN_PATH = re.compile(rf"{_PLAIN}(?:/{_PLAIN}){{0,{MAX_DEPTH - 1}}}").fullmatch
"""ASCII that nothing is wrong with: nearly every name there is. All others are looked at one by one."""

_DEVICE_NAME = re.compile(r"(?:con|prn|aux|nul|(?:com|lpt)[0-9¹²³]|conin\$|conout\$) *(?:\..*)?", re.IGNORECASE | re.DOTALL)
_UNSEEN = re.compile("[\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Marks that turn the direction of a line or break it: a name with them is not what it looks like."""
_IGNORABLE = dict.fromkeys([0xAD, 0xFEFF, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070)])
"""Code points that HFS+ and people overlook: ``.zclu<ZWNJ>ster`` is ``.zcluster`` to them."""


def name_fault(name: str) -> str:
    """Why ``name`` cannot be one component of a path; empty when it can."""
    return "" if _PLAIN_NAME(name) else _name_fault(name)


def shown(path: str) -> str:
    """``path`` as it can be sent and printed: bytes of a name that are no UTF-8 as ``\\udcff``."""
    return path if path.isascii() else path.encode("utf-8", "backslashreplace").decode()


def path_fault(path: str) -> str:
    """Why ``path`` cannot be a path of a tree; empty when it can. The root itself (the empty path) is none."""
    if len(path) <= MAX_PATH_BYTES and _PLAIN_PATH(path):
        return ""
    if not path:
        return "it is empty"
    if path[0] == "/":
        return "it is absolute"
    if len(path.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        return f"it has more than {MAX_PATH_BYTES} bytes"
    if path.count("/") >= MAX_DEPTH:
        return f"it is more than {MAX_DEPTH} levels deep"
    for name in path.split("/"):
        if fault := name_fault(name):
            return fault
    return ""


def case_twins(names: Iterable[str]) -> set[str]:
    """The names, of one directory's, that differ from another one of them by case only (or are there twice)."""
    names = list(names)
    folded = [fold(name) for name in names]
    if len(set(folded)) == len(folded):
        return set()
    seen: set[str] = set()
    double = {name for name in folded if name in seen or seen.add(name)}  # type: ignore[func-returns-value]
    return {name for name, key in zip(names, folded, strict=True) if key in double}


def fold(name: str) -> str:
    """What ``name`` has in common with all names that differ from it by case only."""
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name.casefold())


def link_fault(path: str, target: str) -> str:
    """Why the link at ``path`` must not point to ``target``; empty when it may.

    A target may go up only at its start: there the directories are those of ``path``, which are none of them links. Behind a
    name a ``..`` would go up from wherever a link of that name leads, so ``a/..`` could leave the tree although its
    text does not.
    """
    if not target:
        return "its target is empty"
    if target[0] == "/":
        return "its target is absolute"
    if len(target.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        return f"its target has more than {MAX_PATH_BYTES} bytes"
    ups, down = 0, False
    for name in target.split("/"):
        if name in ("", "."):
            continue
        if name != "..":
            down = True
            if fault := name_fault(name):
                return f"its target cannot be a path of the tree: {fault}"
        elif down:
            return "its target goes up behind a name"
        else:
            ups += 1
    return "its target is outside the tree" if ups > path.count("/") else ""


def _name_fault(name: str) -> str:
    if name in ("", ".", ".."):
        return "it is empty" if not name else f"a component is {name!r}"
    if "/" in name:
        return "a name has a '/'"
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return "it is not UTF-8"
    if len(encoded) > MAX_NAME_BYTES:
        return f"a name has more than {MAX_NAME_BYTES} bytes"
    if any(unicodedata.category(char) == "Cc" for char in name):
        return "a name has a control character"
    if _UNSEEN.search(name):
        return "a name has a character that changes a line's direction or ends it"
    if not unicodedata.is_normalized("NFC", name):
        return "a name is not in Unicode's normal form NFC"
    if name[-1] in ". ":
        return "a name ends with a dot or a space"
    if fold(name.translate(_IGNORABLE)) == OWN_DIRECTORY:
        return f"{OWN_DIRECTORY} is the sync's own"
    if _DEVICE_NAME.fullmatch(name):
        return "a name is a device's on Windows"
    return ""
