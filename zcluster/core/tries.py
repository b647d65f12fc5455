"""How often strangers may try: a bucket of tokens for each address, and one for all.

Rules kept here:
- only unknown keys take tokens: who is admitted is never held up by those who are not;
- the addresses remembered are bounded; the one that tried longest ago is forgotten first, and then begins with a full bucket, so
  that the bucket of all is what holds against who has many addresses;
- time comes in with each question.
"""

from __future__ import annotations

from collections import OrderedDict

PER_ADDRESS_PER_S = 1.0
PER_ADDRESS = 20
IN_ALL_PER_S = 20.0
IN_ALL = 200
MAX_ADDRESSES = 4096


class Bucket:
    """Holds ``most`` tokens, gets ``per_s`` each second."""

    __slots__ = ("_at_s", "_left", "most", "per_s")

    def __init__(self, most: int, per_s: float, now: float) -> None:
        self.most, self.per_s = most, per_s
        self._left, self._at_s = float(most), now

    def any(self, now: float, tokens: float = 1.0) -> bool:
        """Whether there is a token to take, or so many ``tokens``."""
        self._left = min(float(self.most), self._left + max(0.0, now - self._at_s) * self.per_s)
        self._at_s = now
        return self._left >= tokens

    def take(self, now: float, tokens: float = 1.0) -> bool:
        """Take one token, or so many ``tokens``; false: there are not so many left."""
        if not self.any(now, tokens):
            return False
        self._left -= tokens
        return True

    def wait_s(self, now: float) -> float:
        """How long it takes from ``now`` until there is a token to take."""
        return 0.0 if self.any(now) else (1.0 - self._left) / self.per_s


class Tries:
    """The tries of one node's strangers."""

    def __init__(self, now: float) -> None:
        self._all = Bucket(IN_ALL, IN_ALL_PER_S, now)
        self._of_address: OrderedDict[str, Bucket] = OrderedDict()

    def allow(self, address: str, now: float) -> bool:
        """Whether one more try from ``address`` is worth looking at."""
        mine = self._of_address.pop(address, None)
        if mine is None:
            if len(self._of_address) >= MAX_ADDRESSES:
                self._of_address.popitem(last=False)
            mine = Bucket(PER_ADDRESS, PER_ADDRESS_PER_S, now)
        self._of_address[address] = mine
        return mine.take(now) and self._all.take(now)

    def would(self, address: str, now: float) -> bool:
        """Whether :meth:`allow` would say yes; nothing is taken."""
        mine = self._of_address.get(address)
        return self._all.any(now) and (mine is None or mine.any(now))
