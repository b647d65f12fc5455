"""The roles of the configuration at a worker: a copy of the master's definitions, by which the worker itself checks.

Rules kept here:
- a copy holds for one session: with each it is made anew, and until it is told of a role that role may do nothing here.
"""

from __future__ import annotations

from zcluster.core.rights import Rights, Rule
from zcluster.wire import Message, Welcome
from zcluster.wire.rights import Roles


class WorkerRoles:
    """A part of a worker's session. ``rights`` are those that its end of the requests looks at."""

    kinds = frozenset({Roles.kind})

    def __init__(self, rights: Rights) -> None:
        self._rights = rights

    def link_up(self, welcome: Welcome) -> None:
        self._rights.define(())

    def link_down(self) -> None:
        """Nothing is run without a session."""

    def receive(self, message: Message, data: bytes, offset: int) -> None:
        if isinstance(message, Roles):
            self._rights.define(
                Rule(role.name, role.base, tuple(role.functions), tuple(role.targets), role.lowest, role.highest)
                for role in message.roles
            )
