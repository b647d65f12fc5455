"""What a copy knows of itself, and what is to be done with it: plain values.

Rules kept here:
- the state is written in one commit with the data that it speaks of, so that both survive a crash together;
- effects are done in their order: what is to be saved is saved before anything is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from zcluster.wire.tables import Ask

_ENCODER = msgspec.json.Encoder()


class CopyState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far a copy is; stored as JSON under ``copy/TABLE``."""

    store: str = ""
    """Id of the store that it is a copy of; empty: of none yet."""
    revision: int = 0
    """All changes up to here are in it."""
    until: int = 0
    """Some keys are as late as this; before ``revision`` is there too, the copy is no state that the source has had."""
    after: str | None = None
    """Where reading everything goes on; None: nothing is being read."""
    doubt: bool = False
    """Its digest is not the source's, and it has not been put right yet."""
    at_s: float = 0.0
    """When it was written, seconds since 1970."""

    @property
    def ready(self) -> bool:
        """Whether the copy is a state that the source has had."""
        return bool(self.store) and self.after is None and self.revision >= self.until and not self.doubt


_DECODER = msgspec.json.Decoder(CopyState)


def state_key(table: str) -> str:
    """Where the state of the copy of ``table`` is kept."""
    return f"copy/{table}"


def state_bytes(state: CopyState) -> bytes:
    """``state`` as it is stored."""
    return _ENCODER.encode(state)


def read_state(data: bytes | None) -> CopyState:
    """The stored state; what cannot be read counts as none: then the copy is compared, or read, anew."""
    if data is None:
        return CopyState()
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return CopyState()


Op = tuple[str, bytes | None]
"""Put this value at this key; None: delete the key."""


@dataclass(frozen=True)
class Save:
    """Commit ``ops`` and ``state`` together."""

    ops: list[Op]
    state: CopyState


@dataclass(frozen=True)
class Replace:
    """Make the keys after ``after`` up to ``last`` (empty: to the end), of ``buckets`` if any, exactly ``items``, and commit
    that with ``state``."""

    after: str
    last: str
    buckets: tuple[int, ...]
    items: list[tuple[str, bytes]]
    state: CopyState

    def ops(self, held: list[tuple[str, bytes]]) -> list[Op]:
        """What changes ``held``, the keys that the copy has there, into ``items``."""
        before, wanted = dict(held), dict(self.items)
        puts: list[Op] = [(key, value) for key, value in self.items if before.get(key) != value]
        return puts + [(key, None) for key, _ in held if key not in wanted]

    def covers(self, key: str, bucket: int) -> bool:
        """Whether it speaks of ``key``, which falls into ``bucket``."""
        return key > self.after and (not self.last or key <= self.last) and (not self.buckets or bucket in self.buckets)


@dataclass(frozen=True)
class Tell:
    """Ask the source."""

    ask: Ask
    body: bytes


@dataclass(frozen=True)
class Noted:
    """Something that an operator may want to know of a table."""

    name: str
    fields: dict[str, object]
    level: str = "info"


Effect = Save | Replace | Tell | Noted
