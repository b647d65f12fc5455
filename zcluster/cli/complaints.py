"""An error on its way to stderr.

Rules kept here:
- it is one line, ``zcluster: error: MESSAGE (hint)``; for a program that asked for data it is one JSON object there instead,
  ``{"error": {...}}``;
- a join token that stood in a wrong place is not repeated: it lets machines in, and stderr ends up in logs.
"""

from __future__ import annotations

import re
import sys

from zcluster.cli.options import MACHINE_FORMATS
from zcluster.errors import ZClusterError

TOKEN = re.compile(r"zcj1-[\w=-]+", re.ASCII)
"""A join token, or a part of one (keys/tokens.py, which help need not import)."""


def masked(text: str) -> str:
    """``text`` without the join tokens in it."""
    return TOKEN.sub("zcj1-…", text)


def name_context(error: ZClusterError, context: str) -> None:
    """Have ``error`` say which context the command went by, if any, and it does not say so."""
    said = f"context {context!r}"
    if context and said not in f"{error.message} {error.hint}":
        error.hint = f"{error.hint}; {said}" if error.hint else said


def complain(error: ZClusterError, output: str | None) -> None:
    """Print ``error`` to stderr as fits the format ``output``."""
    error.message, error.hint = masked(error.message), masked(error.hint)
    if output in MACHINE_FORMATS:
        import json  # help needs none of it

        print(json.dumps({"error": error.to_dict()}), file=sys.stderr)
    else:
        print(f"zcluster: error: {error}", file=sys.stderr)
