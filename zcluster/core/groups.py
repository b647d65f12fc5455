"""Groups of agents: names, and who is in which group, in order. Pure: an edit is a plan of keys and values.

Rules kept here:
- a group's name is 1 to 64 ASCII letters, digits, ``.``, ``_`` and ``-``, and begins with none of ``.`` and ``-``: it is a key, a
  word on a command line and a directory on an agent, so nothing that is a path or a control character is one;
- ``default`` is always there: an agent that has no assignment is in ``default`` alone, and an assignment that says only that is
  not stored;
- the order of an agent's groups is meaning (later groups win): an edit never changes the order of what stays;
- an agent is in at most MAX_OF_AGENT groups; what would be beyond is refused for that agent, and nothing is cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from zcluster.config.names import name_fault
from zcluster.core.agents.row import ID
from zcluster.errors import UsageError
from zcluster.wire.agents import SharedFile

DEFAULT = "default"
ONLY_DEFAULT = (DEFAULT,)
MAX_GROUPS = 10_000
MAX_OF_AGENT = 64
MAX_COMMENT_CHARS = 256
MAX_FILES = 64
"""Shared files of one group."""
CONFIG_NAME = "config.json"
"""Beside the shared files, the agent's own: no shared file has this name."""
MAX_FILE_BYTES = 524_288
MAX_FILE_NAME_BYTES = 255
MAX_FILES_OF_AGENT = 512
"""Shared files of an agent's groups together: they stand in the header of one message."""
MAX_FILES_TOTAL = 16_384
"""Shared files of all groups together."""
MAX_FILES_TOTAL_BYTES = 268_435_456
MAX_LINE_CHARS = 8_192

NAME_KEY = "groups/name/"
OF_KEY = "groups/of/"
FILE_KEY = "groups/file/"

Groups = tuple[str, ...]
Op = Literal["add", "remove", "set"]


def checked_group(name: str) -> str:
    """``name``; raises UsageError when no group may be called so."""
    if name_fault(name):
        raise UsageError(
            f"{name[:80]!r} is no name for a group",
            hint="1 to 64 letters, digits, ., _ and -, the first no . and no -; and neither all nor any",
        )
    return name


def checked_agent(id_: str) -> str:
    """``id_``; raises UsageError when no agent may be called so."""
    if not ID.fullmatch(id_):
        raise UsageError(
            f"{id_[:80]!r} is no id of an agent", hint="1 to 128 letters, digits, ., _, :, @ and -, the first no . and no -"
        )
    return id_


def checked_file_name(name: str) -> str:
    """``name``; raises UsageError when it is no plain name of a file."""
    if name == CONFIG_NAME:
        raise UsageError(
            f"a shared file cannot be called {CONFIG_NAME!r}",
            hint="agents find their configuration under this name; share it under another (--name)",
        )
    plain = name.isprintable() and not set('/\\"') & set(name) and name not in ("", ".", "..")
    if not plain or len(name.encode(errors="replace")) > MAX_FILE_NAME_BYTES:
        raise UsageError(
            f"{name[:80]!r} is no name for a shared file",
            hint=f"a plain file name without / \\ \" and control characters, at most {MAX_FILE_NAME_BYTES} bytes",
        )
    return name


def checked_groups(names: Sequence[str]) -> Groups:
    """``names`` in their order; raises UsageError for a bad name, one that comes twice, or too many."""
    found = tuple(map(checked_group, names))
    if len(set(found)) != len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise UsageError(f"group {twice} is named twice", hint="name each group once: the order decides who wins")
    if len(found) > MAX_OF_AGENT:
        raise UsageError(f"{len(found)} groups are too many for an agent", hint=f"at most {MAX_OF_AGENT}")
    return found


def groups_in(value: bytes | None) -> Groups:
    """The groups that the value at ``groups/of/AGENT`` says; None: there is no such key."""
    return ONLY_DEFAULT if value is None else tuple(orjson.loads(value))


def value_of(groups: Groups) -> bytes | None:
    """What is stored for ``groups``; None: nothing."""
    return None if groups in ((), ONLY_DEFAULT) else orjson.dumps(groups)


