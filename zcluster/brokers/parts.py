"""The parts of a master beside requests and file sync, put together.

Rules kept here:
- the order of the list is the order of their start; they close the other way round;
- what one part needs of another is given to it here, by its constructor: parts do not look for each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zcluster.core.master import Master
from zcluster.keys import Ring
from zcluster.nodes.desk import Desk, Part

DIGESTED = ("groups/", "config/", "ring/")
"""Prefixes of the store that are tables: workers have copies of them."""


@dataclass(frozen=True)
class MasterSide:
    """What only a master's parts get."""

    machine: Master
    ring: Ring
    publish: Callable[[bytes, bytes], None]
    """Publish a frame under a topic, to everyone who subscribed."""


def master_parts(desk: Desk, master: MasterSide) -> list[Part]:
    """All parts of a master."""
    return []
