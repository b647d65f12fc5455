"""Roles, and what each may do.

Rules kept here:
- what is not listed is not allowed: an unknown role or kind gets nothing;
- a right belongs to the role of the key, never to what a message says about itself;
- the broker asks before it handles a message, and the node asks again before it runs a function.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from zcluster.config import name_fault, nearest
from zcluster.errors import InvalidKey

ROLES: tuple[str, ...] = ("admin", "client", "worker", "agent", "master")
"""The roles that a key may have without any configuration."""

JOINER = "joiner"
"""What the holder of a join token is: no key of the ring has this role."""

FUNCTION_ROLES: tuple[str, ...] = ("client", "admin")
"""The roles that a function may ask of its caller, the weaker first."""

KINDS: frozenset[str] = frozenset(
    {"hello", "welcome", "catalog", "beat", "bye", "cancel", "credit", "chunk"}
    | {"requests", "replies", "work", "results", "refusal"}
    | {"trees", "state", "pull", "go", "list", "listing", "fetch", "parcel", "blocks", "hashes", "report", "finish", "order"}
    | {"head", "changes", "ask", "page"}
    | {"keep", "settings", "grab", "shared", "doors", "rows", "taken", "agentorders", "metrics", "carry", "listen", "note"}
    | {"events"}
    | {"jobs", "accepted", "follow", "outcomes"}
    | {"join", "joined"}
    | {"roles"}
    | {"rotate", "rotated", "nextkey"}
)
"""The kinds of messages, by name."""

_SESSION = frozenset({"hello", "beat", "bye", "rotated", "nextkey"})
_CALLER = _SESSION | {"cancel", "credit", "chunk", "requests", "listen", "jobs", "follow"}
_NODE = _SESSION | {"credit", "chunk", "results"}
_TREES = frozenset({"state", "pull", "go", "list", "listing", "fetch", "parcel", "blocks", "hashes", "report", "finish"})
"""File sync: a worker is the source of some trees and the sink of others."""

_WORKER = _NODE | _TREES | {"ask", "rows", "metrics", "carry", "events"}

SENDS: Mapping[str, frozenset[str]] = MappingProxyType(
    {"admin": _CALLER, "client": _CALLER, "worker": _WORKER, "master": _NODE, "agent": _SESSION | {"keep", "grab"}}
    | {JOINER: frozenset({"join"})}
)
"""What a peer of each role may send to a node. The other kinds only a master, or an agent's node, sends; before its session
any peer may ask with JOIN."""

SUBSCRIBERS: frozenset[str] = frozenset({"admin", "client", "worker", "master"})
"""Roles that may subscribe: they may look at all that is published, by functions or as nodes."""

_CALLS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "admin": frozenset(FUNCTION_ROLES),
        "client": frozenset({"client"}),
        "worker": frozenset(),
        "agent": frozenset(),
        "master": frozenset(FUNCTION_ROLES),
    }
)


def may_send(role: str, kind: str) -> bool:
    """Whether a key of ``role`` may send a message of ``kind`` to a master."""
    return kind in SENDS.get(role, ())


def may_send_at_door(role: str, kind: str) -> bool:
    """Whether a key of ``role`` may send ``kind`` to a worker itself: agents may, clients are carried to the master."""
    return role == "agent" and may_send(role, kind)


def may_call(caller_role: str, function_role: str) -> bool:
    """Whether a key of ``caller_role`` may call a function that asks for ``function_role``."""
    return function_role in _CALLS.get(caller_role, ())


def may_subscribe(role: str) -> bool:
    """Whether a key of ``role`` may subscribe to what a master publishes. Agents may not: groups and configuration of others are
    none of theirs."""
    return role in SUBSCRIBERS


def of_configuration(role: str) -> bool:
    """Whether ``role`` is one that only a configuration can give a meaning: a part of a client or an administrator."""
    return role not in ROLES and role != JOINER


def check_role(role: str) -> str:
    """``role`` itself: one of ROLES, or a name that the configuration may give a role (one that it does not gets nothing).

    Raises:
        InvalidKey: no role can have this name.
    """
    if role not in ROLES and (role == JOINER or name_fault(role)):
        near = nearest(role, ROLES)
        hint = f"did you mean {near!r}?" if near else f"the roles are {', '.join(ROLES)}, and those of the configuration"
        raise InvalidKey(f"unknown role {role[:80]!r}", hint=hint)
    return role