@dataclass(frozen=True, slots=True)
class Edit:
    """What is to be done with the groups of agents."""

    op: Op
    groups: Groups

    def of(self, before: Groups) -> Groups:
        """The groups of an agent that is in ``before``; raises UsageError when they would be too many."""
        match self.op:
            case "add":
                after = before + tuple(name for name in self.groups if name not in before)
            case "remove":
                after = tuple(name for name in before if name not in self.groups)
            case "set":
                after = self.groups
        if len(after) > MAX_OF_AGENT:
            raise UsageError(f"it would be in {len(after)} groups", hint=f"an agent is in at most {MAX_OF_AGENT}")
        return after or ONLY_DEFAULT


@dataclass(slots=True)
class Plan:
    """What an edit comes to."""

    puts: dict[str, bytes] = field(default_factory=dict)
    """Agent -> value of its key."""
    deletes: list[str] = field(default_factory=list)
    """Agents whose key goes."""
    same: int = 0
    """Agents that stay as they are."""
    refused: list[tuple[str, str]] = field(default_factory=list)
    """Agents that the edit cannot be done for, and why."""

    @property
    def changed(self) -> int:
        return len(self.puts) + len(self.deletes)


def plan(edits: Iterable[tuple[str, Edit]], now: Mapping[str, bytes]) -> Plan:
    """Edit the groups of agents.

    Args:
        edits: agents and what to do with each; an agent that comes twice is edited twice.
        now: the values at the keys of those agents that have one.
    """
    made = Plan()
    known: dict[tuple[bytes | None, Edit], bytes | UsageError | None] = {}
    after: dict[str, bytes | None] = {}
    refused: dict[str, str] = {}
    for agent, edit in edits:
        before = after[agent] if agent in after else now.get(agent)
        where = before, edit
        if where not in known:  # thousands of agents share a few assignments
            try:
                known[where] = value_of(edit.of(groups_in(before)))
            except UsageError as error:
                known[where] = error
        found = known[where]
        if isinstance(found, UsageError):
            refused[agent] = str(found)
        else:
            after[agent] = found
    for agent, value in after.items():
        if value == now.get(agent):
            made.same += agent not in refused
        elif value is None:
            made.deletes.append(agent)
        else:
            made.puts[agent] = value
    made.refused = list(refused.items())
    return made


def parse_line(line: str) -> tuple[str, Groups] | None:
    """An agent and its groups, ``AGENT GROUP[,GROUP...]``; None for an empty line or a comment (#).

    Raises:
        UsageError: what is wrong with the line.
    """
    words = _words(line)
    if not words:
        return None
    if len(words) != 2:
        raise UsageError(f"{line.strip()[:80]!r} is not AGENT GROUP[,GROUP...]", hint="such as: 7001 web,berlin")
    return checked_agent(words[0]), checked_groups(words[1].split(","))


def parse_id(line: str) -> str | None:
    """The one agent that a line names; None for an empty line or a comment (#). Raises UsageError as :func:`parse_line`."""
    words = _words(line)
    if len(words) > 1:
        raise UsageError(f"{line.strip()[:80]!r} is not the id of one agent", hint="one id a line")
    return checked_agent(words[0]) if words else None


def _words(line: str) -> list[str]:
    """The words of a line; of an empty one and of a comment none."""
    if len(line) > MAX_LINE_CHARS:
        raise UsageError(f"the line has {len(line)} characters", hint=f"at most {MAX_LINE_CHARS}")
    words = line.split()
    return [] if words and words[0].startswith("#") else words


def shared_files(groups: Iterable[tuple[str, Sequence[Mapping[str, Any]]]]) -> tuple[list[SharedFile], int]:
    """The files that an agent gets from its groups, by name, and how many are left out because they would be too many.

    Args:
        groups: its groups in order, each with its files; a later group's file replaces an earlier one's of the same name.
    """
    by_name: dict[str, SharedFile] = {}
    left_out = 0
    for _, files in groups:
        for each in files:
            if each["name"] not in by_name and len(by_name) >= MAX_FILES_OF_AGENT:
                left_out += 1
            else:
                by_name[each["name"]] = SharedFile(each["name"], each["digest"], each["size"])
    return [by_name[name] for name in sorted(by_name)], left_out
