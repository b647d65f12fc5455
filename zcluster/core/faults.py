"""How many faulty messages are borne with: a bucket for each key.

Rules kept here:
- a fault is a message that is refused as a whole: it cannot be read, or its sender may not send it (now). One that can be read
  and comes without a session counts for less: it may have been on its way when the session ended;
- each fault costs a refusal, which is more than it costs to send; so who has none left loses the connection, and its key opens no
  session for BARRED_S;
- the key counts, not the connection, or a new connection were a new bucket;
- the keys remembered are bounded, and time comes in with each call.
"""

from __future__ import annotations

from collections import OrderedDict

from zcluster.core.tries import Bucket

SHARE_PER_S = 0.01
"""What of the bucket comes back in a second."""
OUTSIDE = 1 / 16
"""What a message that can be read, but has no session, counts for."""
BARRED_S = 1.0
MAX_KEYS = 4096


class _Key:
    __slots__ = ("barred_until_s", "left")

    def __init__(self, left: Bucket) -> None:
        self.left = left
        self.barred_until_s = 0.0


class Faults:
    """Those of one node's peers.

    Args:
        most: how many a key may have at once.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._of_key: OrderedDict[str, _Key] = OrderedDict()

    def another(self, key: str, now: float, cost: float = 1.0) -> bool:
        """``key`` has sent one more, that counts for ``cost``; true when it was one too many."""
        known = self._of_key.pop(key, None)
        if known is None or known.left.most != self.most:
            if len(self._of_key) >= MAX_KEYS:
                self._of_key.popitem(last=False)
            known = _Key(Bucket(self.most, self.most * SHARE_PER_S, now))
        self._of_key[key] = known
        if known.left.take(now, cost):
            return False
        known.barred_until_s = now + BARRED_S
        return True

    def barred(self, key: str, now: float) -> bool:
        """Whether ``key`` opens no session now."""
        known = self._of_key.get(key)
        return known is not None and now < known.barred_until_s
