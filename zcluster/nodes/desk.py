"""What a node's process gives to its parts, and what it asks of them. Plain declarations.

Rules kept here:
- a part does nothing blocking on the loop: disks are behind the store and the book;
- a part tells peers through ``sessions`` or ``uplink``, and then calls ``wake``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from zcluster.config import Home, Loaded
from zcluster.core.attachments import Attachment
from zcluster.core.batch import Body
from zcluster.core.peers import Event, Peer
from zcluster.dapi.builtins import ResourceSampler
from zcluster.dapi.function import Function
from zcluster.errors import ZClusterError
from zcluster.store.book import AgentBook
from zcluster.store.interface import Store
from zcluster.wire import Message


class Sessions(Protocol):
    """The machine at which agents have their sessions: the master's, or that of a worker's door."""

    def attach(self, part: Attachment) -> None: ...
    def tell(self, peer: Peer, message: Message, body: Body = b"") -> None: ...
    def end(self, peer: Peer, error: ZClusterError, now: float) -> None: ...


@dataclass
class Desk:
    """One for each node's process."""

    name: str
    role: str
    """``master`` or ``worker``."""
    home: Home
    loaded: Callable[[], Loaded]
    clock: Callable[[], float]
    """The loop's."""
    wall_s: Callable[[], float]
    """Seconds since 1970."""
    wake: Callable[[], None]
    """Something is to be sent: soon, not now."""
    note: Callable[[Event], None]
    """Something happened: logged, and told to who follows the events of the cluster."""
    logger: logging.Logger
    sampler: ResourceSampler
    store: Store
    book: AgentBook
    sessions: Sessions
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the node begins to end: what would go on for ever ends then."""


class Part(Protocol):
    """A part of a node's process."""

    def functions(self) -> dict[str, Function]:
        """What it answers."""

    async def start(self) -> None:
        """The node is about to listen; its store and book are open."""

    def apply(self, loaded: Loaded) -> None:
        """The configuration file was read again."""

    async def close(self) -> None:
        """The node has left its peers; the store and the book close next."""
