"""What is checked before a job is accepted, and before each of its attempts.

Rules kept here:
- the asker's role must permit the function, and its rights function, target and priority, at acceptance and again when an attempt
  begins; the node has the last word. Of a fan-out the nodes that they do not permit end so, one by one;
- a function has to be known: some node has it, or had it once; a node that is here and does not have it is an error;
- the nodes of a fan-out are fixed when it is accepted: those that are away among them, those that are here without the function
  not;
- times are bounded: nothing is delayed or kept for longer than MAX_SPAN_S.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from zcluster.core.catalog import Functions
from zcluster.core.peers import Identity, Node
from zcluster.core.queue.job import ANY_LANE, NODE_LANE, Job
from zcluster.core.rights import Rights, standing_of, standing_text, word_of
from zcluster.core.targets import ANY, MASTER, is_single, select
from zcluster.core.verdicts import no_such_function
from zcluster.errors import NoSuchFunction, NoSuchNode, NotAllowed, TooLarge, UsageError

MAX_SPAN_S = 366 * 86_400.0
MAX_TIMEOUT_S = 86_400.0
"""Of an attempt: a longer one does not go into WORK, and would spoil the whole message."""
MAX_PARTS = 10_000
MAX_KNOWN = 10_000
"""Functions that are remembered although no node has them now."""
MAX_KNOWN_BYTES = 524_288
MAX_SORTED_BYTES = 65_536
"""Larger arguments are the same only when they are written the same: to sort them takes too long."""
MAX_WALL_S = 4_102_444_800.0
"""The year 2100."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of a run of jobs, but for their arguments and keys."""

    function: str
    target: str
    fan_out: bool = False
    priority: int = 5
    delay_s: float = 0.0
    at_s: float = 0.0
    expires_s: float = 0.0
    retries: int = 3
    timeout_s: float = 0.0
    retention_s: float = 0.0
    sequence: str = ""


@dataclass(frozen=True)
class Defaults:
    """What holds for jobs that do not say (config: queue.*)."""

    timeout_s: float = 3600.0
    expires_s: float = 7 * 86_400.0
    retention_s: float = 86_400.0
    body_bytes: int = 67_108_864
    max_retention_s: float = 31 * 86_400.0


