"""The arguments of ``dapi call``: words of the command line, or JSON from stdin, to one dictionary.

Rules kept here:
- ``name=value``: the value is JSON if it parses as JSON, else the text itself (``n=5`` is a number, ``n='"5"'`` a string);
- NaN, Infinity and numbers beyond a float's range are errors: no JSON can carry them;
- a name given twice is an error, in ``name=value`` and in JSON: nobody has to guess which one counts;
- stdin is read up to ``limits.body_bytes`` and not a byte further.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, BinaryIO

from zcluster.errors import InvalidArguments, TooLarge, UsageError

HINT = "write the arguments as one JSON object or as name=value"


def arguments(words: Sequence[str]) -> dict[str, Any]:
    """The arguments that ``words`` give: one JSON object, or ``name=value`` words.

    Raises:
        InvalidArguments: a word is neither, or a name occurs twice.
    """
    if len(words) == 1 and words[0].lstrip().startswith("{"):
        return _json_object(words[0], "the argument")
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise InvalidArguments(f"{word!r} is not name=value", hint=HINT)
        if name in found:
            raise InvalidArguments(f"the argument {name!r} is given twice", hint="give each name once")
        found[name] = _value(text)
    return found


def read_arguments(stream: BinaryIO, limit_bytes: int) -> dict[str, Any]:
    """The JSON object on ``stream``.

    Raises:
        TooLarge: it is longer than ``limit_bytes``.
        InvalidArguments: it is no JSON object.
    """
    data = stream.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise TooLarge(f"stdin holds more than {limit_bytes} bytes", hint="limits.body_bytes sets the limit")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InvalidArguments(f"stdin is not UTF-8 at byte {error.start}", hint=HINT) from None
    return _json_object(text, "stdin")


def _value(text: str) -> Any:
    try:
        value = json.loads(text, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        return text
    _check_finite(value, text)
    return value


def _json_object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_no_duplicates)
    except ValueError as error:
        raise InvalidArguments(f"{where} is not JSON: {error}", hint=HINT) from None
    except RecursionError:
        raise InvalidArguments(f"{where} is nested too deeply", hint=HINT) from None
    if not isinstance(value, dict):
        raise InvalidArguments(f"{where} is JSON, but not an object", hint=HINT)
    _check_finite(value, where)
    return value


def _check_finite(value: Any, where: str) -> None:
    """Python reads NaN, Infinity and 1e999 as floats; JSON can carry none of them, and a call would send null."""
    from zcluster.clients.checks import not_finite

    found = not_finite(value)
    if found is not None:
        raise InvalidArguments(
            f"{where[:80]} holds {found}, which JSON has no number for", hint="for a text write it in quotes: name='\"NaN\"'"
        )


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"the JSON object has the name {twice!r} twice", hint="give each name once")
    return found
