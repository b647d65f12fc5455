"""How many values a JSON text holds at most, told before it is decoded.

A node decodes arguments on its loop, at some ten million values a second: 64 MiB of empty arrays are 22 million of them, and
would keep everybody waiting for seconds. Long texts are no such burden, so their length alone says little.

Rules kept here:
- looking costs time for the values that are allowed, never for those that a caller sends;
- a text counts as one value whatever is in it, as long as quotes are not too many to tell where texts end;
- a body that is no JSON may be counted wrongly: the decoder refuses it anyhow.
"""

from __future__ import annotations

from zcluster.dapi.jobs import Body

MAX_VALUES = 500_000
"""Values in the arguments of one call, those within others too."""
FREE_BYTES = MAX_VALUES
"""A shorter body cannot hold more."""
FIRST_QUOTES = 1000
"""Quotes that are followed at first: enough for a few long texts."""
MAX_QUOTES = 20_000
"""Quotes that are followed when commas are too many to be all between values."""
MAX_BACKSLASHES = 4096
"""In a row, before a quote."""
SLICE_BYTES = 1024 * 1024
SEPARATORS = (b",", b"[", b"{")
_BACKSLASH = ord("\\")


def too_many_values(body: Body) -> bool:
    """Whether ``body`` may hold more than MAX_VALUES values."""
    if len(body) <= FREE_BYTES:
        return False
    for quotes in (FIRST_QUOTES, MAX_QUOTES):
        found, at = _outside_of_texts(body, quotes)
        if found < MAX_VALUES:
            found += _separators(body, at, len(body), MAX_VALUES - found)
        if found < MAX_VALUES:
            return False
    return True


def _separators(body: Body, start: int, end: int, enough: int) -> int:
    """How often a value may begin between two places; looks no further once that is ``enough``."""
    found = 0
    for first in range(start, end, SLICE_BYTES):
        last = min(end, first + SLICE_BYTES)
        found += sum([body.count(mark, first, last) for mark in SEPARATORS])
        if found >= enough:
            break
    return found


def _outside_of_texts(body: Body, quotes: int) -> tuple[int, int]:
    """How often a value may begin outside of texts, and up to where that was told; ends when it is too many."""
    found, at, size = 0, 0, len(body)
    for _ in range(quotes):
        begin = body.find(b'"', at)
        found += _separators(body, at, size if begin < 0 else begin, MAX_VALUES - found)
        if begin < 0 or found >= MAX_VALUES:
            return found, size
        end = _end_of_text(body, begin + 1, quotes)
        if end < 0:
            return found, begin
        at = end
    return found, at


def _end_of_text(body: Body, start: int, quotes: int) -> int:
    """Where the text that begins at ``start`` is over; -1 when that is too much to find out."""
    at = start
    for _ in range(quotes):
        quote = body.find(b'"', at)
        if quote < 0:
            return len(body)
        count = _backslashes(body, at, quote)
        if count > MAX_BACKSLASHES:
            return -1
        if count % 2 == 0:
            return quote + 1
        at = quote + 1
    return -1


def _backslashes(body: Body, start: int, end: int) -> int:
    """How many backslashes stand before ``end``, none of them before ``start``; of more than MAX_BACKSLASHES one more."""
    if body[end - 1] != _BACKSLASH:
        return 0
    part = body[max(start, end - MAX_BACKSLASHES - 1) : end]
    return len(part) - len(part.rstrip(b"\\"))
