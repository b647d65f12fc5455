"""Data to text: one place for ``-o table|wide|json|ndjson|yaml|name``.

Rules kept here:
- a list is ``{"schema": 1, "items": [...], "total": n, "next": null}`` in JSON and YAML, one item a line in ndjson;
  a single object has ``"schema": 1`` beside its own fields;
- no colour when stdout is not a terminal, or NO_COLOR is set, or TERM is dumb;
- what other nodes sent is data: in a terminal no character of it reaches the screen as a control sequence;
- a table is cut to the terminal's width, in its last column only; ``wide`` and pipes get everything.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from zcluster.cli.yaml_block import block_style
from zcluster.errors import one_line

SCHEMA = 1
GAP = "  "
_NOT_FOR_A_SCREEN = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

Item = Mapping[str, Any]


def cell(value: Any) -> str:
    """``value`` as it stands in a table: ``-`` for nothing, compact JSON for structures, control characters escaped."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return json_text(value)


def seconds(value: Any) -> str:
    """A duration in seconds as people read it: ``0.4 ms``, ``250 ms``, ``5.0 s``, ``3 min``, ``2.1 h``, ``3.5 d``."""
    if not isinstance(value, int | float):
        return cell(value)
    if value < 0.01:
        return f"{value * 1000:.1f} ms"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 120:
        return f"{value:.1f} s"
    if value < 7200:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.1f} h" if value <= 48 * 3600 else f"{value / 86_400:.1f} d"


def counted(number: int, thing: str) -> str:
    """``1 agent``, ``2 agents``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    key: str
    title: str
    wide: bool = False
    """Shown by ``-o wide`` only."""
    right: bool = False
    text: Callable[[Any], str] = cell
    colours: Mapping[str, str] | None = None
    """Cell text -> click colour."""
    width: int = 0
    """The least width; what is printed line by line cannot know the longest cell."""


def on_terminal() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout.isatty()


def colour_wanted() -> bool:
    """Whether stdout may carry colours."""
    return on_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def json_text(value: Any, *, pretty: bool = False) -> str:
    """``value`` as JSON in which every character is fit for a screen; indented when ``pretty``."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(value, ensure_ascii=not utf8, indent=2 if pretty else None, default=str)
    return _NOT_FOR_A_SCREEN.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def say(text: str) -> None:
    """One line (or more) of talk to stderr."""
    click.echo(text, err=True)


def put(text: str) -> None:
    """One line (or more) of data to stdout, at once: a reader of the pipe sees it when it happened."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()


def listing(items: Sequence[Item], *, total: int | None = None, next_cursor: str | None = None) -> dict[str, Any]:
    """The envelope of a list; ``total`` is how many there are in all when this is a page of them."""
    return {"schema": SCHEMA, "items": list(items), "total": len(items) if total is None else total, "next": next_cursor}


def emit_list(
    items: Sequence[Item], columns: Sequence[Column], output: str | None, *, name_key: str = "name", total: int | None = None,
    next_cursor: str | None = None,
) -> None:  # fmt: skip
    """Print a list in the format ``output`` (None means table)."""
    if output == "json":
        put(json_text(listing(items, total=total, next_cursor=next_cursor), pretty=on_terminal()))
    elif output == "yaml":
        put(block_style(listing(items, total=total, next_cursor=next_cursor)))
    elif output == "ndjson":
        for item in items:
            put(json_text(item))
    elif output == "name":
        for item in items:
            put(cell(item.get(name_key)))
    else:
        for line in table(items, columns, wide=output == "wide"):
            put(line)


def emit_object(item: Item, output: str | None, *, lines: Iterable[str], name_key: str = "name") -> None:
    """Print one object in the format ``output``; ``lines`` is its table form."""
    if output == "json":
        put(json_text({"schema": SCHEMA, **item}, pretty=on_terminal()))
    elif output == "ndjson":
        put(json_text({"schema": SCHEMA, **item}))
    elif output == "yaml":
        put(block_style({"schema": SCHEMA, **item}))
    elif output == "name":
        put(cell(item.get(name_key)))
    else:
        for line in lines:
            put(line)


def pairs(rows: Sequence[tuple[str, Any]]) -> list[str]:
    """Lines ``name  value`` with the values in one column."""
    width = max((len(name) for name, _ in rows), default=0)
    return [f"{name.ljust(width)}{GAP}{cell(value)}" for name, value in rows]


def table(items: Sequence[Item], columns: Sequence[Column], *, wide: bool = False) -> list[str]:
    """The lines of a table with its header; nothing but the header when there are no items."""
    printer = TablePrinter(columns, wide=wide)
    printer.fit(items)
    return [printer.header(), *(printer.row(item) for item in items)]


class TablePrinter:
    """A table that is written line by line: widths are set at the start and never shrink or grow afterwards."""

    def __init__(self, columns: Sequence[Column], *, wide: bool = False) -> None:
        self.columns = [column for column in columns if wide or not column.wide]
        self.widths = [max(len(column.title), column.width) for column in self.columns]
        self.limit = shutil.get_terminal_size().columns if on_terminal() and not wide else None
        self.colour = colour_wanted()

    def fit(self, items: Iterable[Item]) -> None:
        """Widen the columns for ``items``."""
        for item in items:
            for position, column in enumerate(self.columns):
                self.widths[position] = max(self.widths[position], len(column.text(item.get(column.key))))

    def header(self) -> str:
        """The line of titles."""
        return self._line([column.title for column in self.columns], styled=False)

    def row(self, item: Item) -> str:
        """The line of ``item``."""
        return self._line([column.text(item.get(column.key)) for column in self.columns], styled=self.colour)

    def _line(self, cells: list[str], *, styled: bool) -> str:
        out = []
        used = 0
        last = len(cells) - 1
        for position, (text, column, width) in enumerate(zip(cells, self.columns, self.widths, strict=True)):
            if position == last and self.limit is not None and used + len(text) > self.limit > used:
                text = text[: max(self.limit - used - 1, 0)] + "…"
            padded = text.rjust(width) if column.right else text if position == last else text.ljust(width)
            used += len(padded) + len(GAP)
            colour = (column.colours or {}).get(text) if styled else None
            out.append(click.style(padded, fg=colour) if colour else padded)
        return GAP.join(out).rstrip()
