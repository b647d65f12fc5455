"""A tree as the master's configuration declares it.

Rule kept here: which workers a tree concerns is asked of each name by itself, so that a list may name workers that have not
come yet.
"""

from __future__ import annotations

from dataclasses import dataclass

from zcluster.core.targets import select
from zcluster.errors import NoSuchNode
from zcluster.wire.trees import TreeInfo


@dataclass(frozen=True)
class Declared:
    """A tree of the configuration."""

    info: TreeInfo
    workers: str
    """The target that it concerns."""
    local: TreeInfo
    """The rules as they hold at the master."""
    keep: str = "per-worker"
    """Of a tree that workers bring up: whether their files are put together (``merged``)."""

    def concerns(self, worker: str, master: str) -> bool:
        """Whether the tree is for this worker."""
        try:
            return bool(select(self.workers, [worker], master))
        except NoSuchNode:
            # A list may name others as well: each part has to match something there, but not this worker.
            return any(_matches(part, worker) for part in self.workers.split(","))


def _matches(part: str, worker: str) -> bool:
    try:
        return bool(select(part.strip(), [worker], ""))
    except NoSuchNode:
        return False
