"""Texts with numbers in them, in the order that people expect: 4.9 before 4.10.

Rules kept here:
- runs of digits count as numbers, whatever stands between them: 4.9 < 4.10, web-9 < web-10;
- of a version, words before the first digit, zeros at the end and what follows ``+`` do not count: ``Wazuh v4.9.0`` is 4.9;
- a word after the numbers is something before the release: 4.9-rc1 < 4.9;
- a key is text of its own, and its order by code points is the order that is meant: a database can keep and sort it.
"""

from __future__ import annotations

import re
from functools import lru_cache

MAX_KEYED_CHARS = 256
"""What of a text counts for its order."""
_RUN = re.compile(r"(\d+)|([^\W\d_]+)", re.ASCII)
_WORD, _END, _NUMBER = "3", "5", "7"
"""What a part of a key begins with: a word sorts before the end, the end before one more number."""


@lru_cache(maxsize=4096)
def version_key(text: str) -> str:
    """The key of a version; empty when it says nothing."""
    text = text[:MAX_KEYED_CHARS].partition("+")[0].lower()
    runs = [(found[1] or "", found[2] or "") for found in _RUN.finditer(text)]
    first = next((place for place, run in enumerate(runs) if run[0]), 0)
    runs = runs[first:]
    if not runs:
        return ""
    numbers = next((place for place, run in enumerate(runs) if run[1]), len(runs))
    while numbers > 1 and not runs[numbers - 1][0].strip("0"):
        del runs[numbers - 1]
        numbers -= 1
    return "".join(_number(digits) if digits else f"{_WORD}{word} " for digits, word in runs) + _END


def natural_key(text: str) -> str:
    """The key of any text: as it stands, but with its numbers as numbers."""
    out: list[str] = []
    for run in re.split(r"([0-9]+)", text[:MAX_KEYED_CHARS]):
        out.append(_number(run) if run[:1].isdigit() and run.isascii() else run)
    return "".join(out)


def _number(digits: str) -> str:
    digits = digits.lstrip("0") or "0"
    return f"{_NUMBER}{len(digits):03d}{digits}"
