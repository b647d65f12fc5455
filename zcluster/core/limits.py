"""The bounds of a master's machine in one value: plain data."""

from __future__ import annotations

from dataclasses import dataclass, field

from zcluster.core.dispatch import QueueLimits
from zcluster.core.roster import SessionLimits


@dataclass(frozen=True)
class MasterLimits:
    """All bounds of a master in one value."""

    session: SessionLimits = field(default_factory=SessionLimits)
    queue: QueueLimits = field(default_factory=QueueLimits)
    body_bytes: int = 67_108_864
    inline_bytes: int = 65_536
    window_bytes: int = 1_048_576
    outbox_bytes: int = 67_108_864
    transfer_bytes: int = 268_435_456
    faults: int = 100_000
    """How many messages of one key may be refused at once (see faults.py)."""
    frame_bytes: int = 0
    """The largest frame that its sockets take, for WELCOME; 0: not told."""
