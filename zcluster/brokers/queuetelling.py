"""Telling what is on disk: to who submitted and follows, to the audit log, to who watches.

Rules kept here:
- what is told in one turn leaves with that turn;
- each outcome is audited before its arguments are let go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from zcluster.brokers.audit import Audit
from zcluster.brokers.jobruns import JobRuns
from zcluster.brokers.queueowners import SessionOwner, outcomes
from zcluster.brokers.queuewatch import Watchers
from zcluster.core.master import Master
from zcluster.core.queue.jobid import job_id
from zcluster.core.queue.told import Owner, Told
from zcluster.nodes.desk import Desk


class Telling:
    """Empties the machine's lists.

    Args:
        store: the first half of each job's id.
    """

    def __init__(self, desk: Desk, machine: Master, audit: Audit, runs: JobRuns, watchers: Watchers, store: str) -> None:
        self._desk, self._machine, self._audit = desk, machine, audit
        self._runs, self._watchers, self._store = runs, watchers, store

    def tell(self, told: Told) -> None:
        """Tell all of it."""
        owners: dict[Owner, None] = {}
        for submission in told.accepted:
            owners[submission.owner] = None
            submission.owner.accepted(submission)
            for job in submission.jobs:
                self._audit.job_accepted(job, job.accepted_s)
        for owner, id_, job, before in told.known:
            owners[owner] = None
            owner.known(id_, job, before)
            if not before:
                self._audit.job_accepted(job, job.accepted_s)
        for owner, first_id, count, error in told.refused:
            owners[owner] = None
            owner.refused(first_id, count, error)
        for future, number, found, why in told.answers:
            if not future.done():
                future.set_result((number, found, why))
        for job in told.stops:
            self._runs.stop(job)
        for event in told.events:
            if "job" in event.fields:
                event = replace(event, fields={**event.fields, "job": job_id(self._store, event.fields["job"])})
            self._desk.note(event)
        for job in told.ended:
            self._audit.job_ended(job, job.steps[-1].at_s)
            job.body = b""  # nobody needs it any more, and the latest jobs stay in memory for a while
        if told.changed:
            self._watchers.changed(told.changed)
        self._send(owners, told)

    def _send(self, owners: Iterable[Owner], told: Told) -> None:
        store, sessions = self._store, self._desk.sessions
        for owner in owners:
            if isinstance(owner, SessionOwner):
                for accepted in owner.take(store):
                    sessions.tell(owner.peer, accepted)
        inline_bytes = self._machine.limits.inline_bytes
        for follower in {**told.outcomes, **told.unknown}:
            if isinstance(follower, SessionOwner):
                jobs, unknown = told.outcomes.get(follower, ()), told.unknown.get(follower, ())
                for message, data in outcomes(store, jobs, unknown, inline_bytes):
                    sessions.tell(follower.peer, message, data)
