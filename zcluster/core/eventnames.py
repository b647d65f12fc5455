"""Events as those who follow them see them: their names, and fields that are fit to be told.

Rules kept here:
- a node's states get the words of operators: ``join``, ``back``, ``silent``, ``dead``, ``left``; other events keep their name;
- ``join`` is a node that was never here before, ``back`` one that was; a node whose key was revoked joins anew;
- sessions that open and close are not told: clients come and go by the thousand, and a node's tell themselves by its state;
- whatever is in an event came from somewhere: texts are one line without control characters, and everything is bounded;
- what only a master can know, no worker may say: nobody is told a node's death, a key or a group by who is none of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Protocol

import msgspec

from zcluster.core.peers import Event
from zcluster.errors import UsageError, one_line

STATES = {"node_silent": "silent", "node_dead": "dead", "node_left": "left", "node_draining": "draining"}
"""Names of events within the master -> as they are told. ``node_ready`` is ``join`` or ``back``."""
UNTOLD = frozenset({"session_opened", "session_closed", "agents_not_taken"})
"""Of the last the master tells itself, as ``agent_refused``."""
MISSED = "missed"
"""The event that stands for those that the log no longer has."""

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
MASTERS = frozenset(
    {"join", "back", *STATES.values(), MISSED, "events_lost", "config_changed", "note_dropped"}
    | {"agent_moved", "agents_moved", "agents_removed", "agents_synced"}
)
MASTERS_BEGIN = (
    "node_", "master_", "key_", "token_", "group_", "tree_", "pull_", "sync_", "queue_", "job_", "audit_", "right_",
)  # fmt: skip
"""Names, and beginnings of names, that only the master says."""

MAX_FIELDS = 32
MAX_ITEMS = 64
MAX_KEY_CHARS = 64
MAX_TEXT_CHARS = 1000
MAX_DEPTH = 4
MAX_PARTS = 128
"""Values in one event, all levels together."""
MAX_FIELDS_BYTES = 16_384
SHORT_FIELDS = 16
SHORT_TEXT_CHARS = 160
"""What is left of an event that is larger than that: its first plain values."""
MAX_KNOWN = 100_000
MAX_GLOBS = 16
MAX_GLOB_CHARS = 64
MAX_INTEGER = 2**53 - 1


class Names:
    """Tells ``join`` from ``back``.

    Args:
        known: the nodes that were here before.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known: dict[str, None] = dict.fromkeys(known)

    def of(self, event: Event) -> str:
        """The name under which ``event`` is told; empty when it is not."""
        if event.name in UNTOLD:
            return ""
        if event.name == "key_revoked":
            self._known.pop(str(event.fields.get("name")), None)
        if event.name != "node_ready":
            return STATES.get(event.name, event.name)
        return "join" if self.know(str(event.fields.get("name"))) else "back"

    def know(self, node: str) -> bool:
        """``node`` has been here; returns whether that is news."""
        if node in self._known:
            return False
        if len(self._known) >= MAX_KNOWN:
            self._known.pop(next(iter(self._known)))
        self._known[node] = None
        return True


class KeyEntry(Protocol):
    """What of a ring's entry makes a difference."""

    @property
    def name(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def id(self) -> str: ...


def key_events(before: Mapping[str, KeyEntry], after: Mapping[str, KeyEntry]) -> Iterator[Event]:
    """What changed from one ring to the next: ``key_revoked`` first, then ``key_admitted``."""
    for name, entry in before.items():
        now = after.get(name)
        if now is None or now.id != entry.id:
            yield Event("key_revoked", {"name": name, "role": entry.role}, "warning")
    for name, entry in after.items():
        old = before.get(name)
        if old is None or old.id != entry.id:
            yield Event("key_admitted", {"name": name, "role": entry.role})
        elif old.role != entry.role:
            yield Event("key_changed", {"name": name, "role": entry.role, "was": old.role})


def of_workers(name: str) -> bool:
    """Whether a worker may tell its master of an event of this name."""
    return bool(NAME.fullmatch(name)) and name not in UNTOLD | MASTERS and not name.startswith(MASTERS_BEGIN)


def told(fields: Mapping[str, Any]) -> dict[str, Any]:
    """``fields`` as they are kept and told: bounded, plain JSON, each text on one line."""
    found: dict[str, Any] = _Bounded().value(fields, 0)
    if len(msgspec.json.encode(found)) <= MAX_FIELDS_BYTES:
        return found
    plain = [(key, value) for key, value in found.items() if not isinstance(value, dict | list)]
    return {
        key: _text(value, SHORT_TEXT_CHARS) if isinstance(value, str) else value for key, value in plain[:SHORT_FIELDS]
    }


class _Bounded:
    """One event's values, counted."""

    def __init__(self) -> None:
        self._left = MAX_PARTS

    def value(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return value if abs(value) <= MAX_INTEGER else _text(hex(value), MAX_TEXT_CHARS)
        if isinstance(value, float):
            return value if value - value == 0 else None  # JSON has no infinity and no NaN
        if isinstance(value, str):
            return _text(value, MAX_TEXT_CHARS)
        if self._left <= 0 or depth >= MAX_DEPTH:
            return "…"
        if isinstance(value, Mapping):
            most = MAX_FIELDS if depth == 0 else MAX_ITEMS
            chosen = list(value.items())[:most]
            return {_text(str(key), MAX_KEY_CHARS): self.value(each, depth + 1) for key, each in chosen if self._left > 0}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.value(each, depth + 1) for each in list(value)[:MAX_ITEMS] if self._left > 0]
        return _text(str(value), MAX_TEXT_CHARS)


def _text(text: str, most: int) -> str:
    flat = one_line(text[: most + 1])
    return flat if len(flat) <= most else flat[: most - 1] + "…"


def checked_globs(globs: Iterable[str]) -> tuple[str, ...]:
    """``globs`` as they may be asked for.

    Raises:
        UsageError: too many, or one that is empty or too long.
    """
    found = tuple(globs)
    if len(found) > MAX_GLOBS:
        raise UsageError(f"{len(found)} names of events, at most {MAX_GLOBS} are allowed", hint="use a glob, such as 'sync_*'")
    for glob in found:
        if not glob or len(glob) > MAX_GLOB_CHARS:
            raise UsageError(f"the name of an event has 1 to {MAX_GLOB_CHARS} characters, not {len(glob)}", hint="such as 'dead'")
    return found


def matches(name: str, globs: tuple[str, ...]) -> bool:
    """Whether one of ``globs`` means ``name``; no glob means every name."""
    return not globs or any(fnmatchcase(name, glob) for glob in globs)
