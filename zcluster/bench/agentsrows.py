"""Rows of made-up agents for the bench, books of them, and the plain program that the book is compared with.

Rules kept here:
- the same number is always the same agent: about 300 bytes of JSON as a row travels;
- the plain program writes the values of the book's own columns, made beforehand, by one executemany in one transaction,
  durably (WAL, synchronous=FULL);
- only its writing is measured, not what it is prepared by.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zcluster.core.agents.row import Row
from zcluster.keys import make_private_dir
from zcluster.store.book_limits import MAX_ROWS
from zcluster.store.book_opening import open_book
from zcluster.store.book_schema import COLUMNS, SCHEMA, params_of

BOOK = "agents.db"
AT_S = 1_700_000_000.0
"""About when all of them were seen first."""
PLATFORMS = ("debian", "ubuntu", "debian", "windows", "rhel", "ubuntu", "debian", "alpine", "darwin", "debian")
SITES = ("ber", "ham", "muc", "fra", "vie", "zrh", "ams")
SPREAD = 2_654_435_761
"""Makes numbers of numbers that do not look alike (Knuth's multiplicative hash)."""
SILENT_EVERY = 100
"""One of so many is silent."""


def made_up(number: int, node: str, status: str = "active") -> Row:
    """The agent of this number."""
    platform = PLATFORMS[number % len(PLATFORMS)]
    noise = number * SPREAD % (1 << 32)
    silent = status == "active" and number % SILENT_EVERY == 0
    return Row(
        id=f"agent-{number:07d}", name=f"host-{number:07d}", address=f"10.{noise >> 24}.{noise >> 16 & 255}.{number & 255}",
        version=f"4.{number % 10}.{number % 17}", os={"platform": platform, "version": str(8 + number % 7), "arch": "x86_64"},
        node=node, status="silent" if silent else status,  # type: ignore[arg-type]
        first_seen=AT_S + noise % 86_400, last_seen=AT_S + 86_400 + noise % 1000,
        labels={"site": SITES[number % len(SITES)]}, metrics={"cpu": noise % 1000 / 10, "memory": (noise >> 10) % 1000 / 10},
        config=f"{number % 12:04x}", tree=f"{number % 5:04x}", epoch=int(AT_S * 1000), held="report",
    )  # fmt: skip


async def write_book(directory: Path, numbers: range, made: Callable[[int], Row]) -> None:
    """Write a book of the agents of these numbers, as they are ``made``, into ``directory``; it is closed then."""
    make_private_dir(directory.parent)
    make_private_dir(directory)
    book = await open_book(directory / BOOK)
    try:
        for start in range(0, len(numbers), MAX_ROWS):
            await book.put([made(number) for number in numbers[start : start + MAX_ROWS]])
    finally:
        await book.close()


@dataclass(frozen=True)
class Upsert:
    """What writing by the plain program took."""

    seconds: float
    cpu_s: float


def plain_upsert(path: Path, params: Sequence[tuple[Any, ...]], *, indexes: bool) -> Upsert:
    """Write rows (values of COLUMNS) into a new database at ``path``, with the book's indexes or a primary key only."""
    columns = ", ".join(COLUMNS)
    sql = f"INSERT INTO agents ({columns}) VALUES ({', '.join('?' * len(COLUMNS))}) ON CONFLICT (id) DO UPDATE SET " + ", ".join(
        f"{name} = excluded.{name}" for name in COLUMNS if name != "id"
    )
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(SCHEMA if indexes else f"CREATE TABLE agents ({columns}, PRIMARY KEY (id))")
        began_s, cpu_s = time.perf_counter(), time.thread_time()
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(sql, params)
        connection.execute("COMMIT")
        return Upsert(time.perf_counter() - began_s, time.thread_time() - cpu_s)
    finally:
        connection.close()


def params_for(numbers: range, node: str) -> list[tuple[Any, ...]]:
    """The values of the columns for these agents."""
    return [params_of(made_up(number, node), place) for place, number in enumerate(numbers, 1)]
