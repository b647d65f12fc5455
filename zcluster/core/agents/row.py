"""The row of an agent: plain data, and the rules for what it may hold.

Rules kept here:
- an id is 1 to 128 characters of letters, digits and ``._:@-``, and does not begin with ``-`` or ``.``;
- every text and number of labels, metrics and os is bounded; what is beyond is refused with its place, never cut in silence;
- ``held`` says what gave the row its node: a live session of the agent, or a report of a program (import).
"""

from __future__ import annotations

import re
from typing import Any, Literal

from msgspec import Struct

STATUSES = ("never", "active", "silent", "disconnected", "removed")
Status = Literal["never", "active", "silent", "disconnected", "removed"]
Held = Literal["session", "report"]
ID = re.compile(r"[A-Za-z0-9_:@][A-Za-z0-9._:@-]{0,127}")
MAX_LABELS = 64
MAX_LABEL_KEY_CHARS = 64
MAX_LABEL_VALUE_CHARS = 256
MAX_METRICS_BYTES = 16_384
MAX_OS_BYTES = 2_048


class Row(Struct, kw_only=True):
    """What is known of one agent."""

    id: str
    name: str = ""
    address: str = ""
    version: str = ""
    os: dict[str, Any] = {}
    """``platform``, ``version``, ``arch``, and what else the host says."""
    node: str = ""
    """The node that it belongs to."""
    status: Status = "never"
    first_seen: float = 0.0
    """Seconds since 1970."""
    last_seen: float = 0.0
    """When it was last heard, as far as the row knows; of an active agent its node has heard since."""
    groups: list[str] = []
    labels: dict[str, str] = {}
    metrics: dict[str, Any] = {}
    config: str = ""
    """Digest of the configuration that it applied."""
    tree: str = ""
    """Digest of the shared files that it holds."""
    epoch: int = 0
    """Number of the session (or milliseconds since 1970 of the report) that gave it its node."""
    held: Held = "report"
