"""The made-up agents of ``zcluster bench agents``, their books, and the plain program that the book is compared with."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
from functools import partial
from pathlib import Path

import msgspec
import pytest

from zcluster.bench.agentsmillion import agent_of_many
from zcluster.bench.agentsrows import BOOK, made_up, params_for, plain_upsert, write_book
from zcluster.bench.sockets import carried_bytes, sent_bytes
from zcluster.core.agents.row import check_row
from zcluster.core.agents.rowcodec import pack_rows
from zcluster.store.book_opening import open_book


@pytest.mark.parametrize("number", [0, 1, 100, 65_535, 999_999, 1_999_999])
def test_made_up_agents_are_agents(number: int) -> None:
    row = made_up(number, "worker-1")
    assert check_row(msgspec.structs.asdict(row)) == row == made_up(number, "worker-1")
    assert row.status == ("active" if number % 100 else "silent")


def test_a_row_has_about_300_bytes() -> None:
    packed = pack_rows([made_up(number, "worker-1") for number in range(500)])
    assert packed.rows == 500
    assert 280 <= packed.raw_bytes / packed.rows <= 340


def test_of_many_agents_most_are_the_masters() -> None:
    rows = [agent_of_many(number) for number in range(1000)]
    assert sum(row.node == "master" for row in rows) == 840
    assert {row.status for row in rows if row.node != "master"} == {"disconnected"}
    assert len({row.node for row in rows}) == 9


def test_a_book_is_written_and_closed(tmp_path: Path) -> None:
    async def look() -> None:
        await write_book(tmp_path / "one" / "book", range(3, 10_005), partial(made_up, node="worker-1"))
        book = await open_book(tmp_path / "one" / "book" / BOOK)
        try:
            assert await book.count(by="node") == {"worker-1": 10_002}
            assert await book.get("agent-0000004") is not None
        finally:
            await book.close()

    asyncio.run(look())


@pytest.mark.parametrize("indexes", [True, False])
def test_the_plain_program_writes_all_rows(tmp_path: Path, indexes: bool) -> None:
    params = params_for(range(20), "worker-1")
    took = plain_upsert(tmp_path / "plain.db", [*params, *params[:5]], indexes=indexes)
    assert took.seconds > 0
    assert took.cpu_s >= 0
    connection = sqlite3.connect(tmp_path / "plain.db")
    try:
        assert connection.execute("SELECT count(*), min(id), max(change) FROM agents").fetchone() == (20, "agent-0000000", 20)
        found = connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL").fetchone()[0]
        assert (found > 0) is indexes
    finally:
        connection.close()


def test_bytes_sent_are_told_apart_from_those_that_came() -> None:
    pid = os.getpid()
    if carried_bytes([pid]) is None:
        pytest.skip("the kernel does not list its sockets")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as one:
        other, _ = server.accept()
        with other:
            before, both = sent_bytes([pid]), carried_bytes([pid])
            assert before is not None
            assert both is not None
            one.sendall(b"x" * 1000)
            assert other.recv(1000, socket.MSG_WAITALL) == b"x" * 1000
            # Both ends are this process's: what the one sent, the other got. What is not acknowledged yet is not counted.
            other.sendall(b"y")
            assert one.recv(1) == b"y"
            sent, carried = sent_bytes([pid]), carried_bytes([pid])
            assert sent is not None
            assert carried is not None
            assert sent - before >= 1000
            assert carried - both >= 2000
