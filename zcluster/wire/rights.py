"""The messages about rights, typed. docs/protocol.md ("Rights") says what they mean.

Rules kept here:
- a worker is told all definitions at once: those that it had before are gone;
- what is told of a role takes rights away and never gives any: what a function asks for is checked besides.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

RoleName = Annotated[str, Meta(min_length=1, max_length=64)]
Glob = Annotated[str, Meta(min_length=1, max_length=128)]
Level = Annotated[int, Meta(ge=0, le=9)]


class Held(Struct, array_like=True, frozen=True):
    """What requests are held to where they run."""

    roles: Annotated[list[RoleName], Meta(min_length=1, max_length=16)]
    """The rights of all of them hold, the least of all."""
    word: Annotated[str, Meta(max_length=256)]
    """The target, when it is a word; empty for names, globs and lists."""
    priority: Level


class RoleInfo(Struct, array_like=True, frozen=True):
    """What the configuration says of one role."""

    name: RoleName
    base: RoleName
    functions: Annotated[list[Glob], Meta(max_length=256)]
    targets: Annotated[list[Glob], Meta(max_length=256)]
    lowest: Level
    highest: Level


class Roles(Struct, frozen=True, kw_only=True):
    """Master to worker, before any WORK of a session where there are definitions, and at each change: all of them."""

    kind: ClassVar[int] = 74
    roles: Annotated[list[RoleInfo], Meta(max_length=256)]


RightsMessage = Roles
RIGHTS_KINDS: tuple[type[Roles], ...] = (Roles,)
