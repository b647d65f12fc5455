"""A subscription to what the master publishes, as an asynchronous iterator.

Rules kept here:
- a subscription has its own connection: a slow reader of events holds up no request;
- it goes on over reconnections until it is closed (net/subscriber.py); a refused key ends it;
- at most EVENTS_AHEAD events wait to be read, then the oldest are dropped (their numbers show it).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

import orjson

from zcluster.errors import NotAllowed, Unreachable
from zcluster.keys.rotation import OwnKey
from zcluster.net.subscriber import Subscriber

MAX_EVENT_BYTES = 1_048_576
EVENTS_AHEAD = 10_000


class Subscription:
    """Events of one topic, as dictionaries; use it with ``async with`` and ``async for``.

    Raises:
        Unreachable: the key file names no address to subscribe at. NotAllowed: the master refuses the key.
    """

    def __init__(self, own: OwnKey, topic: bytes) -> None:
        if not own.key_file.publish:
            raise Unreachable("the key file names no publisher", hint="make a new key file with `zcluster keys new`")
        self._own = own
        self._topic = topic
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_AHEAD)
        self._waiter: asyncio.Future[None] | None = None
        self._refused = False
        self.subscriber: Subscriber | None = None

    async def __aenter__(self) -> Subscription:
        self._loop = asyncio.get_running_loop()
        self.subscriber = Subscriber(self._own, [self._topic], self, MAX_EVENT_BYTES)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.subscriber is not None:
            self.subscriber.close()

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        while True:
            while self._events:
                yield self._events.popleft()
            if self._refused:
                raise NotAllowed("the master refuses this key", hint="admit it there: `zcluster keys add`")
            self._waiter = self._loop.create_future()
            await self._waiter

    # -- the subscriber's owner ---------------------------------------------------------------------------------------

    def published(self, topic: bytes, frame: bytes) -> None:
        self._events.append(orjson.loads(frame))
        self._notify()

    def subscription_up(self) -> None:
        self._refused = False

    def subscription_refused(self) -> None:
        self._refused = True
        self._notify()

    def _notify(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
