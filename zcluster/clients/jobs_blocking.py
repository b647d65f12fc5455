"""Job and Queue: AsyncJob and AsyncQueue for programs without an event loop.

Rules kept here:
- each method is that of the same name in jobs.py or queue.py, blocking; iterators yield as answers arrive.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from typing import Any

from zcluster.clients.jobs import AsyncJob
from zcluster.clients.queue import AsyncQueue
from zcluster.clients.result import Result

Row = dict[str, Any]
Run = Callable[[Coroutine[Any, Any, Any]], Any]
Iterate = Callable[[AsyncIterator[Any]], Iterator[Any]]


class Job:
    """AsyncJob, blocking.

    Attributes:
        id: ``STORE-NUMBER``.
        known: it was there already when it was submitted (the same idempotency key).
    """

    def __init__(self, job: AsyncJob, run: Run, iterate: Iterate) -> None:
        self._job, self._run, self._iterate = job, run, iterate
        self.id = job.id
        self.known = job.known

    def __repr__(self) -> str:
        return f"<job {self.id}>"

    def state(self, *, timeout: float | None = None) -> str:
        """See AsyncJob.state."""
        found: str = self._run(self._job.state(timeout=timeout))
        return found

    def info(self, *, timeout: float | None = None) -> Row:
        """See AsyncJob.info."""
        found: Row = self._run(self._job.info(timeout=timeout))
        return found

    def wait(self, timeout: float | None = None) -> str:
        """See AsyncJob.wait."""
        found: str = self._run(self._job.wait(timeout))
        return found

    def result(self, timeout: float | None = None) -> Any:
        """See AsyncJob.result."""
        return self._run(self._job.result(timeout))

    def outcomes(self, *, timeout: float | None = None) -> Iterator[Result]:
        """See AsyncJob.outcomes."""
        return self._iterate(self._job.outcomes(timeout=timeout))

    def cancel(self, *, timeout: float | None = None) -> None:
        """See AsyncJob.cancel."""
        self._run(self._job.cancel(timeout=timeout))


class Queue:
    """AsyncQueue, blocking."""

    def __init__(self, calls: AsyncQueue, run: Run, iterate: Iterate) -> None:
        self._calls, self._run, self._iterate = calls, run, iterate

    def list(
        self, state: str = "", target: str = "", function: str = "", *, limit: int = 100, before: str = "",
        timeout: float | None = None,
    ) -> Row:  # fmt: skip
        """See AsyncQueue.list."""
        return self._row(self._calls.list(state, target, function, limit=limit, before=before, timeout=timeout))

    def show(self, id: str, *, timeout: float | None = None) -> Row:
        """See AsyncQueue.show."""
        return self._row(self._calls.show(id, timeout=timeout))

    def cancel(self, ids: str | Iterable[str], *, timeout: float | None = None) -> Row:
        """See AsyncQueue.cancel."""
        return self._row(self._calls.cancel(ids, timeout=timeout))

    def retry(self, ids: str | Iterable[str], *, timeout: float | None = None) -> Row:
        """See AsyncQueue.retry."""
        return self._row(self._calls.retry(ids, timeout=timeout))

    def drop(self, ids: str | Iterable[str], *, timeout: float | None = None) -> Row:
        """See AsyncQueue.drop."""
        return self._row(self._calls.drop(ids, timeout=timeout))

    def pause(self, target: str, *, timeout: float | None = None) -> Row:
        """See AsyncQueue.pause."""
        return self._row(self._calls.pause(target, timeout=timeout))

    def resume(self, target: str, *, timeout: float | None = None) -> Row:
        """See AsyncQueue.resume."""
        return self._row(self._calls.resume(target, timeout=timeout))

    def drain(self, on: bool = True, *, timeout: float | None = None) -> Row:
        """See AsyncQueue.drain."""
        return self._row(self._calls.drain(on, timeout=timeout))

    def stats(self, *, timeout: float | None = None) -> Row:
        """See AsyncQueue.stats."""
        return self._row(self._calls.stats(timeout=timeout))

    def check(self, *, timeout: float | None = None) -> Row:
        """See AsyncQueue.check."""
        return self._row(self._calls.check(timeout=timeout))

    def watch(self, state: str = "", function: str = "", *, timeout: float | None = None) -> Iterator[Row]:
        """See AsyncQueue.watch."""
        return self._iterate(self._calls.watch(state, function, timeout=timeout))

    def _row(self, work: Coroutine[Any, Any, Row]) -> Row:
        found: Row = self._run(work)
        return found
