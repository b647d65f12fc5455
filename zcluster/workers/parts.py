"""The parts of a worker beside requests and file sync, put together.

Rules kept here:
- the order of the list is the order of their start; they close the other way round;
- what one part needs of another is given to it here, by its constructor: parts do not look for each other.
"""

from __future__ import annotations

from zcluster.nodes.desk import Desk, Part
from zcluster.workers.uplink import Uplink

DIGESTED = ("groups/", "config/", "ring/")
"""Prefixes of the store that are copies of the master's tables."""


def worker_parts(desk: Desk, uplink: Uplink) -> list[Part]:
    """All parts of a worker."""
    return []
