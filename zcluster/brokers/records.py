"""What a master keeps across its restarts: its epoch, and which nodes it had.

Rules kept here:
- the epoch is on disk (fsync) before it is used: no two starts of a home have the same;
- the list of nodes is a memory, not a truth: when it cannot be read the master starts without it and says so.
"""

from __future__ import annotations

import logging
from pathlib import Path

import orjson

from zcluster.errors import InvalidKey, UsageError
from zcluster.keys.private import read_private, replace

MAX_BYTES = 16 * 1024 * 1024


class Records:
    """The files ``epoch`` and ``nodes.json`` in ``directory``."""

    def __init__(self, directory: Path, logger: logging.Logger) -> None:
        self._epoch = directory / "epoch"
        self._nodes = directory / "nodes.json"
        self._logger = logger
        self._saved: dict[str, str] = {}

    def next_epoch(self) -> int:
        """The number of this start, one more than the last.

        Raises:
            UsageError: the file holds something else than a number.
        """
        try:
            last = int(read_private(self._epoch, 64, forbid=0o022)[0]) if self._epoch.exists() else 0
        except ValueError:
            hint = "restore it, or write a larger number than ever used"
            raise UsageError(f"{self._epoch} does not hold a number", hint=hint) from None
        replace(self._epoch, b"%d\n" % (last + 1))
        return last + 1

    def nodes(self) -> dict[str, str]:
        """Names and roles of the nodes that were here."""
        if not self._nodes.exists():
            return {}
        try:
            data = orjson.loads(read_private(self._nodes, MAX_BYTES, forbid=0o022)[0])
            self._saved = {str(name): str(role) for name, role in data["nodes"].items()}
        except (InvalidKey, orjson.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
            self._logger.warning("the list of nodes before the start cannot be read: %s", error)
        return dict(self._saved)

    def save_nodes(self, nodes: dict[str, str]) -> None:
        """Remember ``nodes`` if they are others than before."""
        if nodes == self._saved:
            return
        try:
            replace(self._nodes, orjson.dumps({"schema": 1, "nodes": nodes}))
            self._saved = dict(nodes)
        except (InvalidKey, OSError) as error:
            self._logger.error("the list of nodes could not be saved: %s", error)
