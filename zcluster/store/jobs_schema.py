"""The database of jobs: its tables, its one writing statement, and jobs as SQLite has them.

Rules kept here:
- a plain batch is written by one statement, an upsert of jobs; a trigger takes out the rows that are none, and counts. Each
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
    asked TEXT NOT NULL, asked_sum INTEGER, became TEXT NOT NULL, became_sum INTEGER NOT NULL,
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


# ----- writing: rows of jobs, and rows that do something else

COLUMNS = (
    "number", "state", "lane", "priority", "over", "due", "at_s", "expires", "asked", "asked_sum", "became", "became_sum", "body",
    "result",
)  # fmt: skip
WIDTH = len(COLUMNS)
MAX_ROWS = 1024
"""Rows of one statement."""
_WRITTEN = ("state", "over", "due", "at_s", "expires", "became", "became_sum", "result")
"""What an update writes."""

NOTHING, MORE, BLOCK, LEFT, COUNT, USAGE, META = range(7)
"""Kinds of rows that are none of a job: their ``number`` is the kind, negative."""
_ACTS = {
    MORE: "UPDATE jobs SET identity = NEW.asked, sequence = NEW.became, blocked = NEW.priority, parent = NEW.due, "
    "parts = NEW.became_sum, parts_left = NEW.over WHERE number = NEW.state",
    BLOCK: "UPDATE jobs SET blocked = 1 WHERE number = NEW.state",
    LEFT: "UPDATE jobs SET parts_left = parts_left + NEW.priority WHERE number = NEW.state",
    COUNT: "INSERT INTO counters VALUES (NEW.state, NEW.priority) ON CONFLICT (name) DO UPDATE SET n = n + excluded.n",
    USAGE: "INSERT INTO usage VALUES (NEW.asked, NEW.state, NEW.priority) "
    "ON CONFLICT (key) DO UPDATE SET jobs = jobs + excluded.jobs, bytes = bytes + excluded.bytes",
    META: "REPLACE INTO meta VALUES (NEW.asked, NEW.body)",
}
_CARRIED = ("state", "asked", "became", "priority", "due", "became_sum", "over", "body")
BATCH = (
    f"CREATE TEMP VIEW acts AS SELECT NULL AS kind, {', '.join(f'NULL AS {name}' for name in _CARRIED)} WHERE 0;"
    + "".join(
        f"CREATE TEMP TRIGGER act_{kind} INSTEAD OF INSERT ON acts WHEN NEW.kind = {kind} BEGIN {act}; END;"
        for kind, act in _ACTS.items()
    )
    + "CREATE TEMP TRIGGER batch AFTER INSERT ON main.jobs WHEN NEW.asked_sum IS NULL BEGIN "
    "DELETE FROM jobs WHERE number = NEW.number; "
    f"INSERT INTO acts SELECT -NEW.number, {', '.join(f'NEW.{name}' for name in _CARRIED)} WHERE NEW.number < 0; END;"
)
"""To be run once on the writing connection. What was inserted and is no new job is taken out again: rows of the other kinds, and
updates of jobs that are gone. The others do not pay for it."""
_UPSERT = (
    f"INSERT INTO jobs ({', '.join(COLUMNS)}) VALUES %s ON CONFLICT (number) DO UPDATE SET "
    + "".join(f"{name} = excluded.{name}, " for name in _WRITTEN)
    + f"blocked = blocked AND excluded.state < {int(FINAL)}"
)
_PAD = (NOTHING, -1, "", 0, 0, 0, 0, 0, "", None, "", 0, b"", b"")


@cache
def _statement(rows: int) -> str:
    return _UPSERT % ", ".join([f"({', '.join('?' * WIDTH)})"] * rows)


def statement(params: list[Any]) -> str:
    """The statement for these rows, at most MAX_ROWS; adds those that do nothing."""
    rows = len(params) // WIDTH
    step = 1 << max(rows.bit_length() - 4, 0)
    rounded = -(-rows // step) * step
    params += _PAD * (rounded - rows)
    return _statement(rounded)


_SAVED = (0, 1, 1, 3, 4, 5, 6, 7)
"""The states as they are written: plain numbers, which SQLite's binding takes three times as fast as an enumeration's."""
_encode = msgspec.json.Encoder().encode


def saved(state: int) -> int:
    """``state`` as it is written."""
    return _SAVED[state]


def add_insert(params: list[Any], job: Job, body: bytes | str) -> None:
    """The row that inserts ``job``; ``body``: its arguments, or the text for their file."""
    asked = _encode(
        (
            job.function, job.target, job.key, job.caller, job.accepted_s, job.retries, job.timeout_s, job.retention_s,
            job.idempotency_key, job.digest, job.role,
        )
    )  # fmt: skip
    became = _became(job)
    params += (
        job.number, _SAVED[job.state], job.lane, job.priority, 0.0, job.due, job.at_s, job.expires, asked.decode(),
        _sum(asked, body), became.decode(), crc32(became), body, b"",
    )  # fmt: skip


def needs_more(job: Job) -> bool:
    """Whether ``add_insert`` does not write all there is of a new job."""
    return bool(job.idempotency_key or job.sequence or job.parent or job.parts or job.result or job.state >= FINAL)


def add_more(params: list[Any], job: Job, parts_left: int) -> None:
    """A row that completes one that was inserted just before. In a sequence it is blocked until it is seen to be the first."""
    blocked = int(bool(job.sequence) and job.state < FINAL)
    row = (-MORE, job.number, "", blocked, parts_left, job.parent, 0, 0, job.identity, None, job.line, job.parts, b"", b"")
    params += row


def add_update(params: list[Any], job: Job, result: bytes | str) -> None:
    """The row that updates ``job``; ``result``: its result, or the text for its file."""
    became = _became(job)
    over = job.ended + job.retention_s
    params += (
        job.number, _SAVED[job.state], "", 0, over, job.due, job.at_s, job.expires, "", None, became.decode(),
        _sum(became, result), b"", result,
    )  # fmt: skip


def file_text(name: str, body: bytes) -> str:
    """What is kept in the place of ``body``, which is in the file ``name``."""
    return f"{name} {len(body)}"


def name_in(text: str) -> str:
    """The name of the file in such a text."""
    return text.partition(" ")[0]


def size_in(text: bytes) -> int:
    """The size of what is in the file of such a text; 0: it is damaged."""
    size = text.partition(b" ")[2]
    return int(size) if size.isdigit() else 0


def _sum(array: bytes, body: bytes | str) -> int:
    return crc32(body.encode() if isinstance(body, str) else body, crc32(array))


def add_act(params: list[Any], kind: int, number: int, amount: int = 0, name: str = "", value: bytes = b"") -> None:
    """A row of one of the small kinds: BLOCK (a job), LEFT (a fan-out, how many), COUNT (a state, how many), USAGE (jobs,
    bytes, a key) or META (a name, a value)."""
    params += (-kind, number, "", amount, 0, 0, 0, 0, name, None, "", 0, value, b"")


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
    role: str = "client"


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
_SIZE = "iif(typeof({0}) = 'text', CAST(substr({0}, instr({0}, ' ') + 1) AS INTEGER), length({0}))"
SIZE, RESULT_SIZE = _SIZE.format("body"), _SIZE.format("result")
"""The size of the arguments, and of the result."""
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


def job_of(row: Row, asked: Asked, became: Became, body: bytes, result: bytes, lost: int = 0) -> Job:
    """The job that a row is. ``lost``: bytes of its arguments that are not in ``body`` since they cannot be read."""
    return Job(
        row.number, asked.function, asked.target, row.lane, row.priority, asked.key, asked.caller, body, asked.accepted_s,
        asked.retries, asked.timeout_s, asked.retention_s, became.expires, asked.idempotency_key, asked.digest,
        row.sequence.partition(" ")[2],
        row.parent, row.parts, STATES[row.state], became.due, became.at_s, bool(row.blocked), became.attempt, became.failures,
        became.deaths, became.node, became.steps, result, became.ended, row.parts_left, asked.role, lost,
    )  # fmt: skip
