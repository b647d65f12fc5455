"""JSON-like values as block-style YAML, without a YAML library.

Rules kept here:
- what is written reads back as the same value under YAML 1.1 and 1.2;
- a string is plain only when no YAML version can take it for something else; every other string is double-quoted,
  with everything that is not printable escaped.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*(?: [A-Za-z0-9_./-]+)*", re.ASCII)
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf", "infinity"})
_LONGEST_IMPLICIT_KEY_CHARS = 1000
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def block_style(value: object) -> str:
    """``value`` (None, bool, int, float, str, mappings, sequences) as YAML text that ends with a line end."""
    if _is_scalar(value):
        return _scalar(value) + "\n"
    return "\n".join(_lines(value)) + "\n"


def _is_scalar(value: object) -> bool:
    return not value or not isinstance(value, Mapping | list | tuple)


def _lines(value: object) -> Iterator[str]:
    """The lines of a mapping or sequence that is not empty, not indented."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _pair(_string(str(key)), item)
    elif isinstance(value, Sequence):
        for item in value:
            if _is_scalar(item):
                yield f"- {_scalar(item)}"
            else:
                first, *rest = _lines(item)
                yield f"- {first}"
                yield from (f"  {line}" for line in rest)


def _pair(key: str, item: object) -> Iterator[str]:
    head = f"{key}:"
    if len(key) > _LONGEST_IMPLICIT_KEY_CHARS:  # YAML allows a longer key only in its explicit form
        yield f"? {key}"
        head = ":"
    if _is_scalar(item):
        yield f"{head} {_scalar(item)}"
    else:
        yield head
        yield from (f"  {line}" for line in _lines(item))


def _scalar(value: object) -> str:
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, Mapping | list | tuple):
        return "{}" if isinstance(value, Mapping) else "[]"
    return json.dumps(value)


def _float(value: float) -> str:
    if math.isnan(value):
        return ".nan"
    if math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    text = repr(value)
    mantissa, exponent, power = text.partition("e")  # YAML 1.1 takes 1e+16 for a string, 1.0e+16 for a number
    return text if "." in mantissa or not exponent else f"{mantissa}.0e{power}"


def _string(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return '"' + "".join(_ESCAPES.get(c) or (c if c.isprintable() else _escape(c)) for c in text) + '"'


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
