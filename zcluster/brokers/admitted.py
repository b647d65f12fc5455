"""Who is admitted at this moment: the ring, as the master's process knows it.

Rules kept here:
- who a connection is comes from the ring as it was read last; after a change of the ring nothing of before is believed;
- an identity's key is the entry's id, whatever public key the connection has: a session outlives a rotation, and what belongs to
  a key does not pass to a later one of the same name;
- the holder of a join token that is not over is a joiner, who may say JOIN and nothing else;
- a ring that cannot be read changes nothing: whoever was admitted still is, and the log says so.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from zcluster.core.carrying import lowered
from zcluster.core.peers import Identity
from zcluster.core.rights import Rights
from zcluster.errors import InvalidKey
from zcluster.keys import JOINER, KeyFile, Ring, may_subscribe
from zcluster.keys.applied import forget_applied, note_applied
from zcluster.keys.tokens import refusal


def own_identity(ring: Ring, key_file: KeyFile) -> Identity:
    """Who the master is whose key file this is: its key may be another than its first."""
    entry = ring.by_public(key_file.pair.public)
    return Identity(key_file.pair.public if entry is None else entry.id, key_file.name, "master")


class Admitted:
    """The identities of ``ring``'s keys; ``me`` is the master's own."""

    def __init__(self, ring: Ring, me: Identity, logger: logging.Logger, run_dir: Path) -> None:
        self._ring, self._me, self._logger, self._run_dir = ring, me, logger, run_dir
        self.rights = Rights()
        """What the configuration says of roles; of those that are not built in, what they are based on too."""
        self._rights_seen = 0
        self._looked_s = time.time()
        self.by_public: dict[str, Identity] = {}
        """Those that were asked for since the last change."""

    def identify(self, public: str) -> Identity | None:
        """Whose public key it is; None: it is not admitted."""
        entry = self._ring.by_public(public)
        if entry is None:
            return self._joiner(public)
        identity = self.by_public[public] = self.rights.identity(entry.id, entry.name, entry.role)
        return identity

    def name_of(self, public: str) -> str:
        """The name of a public key, "" when it is not admitted."""
        entry = self._ring.by_public(public)
        return "" if entry is None else entry.name

    def _joiner(self, public: str) -> Identity | None:
        """Who has the token of this public key; not remembered, because a token ends by itself."""
        token = self._ring.token_of(public)
        return None if token is None or refusal(token, time.time()) else Identity(public, f"token:{token.id}", JOINER)

    def still(self, identity: Identity) -> bool:
        """Whether who had a session before is still the same, with the same rights."""
        entry = self._ring.by_id(identity.key)
        found = None if entry is None else self.rights.identity(entry.id, entry.name, entry.role)
        return identity == self._me or (found is not None and identity in (found, lowered(found)))

    def may_subscribe(self, public: str) -> bool:
        """Whether a key may subscribe to what the master publishes."""
        identity = self.identify(public)
        return identity is not None and may_subscribe(identity.role)

    def is_node(self, name: str) -> bool:
        """Whether a node may have this name."""
        return name == self._me.name or name in self._ring.entries

    def workers(self) -> list[str]:
        """The names of the workers' keys."""
        return [name for name, entry in self._ring.entries.items() if entry.role == "worker"]

    def changed(self) -> bool:
        """Read the ring if it changed; returns whether it did, or what its roles mean, or whether the time of a key of before is
        over."""
        since_s, self._looked_s = self._looked_s, time.time()
        ended = self._ring.ended(since_s, self._looked_s)
        roles, self._rights_seen = self._rights_seen != self.rights.changes, self.rights.changes
        try:
            if not self._ring.reload_if_changed() and not roles and not ended:
                return False
        except InvalidKey as error:
            self._logger.error("the ring cannot be read, the keys admitted before stay: %s", error)
            if not roles and not ended:
                return False
        self.by_public.clear()
        return True

    def applies(self) -> None:
        """What the ring said last holds now, everywhere: noted for those who changed it."""
        try:
            note_applied(self._run_dir, self._ring.version)
        except OSError as error:
            self._logger.warning("that the ring is applied could not be noted: %s", error.strerror)

    def close(self) -> None:
        """Nothing holds any more."""
        forget_applied(self._run_dir)
