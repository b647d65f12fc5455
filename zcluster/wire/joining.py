"""The messages by which a key is admitted, typed. docs/protocol.md ("Joining") says how they follow each other.

Rules kept here:
- JOIN opens no session and needs none: it is the one message beside HELLO that a connection may begin with;
- what a joiner says is a wish: its role is the token's, and its name what the master says in JOINED.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from zcluster.wire.agents import NodeName

PublicKey = Annotated[str, Meta(min_length=40, max_length=40)]
Addresses = Annotated[list[Annotated[str, Meta(max_length=256)]], Meta(max_length=16)]


class Join(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Joiner to master: admit this key. With the token's pair; or with the pair of the key itself: what is it called?"""

    kind: ClassVar[int] = 69
    public: PublicKey
    """Z85, of a pair that the joiner has made for itself."""
    name: NodeName = ""
    """What it would like to be called; another name is given when it is taken."""


class KnownKey(Struct, array_like=True, frozen=True):
    """A worker whose door the new key may be used at."""

    name: NodeName
    public: PublicKey
    next: Annotated[str, Meta(max_length=40)] = ""
    """The key that follows, while it is rotated."""


class Joined(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Master to joiner: the key is admitted. The same answer each time it is asked."""

    kind: ClassVar[int] = 70
    name: NodeName
    role: NodeName
    cluster: NodeName
    addresses: Addresses = []
    """Where the master takes requests."""
    publish: Addresses = []
    """Where it publishes."""
    nodes: Annotated[list[KnownKey], Meta(max_length=256)] = []


JoiningMessage = Join | Joined
JOINING_KINDS: tuple[type[JoiningMessage], ...] = (Join, Joined)
