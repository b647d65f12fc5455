"""A client's durable jobs: from the submission to the number of the job. following.py goes on from there.

Rules kept here:
- a submission ends exactly once: accepted, refused, at its deadline, or with its session;
- ids grow within the life of the machine, so a session never sees one twice;
- when the session is lost, a submission that was sent and has an idempotency key is sent again until its deadline: it cannot
  make a second job. One without a key ends with MasterLost, because nobody knows whether it was accepted;
- what a master that shuts down refuses was not submitted: it waits for the next session, as what was never sent does;
- at most MAX_OPEN submissions are open at once; the next one is Busy;
- submissions that differ in their arguments and idempotency keys only are one group, however many there are in a turn.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from zcluster.core.batch import Lanes, Outgoing
from zcluster.core.wheel import Wheel
from zcluster.errors import Busy, Draining, MasterLost, TimedOut, TooLarge, UsageError, ZClusterError, error_from_dict
from zcluster.wire.jobs import Accepted, JobGroup, JobRefusal, Jobs
from zcluster.wire.messages import Welcome

MAX_OPEN = 131_072
MAX_NAME_CHARS = 128
MAX_TARGET_CHARS = 8192
MAX_KEY_CHARS = 256


class Terms(NamedTuple):
    """What is asked for a job besides its arguments and its idempotency key; the fields are those of JobGroup."""

    function: str
    target: str = "any"
    priority: int = 5
    flags: int = 0
    delay_ms: int = 0
    at_ms: int = 0
    expires_ms: int = 0
    retries: int = 3
    timeout_ms: int = 0
    retention_ms: int = 0
    sequence: str = ""


class Submission(msgspec.Struct, eq=False):
    """One submission. ``sink`` is the owner's. When it has ended, ``error`` says why there is no job, or ``number`` which one."""

    id: int
    terms: Terms
    body: bytes
    key: str
    """Its idempotency key, or empty."""
    deadline_s: float
    timeout_s: float
    sent: bool = False
    sink: Any = None
    store: str = ""
    number: int = 0
    known: bool = False
    """The job was there already."""
    error: ZClusterError | None = None


