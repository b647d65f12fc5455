"""What the end of an attempt means for its job.

Rules kept here:
- a function's own error is final: only ``retry`` asks for another attempt;
- a passed deadline is another attempt that counts; a lost node is one, and a death;
- what never started, because a node was full, leaving or without the function, counts against nothing;
- nor does what a node that leaves could not finish: who stopped the node is to blame, not the job;
- a master that stops says nothing about the job: it stays leased, and has another attempt when a master is back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from zcluster.core.queue.transitions import Loss

FREE_PAUSE_S = 0.1
"""The least pause after an attempt that never started."""

_LOSSES = {
    "retry": Loss.FAILED,
    "timed_out": Loss.FAILED,
    "node_lost": Loss.DEATH,
    "busy": Loss.NOTHING,
    "draining": Loss.NOTHING,
    "node_unavailable": Loss.NOTHING,
    "no_such_function": Loss.NOTHING,
    "cancelled": Loss.NOTHING,
    "protocol_error": Loss.FAILED,
}
STOPPING = "unreachable"
"""What is said of requests when the master stops."""


@dataclass(frozen=True)
class Verdict:
    """What to do: ``loss`` is None when the job has failed for good."""

    error: dict[str, Any]
    loss: Loss | None
    after_s: float | None
    """What the function asked for: the pause before the next attempt."""
    stopping: bool = False


def verdict(body: bytes, leaving: bool = False) -> Verdict:
    """What the error ``body`` (a JSON object) means.

    Args:
        leaving: the node had said that it would leave.
    """
    try:
        error = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        error = {"code": "protocol_error", "message": "the node's error cannot be read", "hint": ""}
    code = str(error.get("code", ""))
    after_s = error.get("retry_after_s")
    asked = float(after_s) if code == "retry" and isinstance(after_s, int | float) and 0 <= after_s < 366 * 86_400 else None
    loss = _LOSSES.get(code)
    if leaving and loss is Loss.DEATH:
        loss = Loss.NOTHING
    return Verdict(error, loss, asked, code == STOPPING)
