"""What an order of the master does to the row that a node has. Pure.

Rules kept here:
- an order is about the claim that decided it; what the node holds by a newer claim stays, and goes up by itself;
- a live session is given up only to a newer session; a report of an agent that a session holds elsewhere is given up always;
- who adopts an agent has no session of it yet: it is never active by that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from zcluster.core.agents.row import Row
from zcluster.errors import PeerError
from zcluster.wire.agents import AgentOrder

MAX_ORDERS = 1000
"""Orders of one AGENTORDERS."""
LIVE = ("active", "silent")


def keeps(row: Row, order: AgentOrder) -> bool:
    """Whether ``row`` stays although the master ordered ``drop`` or ``remove``."""
    if order.op == "remove":
        return order.epoch != 0 and row.epoch > order.epoch
    if not order.node:
        return row.held != order.held or row.epoch > order.epoch
    if row.held == "report":
        return order.held == "report" and row.epoch > order.epoch
    return row.epoch > order.epoch or (row.status in LIVE and order.held == "report")


def adopted(row: Row | None, order: AgentOrder, node: str) -> Row | None:
    """The row that ``adopt`` makes at ``node``, which has ``row``; None when that one stays.

    Raises:
        PeerError: the order's fields are none of a row.
    """
    if row is not None and (row.epoch >= order.epoch or (row.held == "session" and row.status in LIVE)):
        return None
    fields = {**order.row, "id": order.id, "node": node, "epoch": order.epoch, "held": "report", "groups": []}
    try:
        made = msgspec.convert(fields, Row)
    except msgspec.ValidationError as error:
        raise PeerError(f"the order to adopt {order.id} has no fields of an agent: {error}") from None
    if made.status != "never":
        made.status = "disconnected"
    return made


def without_repeats(orders: Sequence[AgentOrder]) -> Iterable[list[AgentOrder]]:
    """``orders`` in order, in runs in which each agent is at most once."""
    run: dict[str, AgentOrder] = {}
    for order in orders:
        if order.id in run:
            yield list(run.values())
            run = {}
        run[order.id] = order
    if run:
        yield list(run.values())
