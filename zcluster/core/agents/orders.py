"""What an order of the master does to the row that a node has. Pure.

Rules kept here:
- an order is about the claim that decided it; what the node holds by a newer claim stays, and goes up by itself;
- a live session is given up only to a newer session, and claims its agent again when a report took it; a report of an agent
  that a session holds elsewhere is given up always;
- who adopts an agent has no session of it yet: it is never active by that;
- of what is kept for a node that is away, the newest order of each agent counts, and the oldest goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from zcluster.core.agents.row import FIELDS, Row, check_row
from zcluster.core.agents.rowcodec import SaidRows
from zcluster.errors import PeerError, UsageError
from zcluster.wire.agents import AgentOrder
from zcluster.wire.trees import MAX_ID

MAX_ORDERS = 1000
"""Orders of one AGENTORDERS."""
MAX_KEPT = 10_000
"""Agents for which orders to one node are kept."""
LIVE = ("active", "silent")
Orders = dict[str, list[AgentOrder]]
"""By the name of the node that they are for."""


def keeps(row: Row, order: AgentOrder) -> bool:
    """Whether ``row`` stays although the master ordered ``drop`` or ``remove``."""
    if order.op == "remove":
        return order.epoch != 0 and row.epoch > order.epoch
    if not order.node:
        return row.held != order.held or row.epoch > order.epoch
    if row.held == "report":
        return order.held == "report" and row.epoch > order.epoch
    return row.epoch > order.epoch or (row.status in LIVE and order.held == "report")


def claimed_again(row: Row, order: AgentOrder) -> int:
    """The epoch with which a live session claims its agent again, when a report elsewhere took it while this node could not be
    heard; 0 when ``row`` goes up by itself or does not stay. Without that the master would never hear of the session again."""
    if order.op == "drop" and order.node and order.held == "report" and keeps(row, order) and row.epoch <= order.epoch:
        return min(MAX_ID, order.epoch + 1)
    return 0


def ends(epoch: int, order: AgentOrder) -> bool:
    """Whether the live session with the number ``epoch`` ends by ``order`` (``drop`` or ``remove``)."""
    if order.op == "remove" and order.epoch == 0:
        return True
    return (order.op == "remove" or order.held == "session") and epoch <= order.epoch


def adopted(row: Row | None, order: AgentOrder, node: str) -> Row | None:
    """The row that ``adopt`` makes at ``node``, which has ``row``; None when that one stays.

    Raises:
        PeerError: the order's fields are none of a row.
    """
    if row is not None and (row.epoch >= order.epoch or (row.held == "session" and row.status in LIVE)):
        return None
    said = {name: value for name, value in order.row.items() if name in FIELDS}
    try:
        # All that the book checks: a row that it refuses would be tried again for ever.
        made = check_row({**said, "id": order.id, "node": node, "epoch": order.epoch, "held": "report", "groups": []})
    except UsageError as error:
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


class Kept:
    """Orders for nodes that are away."""

    def __init__(self) -> None:
        self._by_node: dict[str, OrderedDict[str, AgentOrder]] = {}

    def add(self, node: str, orders: Iterable[AgentOrder]) -> int:
        """Keep ``orders`` for ``node``; returns how many older ones had to go."""
        kept = self._by_node.setdefault(node, OrderedDict())
        for order in orders:
            kept[order.id] = order
            kept.move_to_end(order.id)
        lost = max(0, len(kept) - MAX_KEPT)
        for _ in range(lost):
            kept.popitem(last=False)
        return lost

    def take(self, node: str) -> list[AgentOrder]:
        """What ``node`` is to be told now."""
        return list(self._by_node.pop(node, {}).values())


def orders_after(node: str, drop: Iterable[str], moved: Iterable[tuple[str, str, str]], rows: SaidRows) -> Orders:
    """Who is to drop what after the chunk ``rows`` of ``node``: it, what was refused; the nodes before it, what moved."""
    orders: Orders = {}
    claims = {claim[0]: claim for claim in rows.claims()} if drop or moved else {}
    for id_ in drop:
        orders.setdefault(node, []).append(_drop(id_, claims[id_], ""))
    for id_, before, _ in moved:
        orders.setdefault(before, []).append(_drop(id_, claims[id_], node))
    return orders


def _drop(id_: str, claim: tuple[str, int, str], node: str) -> AgentOrder:
    return AgentOrder(op="drop", id=id_, epoch=claim[1], held="report" if claim[2] == "report" else "session", node=node)
