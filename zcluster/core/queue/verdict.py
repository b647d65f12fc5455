"""What the end of an attempt means for its job.

Rules kept here:
- a function's own error is final: only ``retry`` asks for another attempt;
- a passed deadline is another attempt that counts; a lost node is one, and a death;
- what never started, because a node was full, leaving or without the function, counts against nothing;
- nor does what a node that leaves could not finish: who stopped the node is to blame, not the job;
- of what a node says only what an error has is kept, cut to a line: it is in every list, and written with each attempt;
- a master that stops says nothing about the job: it stays leased, and has another attempt when a master is back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from zcluster.core.queue.transitions import Loss
from zcluster.errors import PeerError, error_from_dict

MAX_CHARS = 1000
"""Of a message or hint that is kept: each attempt of a job keeps its error."""
MAX_NAME_CHARS = 128
MAX_AFTER_S = 366 * 86_400.0
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
        said = error_from_dict(msgspec.json.decode(body, type=dict[str, Any]))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = PeerError("the node's error cannot be read")
    code, after_s = said.code, said.retry_after_s
    asked = after_s if code == "retry" and after_s is not None and 0 <= after_s < MAX_AFTER_S else None
    error = {**said.to_dict(), "message": said.message[:MAX_CHARS], "hint": said.hint[:MAX_CHARS]}
    for name in ("node", "request_id"):
        error[name] = str(error.get(name, ""))[:MAX_NAME_CHARS]
    loss = _LOSSES.get(code)
    if leaving and loss is Loss.DEATH:
        loss = Loss.NOTHING
    return Verdict(error, loss, asked, code == STOPPING)
