"""What a master keeps across its restarts: its epoch, and which nodes it had.

Rules kept here:
- the epoch is on disk (fsync) before it is used: no two starts of a home have the same;
- the list of nodes is a memory, not a truth: when it cannot be read the master starts without it and says so;
- a running master never waits for the disk: one thread saves the list, the newest one, at most once per SAVE_INTERVAL_S; the
  last one is saved by close().
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import orjson

from zcluster.errors import InvalidKey, UsageError
from zcluster.keys.private import read_private, replace

MAX_BYTES = 16 * 1024 * 1024
SAVE_INTERVAL_S = 0.05
CLOSE_S = 2.0
"""How long close() waits for the last save."""


class Records:
    """The files ``epoch`` and ``nodes.json`` in ``directory``.

    Args:
        directory: where they are.
        logger: takes what goes wrong with the list of nodes.
        save_interval_s: the time between two saves by :meth:`save_nodes_later`.
    """

    def __init__(self, directory: Path, logger: logging.Logger, *, save_interval_s: float = SAVE_INTERVAL_S) -> None:
        self._epoch = directory / "epoch"
        self._nodes = directory / "nodes.json"
        self._logger = logger
        self._saved: dict[str, str] = {}
        self._save_interval_s = save_interval_s
        self._changed = threading.Condition()
        self._wanted: dict[str, str] | None = None
        self._closing = False
        self._writer: threading.Thread | None = None

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
        """Remember ``nodes`` if they are others than before; on disk when it returns. Not while the thread of
        :meth:`save_nodes_later` runs."""
        if nodes == self._saved:
            return
        try:
            replace(self._nodes, orjson.dumps({"schema": 1, "nodes": nodes}))
            self._saved = dict(nodes)
        except (InvalidKey, OSError) as error:
            self._logger.error("the list of nodes could not be saved: %s", error)

    def save_nodes_later(self, nodes: dict[str, str]) -> None:
        """Remember ``nodes``, which the caller changes no more; returns at once. After close() nothing is saved."""
        with self._changed:
            if self._closing:
                return
            self._wanted = nodes
            self._changed.notify()
            if self._writer is not None:
                return
            writer = threading.Thread(target=self._write, name="zcluster-records", daemon=True)
            try:
                writer.start()
            except RuntimeError as error:
                # It is tried again at the next change; close() saves what is left.
                self._logger.error("the list of nodes is not saved yet: %s", error)
            else:
                self._writer = writer

    def close(self) -> None:
        """Save what is not saved yet; returns within CLOSE_S even when the disk does not answer."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._writer is None:
            left, self._wanted = self._wanted, None
            if left is not None:
                self.save_nodes(left)
            return
        self._writer.join(CLOSE_S)
        if self._writer.is_alive():
            self._logger.error("the list of nodes was not saved within %s s", CLOSE_S)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted is not None or self._closing)
                nodes, self._wanted = self._wanted, None
            if nodes is None:
                return
            self.save_nodes(nodes)
            with self._changed:
                self._changed.wait_for(lambda: self._closing, self._save_interval_s)
