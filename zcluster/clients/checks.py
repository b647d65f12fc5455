"""What a caller gave, checked: its types, and numbers that JSON cannot carry.

Rules kept here:
- a wrong type is a UsageError that names the parameter, never a TypeError from somewhere within;
- a float that is no number (NaN, Infinity) among the arguments is refused: JSON would make it null, silently.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from enum import Enum
from numbers import Real
from pathlib import Path

from zcluster.config import reachable
from zcluster.core.doors import split_node
from zcluster.errors import InvalidArguments, UsageError

MAX_TIMEOUT_S = 86_400.0
MAX_SECONDS = 1e12
"""In milliseconds it still is a number that a message carries."""
NOT_FINITE_HINT = "JSON has no such number: send null (None) or a text instead"


def checked_text(parameter: str, value: object, hint: str = "") -> str:
    """``value`` as a plain str, which the codec needs (an enum's text is none); raises UsageError when it is no text."""
    if not isinstance(value, str):
        raise UsageError(f"{parameter} is a text, not {_kind(value)}", hint=hint)
    return str.__str__(value)


def checked_target(value: object) -> str:
    """As :func:`checked_text`."""
    return checked_text("target", value, "a node's name, 'any' or 'master'; for fan_out also 'a,b', a glob or 'all'")


def checked_path(parameter: str, value: object) -> Path | None:
    """``value`` as a path, None as None; raises UsageError when it is neither text nor a path."""
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike):
        raise UsageError(f"{parameter} is a path, not {_kind(value)}", hint="a text or a pathlib.Path")
    return Path(value)


def checked_addresses(value: object) -> list[str]:
    """One address or several as a list; None is an empty one. Raises UsageError when it is neither."""
    if value is None:
        return []
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, Sequence) or isinstance(found, bytes) or not all(isinstance(each, str) for each in found):
        raise UsageError(f"master is an address or a list of addresses, not {_kind(value)}", hint="such as 'tcp://HOST:7570'")
    return list(found)


def checked_timeout(value: object) -> float:
    """``value`` in seconds; raises UsageError when it is no number or out of range."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise UsageError(f"timeout is a number of seconds, not {_kind(value)}", hint="such as 5.0")
    try:
        timeout_s = float(value)
    except OverflowError:
        timeout_s = math.inf
    if not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise UsageError(f"a timeout of {timeout_s} s is not between 0 and {MAX_TIMEOUT_S:g} s", hint="seconds, such as 5.0")
    return timeout_s


def checked_seconds(parameter: str, value: object, *, positive: bool = False) -> float:
    """``value`` as a number of seconds; raises UsageError when it is none, negative (with ``positive`` also: 0) or too large."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise UsageError(f"{parameter} is a number of seconds, not {_kind(value)}", hint="such as 5.0")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not (seconds > 0 if positive else seconds >= 0) or seconds > MAX_SECONDS:
        raise UsageError(f"{parameter} of {seconds:g} is out of range", hint=f"seconds, at most {MAX_SECONDS:g}")
    return seconds


def check_priority(value: object) -> None:
    """Raises UsageError when ``value`` is no integer from 0 to 9."""
    hint = "9 is served first, the default is 5"
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageError(f"priority is an integer from 0 to 9, not {_kind(value)}", hint=hint)
    if not 0 <= value <= 9:
        raise UsageError(f"priority {value} is not between 0 and 9", hint=hint)


def check_idempotent(value: object) -> None:
    """Raises UsageError when ``value`` is none of True, False, None."""
    if value is not None and not isinstance(value, bool):
        raise UsageError(f"idempotent is True, False or None, not {_kind(value)}")


def refuse_not_finite(function: str, args: object) -> None:
    """Raises InvalidArguments when a float that is no number is somewhere in ``args``; it names the argument."""
    named = args.items() if isinstance(args, Mapping) else [("", args)]
    for name, value in named:
        found = not_finite(value)
        if found is not None:
            where = f"the argument {name!r} holds" if name else "the arguments hold"
            raise InvalidArguments(f"{function}: {where} {found}", hint=NOT_FINITE_HINT)


def not_finite(value: object) -> float | None:
    """A NaN or Infinity in ``value``, however deep, or None. It looks at no more than what orjson has encoded."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, float):
            if not math.isfinite(each):
                return each
        elif isinstance(each, Mapping):
            waiting.extend(each.values())
        elif isinstance(each, list | tuple):
            waiting.extend(each)
        elif isinstance(each, Enum):
            waiting.append(each.value)
        elif dataclasses.is_dataclass(each) and not isinstance(each, type):
            waiting.extend(getattr(each, field.name) for field in dataclasses.fields(each))
    return None


def _kind(value: object) -> str:
    if value is None:
        return "None"
    text = repr(value)
    shown = text if len(text) <= 60 else text[:59] + "…"
    return f"{type(value).__name__} {shown}"


def not_json(function: str, error: Exception) -> InvalidArguments:
    """The error for arguments that JSON cannot carry."""
    return InvalidArguments(f"{function}: the arguments are not JSON: {error}")


def checked_address(text: str) -> str:
    """``[NAME@]ADDRESS`` as it is written; raises UsageError when it is none."""
    name, address = split_node(text)
    return f"{name}@{reachable(address)}" if name else reachable(address)
