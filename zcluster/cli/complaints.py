"""An error on its way to stderr.

Rules kept here:
- it is one line, ``zcluster: error: MESSAGE (hint)``; for a program that asked for data it is one JSON object there instead,
  ``{"error": {...}}``.
"""

from __future__ import annotations

import sys

from zcluster.cli.options import MACHINE_FORMATS
from zcluster.errors import ZClusterError


def complain(error: ZClusterError, output: str | None) -> None:
    """Print ``error`` to stderr as fits the format ``output``."""
    if output in MACHINE_FORMATS:
        import json  # help needs none of it

        print(json.dumps({"error": error.to_dict()}), file=sys.stderr)
    else:
        print(f"zcluster: error: {error}", file=sys.stderr)
