"""The plain loop as a measure: one process, one INSERT of a row, one COMMIT a job, durable.

Rules kept here:
- WAL with ``synchronous=FULL``, as the master's own store; one row a transaction;
- nothing is decoded, checked, sent or run: the commit is the whole of a job, its acceptance and its end.

``python -m zcluster.bench.sqlite_contender`` speaks the lines of :mod:`zcluster.bench.child`.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from functools import partial

import msgspec

from zcluster.bench.child import read_line
from zcluster.bench.queueloops import Window, serve_blocking
from zcluster.bench.queuerounds import QueueLine
from zcluster.bench.rounds import RoundSpec


class SqliteConfig(msgspec.Struct, frozen=True):
    """The first line that it gets."""

    path: str
    """The database, which is made."""
    size_bytes: int


def open_plain(path: str) -> sqlite3.Connection:
    """The new database with its one table."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY, body BLOB)")
    return connection


def commit_jobs(connection: sqlite3.Connection, body: bytes, spec: RoundSpec) -> QueueLine:
    """One round: commits one after the other until the window is over; what was written is deleted afterwards."""
    window, now = Window(spec), time.monotonic
    while window.goes_on():
        began_s = now()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO jobs (body) VALUES (?)", (body,))
        connection.execute("COMMIT")
        took_s = now() - began_s
        window.accept.record(took_s)
        window.done.record(took_s)
    connection.execute("DELETE FROM jobs")
    return window.line()


def main() -> None:
    """The plain loop."""
    config = read_line(SqliteConfig)
    if config is not None:
        with closing(open_plain(config.path)) as connection:
            serve_blocking(partial(commit_jobs, connection, b"x" * config.size_bytes))


if __name__ == "__main__":
    main()
