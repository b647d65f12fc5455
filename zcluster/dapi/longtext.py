"""A long text in JSON, decoded piece by piece: the decoder takes a nanosecond for a byte, and lets nobody else run meanwhile.

Rules kept here:
- a text is cut where no escape and no character goes on; where escapes are too dense to tell, the rest is decoded at once;
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
    found = _LONGEST_ESCAPE.search(text, at, min(end, at + _LOOK_BYTES))
    if found is None:
        return end
    at = found.end()
    for _ in range(_LONGEST_CHARACTER - 1):
        if at < end and text[at] & 0xC0 == 0x80:
            at += 1
    return at
