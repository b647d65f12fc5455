"""What must hold between settings, so that each limit makes sense beside the others.

Rules kept here:
- a rule names the two settings that it is about, and reads as a sentence;
- the defaults of every preset keep all rules (a test holds that).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from zcluster.config.settings import Settings
from zcluster.config.units import KIB, MIB

FRAME_HEADROOM_BYTES = 16 * KIB
"""What a frame holds besides a chunk or an inline body: headers, and the rest of a batch."""
TREE_FRAME_BYTES = MIB
"""The frames of file sync fit in this."""


class CrossRule(NamedTuple):
    """What must hold between two settings, and how to say it."""

    first: str
    second: str
    text: str
    holds: Callable[[Settings], bool]


def _at_most(first: str, second: str, headroom_bytes: int = 0) -> CrossRule:
    def holds(settings: Settings) -> bool:
        small, large = settings.value(first), settings.value(second)
        assert isinstance(small, int | float)
        assert isinstance(large, int | float)
        return small + headroom_bytes <= large

    room = f" minus {headroom_bytes} bytes for headers" if headroom_bytes else ""
    return CrossRule(first, second, f"{first} must be at most {second}{room}", holds)


CROSS_RULES: tuple[CrossRule, ...] = (
    CrossRule(
        "master.bind",
        "master.publish",
        "master.bind and master.publish must be different addresses",
        lambda settings: settings.master.bind != settings.master.publish or settings.master.bind.endswith(":*"),
    ),
    _at_most("session.reconnect_base_s", "session.reconnect_max_s"),
    _at_most("session.max_sessions_per_key", "session.max_sessions"),
    _at_most("limits.chunk_bytes", "limits.frame_bytes", FRAME_HEADROOM_BYTES),
    _at_most("limits.inline_bytes", "limits.frame_bytes", FRAME_HEADROOM_BYTES),
    _at_most("limits.inline_bytes", "limits.body_bytes"),
    _at_most("limits.chunk_bytes", "limits.window_bytes"),
    _at_most("limits.window_bytes", "limits.transfer_bytes"),
    _at_most("limits.body_bytes", "limits.transfer_bytes"),
    _at_most("limits.frame_bytes", "limits.outbox_bytes"),
    CrossRule(
        "limits.frame_bytes",
        "sync.tree",
        "limits.frame_bytes must be at least 1MiB where a [[sync.tree]] is declared",
        lambda settings: not settings.sync.tree or settings.limits.frame_bytes >= TREE_FRAME_BYTES,
    ),
    _at_most("queue.per_client", "queue.total"),
    _at_most("client.timeout_s", "queue.max_timeout_s"),
    _at_most("queue.retention_s", "queue.max_retention_s"),
)
"""Checked after each load, in this order."""
