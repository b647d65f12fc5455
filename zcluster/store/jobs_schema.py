"""The database of jobs: its tables, its one writing statement, and jobs as SQLite has them.

Rules kept here:
- a batch is written by one statement, ``INSERT INTO batch``: a view whose triggers insert, update and count, row by row. Each
  statement gives up Python's lock and waits to have it back, which beside a busy event loop costs more than all else;
- the number of its rows is rounded up, with rows that do nothing, so that few statements are ever prepared;
- what SQLite searches for often has a column, and what only some jobs have a partial index; all else is in two JSON arrays:
  ``asked``, which is never written again, and ``became``. Each has a checksum, over the arguments and the result too. What is in
  both a column and an array is read from the array;
- arguments and results are blobs; a text in their place is the name of a file and the size of what is in it;
- RUNNING is written as LEASED: that a node has a job is not known after a restart.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from zcluster.core.queue.job import FINAL, Job, State, Step
from zcluster.store.sqlite_file import Layout

LAST = 100
"""Among the counters: the highest number that was inserted. Below it: the states."""

SCHEMA = """
CREATE TABLE state (one INTEGER PRIMARY KEY CHECK (one = 0), id TEXT NOT NULL);
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY, state INTEGER NOT NULL, lane TEXT NOT NULL, priority INTEGER NOT NULL,
    over REAL NOT NULL DEFAULT 0, due REAL NOT NULL DEFAULT 0, at_s REAL NOT NULL DEFAULT 0, expires REAL NOT NULL DEFAULT 0,
    identity TEXT NOT NULL DEFAULT '', sequence TEXT NOT NULL DEFAULT '', blocked INTEGER NOT NULL DEFAULT 0,
    parent INTEGER NOT NULL DEFAULT 0, parts INTEGER NOT NULL DEFAULT 0, parts_left INTEGER NOT NULL DEFAULT 0,
    asked TEXT NOT NULL, asked_sum INTEGER NOT NULL, became TEXT NOT NULL, became_sum INTEGER NOT NULL,
    body BLOB NOT NULL, result BLOB NOT NULL DEFAULT x'');
CREATE INDEX jobs_ready ON jobs (lane, priority DESC, number)
    WHERE state = 0 AND due = 0 AND at_s = 0 AND blocked = 0 AND parts = 0;
