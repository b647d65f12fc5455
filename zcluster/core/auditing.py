"""The audit log: which requests are in it, and what a record says.

Rules kept here:
- an audited request has one Trail, from its admission to its one end; a fan-out has one for all its parts together;
- whatever is in a record is bounded, and its texts are on one line; what is told of arguments is in auditargs.py;
- who asks again and again for what it does not get cannot push everybody else's records out of the log (Refusals), and who
  follows the log does not fill it (Readers).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from zcluster.core.queue.job import Job, State
from zcluster.errors import one_line

ADMIN = "admin"
DONE = "done"
CANCELLED = "cancelled"

MAX_NODES = 64
"""Names of nodes in one record."""
MAX_ARGS_BYTES = 4096
"""Of the arguments as they came; larger ones are not told."""
MAX_FUNCTION_CHARS = 128
MAX_TARGET_CHARS = 256
MAX_CODE_CHARS = 64

REFUSALS_WINDOW_S = 10.0
REFUSALS = 100
"""Records in that time of requests of one key that no node was given."""
MAX_REFUSED_KEYS = 10_000
READS_S = 3600.0
MAX_READERS = 1000
MAX_COMMON = 1000
"""What records of jobs have in common: so much of it is kept encoded."""

Record = dict[str, Any]


class Trail(msgspec.Struct, eq=False):
    """What is to be written of one request when it has ended."""

    request_id: str
    key: str
    """Name of the asker's key."""
    public: str
    """And the key."""
    role: str
    function: str
    target: str
    body: bytes
    """The arguments; empty when they are too large to be told."""
    schemas: frozenset[str]
    """Of the arguments, as the nodes that had the function at its admission gave them."""
    since_s: float
    open_parts: int = 1
    nodes: dict[str, None] = {}
    """Where it ran."""
    attempts: int = 0
    failed: int = 0
    """Parts that ended without a value."""
    error: str = ""
    """The code of the first of them."""

    @property
    def refused(self) -> bool:
        """It ended with an error before any node was given it."""
        return not self.attempts and bool(self.error)


class Auditing:
    """The trails of a master's requests."""

    def __init__(self) -> None:
        self.requests = "none"
        """Which requests are audited: ``none``, ``admin`` (of functions that ask for that role) or ``all``. Whoever sets it takes
        what ends."""
        self.ended: list[Trail] = []
        """Requests that have ended, in order; whoever writes them takes them."""

    def moved(self, trail: Trail, node: str) -> None:
        """``node`` was lost with the request, which goes to another."""
        trail.nodes[node] = None

    def part_ended(self, trail: Trail, node: str, attempts: int, error: str) -> None:
        """The request, or a part of the fan-out, has ended, with ``error`` (a code) or well; ``node`` had it last."""
        if attempts:
            trail.attempts += attempts
            if node:
                trail.nodes[node] = None
        if error:
            trail.failed += 1
            trail.error = trail.error or error
        trail.open_parts -= 1
        if not trail.open_parts:
            self.ended.append(trail)


class _Error(msgspec.Struct):
    code: str = ""


_errors = msgspec.json.Decoder(_Error)


def error_code(body: bytes) -> str:
    """The code of the error in ``body``, which a node may have made up."""
    try:
        code = _errors.decode(body).code
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "failed"
    fits = 0 < len(code) <= MAX_CODE_CHARS and code.isascii() and code.replace("_", "").isalnum()
    return code if fits else "failed"


def request_record(trail: Trail, public: str, at_s: float, took_s: float, args: Any) -> Record:
    """The record of a request that has ended.

    Args:
        public: the key's fingerprint.
        at_s: when it ended, seconds since 1970.
        took_s: how long it took since its admission.
        args: as auditargs.py tells them.
    """
    outcome = trail.error or DONE
    return {
        "at_s": round(at_s, 3), "what": "request", "request_id": trail.request_id,
        **_asked(trail.key, public, trail.role, trail.function, trail.target),
        **_where(trail.nodes), "attempts": trail.attempts, "outcome": outcome, "error": trail.error or None,
        "failed": trail.failed, "took_s": round(max(0.0, took_s), 6), "args": args,
    }  # fmt: skip


def accepted_record(job: Job, id_: str, public: str, role: str, at_s: float, args: Any) -> Record:
    """The record of a job that was accepted. ``at_s`` is when; ``public`` the key's fingerprint, ``role`` its role."""
    return {
        "at_s": round(at_s, 3), "what": "accepted", "job": id_,
        **_asked(job.caller, public, role, job.function, job.target),
        "nodes": [], "nodes_total": 0, "attempts": 0, "outcome": job.state.word, "error": None, "failed": 0, "took_s": None,
        "args": args,
    }  # fmt: skip


