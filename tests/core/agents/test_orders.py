"""Orders of the master about rows: what goes, what stays because it is newer, and what is kept for nodes that are away."""

from __future__ import annotations

import msgspec
import pytest

from zcluster.core.agents.orders import MAX_KEPT, Kept, adopted, claimed_again, ends, keeps, orders_after, without_repeats
from zcluster.core.agents.row import Held, Row, Status
from zcluster.core.agents.rowcodec import SaidRows, WireRow
from zcluster.errors import PeerError
from zcluster.wire.agents import AgentOrder
from zcluster.wire.trees import MAX_ID


def row(epoch: int, held: Held = "session", status: Status = "active") -> Row:
    return Row(id="a", node="w1", epoch=epoch, held=held, status=status)


def drop(epoch: int, held: Held = "session", node: str = "w2") -> AgentOrder:
    return AgentOrder(op="drop", id="a", epoch=epoch, held=held, node=node)


@pytest.mark.parametrize(
    ("here", "order", "stays"),
    [
        (row(5), drop(6), False),
        (row(6), drop(6), False),
        (row(7), drop(6), True),
        (row(5), drop(6, "report"), True),
        (row(5, status="disconnected"), drop(6, "report"), False),
        (row(7, status="disconnected"), drop(6, "report"), True),
        (row(9, "report"), drop(6), False),
        (row(5, "report"), drop(6, "report"), False),
        (row(7, "report"), drop(6, "report"), True),
        (row(6), drop(6, node=""), False),
        (row(7), drop(6, node=""), True),
        (row(5), drop(6, "report", node=""), True),
        (row(5, "report"), drop(6, node=""), True),
        (row(6, "report"), drop(6, "report", node=""), False),
        (row(6), AgentOrder(op="remove", id="a", epoch=6), False),
        (row(7), AgentOrder(op="remove", id="a", epoch=6), True),
        (row(7), AgentOrder(op="remove", id="a"), False),
    ],
)
def test_a_newer_claim_stays(here: Row, order: AgentOrder, stays: bool) -> None:
    assert keeps(here, order) is stays


def test_a_live_session_claims_its_agent_again_from_a_report() -> None:
    assert claimed_again(row(5), drop(6, "report")) == 7
    assert claimed_again(row(5), drop(MAX_ID, "report")) == MAX_ID
    for here, order in [
        (row(7), drop(6, "report")), (row(5, status="disconnected"), drop(6, "report")), (row(5, "report"), drop(6, "report")),
        (row(5), drop(6)), (row(5), drop(6, "report", node="")), (row(5), AgentOrder(op="remove", id="a", epoch=6)),
    ]:  # fmt: skip
        assert claimed_again(here, order) == 0


def test_a_session_ends_by_a_newer_session_only() -> None:
    assert ends(6, drop(6))
    assert not ends(7, drop(6))
    assert not ends(5, drop(6, "report"))
    assert ends(6, AgentOrder(op="remove", id="a", epoch=6))
    assert not ends(7, AgentOrder(op="remove", id="a", epoch=6))
    assert ends(7, AgentOrder(op="remove", id="a"))


def test_who_adopts_has_a_report() -> None:
    order = AgentOrder(op="adopt", id="a", epoch=9, row={"name": "x", "status": "active", "node": "else", "held": "session"})
    assert adopted(None, order, "w1") == Row(id="a", name="x", node="w1", status="disconnected", epoch=9)
    assert adopted(row(8, "report"), order, "w1") is not None
    assert adopted(row(9, "report"), order, "w1") is None
    assert adopted(row(3), order, "w1") is None
    assert adopted(row(3, status="disconnected"), order, "w1") is not None
    never = adopted(None, AgentOrder(op="adopt", id="a", epoch=9), "w1")
    assert never is not None
    assert never.status == "never"
    for wrong in ({"name": "x" * 257}, {"os": {"platform": 1}}):
        with pytest.raises(PeerError, match="adopt a"):
            adopted(None, AgentOrder(op="adopt", id="a", epoch=9, row=wrong), "w1")
    with pytest.raises(PeerError, match="adopt a b"):
        adopted(None, AgentOrder(op="adopt", id="a b", epoch=9), "w1")
    newer = AgentOrder(op="adopt", id="a", epoch=9, row={"said by a newer master": 1})
    assert adopted(None, newer, "w1") is not None
    with pytest.raises(PeerError, match="adopt a"):
        adopted(None, AgentOrder(op="adopt", id="a", epoch=9, row={"labels": 3}), "w1")


def test_each_agent_is_once_in_a_run() -> None:
    a, b, c = (AgentOrder(op="move", id=id_) for id_ in "aba")
    assert list(without_repeats([a, b, c])) == [[a, b], [c]]
    assert list(without_repeats([])) == []


def test_what_is_kept_is_bounded_and_the_newest() -> None:
    kept = Kept()
    first, newer = drop(1), drop(2)
    assert kept.add("w1", [first, newer]) == 0
    assert kept.take("w1") == [newer]
    assert kept.take("w1") == []
    orders = [AgentOrder(op="drop", id=f"a{number}") for number in range(MAX_KEPT)]
    assert kept.add("w1", orders) == 0
    assert kept.add("w1", [orders[0], first]) == 1
    left = kept.take("w1")
    assert (len(left), left[0], left[-2:]) == (MAX_KEPT, orders[2], [orders[0], first])


def test_who_lost_is_told_which_claim_decided() -> None:
    rows: list[WireRow] = [("a", "put", 5, "session", {}), ("b", "put", 6, "report", {}), ("c", "put", 7, "session", {})]
    assert orders_after("w1", ["a", "b"], [("c", "w2", "w1")], SaidRows(msgspec.json.encode(rows), None)) == {
        "w1": [AgentOrder(op="drop", id="a", epoch=5), AgentOrder(op="drop", id="b", epoch=6, held="report")],
        "w2": [AgentOrder(op="drop", id="c", epoch=7, node="w1")],
    }
    assert orders_after("w1", [], [], SaidRows(b"[]", [])) == {}
