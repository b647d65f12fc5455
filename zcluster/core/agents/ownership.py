"""Whose an agent is, when two nodes say that it is theirs. Pure rules.

Rules kept here:
- an agent that has no node, or that this node has already, is the claiming node's;
- among sessions the larger epoch wins; of equal epochs the node whose name sorts first: so in whatever order the claims
  come, the same node has the agent in the end;
- a report never takes an agent that a live session holds at a live node; otherwise the larger epoch wins;
- a live session takes an agent from a report whatever the epochs are: what is there counts for more than what was told;
- a removed agent comes back only by a larger epoch;
- an epoch is about a time: no claim may be further ahead than EPOCH_AHEAD_MS of the clock of who decides. Else one wrong clock,
  or one forged number, would hold an agent for good.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Literal, NamedTuple

from zcluster.core.agents.row import Held, Status

Verdict = Literal["accepted", "late", "foreign"]
LIVE: frozenset[str] = frozenset({"active", "silent"})


EPOCH_AHEAD_MS = 600_000
"""How far ahead clocks may be: what goes beyond counts as this."""


def latest_epoch(now_s: float) -> int:
    """The largest epoch that counts as it is, ``now_s`` seconds after 1970."""
    return int(now_s * 1000) + EPOCH_AHEAD_MS


class Holding(NamedTuple):
    """Who has an agent, as far as the book knows. A claim is the same: what a node says of itself."""

    node: str
    epoch: int
    held: Held
    status: Status


def decide(current: Holding | None, claim: Holding, alive: Set[str]) -> Verdict:
    """What becomes of ``claim``. ``alive`` are the nodes that have a session now.

    Returns:
        ``accepted``: the agent is the claiming node's. ``late``: another node's word is newer, or it was removed since.
        ``foreign``: it is a report of what another node holds by a live session.
    """
    if current is None:
        return "accepted"
    if current.status == "removed" and claim.status != "removed":
        return "accepted" if claim.epoch > current.epoch else "late"
    if current.node in ("", claim.node):
        return "accepted"
    if claim.held == "report":
        if current.held == "session" and current.status in LIVE and current.node in alive:
            return "foreign"
        return "accepted" if claim.epoch > current.epoch else "late"
    if current.held == "report" and claim.status in LIVE:
        return "accepted"
    if claim.epoch == current.epoch:
        return "accepted" if claim.node < current.node else "late"
    return "accepted" if claim.epoch > current.epoch else "late"


def epoch_after(current: Holding | None, claim: Holding) -> int:
    """The row's epoch after a claim that was accepted: a node's own word never makes it smaller."""
    if current is not None and current.node == claim.node and current.held == claim.held:
        return max(current.epoch, claim.epoch)
    return claim.epoch
