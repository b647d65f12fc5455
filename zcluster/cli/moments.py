"""A time as people write it on a command line.

Rules kept here:
- ISO 8601 (``2026-11-19T08:00``, a blank for the T, with an offset or Z; without one it is local time), ``HH:MM[:SS]`` (the
  next such time, local), or ``@SECONDS`` since 1970;
- wall time is wall time: ``08:00`` is eight o'clock on the day after a change to summer time, too.
"""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta

from zcluster.errors import UsageError

HINT = "write 2026-11-19T08:00 (local time, or with an offset such as +01:00 or Z), 08:00 (the next one) or @UNIX-SECONDS"
_UNIX = re.compile(r"@([0-9]{1,12}(?:\.[0-9]{1,9})?)")
_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?")


def parse_moment_s(text: str, now_s: float) -> float:
    """The Unix time that ``text`` means, read at ``now_s``; it may be past.

    Raises:
        UsageError: it is no time.
    """
    word = text.strip()
    if found := _UNIX.fullmatch(word):
        return float(found[1])
    try:
        if found := _CLOCK.fullmatch(word):
            return _next(time(int(found[1]), int(found[2]), int(found[3] or 0)), now_s)
        return datetime.fromisoformat(word).timestamp()
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"expected a time, got {text[:40]!r}", hint=HINT) from None


def _next(clock: time, now_s: float) -> float:
    """The first moment behind ``now_s`` at which clocks show ``clock``; an hour that comes twice counts twice."""
    today = datetime.fromtimestamp(now_s).date()
    days = (today, today + timedelta(days=1))
    moments = (datetime.combine(day, clock.replace(fold=fold)).timestamp() for day in days for fold in (0, 1))
    return min(moment for moment in moments if moment > now_s)
