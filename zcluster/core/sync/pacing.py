"""How fast the master takes the files of one worker: bytes a second over all trees that it brings up.

Rules kept here:
- over any time T no more is asked for than the rate gives in T and BURST_S, and one question: what is asked for first is paid
  for by the time before the next question;
- a rate is at least MIN_RATE_BYTES, so that a pull that is paced is never taken for one that is stuck.

Time is an argument and does not go backwards.
"""

from __future__ import annotations

BURST_S = 1.0
MIN_RATE_BYTES = 1024
MIN_PIECE_BYTES = 16_384


class Pace:
    """The pace of one worker.

    Args:
        rate_bytes: bytes a second; less than MIN_RATE_BYTES counts as that.
    """

    def __init__(self, rate_bytes: int) -> None:
        self.rate_bytes = max(MIN_RATE_BYTES, rate_bytes)
        self.piece_bytes = max(MIN_PIECE_BYTES, self.rate_bytes)
        """The most that one question should ask for, so that it is paid for soon."""
        self.free_s = 0.0
        """When the next question may be asked."""

    def may(self, now: float) -> bool:
        """Whether a question may be asked now."""
        return now >= self.free_s

    def take(self, size: int, now: float) -> None:
        """``size`` bytes are asked for."""
        self.free_s = max(self.free_s, now - BURST_S) + size / self.rate_bytes
