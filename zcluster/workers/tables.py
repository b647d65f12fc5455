"""The worker's side of replicated tables: copies of the master's tables in the worker's own store, under the same keys.

Rules kept here:
- a copy and its state are written in one commit (``copy/TABLE``); one that is too large for a commit is done in several, and
  says that it is not ready until the last;
- what comes quickly is taken together: all that waits when the loop comes round is one commit;
- nothing is asked for before what was decided with it is saved;
- a SUB socket is opened only when there is something to copy, and then stays (docs/decisions/0004);
- at most MAX_WAITING_BYTES of what was published wait; what is dropped beyond that is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zcluster.config import Loaded
from zcluster.core.peers import Event
from zcluster.core.tables.names import topic_of
from zcluster.dapi.function import Function, function
from zcluster.errors import PeerError, Unreachable
from zcluster.keys.rotation import OwnKey
from zcluster.net.subscriber import Subscriber
from zcluster.nodes.desk import Desk
from zcluster.wire import Message, Welcome, WireLimits, decode
from zcluster.wire.tables import Changes, Head, Page
from zcluster.workers.tablecopy import Frame, TableCopy
from zcluster.workers.uplink import Uplink

MAX_FRAME_BYTES = 1_048_576
"""Of one publication."""


class WorkerTables:
    """A part of a worker, and of its session.

    Args:
        own: who subscribes, and where.
        tables: those that it wants.
    """

    kinds = frozenset({Head.kind, Changes.kind, Page.kind})

    def __init__(self, desk: Desk, uplink: Uplink, own: OwnKey, tables: Sequence[str]) -> None:
        self._desk, self._uplink, self._own = desk, uplink, own
        self._copies = {table: TableCopy(table, desk, uplink.say, self._wanted) for table in tables}
        self._limits = WireLimits(frame_bytes=MAX_FRAME_BYTES)
        self._subscriber: Subscriber | None = None
        self._cannot_subscribe = False
        uplink.attach(self)

    def rekey(self) -> None:
        """The worker's key is another."""
        if self._subscriber is not None:
            self._subscriber.rekey()

    # -- a part of the node -------------------------------------------------------------------------------------------

    def functions(self) -> dict[str, Function]:
        @function("tables.status", idempotent=True)
        async def status() -> list[dict[str, Any]]:
            """The replicated tables of this node: how far each is, its digest, and how old it is."""
            return [await copy.row() for copy in self._copies.values()]

        return {found.name: found for found in map(Function, [status])}

    async def start(self) -> None:
        for copy in self._copies.values():
            await copy.start()

    def apply(self, loaded: Loaded) -> None:
        """Nothing of this is configured."""

    async def close(self) -> None:
        if self._subscriber is not None:
            self._subscriber.close()
            self._subscriber = None
        for copy in self._copies.values():
            await copy.close()

    def copy_age(self, table: str) -> tuple[int, float | None]:
        """The master's revision of the copy of ``table``, and how many seconds ago it was last known to be the newest; None:
        never since this start."""
        copy = self._copies.get(table)
        return (copy.revision, copy.age_s()) if copy is not None else (0, None)

    # -- the session --------------------------------------------------------------------------------------------------

    def link_up(self, welcome: Welcome) -> None:
        for copy in self._copies.values():
            copy.link_up(welcome.heartbeat_s)

    def link_down(self) -> None:
        for copy in self._copies.values():
            copy.link_down()

    def receive(self, message: Message, data: bytes, offset: int) -> None:
        if isinstance(message, Head | Changes | Page):
            copy = self._copies.get(message.table)
            if copy is not None:
                copy.hear(Frame(message, data[offset:], session=True))

    # -- what is published --------------------------------------------------------------------------------------------

    def published(self, topic: bytes, frame: bytes) -> None:
        try:
            message, offset = decode(frame, self._limits)
            if not isinstance(message, Head | Changes) or topic_of(message.table) != topic:
                raise PeerError(f"{type(message).__name__.upper()} makes no sense under this topic")
        except PeerError as error:
            self._desk.logger.warning("a publication could not be read: %s", error)
            return
        copy = self._copies.get(message.table)
        if copy is not None:
            copy.hear(Frame(message, frame[offset:], session=False))

    def subscription_up(self) -> None:
        for copy in self._copies.values():
            copy.listening()

    def subscription_refused(self) -> None:
        self._desk.logger.warning("the master refuses the subscription to tables; they are asked for instead")

    # -- inside -------------------------------------------------------------------------------------------------------

    def _wanted(self) -> None:
        """One of the copies wants to hear what is published."""
        if self._subscriber is not None or self._cannot_subscribe:
            return
        try:
            topics = [topic_of(table) for table in self._copies]
            self._subscriber = Subscriber(self._own, topics, self, MAX_FRAME_BYTES)
        except Unreachable as error:
            self._cannot_subscribe = True
            self._desk.note(Event("tables_not_subscribed", {"reason": str(error)}, "warning"))
