"""TOML text: read with a bound, find the line of a key, write a value.

Rules kept here:
- reading is tomllib's; the scan for line numbers runs only over text that tomllib has accepted;
- a message about a file never quotes its content: key files go through here too;
- what is written, tomllib reads back as the same value.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

MAX_TOML_BYTES = 1 << 20
"""The largest TOML file that is read."""

_TOKEN = re.compile(
    r"""
    (?P<comment>\#[^\n]*)
  | (?P<string>\"{3}(?:\\.|[^\\])*?\"{3,5} | '{3}.*?'{3,5} | "(?:\\.|[^"\\\n])*" | '[^'\n]*')
  | (?P<newline>\n)
  | (?P<open>[\[{])
  | (?P<close>[\]}])
  | (?P<equals>=)
  | (?P<mark>[.,])
  | (?P<bare>[^\s\#"'\[\]{}=.,]+)
    """,
    re.VERBOSE | re.DOTALL,
)


class TomlFault(ValueError):
    """The text is no TOML; ``line`` is where (0 when unknown). The message quotes nothing of the text."""

    def __init__(self, line: int) -> None:
        super().__init__("not valid TOML")
        self.line = line


def parse_toml(data: bytes) -> dict[str, Any]:
    """The document in ``data``.

    Raises:
        TomlFault: it is no UTF-8, no TOML, nested too deeply, or larger than MAX_TOML_BYTES.
    """
    line = 0
    if len(data) > MAX_TOML_BYTES:
        raise TomlFault(line)
    try:
        return tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
    except RecursionError:
        line = 0
    except ValueError as error:
        found = re.search(r"\(at line (\d+)", str(error))
        at_end = "end of document" in str(error)
        line = int(found[1]) if found else data.rstrip().count(b"\n") + 1 if at_end else 0
    # raised out here so that no chained exception carries the text of the file along
    raise TomlFault(line)


def key_lines(text: str) -> dict[tuple[str | int, ...], int]:
    """The line (from 1) of each table header and key of valid TOML ``text``.

    The tables of an array [[a]] are ("a", 0), ("a", 1) and so on; ("a",) is the first. Keys inside inline tables and arrays
    are not listed: their line is the line of the key that holds them.
    """
    lines: dict[tuple[str | int, ...], int] = {}
    arrays: dict[tuple[str | int, ...], int] = {}
    table: tuple[str | int, ...] = ()
    parts: list[str] = []
    line, depth, in_value, opened = 1, 0, False, 0
    for token in _TOKEN.finditer(text):
        kind, word = token.lastgroup, token.group()
        if in_value:
            depth += (kind == "open") - (kind == "close")
            in_value = kind != "newline" or depth > 0
        elif kind == "newline":
            parts = []
        elif kind == "open":
            opened += 1
        elif kind == "close" and opened:
            table = _header(parts, arrays, is_array=opened == 2)
            if opened == 2:
                lines.setdefault(table[:-1], line)
            lines.setdefault(table, line)
            opened = 0
        elif kind == "equals":
            lines.setdefault((*table, *parts), line)
            parts, in_value, depth = [], True, 0
        elif kind in ("bare", "string"):
            parts.append(tomllib.loads(f"x = {word}")["x"] if kind == "string" else word)
        line += word.count("\n")
    return lines


def _header(parts: list[str], arrays: dict[tuple[str | int, ...], int], *, is_array: bool) -> tuple[str | int, ...]:
    """The place of a table's header; ``arrays`` counts the tables of each array, and a header beneath one means its last."""
    place: tuple[str | int, ...] = ()
    for position, part in enumerate(parts):
        place = (*place, part)
        if is_array and position == len(parts) - 1:
            arrays[place] = arrays.get(place, 0) + 1
        if place in arrays:
            place = (*place, arrays[place] - 1)
    return place


def toml_value(value: object) -> str:
    """``value`` (text, a number, a bool, or a list of these) as TOML writes it.

    Raises:
        TypeError: a value of another type.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return '"' + "".join(_escaped(char) for char in value) + '"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    raise TypeError(f"no TOML form for {type(value).__name__}")


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return char if char.isprintable() else f"\\U{ord(char):08x}"
