"""The keys that are to follow others, as the master told this worker: told on to the agents at its door.

Rules kept here:
- an agent that comes is told what the others were; what it answers is of no interest here;
- at most MAX_TOLD are remembered, the newest.
"""

from __future__ import annotations

from zcluster.core.master import Master
from zcluster.core.peers import Peer
from zcluster.core.roster import AGENT_ROLE
from zcluster.wire import Hello, Message
from zcluster.wire.rotation import NextKey

MAX_TOLD = 256


class NextKeys:
    """An attachment of the sessions at a worker's door."""

    kinds = frozenset({NextKey.kind})

    def __init__(self, machine: Master) -> None:
        self._machine = machine
        self._told: dict[str, NextKey] = {}
        machine.attach(self)

    def tell(self, message: NextKey) -> None:
        """Tell everybody here."""
        self._told.pop(message.node, None)
        if not message.now:
            self._told[message.node] = message
        if len(self._told) > MAX_TOLD:
            del self._told[next(iter(self._told))]
        for peer in self._machine.roster.peers.values():
            self._machine.tell(peer, message)

    def forget(self) -> None:
        """What was told so far may be over."""
        self._told.clear()

    # -- an attachment ----------------------------------------------------------------------------------------------

    def opened(self, peer: Peer, hello: Hello, now: float) -> None:
        """It is told what there is."""
        if peer.identity.role == AGENT_ROLE:
            for message in self._told.values():
                self._machine.tell(peer, message)

    def closed(self, peer: Peer, reason: str, now: float) -> None:
        """Nothing to forget."""

    def received(self, peer: Peer, message: Message, data: bytes, offset: int, now: float) -> None:
        """It knows the key now."""