class JobAdmission:
    """Makes jobs of what is asked.

    Args:
        nodes: those that the master knows. workers: the names of all that the ring has.
        master: this node's name.
    """

    def __init__(
        self, nodes: Mapping[str, Node], workers: Callable[[], Iterable[str]], functions: Functions, master: str,
        may_call: Callable[[str, str], bool], defaults: Defaults, rights: Rights | None = None,
    ) -> None:  # fmt: skip
        self._rights = rights or Rights()
        self.defaults = defaults
        self.known: dict[str, list[str]] = {}
        """Functions that some node has or had, with the roles that they ask for."""
        self._allowed: set[tuple[str, str]] = set()
        """Roles and functions that were found to fit, since nodes came or went last."""
        self._allowed_of = -1
        self._nodes, self._workers, self._functions = nodes, workers, functions
        self._master, self._may_call = master, may_call

    def learn(self) -> bool:
        """Take note of the functions that nodes have; True when there was something new."""
        news = False
        for name in self._functions.providers:
            roles = sorted(self._functions.roles(name))
            if self.known.get(name) != roles:
                self.known.pop(name, None)
                self.known[name] = roles
                news = True
        if news:
            self._forget()
        return news

    def _forget(self) -> None:
        """Forget the oldest of too many functions."""
        size = sum(len(name) * 4 + 32 for name in self.known)  # at most, as JSON
        for name in list(self.known):
            if len(self.known) <= MAX_KNOWN and size <= MAX_KNOWN_BYTES:
                return
            del self.known[name]
            size -= len(name) * 4 + 32

    def allowed(self, identity: Identity | None, function: str) -> NotAllowed | None:
        """Why ``identity`` may not run ``function``, or None."""
        if identity is None:
            return NotAllowed("the key that asked for it was revoked")
        functions = self._functions
        if functions.changes != self._allowed_of:
            self._allowed_of, self._allowed = functions.changes, set()
        pair = (identity.role, function)
        if pair in self._allowed:
            return None
        roles = functions.roles(function) if function in functions.providers else self.known.get(function, ["client"])
        if any(self._may_call(identity.role, role) for role in roles):
            if len(self._allowed) < MAX_KNOWN:
                self._allowed.add(pair)
            return None
        what = f"{identity.name} ({identity.grant or identity.role}) may not call {function}"
        return NotAllowed(what, hint="use a key with another role")

    def may_run(self, job: Job, identity: Identity | None) -> NotAllowed | None:
        """Why ``job`` may not begin, with the rights that ``identity`` has now, or None."""
        error = self.allowed(identity, job.function)
        if error is not None or identity is None or not self._rights.narrows(identity):
            return error
        error = self._rights.refusal(identity, job.function, job.priority)
        word = standing_of(job.role).word or job.target
        return error or self._refusal_at(identity, job.function, word, job.lane)

    def _refusal_at(self, identity: Identity, function: str, target: str, lane: str) -> NotAllowed | None:
        node = lane.removeprefix(NODE_LANE) if lane.startswith(NODE_LANE) else ""
        return self._rights.refusal_at(identity, function, target, node, master=node == self._master)

    def _check_asker(self, ask: Ask, identity: Identity) -> None:
        """Raises NotAllowed when ``identity`` may not have this run anywhere."""
        error = self.allowed(identity, ask.function)
        if error is None and self._rights.narrows(identity):
            error = self._rights.refusal(identity, ask.function, ask.priority)
        if error is not None:
            raise error

    def _check_lanes(self, ask: Ask, lanes: list[str], identity: Identity) -> list[str]:
        """``lanes``, if ``identity`` has a right to one of them at least. Raises NotAllowed."""
        if self._rights.narrows(identity):
            refused = [self._refusal_at(identity, ask.function, ask.target, lane) for lane in lanes]
            if refused and refused[0] is not None and all(refused):
                raise refused[0]
        return lanes

    def lanes(self, ask: Ask, identity: Identity) -> list[str]:
        """The lanes of what is asked: one, or one for each part of a fan-out.

        Raises:
            NotAllowed, NoSuchFunction, NoSuchNode, UsageError.
        """
        self._check_asker(ask, identity)
        _check(ask, self.defaults)
        function, target = ask.function, ask.target
        if function not in self._functions.providers and function not in self.known:
            raise no_such_function(function, "")
        if target == ANY:
            return self._check_lanes(ask, [ANY_LANE + function], identity)
        names = [name for name, node in self._nodes.items() if node.state != "left"]
        if not ask.fan_out:
            if not is_single(target):
                raise UsageError(f"target {target!r} may mean several nodes", hint="ask for a fan-out for lists, globs and 'all'")
            name = self._master if target == MASTER else target
            if name not in names and name not in self._workers():
                select(target, names, self._master)  # says what is wrong
            if self._lacks(name, function):
                raise no_such_function(function, name)
            return self._check_lanes(ask, [NODE_LANE + name], identity)
        chosen = self._fan_out(ask, dict.fromkeys([*names, *self._workers()]))
        return self._check_lanes(ask, [NODE_LANE + name for name in chosen], identity)

    def nodes_lanes(self, ask: Ask, found: Iterable[str], identity: Identity) -> list[str]:
        """The lanes of a target that the book has looked up: the nodes of an agent or a group."""
        self._check_asker(ask, identity)
        _check(ask, self.defaults)
        return self._check_lanes(ask, [NODE_LANE + name for name in found], identity)

    def make(
        self, ask: Ask, lane: str, identity: Identity, bodies: Sequence[tuple[bytes, str]], now: float, wall_s: float
    ) -> list[Job]:
        """Jobs that are alike but for their arguments and idempotency keys. Raises TooLarge."""
        defaults = self.defaults
        largest = max(len(body) for body, _ in bodies)
        if largest > defaults.body_bytes:
            raise TooLarge(f"arguments of {largest} bytes, at most {defaults.body_bytes} are allowed", hint="limits.body_bytes")
        function, target, priority, sequence = ask.function, ask.target, ask.priority, ask.sequence
        key, caller, retries = identity.key, identity.name, ask.retries
        timeout_s, retention_s = ask.timeout_s or defaults.timeout_s, ask.retention_s or defaults.retention_s
        at_s = ask.at_s if ask.at_s > wall_s else 0.0
        waits_s = max(ask.delay_s, at_s - wall_s if at_s else 0.0)
        expires = now + waits_s + (ask.expires_s or defaults.expires_s)
        jobs = [
            Job(0, function, target, lane, priority, key, caller, body, wall_s, retries, timeout_s, retention_s, expires,
                idempotency_key, digest(function, target, body) if idempotency_key else b"", sequence)
            for body, idempotency_key in bodies
        ]  # fmt: skip
        standing = standing_text(identity)
        if standing != "client":
            for job in jobs:
                job.role = standing
        if waits_s:
            for job in jobs:
                job.due, job.at_s = (now + ask.delay_s if ask.delay_s else 0.0), at_s
        return jobs

    def spread(self, job: Job, lanes: Sequence[str]) -> list[Job]:
        """Make ``job`` a fan-out over ``lanes``; returns its parts."""
        parts = []
        # A part's own target is its node: with which word it was asked for matters only where there are rights.
        standing = standing_text(standing_of(job.role).who, word_of(job.target)) if self._rights.rules else job.role
        for lane in lanes:
            part = msgspec.structs.replace(job, lane=lane, target=lane.removeprefix(NODE_LANE), steps=[], role=standing)
            part.idempotency_key, part.digest = "", b""
            parts.append(part)
        job.lane, job.parts, job.parts_left = "", len(parts), len(parts)
        return parts

    # -- inside -----------------------------------------------------------------------------------------------------

    def _fan_out(self, ask: Ask, names: Mapping[str, None]) -> list[str]:
        chosen = select(ask.target, names, self._master)
        has = [name for name in chosen if not self._lacks(name, ask.function)]
        named = {part.strip() for part in ask.target.split(",")}
        lacking = [name for name in chosen if name in named and self._lacks(name, ask.function)]
        if lacking:
            raise no_such_function(ask.function, lacking[0])
        if not has:
            what = f"no node that {ask.target!r} means has a function {ask.function!r}"
            raise NoSuchFunction(what, hint="`zcluster dapi ls` lists them")
        if len(has) > MAX_PARTS:
            what = f"{ask.target!r} means {len(has)} nodes, at most {MAX_PARTS} are allowed"
            raise UsageError(what, hint="ask for fewer at once")
        return has

    def _lacks(self, name: str, function: str) -> bool:
        """Whether the node is here, and without the function."""
        node = self._nodes.get(name)
        return node is not None and node.peer is not None and function not in node.functions


