"""Durations and sizes as people write them.

Rules kept here:
- a duration is a number of seconds, or a number with one of ms, s, m, h, d ("250ms", "1.5h");
- a size is a whole number of bytes, or a number with one of B, KiB, MiB, GiB, TiB (1024) or kB, MB, GB, TB (1000);
- arithmetic is exact: "0.1MB" is 100000 bytes, and a size that is no whole number of bytes is refused;
- no sign, no infinity, no nan, no blank inside; anything else is a ConfigError that says what is expected.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

from zcluster.errors import ConfigError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

MAX_DURATION_S = 10 * 365 * 86400
"""Longest duration that is read (ten years): whatever is longer is a mistake."""

MAX_SIZE_BYTES = 1 << 50
"""Largest size that is read (1 PiB): whatever is larger is a mistake."""

_DURATIONS: Mapping[str, int | Decimal] = {"": 1, "ms": Decimal("0.001"), "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZES: Mapping[str, int | Decimal] = {
    **{"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40},
    **{"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12},
}
_NUMBER = re.compile(r"([0-9]{1,16}(?:\.[0-9]{1,9})?)([A-Za-z]{0,3})")

DURATION_HINT = "write seconds as a number, or a number with ms, s, m, h or d, like 0.5, 250ms, 10m"
SIZE_HINT = "write bytes as a whole number, or a number with KiB, MiB, GiB, kB, MB or GB, like 65536, 64KiB"


def parse_duration_s(value: str | int | float) -> float:
    """``value`` in seconds.

    Args:
        value: seconds as a number, or text such as "5s", "10m", "250ms", "1h".

    Raises:
        ConfigError: not a duration, negative, not finite, or longer than MAX_DURATION_S.
    """
    exact = _exact(value, _DURATIONS, "a duration", DURATION_HINT)
    if exact > MAX_DURATION_S:
        raise ConfigError(f"expected a duration of at most {MAX_DURATION_S} seconds", hint=DURATION_HINT)
    return float(exact)


def parse_bytes(value: str | int) -> int:
    """``value`` in bytes.

    Args:
        value: a whole number of bytes, or text such as "64MiB", "512", "1.5GiB".

    Raises:
        ConfigError: not a size, negative, not whole, or larger than MAX_SIZE_BYTES.
    """
    exact = _exact(value, _SIZES, "a size", SIZE_HINT)
    if exact > MAX_SIZE_BYTES:
        raise ConfigError(f"expected a size of at most {MAX_SIZE_BYTES} bytes", hint=SIZE_HINT)
    if exact != int(exact):
        raise ConfigError(f"expected a whole number of bytes, got {value!r}", hint=SIZE_HINT)
    return int(exact)


def format_bytes(size_bytes: int) -> str:
    """The shortest exact text of a size in binary units; :func:`parse_bytes` reads it back."""
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return str(size_bytes)


def _exact(value: object, factors: Mapping[str, int | Decimal], what: str, hint: str) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigError(f"expected {what}, got {type(value).__name__}", hint=hint)
    if isinstance(value, str):
        found = _NUMBER.fullmatch(value.strip())
        factor = None if found is None else factors.get(found[2].lower())
        if found is None or factor is None:
            raise ConfigError(f"expected {what}, got {value[:40]!r}", hint=hint)
        return Decimal(found[1]) * factor
    # repr gives the decimal that was written, not the binary fraction behind it; the bound keeps repr short
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(min(value, 1 << 64))
    if not number.is_finite() or number < 0:
        raise ConfigError(f"expected {what}, got {str(number)[:40]}", hint=hint)
    return number
