"""A bar on stderr for what takes long.

Rules kept here:
- nothing is drawn when stderr is not a terminal, or the output is for a program: a log never holds a bar;
- what is drawn is wiped before anything else is printed.
"""

from __future__ import annotations

import os
import shutil
import sys
from types import TracebackType

from zcluster.cli.options import MACHINE_FORMATS

WIDTH = 24
WIPE = "\r\x1b[K"


class Bar:
    """A bar of one line, wiped at the end; use it with ``with``."""

    def __init__(self, output: str | None) -> None:
        self.shown = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and output not in MACHINE_FORMATS

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._write(WIPE)

    def draw(self, done: float, text: str) -> None:
        """Show that the share ``done`` (0 to 1) is done, and ``text`` behind it."""
        full = round(min(max(done, 0.0), 1.0) * WIDTH)
        line = f"[{'#' * full}{'.' * (WIDTH - full)}] {text}"
        self._write(WIPE + line[: shutil.get_terminal_size().columns - 1])

    def _write(self, text: str) -> None:
        if self.shown:
            sys.stderr.write(text)
            sys.stderr.flush()