CREATE INDEX jobs_leased ON jobs (number) WHERE state = 1;
CREATE UNIQUE INDEX jobs_identity ON jobs (identity) WHERE identity != '';
CREATE INDEX jobs_sequence ON jobs (sequence, blocked, number) WHERE sequence != '' AND state < 3;
CREATE INDEX jobs_parent ON jobs (parent) WHERE parent != 0;
CREATE INDEX jobs_whole ON jobs (number) WHERE parts != 0 AND state < 3;
CREATE INDEX jobs_due ON jobs (due) WHERE state = 0 AND due > 0 AND parts = 0;
CREATE INDEX jobs_at ON jobs (at_s) WHERE state = 0 AND at_s > 0 AND parts = 0;
CREATE INDEX jobs_expires ON jobs (expires) WHERE state = 0 AND expires > 0 AND parts = 0;
CREATE INDEX jobs_over ON jobs (over) WHERE state >= 3 AND parent = 0 AND parts_left = 0;
CREATE INDEX jobs_bodies ON jobs (number) WHERE typeof(body) = 'text';
CREATE INDEX jobs_results ON jobs (number) WHERE typeof(result) = 'text';
CREATE TABLE counters (name INTEGER PRIMARY KEY, n INTEGER NOT NULL);
CREATE TABLE usage (key TEXT PRIMARY KEY, jobs INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""
REPAIR = (
    "stop the master; `zcluster queue check` tells which jobs can be read; then put a copy back, or move {name} and the files "
    "{stem}.* beside it away (keep them) to begin anew"
)
LAYOUT = Layout("queue", 2001, SCHEMA, "INSERT INTO state VALUES (0, ?)", repair=REPAIR)


def files_of(path: Path) -> Path:
    """The directory of the files of the store at ``path``."""
    return path.with_suffix(".files")


# ----- writing: what a row of ``batch`` does

INSERT, MORE, WAIT, UPDATE, BLOCK, LEFT, COUNT, USAGE, META = range(9)
_COLUMNS: dict[int, str] = {
    INSERT: "number state lane priority asked asked_sum became became_sum body",
    MORE: "number identity sequence blocked parent parts parts_left",
    WAIT: "number due at_s expires",
    UPDATE: "number state over became became_sum result",
}
WIDTH = 1 + len(_COLUMNS[INSERT].split())
_PADS = tuple((None,) * (WIDTH - used) for used in range(WIDTH + 1))
MAX_ROWS = 1024
"""Rows of one statement."""


def _new(kind: int) -> dict[str, str]:
    return {name: f"NEW.c{place}" for place, name in enumerate(_COLUMNS[kind].split())}


def _sets(kind: int, **special: str) -> str:
    values = {**_new(kind), **special}
    return "UPDATE jobs SET " + ", ".join(f"{name} = {value}" for name, value in values.items() if name != "number")


_ACTS = {
    INSERT: f"INSERT INTO jobs ({', '.join(_new(INSERT))}) VALUES ({', '.join(_new(INSERT).values())})",
    MORE: f"{_sets(MORE)} WHERE number = NEW.c0",
    WAIT: f"{_sets(WAIT)} WHERE number = NEW.c0",
    UPDATE: f"{_sets(UPDATE, due='0', at_s='0', blocked=f'blocked AND NEW.c1 < {int(FINAL)}')} WHERE number = NEW.c0",
    BLOCK: "UPDATE jobs SET blocked = 1 WHERE number = NEW.c0",
    LEFT: "UPDATE jobs SET parts_left = parts_left + NEW.c1 WHERE number = NEW.c0",
    COUNT: "INSERT INTO counters VALUES (NEW.c0, NEW.c1) ON CONFLICT (name) DO UPDATE SET n = n + excluded.n",
    USAGE: "INSERT INTO usage VALUES (NEW.c0, NEW.c1, NEW.c2) "
    "ON CONFLICT (key) DO UPDATE SET jobs = jobs + excluded.jobs, bytes = bytes + excluded.bytes",
    META: "REPLACE INTO meta VALUES (NEW.c0, NEW.c1)",
}
_NAMES = ", ".join(f"NULL AS c{place}" for place in range(WIDTH - 1))
BATCH = f"CREATE TEMP VIEW batch AS SELECT NULL AS kind, {_NAMES} WHERE 0;" + "".join(
    f"CREATE TEMP TRIGGER batch_{kind} INSTEAD OF INSERT ON batch WHEN NEW.kind = {kind} BEGIN {act}; END;"
    for kind, act in _ACTS.items()
)
"""To be run once on the writing connection."""


@cache
def _statement(rows: int) -> str:
    return "INSERT INTO batch VALUES " + ", ".join([f"({', '.join('?' * WIDTH)})"] * rows)


def statement(params: list[Any]) -> str:
    """The statement for these rows, at most MAX_ROWS; adds those that do nothing."""
    rows = len(params) // WIDTH
    step = 1 << max(rows.bit_length() - 4, 0)
    rounded = -(-rows // step) * step
    params += (None,) * ((rounded - rows) * WIDTH)
    return _statement(rounded)


_SAVED = (0, 1, 1, 3, 4, 5, 6, 7)
"""The states as they are written: plain numbers, which SQLite's binding takes three times as fast as an enumeration's."""
_encode = msgspec.json.Encoder().encode


def saved(state: int) -> int:
    """``state`` as it is written."""
    return _SAVED[state]


def add_insert(params: list[Any], job: Job, body: bytes | str) -> None:
    """The rows that insert ``job``; ``body``: its arguments, or the text for their file."""
    asked = _encode(
        (
            job.function, job.target, job.key, job.caller, job.accepted_s, job.retries, job.timeout_s, job.retention_s,
            job.idempotency_key, job.digest,
        )
    )  # fmt: skip
    became = _became(job)
    number = job.number
    params += (
        INSERT, number, _SAVED[job.state], job.lane, job.priority, asked.decode(), _sum(asked, body), became.decode(),
        crc32(became), body,
    )  # fmt: skip
    if job.due or job.at_s or job.expires:
        add(params, WAIT, number, job.due, job.at_s, job.expires)


def needs_more(job: Job) -> bool:
    """Whether ``add_insert`` does not write all there is of a new job."""
    return bool(job.idempotency_key or job.sequence or job.parent or job.parts or job.result or job.state >= FINAL)


def add_more(params: list[Any], job: Job, parts_left: int) -> None:
    """A row that completes one that was inserted just before. In a sequence it is blocked until it is seen to be the first."""
    blocked = int(bool(job.sequence) and job.state < FINAL)
    identity = "" if job.parent else identity_of(job)
    add(params, MORE, job.number, identity, job.sequence, blocked, job.parent, job.parts, parts_left)


def add_update(params: list[Any], job: Job, result: bytes | str) -> None:
    """The rows that update ``job``; ``result``: its result, or the text for its file."""
    became = _became(job)
    over = job.ended + job.retention_s
    params += (
        UPDATE, job.number, _SAVED[job.state], over, became.decode(), _sum(became, result), result, None, None, None,
    )  # fmt: skip
    if job.state == State.QUEUED or job.due or job.at_s:
        add(params, WAIT, job.number, job.due, job.at_s, job.expires)


def identity_of(job: Job) -> str:
    """What no other job has; empty without an idempotency key."""
    return f"{job.function} {job.idempotency_key}" if job.idempotency_key else ""


def file_text(name: str, body: bytes) -> str:
    """What is kept in the place of ``body``, which is in the file ``name``."""
    return f"{name} {len(body)}"


def name_in(text: str) -> str:
    """The name of the file in such a text."""
    return text.partition(" ")[0]


def _sum(array: bytes, body: bytes | str) -> int:
    return crc32(body.encode() if isinstance(body, str) else body, crc32(array))


def add(params: list[Any], kind: int, *values: Any) -> None:
    """A row of one of the small kinds."""
    params += (kind, *values, *_PADS[1 + len(values)])


def _became(job: Job) -> bytes:
    return _encode((job.attempt, job.failures, job.deaths, job.node, job.due, job.at_s, job.expires, job.ended, job.steps))


# ----- reading: rows as one JSON text, made within SQLite


class Asked(msgspec.Struct, array_like=True, frozen=True, gc=False):
    function: str = ""
    target: str = ""
    key: str = ""
    caller: str = ""
    accepted_s: float = 0.0
    retries: int = 0
    timeout_s: float = 0.0
    retention_s: float = 0.0
    idempotency_key: str = ""
    digest: bytes = b""


class Became(msgspec.Struct, array_like=True, frozen=True, gc=False):
    attempt: int = 0
    failures: int = 0
    deaths: int = 0
    node: str = ""
    due: float = 0.0
    at_s: float = 0.0
    expires: float = 0.0
    ended: float = 0.0
    steps: list[Step] = []


class Row(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A row of ``jobs``; ``body`` and ``result`` in hexadecimal, empty in a listing."""

    number: int
    state: int
    blocked: int
    parts_left: int
    files: int
    """1: the arguments are in a file; 2: the result is."""
    parent: int
    parts: int
    priority: int
    asked_sum: int
    became_sum: int
    lane: str
    sequence: str
    asked: msgspec.Raw
    became: msgspec.Raw
    body: str = ""
    result: str = ""


BODY_FILE, RESULT_FILE = 1, 2
SIZE = "iif(typeof(body) = 'text', CAST(substr(body, instr(body, ' ') + 1) AS INTEGER), length(body))"
"""The size of the arguments."""
_PARTS = (
    "number", "state", "blocked", "parts_left", "((typeof(body) = 'text') + 2 * (typeof(result) = 'text'))", "parent", "parts",
    "priority", "asked_sum", "became_sum", "json_quote(lane)", "json_quote(sequence)",
)  # fmt: skip


def _line(asked: str, became: str) -> str:
    return "'[' || " + " || ',' || ".join([*_PARTS, asked, became])


_BYTES = """ || ',"' || hex(body) || '","' || hex(result) || '"'"""
BRIEF = _line("asked", "became")
"""A row without arguments and result, open at its end."""
WHOLE = BRIEF + _BYTES
BARE = {BRIEF: _line("'[]'", "'[]'"), WHOLE: _line("'[]'", "'[]'") + _BYTES}
"""The same of a row whose arrays are damaged."""


def joined(row: str, source: str) -> str:
    """A query for all rows of ``source`` (what follows FROM) as one text: one step of SQLite, however many rows."""
    return f"SELECT CAST('[' || ifnull(group_concat({row} || ']'), '') || ']' AS BLOB) FROM {source}"


STATES = tuple(State)
decode_rows = msgspec.json.Decoder(list[Row]).decode
decode_asked = msgspec.json.Decoder(Asked).decode
decode_became = msgspec.json.Decoder(Became).decode


def job_of(row: Row, asked: Asked, became: Became, body: bytes, result: bytes) -> Job:
    """The job that a row is."""
    return Job(
        row.number, asked.function, asked.target, row.lane, row.priority, asked.key, asked.caller, body, asked.accepted_s,
        asked.retries, asked.timeout_s, asked.retention_s, became.expires, asked.idempotency_key, asked.digest, row.sequence,
        row.parent, row.parts, STATES[row.state], became.due, became.at_s, bool(row.blocked), became.attempt, became.failures,
        became.deaths, became.node, became.steps, result, became.ended, row.parts_left,
    )  # fmt: skip