def ended_record(
    job: Job, id_: str, parent: str, public: str, role: str, at_s: float, args: dict[str, Any] | None
) -> Record:
    """The record of a job that is final.

    Args:
        args: its arguments as they may be told.
        parent: the id of the fan-out that it is a part of, or empty.
    """
    nodes = dict.fromkeys(step.node for step in job.steps if step.node)
    if job.node:
        nodes[job.node] = None
    failed = job.state != State.DONE
    record = {
        "at_s": round(at_s, 3), "what": "ended", "job": id_,
        **_asked(job.caller, public, role, job.function, job.target),
        **_where(nodes), "attempts": job.attempt, "outcome": job.state.word,
        "error": error_code(job.result) if failed and job.result else None, "failed": int(failed),
        "took_s": round(max(0.0, at_s - job.accepted_s), 3), "args": args,
    }  # fmt: skip
    return {**record, "parent": parent} if parent else record


class EndedLines:
    """The same records as JSON, at a fifth of the cost: what many jobs have in common is encoded once."""

    def __init__(self) -> None:
        self._common: dict[tuple[str, ...], bytes] = {}

    def line(self, job: Job, id_: str, public: str, role: str, at_s: float, args: bytes) -> bytes | None:
        """The record of a job that is done after one attempt; None for any other, which ended_record tells."""
        if job.state != State.DONE or job.attempt != 1 or job.parent:
            return None
        key = (job.caller, public, role, job.function, job.target, job.node)
        common = self._common.get(key)
        if common is None:
            if len(self._common) >= MAX_COMMON:
                self._common.clear()
            told = {**_asked(job.caller, public, role, job.function, job.target), **_where([job.node])}
            common = self._common[key] = msgspec.json.encode(told)[1:-1]
        took_s = max(0.0, at_s - job.accepted_s)
        end = b'"attempts":1,"outcome":"done","error":null,"failed":0,"took_s":%.3f,"args":%b}' % (took_s, args)
        return b'{"at_s":%.3f,"what":"ended","job":"%b",%b,%b' % (at_s, id_.encode(), common, end)


def lost_record(count: int, at_s: float) -> Record:
    """The record that stands for ``count`` records that could not be written."""
    return {"at_s": round(at_s, 3), "what": "lost", "count": count}


def omitted_record(key: str, public: str, role: str, count: int, at_s: float) -> Record:
    """The record that stands for ``count`` requests of one key that were refused and have none of their own."""
    return {"at_s": round(at_s, 3), "what": "omitted", "key": key, "public": public, "role": role, "count": count}


def _asked(key: str, public: str, role: str, function: str, target: str) -> Record:
    return {
        "key": key, "public": public, "role": role,
        "function": _text(function, MAX_FUNCTION_CHARS), "target": _text(target, MAX_TARGET_CHARS),
    }  # fmt: skip


def _where(nodes: Collection[str]) -> Record:
    return {"nodes": [name for name, _ in zip(nodes, range(MAX_NODES), strict=False)], "nodes_total": len(nodes)}


def _text(text: str, most: int) -> str:
    flat = one_line(text[: most + 1])
    return flat if len(flat) <= most else flat[: most - 1] + "…"


class Refusals:
    """Counts, key by key, the requests that ended before any node was given them."""

    def __init__(self) -> None:
        self._windows: OrderedDict[str, _Window] = OrderedDict()
        """The oldest first."""

    def passes(self, trail: Trail, now: float) -> bool:
        """Whether ``trail`` gets a record of its own: an admin's, and the first of each key in REFUSALS_WINDOW_S."""
        if not trail.refused or trail.role == ADMIN:
            return True
        window = self._windows.get(trail.public)
        if window is None:
            window = self._windows[trail.public] = _Window(trail.key, trail.role, now)
        window.count += 1
        return window.count <= REFUSALS

    def over(self, now: float) -> Iterable[tuple[str, str, str, int]]:
        """(key, public key, role, count) of those that were left out in windows that are over by now."""
        while self._windows:
            public, window = next(iter(self._windows.items()))
            if now < window.since_s + REFUSALS_WINDOW_S and len(self._windows) <= MAX_REFUSED_KEYS:
                return
            del self._windows[public]
            if window.count > REFUSALS:
                yield window.key, public, window.role, window.count - REFUSALS


class Readers:
    """Who reads the audit log: a key that does has one record of that in READS_S, however often it asks."""

    def __init__(self) -> None:
        self._told_s: OrderedDict[str, float] = OrderedDict()
        """By public key, the one that was told first in front."""

    def passes(self, trail: Trail, now: float) -> bool:
        """Whether ``trail``, of somebody who reads the log, gets a record. One that failed always does."""
        if trail.error:
            return True
        told_s = self._told_s.get(trail.public)
        if told_s is not None and now < told_s + READS_S:
            return False
        self._told_s[trail.public] = now
        self._told_s.move_to_end(trail.public)
        if len(self._told_s) > MAX_READERS:
            self._told_s.popitem(last=False)
        return True


class _Window(msgspec.Struct):
    key: str
    role: str
    since_s: float
    count: int = 0
