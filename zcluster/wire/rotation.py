"""The messages of rotation, typed: a key is followed by another of the same owner. docs/protocol.md ("Rotation") says how.

Rules kept here:
- a secret is in none of them: who has a key makes its next pair by itself, and says the public one;
- who asks is who its connection's key says: a peer rotates its own key and no other.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from zcluster.wire.agents import NodeName

PublicKey = Annotated[str, Meta(max_length=40)]
Words = Annotated[str, Meta(max_length=1000)]
MAX_OVERLAP_S = 30 * 86_400.0
Overlap = Annotated[float, Meta(ge=0, le=MAX_OVERLAP_S)]


class Rotate(Struct, frozen=True, kw_only=True):
    """Master to peer: make another key, and say ROTATED."""

    kind: ClassVar[int] = 71
    overlap_s: Overlap
    """How long the present one will be admitted once the other is."""


class Rotated(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Peer to master: this is my next key (or why there is none). Master to peer: it is admitted (or why it is not); also to the
    other sessions of the key."""

    kind: ClassVar[int] = 72
    public: PublicKey = ""
    """Z85. In a peer's refusal empty."""
    overlap_s: Overlap = 0.0
    """How long the older key is admitted: of a peer its wish, where the master has not said one."""
    code: NodeName = ""
    """Of the error; empty: there is none."""
    message: Words = ""
    hint: Words = ""


class NextKey(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Master to peer: soon this key proves the master, or the door of ``node``, and the older one does yet; or it alone does.
    Peer to master: it is known here now."""

    kind: ClassVar[int] = 73
    public: PublicKey
    node: NodeName = ""
    """Whose key it is; empty: the master's."""
    now: bool = False
    """The older one proves nothing any more. Not answered."""
    code: NodeName = ""
    """Of a peer: why it could not keep it beyond the life of its process."""


RotationMessage = Rotate | Rotated | NextKey
ROTATION_KINDS: tuple[type[RotationMessage], ...] = (Rotate, Rotated, NextKey)