class Submitting:
    """The table of a client's open submissions. What has ended is returned, each once."""

    def __init__(self) -> None:
        self.inline_bytes = 65_536
        """The largest arguments that a submission carries; the master's WELCOME says it."""
        self.max_open = MAX_OPEN
        self.up = False
        self.draining = False
        """The master said that it shuts down."""
        self.stray = 0
        """What the master said of submissions that are not open."""
        self.open: dict[int, Submission] = {}
        self._last_id = 0
        self._lanes: Lanes[JobGroup] = Lanes(Jobs, 262_144)
        self._alike: Submission | None = None
        """The submission before, in whose group the next one may be."""
        self._wheel: Wheel[Submission] = Wheel()

    # -- the caller's side ------------------------------------------------------------------------------------------

    def submit(self, terms: Terms, body: bytes, key: str, now: float, timeout_s: float) -> Submission:
        """Open a submission; it leaves with the next :meth:`take`.

        Raises:
            Busy: max_open are open.
            TooLarge: the body is over inline_bytes (the function ``queue.submit`` takes it).
            UsageError: a text is longer than a message can carry, or none that UTF-8 can hold.
        """
        if len(self.open) >= self.max_open:
            raise Busy(f"{self.max_open} submissions are open", hint="await some of them first", retry_after_s=0.1)
        if len(body) > self.inline_bytes:
            raise TooLarge(f"arguments of {len(body)} bytes, at most {self.inline_bytes} go into a submission")
        alike = self._alike
        if alike is not None and (alike.terms is terms or alike.terms == terms):
            terms = alike.terms  # what is the same needs no second comparison
        else:
            _check_terms(terms)
        if key and (len(key) > MAX_KEY_CHARS or not key.isascii()):
            _check_text("an idempotency key", key, MAX_KEY_CHARS)
        self._last_id = id_ = self._last_id + 1
        deadline_s = now + timeout_s
        submission = Submission(id_, terms, body, key, deadline_s, timeout_s)
        self.open[id_] = submission
        self._wheel.add(deadline_s, submission)
        if self.up and not self.draining:
            self._send(submission)
        return submission

    def abandon(self, submission: Submission) -> None:
        """Nobody wants to know what becomes of it any more. What was sent may be accepted."""
        if self.open.pop(submission.id, None) is not None:
            self._wheel.remove(submission.deadline_s, submission)

    @property
    def full(self) -> bool:
        """Whether a whole message of submissions waits to be taken."""
        return self._lanes.batch.full

    # -- the session's side -----------------------------------------------------------------------------------------

    def session_up(self, welcome: Welcome) -> list[Submission]:
        """A session is open: send what waits, and again what may be sent again. Returns what this master cannot take."""
        self.inline_bytes = welcome.inline_bytes
        self._lanes, self._alike = Lanes(Jobs, welcome.chunk_bytes), None
        self.up, self.draining = True, False
        ended: list[Submission] = []
        for submission in list(self.open.values()):
            if len(submission.body) > self.inline_bytes:
                limit = f"at most {self.inline_bytes} go into a submission to this master"
                ended.append(self._end(submission, TooLarge(f"arguments of {len(submission.body)} bytes, {limit}")))
            else:
                self._send(submission)
        return ended

    def session_lost(self) -> list[Submission]:
        """The session ended: the submissions that end with it."""
        self.up = self.draining = False
        self._lanes, self._alike = Lanes(Jobs, 262_144), None
        ended: list[Submission] = []
        for submission in list(self.open.values()):
            if submission.sent and not submission.key:
                error = MasterLost(
                    f"the connection to the master ended before {submission.terms.function} was acknowledged; "
                    "whether it was accepted is unknown",
                    hint="give it an idempotency key to have it submitted again",
                )
                ended.append(self._end(submission, error))
            submission.sent = False
        return ended

    def drain(self) -> None:
        """The master shuts down: what is submitted from now on, and what it refuses for that, waits for the next session."""
        self.draining = True

    def accepted(self, message: Accepted) -> list[Submission]:
        """What became of submissions."""
        ended: list[Submission] = []
        open_, forget, store = self.open, self._wheel.remove, message.store
        for group in message.groups:
            ahead = group.first_number - group.first_id
            for id_ in range(group.first_id, min(group.first_id + group.count, self._last_id + 1)):
                submission = open_.pop(id_, None)
                if submission is None:
                    self.stray += 1
                    continue
                forget(submission.deadline_s, submission)
                submission.store, submission.number = store, id_ + ahead
                ended.append(submission)
        for known in message.known:
            submission = open_.pop(known.id, None)
            if submission is None:
                self.stray += 1
                continue
            forget(submission.deadline_s, submission)
            submission.store, submission.number, submission.known = store, known.number, True
            ended.append(submission)
        for refusal in message.refused:
            self._refuse(refusal, ended)
        return ended

    def refused(self, error: ZClusterError) -> list[Submission]:
        """A whole message of submissions was refused: what was sent has no other answer."""
        return [self._end(submission, error) for submission in list(self.open.values()) if submission.sent]

    def end_all(self, error: ZClusterError) -> list[Submission]:
        """Every submission ends with ``error``."""
        return [self._end(submission, error) for submission in list(self.open.values())]

    # -- time and output --------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        return self._wheel.next_deadline()

    def handle_deadline(self, now: float) -> list[Submission]:
        """The submissions whose deadline has passed."""
        ended: list[Submission] = []
        for submission in self._wheel.expired(now):
            if self.open.pop(submission.id, None) is not None:
                submission.error = _late(submission)
                ended.append(submission)
        return ended

    def take(self) -> list[Outgoing]:
        """What is to be sent now, in order."""
        return self._lanes.take() if self.up and self._lanes else []

    # -- inside -----------------------------------------------------------------------------------------------------

    def _send(self, submission: Submission) -> None:
        submission.sent = True
        key, body, alike = submission.key, submission.body, self._alike
        group = self._lanes.batch.last
        self._alike = submission
        if (
            group is not None and alike is not None and alike.id + 1 == submission.id and alike.terms is submission.terms
            and (group.keys is not None) == bool(key)
        ):  # fmt: skip
            if group.keys is not None:
                group.keys.append(key)
            self._lanes.batch.join(body)
            return
        terms = submission.terms
        group = JobGroup(*terms, submission.id, [len(body)], [key] if key else None)
        self._lanes.batch.begin(group, body, 160 + 6 * (len(terms.function) + len(terms.target) + len(terms.sequence)))

    def _refuse(self, refusal: JobRefusal, ended: list[Submission]) -> None:
        for id_ in range(refusal.first_id, min(refusal.first_id + refusal.count, self._last_id + 1)):
            submission = self.open.get(id_)
            if submission is None:
                self.stray += 1
                continue
            if self.draining and refusal.code == Draining.code:
                submission.sent = False
                continue
            error = error_from_dict({
                "code": refusal.code, "message": refusal.message, "hint": refusal.hint,
                "retry_after_s": refusal.retry_after_s,
            })  # fmt: skip
            ended.append(self._end(submission, error))

    def _end(self, submission: Submission, error: ZClusterError) -> Submission:
        self.abandon(submission)
        submission.error = error
        return submission


def _late(submission: Submission) -> TimedOut:
    terms = submission.terms
    hint = ""
    if not submission.sent:
        state = "it was never sent: no master could be reached"
    else:
        state = "whether it was accepted is unknown"
        again = "with the same idempotency key" if submission.key else "with an idempotency key it could be done safely"
        hint = f"submit it again: {again}"
    return TimedOut(f"{terms.function} at {terms.target}: not acknowledged in {submission.timeout_s:g} s; {state}", hint=hint)


def _check_terms(terms: Terms) -> None:
    _check_text("a function's name", terms.function, MAX_NAME_CHARS)
    _check_text("a target", terms.target, MAX_TARGET_CHARS)
    _check_text("a sequence", terms.sequence, MAX_NAME_CHARS)


def _check_text(what: str, text: str, max_chars: int) -> None:
    if len(text) > max_chars:
        raise UsageError(f"{what} has at most {max_chars} characters, not {len(text)}")
    try:
        text.encode()
    except UnicodeEncodeError:
        # It would break the whole message, and with it the submissions of others.
        raise UsageError(f"{what} is not valid Unicode text", hint="check the encoding") from None
