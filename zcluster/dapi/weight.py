"""What makes arguments take long to decode, told before they are decoded.

A node decodes arguments on its loop, or beside it in a thread that lets nobody else run meanwhile. What that costs is not told
by their length alone: 64 MiB of plain text are no burden, but as empty arrays they are 22 million values, and would keep
everybody waiting for seconds. So would half a million numbers near the smallest that there are, integers of thousands of digits,
and texts of nothing but escapes.

Rules kept here:
- looking is searches of the bytes type, in short steps; what Python looks at one by one is bounded, whatever a caller sends;
- what is within texts is nothing, as long as quotes are not too many to tell where texts end; behind those it counts;
- a body that is no JSON may be weighed wrongly: the decoder refuses it anyhow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from zcluster.dapi.jobs import Body
from zcluster.dapi.steps import Steps

LARGE_BYTES = 256 * 1024
"""A longer body is read in steps."""
LIGHT_BYTES = 8 * 1024
"""A body that is not longer is decoded within some 8 ms, whatever it is."""
MAX_VALUES = 500_000
"""Values in the arguments of one call, those within others too."""
MAX_SLOW = 250_000
"""What numbers count that are slow to decode; each is worth half a microsecond.

Once: a number of LONG_DIGITS with its point, which may lie just between two that a float can be. VERY_LONG times: each
VERY_LONG_DIGITS of a longer one, or of an integer. ODD times: one with an exponent of three digits, or with one and more digits
than a float has: near the ends of their range that is what they take."""
LONG_DIGITS, TOO_EXACT_DIGITS, VERY_LONG_DIGITS = 16, 20, 24
VERY_LONG, ODD = 2, 16
FEW_SLOW, SLOW_BYTES = 256, 4
"""A short body may have so many, and one more for so many bytes."""
MAX_BLANKS, BLANKS = 1_000_000, 32
"""Pieces of so many blanks in a row."""
MAX_BACKSLASHES = 4_000_000
"""In texts; those of four hexadecimal digits count twice."""
MAX_TEXT_BYTES, WIDEST_BYTES = 96 * 1024 * 1024, 4
"""In memory, if all were one text: a character beyond U+00FF makes each other one of its text take two bytes, and one beyond
U+FFFF makes it four."""
FEW_QUOTES = 16
"""Quotes that are followed at first: enough for a few long texts."""
MAX_QUOTES = 20_000
"""Quotes that are followed when that was too much, those within texts too."""
PASSES = ((FEW_QUOTES, False), (MAX_QUOTES, True))
BACKSLASHES_IN_A_ROW = 4096
"""Before a quote; with more it is not told where the text ends."""
MAX_HEX = 1000
"""Escapes of four digits that are looked at one by one."""
SLICE_BYTES = 1024 * 1024
STEP_BYTES = 8 * SLICE_BYTES

_BACKSLASH = ord("\\")
_SEPARATORS = (b",", b"[", b"{")
_KINDS = {"0": "0123456789", ".": ".", "e": "eE", " ": " \t\r\n"}
_SIGNS = b"+-"
_SHAPES = bytes(ord(next((kind for kind, of in _KINDS.items() if each in of), "x")) for each in map(chr, range(256)))
"""What digits, points, exponents and blanks become; all else becomes an x."""
_POINTS = bytes.maketrans(b".", b"0")
_LARGE_EXPONENT = re.compile(rb"[0-9][eE][-+]?[0-9]{3,}(?=[],}\s])")
_SHORTEST_ODD = len(b"1e308")
_WIDTHS = bytes([1] * 0x80 + [ord("c")] * 0x40 + [1] * 4 + [2] * 0x2C + [4] * 0x10)
"""How wide UTF-8 that begins so makes a text; c: it goes on."""


def weigh_short(body: Body) -> str:
    """Tell what is too much in a body of at most LARGE_BYTES: in words, empty when nothing is. Only slow numbers may be."""
    most = FEW_SLOW + len(body) // SLOW_BYTES
    for quotes, exact in PASSES:
        numbers = _Numbers(exact)
        for start, end in outside_of_texts(body, quotes):
            if end - start >= _SHORTEST_ODD:
                numbers.look(body[start:end])
        if numbers.slow <= most:
            return ""
    return "more slow numbers than a call may have"


def weigh(body: Body) -> Steps[str]:
    """Tell the same of a longer one, where other things may be too much. Each step is short."""
    for weigh_part in (_weigh_backslashes, _weigh_values, _weigh_numbers, _weigh_width):
        said = yield from weigh_part(body)
        if said:
            return said
        yield
    return ""


def outside_of_texts(body: Body, quotes: int) -> Iterator[tuple[int, int]]:
    """The parts of ``body`` that are not within texts, as (start, end); what comes behind that many quotes is one of them."""
    at = 0
    while quotes > 0:
        begin = body.find(b'"', at)
        if begin < 0:
            break
        yield at, begin
        end, quotes = _end_of_text(body, begin + 1, quotes - 1)
        if end < 0:
            at = begin
            break
        at = end
    yield at, len(body)


def slices_outside_of_texts(body: Body, quotes: int) -> Iterator[tuple[int, int]]:
    """The same, in slices."""
    for start, end in outside_of_texts(body, quotes):
        for first in range(start, end, SLICE_BYTES):
            yield first, min(end, first + SLICE_BYTES)


def _weigh_values(body: Body) -> Steps[str]:
    if len(body) <= MAX_VALUES:
        return ""
    for quotes, _ in PASSES:
        found = looked_bytes = 0
        for start, end in slices_outside_of_texts(body, quotes):
            found += sum([body.count(mark, start, end) for mark in _SEPARATORS])
            if found >= MAX_VALUES:
                break
            looked_bytes += end - start
            if looked_bytes >= STEP_BYTES:
                looked_bytes = 0
                yield
        else:
            return ""
        yield
    return f"more than {MAX_VALUES:,} values"


class _Numbers:
    """Counts what is slow in numbers, and blanks. When not ``exact``, what looks like a large exponent is taken for one."""

    def __init__(self, exact: bool) -> None:
        self._exact = exact
        self._odd = self._long = self._very_long = self._points = 0
        self.blanks = 0

    def look(self, part: Body) -> None:
        """Count those of ``part``, a slice that is outside of texts."""
        shapes = part.translate(_SHAPES, _SIGNS)
        self._points += shapes.count(b"0.0")
        self.blanks += shapes.count(b" " * BLANKS)
        shapes = shapes.translate(_POINTS)
        self._long += shapes.count(b"0" * LONG_DIGITS)
        self._very_long += shapes.count(b"0" * VERY_LONG_DIGITS)
        if shapes.count(b"e"):
            exponents = shapes.count(b"0e000")
            if exponents and self._exact:
                exponents = len(_LARGE_EXPONENT.findall(part))
            self._odd += exponents + shapes.count(b"0" * TOO_EXACT_DIGITS + b"e")

    @property
    def slow(self) -> int:
        """What they count in all. Long integers have no point, and addresses are not long."""
        return ODD * self._odd + VERY_LONG * self._very_long + min(self._long, self._points)


def _weigh_numbers(body: Body) -> Steps[str]:
    most, said = min(MAX_SLOW, FEW_SLOW + len(body) // SLOW_BYTES), ""
    for quotes, exact in PASSES:
        numbers, looked_bytes, said = _Numbers(exact), 0, ""
        for start, end in slices_outside_of_texts(body, quotes):
            if end - start < _SHORTEST_ODD:
                continue
            numbers.look(body[start:end])
            if numbers.slow > most or numbers.blanks > MAX_BLANKS:
                blanks = f"more than {MAX_BLANKS * BLANKS:,} blanks"
                said = "more slow numbers than a call may have" if numbers.slow > most else blanks
                break
            looked_bytes += end - start
            if looked_bytes >= (SLICE_BYTES if exact else STEP_BYTES):
                looked_bytes = 0
                yield
        if not said:
            break
        yield
    return said


def _weigh_backslashes(body: Body) -> Steps[str]:
    first = body.find(b"\\") if len(body) > MAX_BACKSLASHES else -1
    if first < 0:
        return ""
    found = body.count(b"\\", first)
    yield
    if 2 * found > MAX_BACKSLASHES >= found:
        found += body.count(b"\\u", first)
    return f"more than {MAX_BACKSLASHES:,} backslashes" if found > MAX_BACKSLASHES else ""


def _weigh_width(body: Body) -> Steps[str]:
    size = len(body)
    if size * WIDEST_BYTES <= MAX_TEXT_BYTES:
        return ""
    first = body.find(b"\\")
    if first >= 0:
        first = body.find(b"\\u", first)
    if first < 0 and body.isascii():
        return ""
    chars, width = size, 1
    if first >= 0:
        yield
        in_hex = body.count(b"\\u", first)
        chars -= 5 * in_hex
        yield
        if body.count(b"\\u00", first) < in_hex:
            yield
            width = _widest_escape(body, first)
    for start in range(0, size, SLICE_BYTES):
        widths = body[start : start + SLICE_BYTES].translate(_WIDTHS)
        chars -= widths.count(b"c")
        width = max([width, *[each for each in (2, 4) if widths.find(each) >= 0]])
        if start % STEP_BYTES == 0:
            yield
    if chars * width > MAX_TEXT_BYTES:
        return f"texts that take more than {MAX_TEXT_BYTES:,} bytes at {width} for a character"
    return ""


def _widest_escape(body: Body, first: int) -> int:
    """How wide the escapes of four digits make a text: the first of them tell, and when they are many it is as wide as can be."""
    width, at = 1, first
    for _ in range(MAX_HEX):
        if at < 0:
            return width
        if _backslashes(body, 0, at + 1) % 2:
            high = bytes(body[at + 2 : at + 4]).lower()
            width = 4 if b"d8" <= high <= b"db" else max(width, 1 if high == b"00" else 2)
        if width == WIDEST_BYTES:
            return width
        at = body.find(b"\\u", at + 2)
    return 4 if body.find(b"\\ud", at) >= 0 or body.find(b"\\uD", at) >= 0 else 2


def _end_of_text(body: Body, start: int, quotes: int) -> tuple[int, int]:
    """Where the text that begins at ``start`` is over, and how many quotes may still be followed; -1 when that is too many."""
    at = start
    while quotes > 0:
        quote = body.find(b'"', at)
        if quote < 0:
            return len(body), 0
        quotes -= 1
        count = _backslashes(body, at, quote)
        if count > BACKSLASHES_IN_A_ROW:
            break
        if count % 2 == 0:
            return quote + 1, quotes
        at = quote + 1
    return -1, 0


def _backslashes(body: Body, start: int, end: int) -> int:
    """How many backslashes stand before ``end``, none of them before ``start``; of more than BACKSLASHES_IN_A_ROW one more."""
    if body[end - 1] != _BACKSLASH:
        return 0
    part = body[max(start, end - BACKSLASHES_IN_A_ROW - 1) : end]
    return len(part) - len(part.rstrip(b"\\"))
