"""Large bodies at their two ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcluster.core.transfer import Inbound, Outbound
from zcluster.errors import PeerError


@given(st.binary(min_size=1, max_size=3000), st.integers(1, 700), st.integers(1, 900))
def test_a_body_arrives_within_its_window(body: bytes, chunk_bytes: int, window_bytes: int) -> None:
    outbound, inbound = Outbound(body, 3), Inbound(len(body), window_bytes)
    while not inbound.complete:
        upto = inbound.next_grant()
        assert upto is not None
        assert inbound.received < upto <= min(len(body), inbound.received + window_bytes)
        outbound.grant(3, upto)
        while (found := piece(outbound, chunk_bytes)) is not None:
            offset, data = found
            assert len(data) <= chunk_bytes
            assert offset + len(data) <= upto
            inbound.accept(offset, data)
        assert outbound.sent == upto
    assert bytes(inbound.body) == body
    assert inbound.next_grant() is None


def piece(outbound: Outbound, chunk_bytes: int = 10) -> tuple[int, bytes] | None:
    """The next piece as bytes."""
    found = outbound.next_chunk(chunk_bytes)
    return None if found is None else (found[0], bytes(found[1]))


def test_nothing_is_sent_that_was_not_granted() -> None:
    outbound = Outbound(b"12345")
    assert piece(outbound) is None
    outbound.grant(0, 3)
    assert piece(outbound) == (0, b"123")
    assert piece(outbound) is None
    outbound.grant(0, 2)
    assert piece(outbound) is None
    outbound.grant(0, 1000)
    assert piece(outbound) == (3, b"45")


def test_credit_for_another_leg_means_from_the_beginning() -> None:
    outbound = Outbound(b"12345", leg=1)
    outbound.grant(1, 5)
    assert piece(outbound) == (0, b"12345")
    outbound.grant(2, 2)
    assert piece(outbound) == (0, b"12")


@pytest.mark.parametrize(("offset", "length"), [(1, 1), (0, 5), (0, 0)])
def test_only_the_next_granted_bytes_are_accepted(offset: int, length: int) -> None:
    inbound = Inbound(100, 4)
    assert inbound.next_grant() == 4
    with pytest.raises(PeerError):
        inbound.accept(offset, b"x" * length)
    inbound.accept(0, b"xxxx")
    with pytest.raises(PeerError):
        inbound.accept(0, b"xxxx")


def test_credit_is_renewed_when_half_of_the_window_is_used() -> None:
    inbound = Inbound(100, 10)
    assert inbound.next_grant() == 10
    assert inbound.next_grant() is None
    inbound.accept(0, b"1234")
    assert inbound.next_grant() is None
    inbound.accept(4, b"5")
    assert inbound.next_grant() == 15
