"""What makes arguments take long to decode, told before they are decoded.

A node decodes arguments on its loop, or beside it in a thread that lets nobody else run meanwhile. What that costs is not told
by their length alone: 64 MiB of plain text are no burden, but as empty arrays they are 22 million values, and would keep
everybody waiting for seconds. So would half a million numbers near the smallest that there are, integers of thousands of digits,
and texts of nothing but escapes.

Rules kept here:
- looking costs time for what is allowed, never for what a caller sends;
- a text counts as one value whatever is in it, as long as quotes are not too many to tell where texts end;
- a body that is no JSON may be weighed wrongly: the decoder refuses it anyhow.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator

from zcluster.dapi.jobs import Body

MAX_VALUES = 200_000
"""Values in the arguments of one call, those within others too."""
LARGE_BYTES = MAX_VALUES
"""A body that is not longer cannot hold more."""
LIGHT_BYTES = 8 * 1024
"""A body that is not longer is decoded within some 8 ms, whatever it is."""
FEW_ODD, MAX_ODD = 16, 10_000
"""Numbers beyond 1e250 or below 1e-250: near the end of their range the decoder takes 7 us for one."""
ODD_BYTES = 64
"""For so many bytes there may be one of them."""
LONG_DIGITS = 24
"""More digits, with the point, than any number of 64 bits needs."""
MAX_LONG = 50_000
"""Pieces of LONG_DIGITS of such numbers."""
BLANKS = 32
"""In a row."""
MAX_BLANKS = 1_000_000
"""Pieces of BLANKS."""
MAX_ESCAPES = 4_000_000
"""Escapes in texts; those of four hexadecimal digits count twice."""
MAX_TEXT_BYTES = 96 * 1024 * 1024
"""In memory, if all were one text: a character beyond U+00FF makes each other one of its text take two bytes, and one beyond
U+FFFF makes it four."""
WIDEST_BYTES = 4
FEW_QUOTES = 16
"""Quotes that are followed at first: enough for a few long texts."""
MAX_QUOTES = 20_000
"""Quotes that are followed when that was too much."""
MAX_BACKSLASHES = 4096
"""In a row, before a quote."""
SLICE_BYTES = 1024 * 1024
STEP_BYTES = 8 * SLICE_BYTES
SEPARATORS = (b",", b"[", b"{")
_BACKSLASH = ord("\\")
_ODD = re.compile(rb"[0-9][eE][-+]?0*(?:2[5-9]|3[0-3])\d(?!\d)")
ODD_NUMBERS = "numbers beyond 1e250 or below 1e-250"
SHORTEST_ODD = len(b"1e308")
_KINDS = {"0": "0123456789.", "e": "eE", " ": " \t\r\n"}
_SHAPES = bytes(ord(next((kind for kind, of in _KINDS.items() if each in of), "x")) for each in map(chr, range(256)))
"""What digits and points, exponents, and blanks become; all else becomes an x."""
_SIGNS = b"+-"
_EXPONENT = b"0e000"
_LONG = b"0" * LONG_DIGITS
_BLANKS = b" " * BLANKS
_WIDTHS = bytes([1] * 0x80 + [ord("c")] * 0x40 + [1] * 4 + [2] * 0x2C + [4] * 0x10)
"""How wide UTF-8 that begins so makes a text; c: it goes on."""


def weigh_short(body: Body) -> str:
    """Tell what is too much in a body of at most LARGE_BYTES, in words, empty when nothing is: numbers are all that may be."""
    most = _most_odd(body)
    for quotes, exact in ((FEW_QUOTES, False), (MAX_QUOTES, True)):
        parts = [body[start:end] for start, end in outside_of_texts(body, quotes) if end - start >= SHORTEST_ODD]
        if sum([_odd_numbers(part, part.translate(_SHAPES, _SIGNS), exact) for part in parts]) <= most:
            return ""
    return f"more than {most:,} {ODD_NUMBERS}"


def weigh(body: Body) -> Generator[None, None, str]:
    """Tell the same of a longer one, where other things may be too much. Each step is short."""
    if (yield from too_many_values(body)):
        return f"more than {MAX_VALUES:,} values"
    yield
    said = yield from _weigh_outside_of_texts(body)
    if said:
        return said
    return (yield from _weigh_texts(body))


def too_many_values(body: Body) -> Generator[None, None, bool]:
    """Whether ``body`` may hold more than MAX_VALUES values."""
    if len(body) <= LARGE_BYTES:
        return False
    for quotes in (FEW_QUOTES, MAX_QUOTES):
        if (yield from values_of(body, quotes)) < MAX_VALUES:
            return False
    return True


def values_of(body: Body, quotes: int) -> Generator[None, None, int]:
    """How often a value may begin when that many quotes are followed; looks no further than MAX_VALUES."""
    found = looked_bytes = 0
    for start, end in outside_of_texts(body, quotes):
        for first in range(start, end, SLICE_BYTES):
            last = min(end, first + SLICE_BYTES)
            found += sum([body.count(mark, first, last) for mark in SEPARATORS])
            if found >= MAX_VALUES:
                return found
            looked_bytes += last - first
            if looked_bytes >= STEP_BYTES:
                looked_bytes = 0
                yield
    return found


def outside_of_texts(body: Body, quotes: int) -> Iterator[tuple[int, int]]:
    """The parts of ``body`` that are not within texts, as (start, end); what comes behind that many quotes is one of them."""
    at = 0
    for _ in range(quotes):
        begin = body.find(b'"', at)
        if begin < 0:
            break
        yield at, begin
        end = _end_of_text(body, begin + 1, quotes)
        if end < 0:
            yield begin, len(body)
            return
        at = end
    yield at, len(body)


def _weigh_outside_of_texts(body: Body) -> Generator[None, None, str]:
    said = ""
    for quotes, exact in ((FEW_QUOTES, False), (MAX_QUOTES, True)):
        said = yield from _weigh_parts(body, quotes, exact)
        if not said:
            break
    return said


def _weigh_parts(body: Body, quotes: int, exact: bool) -> Generator[None, None, str]:
    """What is too much in numbers and blanks."""
    most_odd = _most_odd(body)
    odd = long = blanks = looked_bytes = 0
    for start, end in outside_of_texts(body, quotes):
        if end - start < SHORTEST_ODD:
            continue
        for first in range(start, end, SLICE_BYTES):
            part = body[first : min(end, first + SLICE_BYTES)]
            shapes = part.translate(_SHAPES, _SIGNS)
            odd += _odd_numbers(part, shapes, exact)
            long += shapes.count(_LONG)
            blanks += shapes.count(_BLANKS)
            if odd > most_odd:
                return f"more than {most_odd:,} {ODD_NUMBERS}"
            if long > MAX_LONG:
                return f"more than {MAX_LONG * LONG_DIGITS:,} digits in numbers of {LONG_DIGITS} and more"
            if blanks > MAX_BLANKS:
                return f"more than {MAX_BLANKS * BLANKS:,} blanks"
            looked_bytes += len(part)
            if looked_bytes >= STEP_BYTES:
                looked_bytes = 0
                yield
    return ""


def _most_odd(body: Body) -> int:
    return min(MAX_ODD, FEW_ODD + len(body) // ODD_BYTES)


def _odd_numbers(part: Body, shapes: Body, exact: bool) -> int:
    """How many are in ``part``. When not ``exact``, any exponent of three digits is taken for large, and few are passed over."""
    if not exact and shapes.count(b"e") <= FEW_ODD:  # often, and quickly told
        return 0
    exponents = shapes.count(_EXPONENT)
    return len(_ODD.findall(part)) if exact and exponents else exponents


def _weigh_texts(body: Body) -> Generator[None, None, str]:
    size = len(body)
    first = body.find(b"\\") if size > min(MAX_ESCAPES, MAX_TEXT_BYTES // WIDEST_BYTES) else -1
    escapes = in_hex = 0
    if first >= 0:
        escapes = body.count(b"\\", first)
        yield
    if 0 < escapes <= MAX_ESCAPES:
        in_hex = body.count(b"\\u", first)
        yield
    if escapes + in_hex > MAX_ESCAPES:
        return f"more than {MAX_ESCAPES:,} escapes"
    if size * WIDEST_BYTES <= MAX_TEXT_BYTES or (not in_hex and body.isascii()):
        return ""
    width, chars = 1, size - 5 * in_hex
    if in_hex:
        yield
        width = 4 if body.find(b"\\ud", first) >= 0 or body.find(b"\\uD", first) >= 0 else 2
    for start in range(0, size, SLICE_BYTES):
        widths = body[start : start + SLICE_BYTES].translate(_WIDTHS)
        chars -= widths.count(b"c")
        width = max([width, *[each for each in (2, 4) if widths.find(each) >= 0]])
        if start % STEP_BYTES == 0:
            yield
    if chars * width > MAX_TEXT_BYTES:
        return f"texts that take more than {MAX_TEXT_BYTES:,} bytes at {width} for a character"
    return ""


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