def digest(function: str, target: str, body: bytes) -> bytes:
    """Of what is asked: the same for the same function, target and arguments, however these are written (blake2b_128)."""
    try:
        plain = msgspec.json.encode(msgspec.json.decode(body), order="sorted") if 0 < len(body) <= MAX_SORTED_BYTES else body
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        plain = body  # the node will say that this is no JSON
    return hashlib.blake2b(b"\0".join((function.encode(), target.encode(), plain)), digest_size=16).digest()


def _check(ask: Ask, defaults: Defaults) -> None:
    spans = {"delay": ask.delay_s, "expires": ask.expires_s, "timeout": ask.timeout_s, "retention": ask.retention_s}
    for name, span_s in spans.items():
        longest_s = MAX_TIMEOUT_S if name == "timeout" else MAX_SPAN_S
        if not 0 <= span_s <= longest_s:
            raise UsageError(f"{name} is {span_s:g} s", hint=f"from 0 to {longest_s:g} s")
    if ask.retention_s > defaults.max_retention_s:
        what = f"retention is {ask.retention_s:.12g} s, at most {defaults.max_retention_s:.12g} s are allowed"
        raise UsageError(what, hint="queue.max_retention_s")
    if not 0 <= ask.at_s <= MAX_WALL_S:
        raise UsageError(f"at is {ask.at_s:g}", hint="seconds since 1970, before the year 2100")
    if ask.at_s and ask.delay_s:
        raise UsageError("a job has a delay or a time, not both", hint="leave one of them out")
    if not 0 <= ask.priority <= 9 or not 0 <= ask.retries <= 100:
        raise UsageError(f"priority {ask.priority}, retries {ask.retries}", hint="priority is 0 to 9, retries 0 to 100")
    if ask.fan_out and ask.sequence:
        raise UsageError("a fan-out is in no sequence", hint="leave --sequence out, or give one node")
    if not ask.target:
        raise NoSuchNode("an empty target matches no node", hint="a target is any, master, all, a name, a glob, a list")
