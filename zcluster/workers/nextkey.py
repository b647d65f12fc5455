"""The key that is to follow this worker's own: told to the agents at its door.

Rules kept here:
- an agent that comes is told what the others were; what it answers is of no interest here;
- a worker says nothing of other keys: agents would not heed it (net/rekeying.py), and hear of them from the master.
"""

from __future__ import annotations

from zcluster.core.master import Master
from zcluster.core.peers import Peer
from zcluster.core.roster import AGENT_ROLE
from zcluster.wire import Hello, Message
from zcluster.wire.rotation import NextKey


class OwnNextKey:
    """An attachment of the sessions at a worker's door."""

    kinds = frozenset({NextKey.kind})

    def __init__(self, machine: Master) -> None:
        self._machine = machine
        self._told: NextKey | None = None
        machine.attach(self)

    def tell(self, message: NextKey) -> None:
        """Tell everybody here, and until it is ``now`` those that come."""
        self._told = None if message.now else message
        for peer in self._machine.roster.peers.values():
            self._machine.tell(peer, message)

    # -- an attachment ----------------------------------------------------------------------------------------------

    def opened(self, peer: Peer, hello: Hello, now: float) -> None:
        """It is told what there is."""
        if self._told is not None and peer.identity.role == AGENT_ROLE:
            self._machine.tell(peer, self._told)

    def closed(self, peer: Peer, reason: str, now: float) -> None:
        """Nothing to forget."""

    def received(self, peer: Peer, message: Message, data: bytes, offset: int, now: float) -> None:
        """It knows the key now."""
