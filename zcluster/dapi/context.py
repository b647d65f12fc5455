"""What a function may know about the request that it serves.

Rules kept here:
- a function gets a Context only when a parameter is annotated with it; no other call pays for one;
- a Context is read by the function and marked by the runner, possibly from two threads: the only thing that changes
  is one flag, which goes from False to True once.
"""

from __future__ import annotations

from collections.abc import Callable


class Context:
    """The request that a function serves: ``def f(path: str, context: zcluster.Context)``.

    Attributes:
        caller: name of the key that made the request.
        role: role of that key.
        node: the node that runs the function.
        request_id: ``SESSION.ID``; the same in every node's log.
        deadline_s: when the request ends, on the clock of the node (use :meth:`remaining_s`).
    """

    __slots__ = ("_cancelled", "_clock", "caller", "deadline_s", "node", "request_id", "role")

    def __init__(
        self, *, caller: str, role: str, node: str, request_id: str, deadline_s: float, clock: Callable[[], float]
    ) -> None:
        self.caller = caller
        self.role = role
        self.node = node
        self.request_id = request_id
        self.deadline_s = deadline_s
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
