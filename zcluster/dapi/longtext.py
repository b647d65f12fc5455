"""A long text in JSON, decoded piece by piece: the decoder takes a nanosecond for a byte, and lets nobody else run meanwhile.

Rules kept here:
- a text is cut where no escape and no character goes on: behind a place without backslashes that is longer than any escape, or
  before the first backslash of some, if no surrogate is before it. Where there is neither, the rest is decoded at once;
- what comes of the pieces is what comes of the whole, and pieces of what is no text are refused by the decoder as well.
"""

from __future__ import annotations

import re

import msgspec

from zcluster.dapi.steps import Steps

LONG_BYTES = 4 * 1024 * 1024
"""A longer text is decoded in pieces."""
PIECE_BYTES = 1024 * 1024
QUOTE = ord('"')
_LOOK_BYTES = 65_536
_LONGEST_ESCAPE = re.compile(rb"[^\\]{%d}" % len(b"\\ud83d\\ude00"))
_BACKSLASHES = re.compile(rb"[^\\]\\")
_HIGH_SURROGATE = re.compile(rb"\\u[dD][89abAB]")
_LONGEST_CHARACTER = 4
_decode = msgspec.json.Decoder(str).decode


def decode_text(text: memoryview) -> Steps[str]:
    """The text of which ``text`` is the JSON, its quotes included. Raises msgspec.DecodeError or UnicodeDecodeError."""
    pieces, at, end = list[str](), 1, len(text) - 1
    while at < end:
        stop = _cut(text, at + PIECE_BYTES, end)
        pieces.append(_decode(b'"' + text[at:stop] + b'"'))
        at = stop
        yield
    return "".join(pieces)


def _cut(text: memoryview, at: int, end: int) -> int:
    """The first place from ``at`` on where the text may be cut; ``end`` when there is none."""
    last = min(end, at + _LOOK_BYTES)
    found = _LONGEST_ESCAPE.search(text, at, last)
    if found is None:
        starts = (each.end() - 1 for each in _BACKSLASHES.finditer(text, at, last))
        return next((start for start in starts if not _HIGH_SURROGATE.match(text, start - 6, start)), end)
    at = found.end()
    for _ in range(_LONGEST_CHARACTER - 1):
        if at < end and text[at] & 0xC0 == 0x80:
            at += 1
    return at
