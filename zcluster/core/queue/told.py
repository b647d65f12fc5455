"""What the queue wants told, once it is on disk: plain lists that the process empties each turn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from zcluster.core.peers import Event
from zcluster.core.queue.following import Follower
from zcluster.core.queue.job import Job, Step
from zcluster.errors import ZClusterError


class Owner(Follower, Protocol):
    """Who submits jobs."""

    def accepted(self, submission: Submission) -> None:
        """All its jobs are new, and on disk."""

    def known(self, id_: int, job: Job, before: bool) -> None:
        """One submission has become ``job``, which was there ``before``."""

    def refused(self, first_id: int, count: int, error: ZClusterError) -> None:
        """Submissions were not accepted."""


@dataclass(slots=True)
class Submission:
    """Jobs of one owner with consecutive ids: alike but for their arguments, or one fan-out with its parts."""

    owner: Owner
    first_id: int
    jobs: list[Job]
    parts: list[Job]
    bytes: int
    """Of arguments, those of the parts too."""

    @property
    def all(self) -> list[Job]:
        return [*self.jobs, *self.parts]


@dataclass(slots=True)
class Told:
    """Everything that is to be told."""

    accepted: list[Submission] = field(default_factory=list)
    """Whole submissions whose jobs are all new."""
    known: list[tuple[Owner, int, Job, bool]] = field(default_factory=list)
    """A submission by its id, the job that it has become, and whether that was there before."""
    refused: list[tuple[Owner, int, int, ZClusterError]] = field(default_factory=list)
    """First id, how many, why."""
    outcomes: dict[Follower, list[Job]] = field(default_factory=dict)
    unknown: dict[Follower, list[int]] = field(default_factory=dict)
    stops: list[Job] = field(default_factory=list)
    """Jobs that nodes have, and that are not wanted any more."""
    answers: list[tuple[Any, int, Job | None, ZClusterError | None]] = field(default_factory=list)
    """To orders: whose, the number, the job, and why not."""
    ended: list[Job] = field(default_factory=list)
    changed: list[tuple[Job, Step]] = field(default_factory=list)
    """The steps of jobs, when somebody watches."""
    events: list[Event] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(
            self.accepted or self.ended or self.outcomes or self.known or self.refused or self.unknown or self.stops
            or self.answers or self.changed or self.events
        )  # fmt: skip
