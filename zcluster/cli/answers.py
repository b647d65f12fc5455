"""The answers of a call on their way to stdout.

Rules kept here:
- several answers print as they arrive (a line each in a table and in ndjson); json and yaml print at the end;
- a node's failure is data beside the other nodes' answers; the exit code tells it: 0 all ok, 3 some failed,
  the error's own code when all failed alike, 1 otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from zcluster.cli.output import Column, TablePrinter, cell, emit_list, json_text, on_terminal, put, seconds
from zcluster.cli.yaml_block import block_style
from zcluster.errors import EXIT_FAILED, EXIT_OK, EXIT_PARTIAL, ZClusterError

COLUMNS = (
    Column("node", "NODE", width=12),
    Column("ok", "OK", width=3, colours={"yes": "green", "no": "red"}),
    Column("elapsed_s", "ELAPSED", right=True, width=8, text=seconds),
    Column("answer", "ANSWER", text=str),
)


class Answer(Protocol):
    """What is printed of an answer; ``zcluster.Result`` has it."""

    @property
    def node(self) -> str: ...
    @property
    def value(self) -> Any: ...
    @property
    def error(self) -> ZClusterError | None: ...
    @property
    def elapsed_s(self) -> float: ...


def as_item(result: Answer) -> dict[str, Any]:
    """A result as data."""
    return {
        "node": result.node or None,
        "ok": result.error is None,
        "value": result.value,
        "error": None if result.error is None else result.error.to_dict(),
        "elapsed_s": round(result.elapsed_s, 6),
    }


def exit_code(codes: Sequence[int]) -> int:
    """The exit code of a call with one exit code per node (0 for an answer)."""
    failed = [code for code in codes if code != EXIT_OK]
    if not failed:
        return EXIT_OK
    if len(failed) < len(codes):
        return EXIT_PARTIAL
    return failed[0] if len(set(failed)) == 1 else EXIT_FAILED


class AnswerPrinter:
    """Prints the answers of several nodes; :meth:`close` prints what waits for the end and gives the exit code."""

    def __init__(self, output: str | None) -> None:
        self.output = output or "table"
        self.items: list[dict[str, Any]] = []
        self.codes: list[int] = []
        self.table = TablePrinter(COLUMNS, wide=self.output == "wide")

    def add(self, result: Answer) -> None:
        """Take one answer; print it now unless the format needs all of them."""
        item = as_item(result)
        self.codes.append(EXIT_OK if result.error is None else result.error.exit_code)
        if self.output in ("json", "yaml"):
            self.items.append(item)
        elif self.output == "ndjson":
            put(json_text(item))
        elif self.output == "name":
            put(cell(item["node"]))
        else:
            if len(self.codes) == 1:
                put(self.table.header())
            answer = json_text(result.value) if result.error is None else f"{result.error.code}: {result.error}"
            put(self.table.row({**item, "answer": answer}))

    def close(self) -> int:
        """Print what is left; returns the exit code."""
        if self.output in ("json", "yaml"):
            emit_list(self.items, COLUMNS, self.output, name_key="node")
        return exit_code(self.codes)


def put_value(value: Any, output: str | None) -> None:
    """Print the bare value of a single answer: JSON, indented in a terminal, or block-style YAML."""
    put(block_style(value) if output == "yaml" else json_text(value, pretty=on_terminal()))
