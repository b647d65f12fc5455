"""What of AsyncClient is read line by line, and followed: events and logs.

Rules kept here:
- nothing is kept here: each call is an iterator of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from zcluster.clients import events, logs


class FollowedCalls:
    """The iterators; the client that inherits them makes the calls."""

    def events(
        self: events.Caller, after: int | None = None, *, names: Sequence[str] | str = (), since_s: float | None = None,
        follow: bool = True, limit: int | None = None,
    ) -> AsyncIterator[dict[str, Any]]:  # fmt: skip
        """What happens in the cluster: {sequence, at_s, name, level, fields}. After a lost connection it goes on by itself.

        Args:
            after: begin behind this sequence. since_s: begin at this time (seconds since 1970). Without both: from now on.
            names: only events of these names; globs such as ``sync_*``.
            follow: go on for ever; otherwise it ends with what is in the log (without a beginning: the newest of it).
            limit: end after so many.
        """
        return events.read(self, after, names=names, since_s=since_s, follow=follow, limit=limit)

    def logs(
        self: logs.Caller, target: str = "master", *, lines: int = 100, level: str = "debug", follow: bool = False
    ) -> AsyncIterator[dict[str, Any]]:
        """The newest lines of the logs of the nodes that ``target`` means: {time, level, node, message, fields}. For admins.

        Args:
            lines: how many at most, 0 to 2,000; of several nodes the newest of all, in the order of their times.
            level: only lines of this level (debug, info, warning, error) and above.
            follow: go on for ever with each line as it is written, over lost connections and nodes that start again.

        A node that does not answer is a line too, with ``error``; the error is raised when none does.
        """
        return logs.read(self, target, lines=lines, level=level, follow=follow)
