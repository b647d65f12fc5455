"""A worker takes the place of an older process with the same key.

Rules kept here:
- whoever has the key may take the place: the newer session ends the older process (the master tells it so), which then lets
  its directory go;
- until then the newer one is there with a bare session: no functions, no slots, so that nothing is sent to it yet;
- it waits a bounded time; an older process that does not end is an error that names it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from zcluster.core.batch import Outgoing
from zcluster.errors import UsageError, ZClusterError
from zcluster.nodes.data import lock_data, lock_when_free
from zcluster.process import OneProcess
from zcluster.wire import Beat, Message, Welcome


class Closable(Protocol):
    """A link that was started."""

    def close(self) -> None: ...


class Knock:
    """The owner of a bare session: it only is there."""

    def link_up(self, welcome: Welcome) -> None:
        """The older session is over now; its process ends."""

    def link_down(self, error: ZClusterError, was_up: bool, retry_s: float) -> None:
        """It is tried again by itself."""

    def link_ended(self, error: ZClusterError) -> None:
        """A third process has taken the place: the wait for the directory ends by its time."""

    def link_message(self, message: Message, data: bytes, offset: int) -> None:
        """Nothing is asked of a session without slots."""

    def link_beat(self) -> Beat:
        return Beat(slots=0)

    def link_take(self) -> list[Outgoing]:
        return []


async def lock_or_replace(directory: Path, knock: Callable[[], Closable]) -> OneProcess:
    """Hold ``directory``, ending the process that holds it by a newer session of its key.

    Args:
        knock: starts a bare session.

    Raises:
        UsageError: the other process does not end.
        InvalidKey: the directory cannot be made.
    """
    try:
        return lock_data(directory)
    except UsageError:
        link = knock()
    try:
        return await asyncio.shield(lock_when_free(directory))
    finally:
        link.close()
