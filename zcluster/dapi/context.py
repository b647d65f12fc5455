"""What a function may know about the request that it serves.

Rules kept here:
- a function gets a Context only when a parameter is annotated with it; no other call pays for one;
- a Context is read by the function and marked by the runner, possibly from two threads: the only thing that changes
  is one flag, which goes from False to True once.
"""

from __future__ import annotations

from collections.abc import Callable

from zcluster.wire import Mark


class Context:
    """The request that a function serves: ``def f(path: str, context: zcluster.Context)``.

    Attributes:
        caller: name of the key that made the request.
        role: role of that key.
        node: the node that runs the function.
        request_id: ``SESSION.ID``; the same in every node's log.
        deadline_s: when the request ends, on the clock of the node (use :meth:`remaining_s`).
        job: id of the durable job that this is an attempt of, or "" for an ordinary request.
        attempt: number of the attempt, from 1; 0 for an ordinary request.
        idempotency_key: the job's, or "" when it has none.
        held: the names of all roles whose rights hold for the request; empty where that is ``role`` alone.
    """

    __slots__ = (
        "_cancelled", "_clock", "attempt", "caller", "deadline_s", "held", "idempotency_key", "job", "node", "request_id",
        "role",
    )  # fmt: skip

    def __init__(
        self, *, caller: str, role: str, node: str, request_id: str, deadline_s: float, clock: Callable[[], float],
        mark: Mark | None = None, held: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.held = held
        self.caller = caller
        self.role = role
        self.node = node
        self.request_id = request_id
        self.deadline_s = deadline_s
        self.job = "" if mark is None else mark.job
        self.attempt = 0 if mark is None else mark.attempt
        self.idempotency_key = "" if mark is None else mark.key
        self._clock = clock
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the result any more (cancelled, past its deadline, or the node is stopping).

        May be read from any thread. A function in a thread should look at it now and then and return: Python cannot
        stop a thread. For ``pool="process"`` it stays False: the process is killed instead.
        """
        return self._cancelled

    def mark_cancelled(self) -> None:
        """Set :attr:`cancelled`; for the runner, from any thread."""
        self._cancelled = True

    def remaining_s(self) -> float:
        """Seconds until the deadline; 0.0 when it has passed."""
        return max(0.0, self.deadline_s - self._clock())
