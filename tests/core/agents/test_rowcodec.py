"""Chunks of rows: bounded when they are made, and refused when they are not what they say."""

from __future__ import annotations

import json

import pytest
import zstandard

from zcluster.core.agents.ownership import EPOCH_AHEAD_MS, latest_epoch
from zcluster.core.agents.row import Row
from zcluster.core.agents.rowcodec import CHUNK_BYTES, MAX_ROWS, Packed, SaidRows, check_size, pack_rows, unpack_rows, wire_row
from zcluster.errors import PeerError
from zcluster.wire.trees import RAW, ZSTD


def unpacked(packed: Packed) -> list[str]:
    """Ids of the rows in a chunk."""
    return [row[0] for row in unpack_rows(packed.encoding, packed.raw_bytes, packed.rows, packed.body).plain()]


def rows(count: int, label: str = "ber") -> list[Row]:
    return [Row(id=f"a{number}", labels={"site": label}, epoch=number) for number in range(count)]


def test_rows_come_out_as_they_went_in() -> None:
    row = Row(
        id="web-1", name="web-1.example.org", os={"platform": "debian"}, node="w1", status="active", first_seen=1.5,
        last_seen=2.5, groups=["web"], labels={"site": "ber"}, metrics={"cpu": 1.5}, config="c", tree="t", epoch=7,
        held="session",
    )  # fmt: skip
    packed = pack_rows([row])
    assert (packed.count, packed.rows, packed.left_out, packed.encoding) == (1, 1, [], RAW)
    [(id_, op, epoch, held, fields)] = unpack_rows(packed.encoding, packed.raw_bytes, 1, packed.body).plain()
    assert (id_, op, epoch, held) == ("web-1", "put", 7, "session")
    assert fields == {
        "name": "web-1.example.org", "address": "", "version": "", "os": {"platform": "debian"}, "status": "active",
        "first_seen": 1.5, "last_seen": 2.5, "labels": {"site": "ber"}, "metrics": {"cpu": 1.5}, "config": "c", "tree": "t",
    }  # fmt: skip


def test_a_removed_row_goes_up_as_gone() -> None:
    assert wire_row(Row(id="a", status="removed", epoch=3, last_seen=2.0)) == ("a", "gone", 3, "report", {"last_seen": 2.0})


def test_many_rows_are_compressed() -> None:
    packed = pack_rows(rows(100))
    assert packed.encoding == ZSTD
    assert len(packed.body) < packed.raw_bytes / 4
    assert unpacked(packed) == [f"a{number}" for number in range(100)]


def test_a_chunk_holds_what_fits() -> None:
    some = rows(1000, "x" * 1000)
    packed = pack_rows(some)
    assert packed.count == packed.rows < 1000
    assert CHUNK_BYTES - 2000 < packed.raw_bytes <= CHUNK_BYTES
    assert unpacked(packed) == [row.id for row in some[: packed.count]]


def test_a_chunk_is_full_to_the_byte() -> None:
    row = Row(id="a", labels={"k": ""})
    row.labels["k"] = "x" * (CHUNK_BYTES - pack_rows([row]).raw_bytes)
    assert (pack_rows([row]).raw_bytes, pack_rows([row]).left_out) == (CHUNK_BYTES, [])


def test_a_row_that_fits_no_chunk_is_left_out_and_named() -> None:
    row = Row(id="a", labels={"k": ""})
    row.labels["k"] = "x" * (CHUNK_BYTES + 1 - pack_rows([row]).raw_bytes)
    packed = pack_rows([Row(id="b"), row, Row(id="c")])
    assert (packed.count, packed.left_out, unpacked(packed)) == (3, ["a"], ["b", "c"])
    alone = pack_rows([row])
    assert (alone.count, alone.rows, unpacked(alone)) == (1, 0, [])


