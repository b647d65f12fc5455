"""One batch within a transaction: what the one statement that writes a plain batch cannot do.

Rules kept here:
- inserts, updates, sequences and fan-outs, deleting, purging, counters, and then what was asked for, all in one transaction;
- extra statements are run for what a batch has, and for all of its jobs at once.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import msgspec
import orjson

from zcluster.core.queue.job import FINAL, Job, State
from zcluster.store.jobfiles import JobFiles
from zcluster.store.jobs import MAX_PURGED, Batch, Done
from zcluster.store.jobs_reader import IN, OVER, READY, JobReader, json_text
from zcluster.store.jobs_schema import (
    BLOCK,
    COUNT,
    LAST,
    LEFT,
    MAX_ROWS,
    META,
    USAGE,
    WIDTH,
    add_act,
    add_insert,
    add_more,
    add_update,
    file_text,
    name_in,
    needs_more,
    saved,
    statement,
)

_SEQUENCE = "sequence != '' AND state < 3"
_HEADS = (
    f"UPDATE jobs SET blocked = 0 WHERE blocked = 1 AND number IN (SELECT (SELECT number FROM jobs WHERE sequence = value "
    f"AND {_SEQUENCE} ORDER BY blocked, number LIMIT 1) FROM json_each(?)) RETURNING number"
)
_KNOWN = (
    "SELECT json_group_array(json_array(asked.key, number)) FROM json_each(?) AS asked "
    "JOIN jobs ON jobs.identity = asked.value AND jobs.identity != ''"
)
_BEFORE = (
    f"SELECT json_group_array(json_array(number, state, blocked, iif(typeof(result) = 'text', result, ''))) FROM jobs WHERE {IN}"
)
_PARTS = "parent IN (SELECT value FROM json_each(?)) AND parent != 0"
_GONE = f"(SELECT value FROM json_each(?) UNION ALL SELECT number FROM jobs WHERE {_PARTS})"
_TALLY = (
    "SELECT json_group_array(json_array(state, n)) FROM (SELECT state, count(*) AS n FROM jobs "
    f"WHERE number IN {_GONE} GROUP BY state)"
)
_LANES = f"SELECT DISTINCT lane FROM jobs WHERE {IN} AND {READY} ORDER BY lane"
_OVER = "SELECT json_group_array(json_array(number, rows)) FROM (SELECT number, 1 + parts AS rows FROM jobs WHERE {})"
"""Jobs that may go, and how many rows they are."""
_decode_pairs = msgspec.json.Decoder(list[tuple[int, int]]).decode
_decode_before = msgspec.json.Decoder(list[tuple[int, int, int, str]]).decode
_decode_names = msgspec.json.Decoder(list[str]).decode


class Turn:
    """One batch. ``kept`` are the files that were written for it, ``unnamed`` those that no row names after it."""

    def __init__(
        self, connection: sqlite3.Connection, reader: JobReader, files: JobFiles, file_bytes: int, last: int, batch: Batch
    ) -> None:
        self.done = Done()
        self.kept: list[str] = []
        self.unnamed: list[str] = []
        self._connection = connection
        self._reader = reader
        self._files = files
        self._file_bytes = file_bytes
        self._last = last
        self._batch = batch
        self._inserted: list[Job] = batch.insert
        self._numbers: set[int] = set()
        """Of the inserted ones."""
        self._before: dict[int, tuple[State, bool]] = {}
        """Of updated jobs: the state, and whether it was blocked."""
        self._counts: Counter[int] = Counter()
        self._usage: dict[str, tuple[int, int]] = dict(batch.usage)

    def take(self) -> Done:
        """Do it, but for the end of the transaction."""
        known = self._insert()
        self._update()
        self._sequences()
        self._fan_outs()
        self._tell_known(known)
        self._remove()
        self._count()
        self._read()
        self.done.unreadable, self._reader.unreadable = self._reader.unreadable, {}
        return self.done

    def write(self, params: list[Any]) -> None:
        """Write these rows."""
        for first in range(0, len(params), MAX_ROWS * WIDTH):
            some = params[first : first + MAX_ROWS * WIDTH]
            self._connection.execute(statement(some), some)

    # -- inserts and updates ----------------------------------------------------------------------------------------

    def _insert(self) -> dict[int, int]:
        """Returns the numbers of the jobs that are not inserted, with the numbers of those that have their keys."""
        known = self._known()
        if known:
            self._inserted = [job for job in self._batch.insert if job.number not in known and job.parent not in known]
            for job in self._batch.insert:
                if job.number in known or job.parent in known:
                    self._counts[saved(job.state)] -= 1
                    jobs, size = self._usage.get(job.key, (0, 0))
                    self._usage[job.key] = (jobs - 1, size - job.size)
        self._numbers = {job.number for job in self._inserted}
        left = Counter(job.parent for job in self._inserted if job.parent and job.state < FINAL)
        bodies = self._keep([job.body for job in self._inserted])
        params: list[Any] = []
        for job, body in zip(self._inserted, bodies, strict=True):
            add_insert(params, job, body)
            if needs_more(job):
                add_more(params, job, left[job.number])
        self.write(params)
        ended = [job for job in self._inserted if job.result or job.ended]
        self._write_updates(ended)
        return known

    def _known(self) -> dict[int, int]:
        keyed = [job for job in self._batch.insert if job.idempotency_key and not job.parent]
        if not keyed:
            return {}
        text = orjson.dumps([job.identity for job in keyed]).decode()
        found = _decode_pairs(self._connection.execute(_KNOWN, (text,)).fetchone()[0])
        known = {keyed[place].number: number for place, number in found}
        first: dict[str, int] = {}
        for job in keyed:
            if job.number not in known:
                number = first.setdefault(job.identity, job.number)
                if number != job.number:
                    known[job.number] = number
        return known

    def _update(self) -> None:
        looked = [job.number for job in self._batch.update if needs_look(job)]
        if looked:
            for number, state, blocked, name in _decode_before(
                self._connection.execute(_BEFORE, (json_text(looked),)).fetchone()[0]
            ):
                self._before[number] = State(state), bool(blocked)
                if name:
                    self.unnamed.append(name_in(name))
        self._write_updates(self._batch.update)

    def _write_updates(self, jobs: list[Job]) -> None:
        results = self._keep([job.result for job in jobs])
        params: list[Any] = []
        for job, result in zip(jobs, results, strict=True):
            add_update(params, job, result)
            if job.sequence and job.state < FINAL and job.number in self._before and self._before[job.number][0] >= FINAL:
                add_act(params, BLOCK, job.number)
        self.write(params)

    def _keep(self, bodies: list[bytes]) -> list[bytes | str]:
        """What is written in the place of ``bodies``: the large ones are in files now."""
        large = [body for body in bodies if len(body) > self._file_bytes]
        if not large:
            return list(bodies)
        names = self._files.keep(large)
        self.kept += names
        texts = iter([file_text(name, body) for name, body in zip(names, large, strict=True)])
        return [next(texts) if len(body) > self._file_bytes else body for body in bodies]

    # -- sequences and fan-outs -------------------------------------------------------------------------------------

    def _sequences(self) -> None:
        jobs = [job for job in (*self._inserted, *self._batch.update) if job.sequence]
        if not jobs:
            return
        names = orjson.dumps(list({job.line for job in jobs})).decode()
        freed = [number for (number,) in self._connection.execute(_HEADS, (names,)).fetchall()]
        was = {job.number: self._before[job.number][0] for job in jobs if job.number in self._before}
        was = {number: state for number, state in was.items() if number not in self._numbers}
        came = {job.number for job in jobs if was.get(job.number) != State.QUEUED}
        new = {number for number in came if was.get(number, FINAL) >= FINAL}
        sql = f"SELECT json_group_array(number) FROM jobs WHERE blocked = 1 AND {IN}"
        self.done.blocked = set(self._reader.numbers(sql, json_text(list(came)))) if came else set()
        self.done.unblocked, more = self._reader.some(sorted(number for number in freed if number not in new))
        if more:
            self.done.left = [lane for (lane,) in self._connection.execute(_LANES, (json_text(more),))]

    def _fan_outs(self) -> None:
        ended: set[int] = set()
        deltas: Counter[int] = Counter()
        for job in self._batch.update:
            was = self._before.get(job.number)
            if was is None or (was[0] >= FINAL) == (job.state >= FINAL):
                continue
            if job.parent:
                deltas[job.parent] += -1 if job.state >= FINAL else 1
            if job.number not in self._numbers:
                ended.add(job.parent if job.state >= FINAL else job.number)
        ended.discard(0)
        params: list[Any] = []
        for parent, delta in deltas.items():
            add_act(params, LEFT, parent, delta)
        self.write(params)
        if ended:
            self.done.complete = self._reader.complete(list(ended))

    # -- the end ----------------------------------------------------------------------------------------------------

    def _tell_known(self, known: dict[int, int]) -> None:
        if known:
            jobs = {job.number: job for job in self._reader.brief(list(set(known.values())))}
            self.done.known = {number: jobs[other] for number, other in known.items() if other in jobs}

    def _remove(self) -> None:
        batch = self._batch
        if batch.delete:
            rows = dict(self._over(IN, json_text(batch.delete)))
            can = [(number, rows[number]) for number in dict.fromkeys(batch.delete) if number in rows]
            now = together(can)
            self.done.undeleted = [number for number, _ in can[len(now) :]]
            self._delete(now)
        if batch.purge is not None:
            self._delete(together(self._over("over <= ? ORDER BY over, number LIMIT ?", batch.purge, MAX_PURGED)))

    def _over(self, where: str, *params: object) -> list[tuple[int, int]]:
        """The numbers of jobs that may go, and how many rows they are."""
        return _decode_pairs(self._connection.execute(_OVER.format(f"{OVER} AND {where}"), params).fetchone()[0])

    def _delete(self, numbers: list[int]) -> None:
        if not numbers:
            return
        text = json_text(numbers)
        both = (text, text)
        execute = self._connection.execute
        for state, count in _decode_pairs(execute(_TALLY, both).fetchone()[0]):
            self._counts[state] -= count
            self.done.purged[state] = self.done.purged.get(state, 0) + count
        for column in ("body", "result"):
            sql = f"SELECT json_group_array({column}) FROM jobs WHERE typeof({column}) = 'text' AND number IN {_GONE}"
            self.unnamed += map(name_in, _decode_names(execute(sql, both).fetchone()[0]))
        execute(f"DELETE FROM jobs WHERE {_PARTS}", (text,))
        execute(f"DELETE FROM jobs WHERE {IN}", (text,))

    def _count(self) -> None:
        for state, count in self._batch.counts.items():
            self._counts[saved(state)] += count
        params: list[Any] = []
        add_counters(params, self._batch, self._last, self._counts, self._usage)
        self.write(params)

    def _read(self) -> None:
        batch, done, reader = self._batch, self.done, self._reader
        for lane, limit in batch.ready.items():
            done.ready[lane], more = reader.ready(lane, limit)
            if more:
                done.more.add(lane)
        if batch.due is not None:
            done.due = reader.due(*batch.due)
        if batch.expired is not None:
            done.expired = reader.expired(batch.expired)
        if batch.fetch:
            fetched, done.unfetched = reader.some(batch.fetch)
            done.fetched = {job.number: job for job in fetched}
        if batch.due is not None or batch.expired is not None or batch.purge is not None:
            done.times = True
            done.next_due, done.next_at_s, done.next_expiry, done.next_purge = reader.times()


def together(sized: Sequence[tuple[int, int]]) -> list[int]:
    """The first numbers, as many as make MAX_PURGED rows at most; but one."""
    rows = list(accumulate(size for _, size in sized))
    return [number for (number, _), until in zip(sized, rows, strict=True) if until <= max(MAX_PURGED, rows[0])]


def needs_look(job: Job) -> bool:
    """Whether an update depends on what the job was: its sequence or fan-out, or the file of a result that goes."""
    return bool(job.sequence or job.parent or job.parts) or job.state == State.QUEUED


def add_counters(params: list[Any], batch: Batch, last: int, counts: dict[int, int], usage: dict[str, tuple[int, int]]) -> None:
    """The rows of the counters, and of ``meta``. ``last``: the highest number so far."""
    if batch.insert and batch.insert[-1].number > last:
        add_act(params, COUNT, LAST, batch.insert[-1].number - last)
    for state, count in counts.items():
        if count:
            add_act(params, COUNT, saved(state), count)
    for key, (jobs, size) in usage.items():
        if jobs or size:
            add_act(params, USAGE, jobs, size, key)
    for name, value in batch.meta.items():
        add_act(params, META, 0, 0, name, value)