def test_a_chunk_has_at_most_max_rows() -> None:
    few = [Row(id="a") for _ in range(MAX_ROWS + 1)]
    assert pack_rows(few).count <= MAX_ROWS
    raw = json.dumps([["a", "put", 1, "report", {}]] * MAX_ROWS).encode()
    assert len(unpack_rows(RAW, len(raw), MAX_ROWS, raw).plain()) == MAX_ROWS
    raw = json.dumps([["a", "put", 1, "report", {}]] * (MAX_ROWS + 1)).encode()
    with pytest.raises(PeerError, match="cannot be read"):
        unpack_rows(RAW, len(raw), MAX_ROWS + 1, raw)


GOOD = b'[["a", "put", 1, "report", {}]]'


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{}", b"[1]", b'[["a"]]', GOOD + b",", b"[" * 100_000,
        GOOD.replace(b"{}", b"{}, 0"), GOOD.replace(b"{}", b"[]"), GOOD.replace(b'"a"', b"1"), GOOD.replace(b"a", b"\xff"),
        GOOD.replace(b"1", b"1.5"), GOOD.replace(b"1", b"true"), GOOD.replace(b"1", b"-1"), GOOD.replace(b"1", b'"1"'),
        GOOD.replace(b"1", b"9007199254740992"), GOOD.replace(b"1", b"1" + b"0" * 100),
        GOOD.replace(b"{}", b'{"metrics": {"x": 1e999}}'), GOOD.replace(b"{}", b'{"x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    ],
)  # fmt: skip
def test_what_is_no_chunk_is_refused(raw: bytes) -> None:
    with pytest.raises(PeerError):
        unpack_rows(RAW, len(raw), 1, raw)


def test_a_chunk_is_exactly_what_it_says() -> None:
    packed = pack_rows(rows(100))
    for encoding, raw_bytes, count, body in [
        (ZSTD, packed.raw_bytes - 1, 100, packed.body),
        (ZSTD, packed.raw_bytes + 1, 100, packed.body),
        (ZSTD, packed.raw_bytes, 99, packed.body),
        (ZSTD, packed.raw_bytes, 100, packed.body[:-5]),
        (ZSTD, packed.raw_bytes, 100, packed.body + b"x"),
        (ZSTD, packed.raw_bytes, 100, b"no zstd at all"),
        (RAW, packed.raw_bytes, 100, packed.body),
        (2, packed.raw_bytes, 100, packed.body),
    ]:
        with pytest.raises(PeerError):
            unpack_rows(encoding, raw_bytes, count, body)


def test_a_bomb_is_not_unpacked() -> None:
    bomb = zstandard.ZstdCompressor(level=19).compress(b"[" + b" " * 50_000_000 + b"]")
    assert len(bomb) < 10_000
    for said in (50_000_002, CHUNK_BYTES, 10):
        with pytest.raises(PeerError):
            unpack_rows(ZSTD, said, 0, bomb)
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(b"[]" + b" " * 1000)
    with pytest.raises(PeerError):
        unpack_rows(ZSTD, 1002, 0, unsized)


def test_the_size_is_checked_before_anything_is_kept() -> None:
    check_size(CHUNK_BYTES, CHUNK_BYTES)
    with pytest.raises(PeerError):
        check_size(CHUNK_BYTES + 1, 10)
    with pytest.raises(PeerError):
        check_size(10, CHUNK_BYTES + 1025)


def test_a_field_that_nobody_knows_is_not_read() -> None:
    raw = GOOD.replace(b"{}", b'{"later": 1e999}')
    rows = unpack_rows(RAW, len(raw), 1, raw)
    assert list(rows.claims()) == [("a", 1, "report")]
    with pytest.raises(PeerError):
        rows.plain()


def test_no_row_claims_more_than_the_latest_epoch() -> None:
    raw = b'[["a","put",9007199254740991,"session",{}],["b","put",7,"report",{}]]'
    for rows in (unpack_rows(RAW, len(raw), 2, raw), SaidRows(raw, None)):
        rows.cap_epochs(latest_epoch(1.5))
        assert [epoch for _, epoch, _ in rows.claims()] == [1500 + EPOCH_AHEAD_MS, 7]
        assert [row[2] for row in rows.plain()] == [1500 + EPOCH_AHEAD_MS, 7]
