"""Roles of the configuration: what a [roles.NAME] says, and how it is read.

Rules kept here:
- a role is declared in the master's file only: neither a flag nor the environment can, and a worker is told by its master;
- what a role does not say it does not take away: without ``functions`` it may call what its base may;
- ``client``, ``admin`` and ``worker`` are there without any table; one of that name takes from their rights;
- all is known and valid, or nothing is loaded; an error names the file and the line of what it is about;
- all roles together fit the one message that tells a worker of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from zcluster.config.names import name_fault, nearest
from zcluster.config.spec import SPEC_KEY, Declared, about
from zcluster.errors import ConfigError

MAX_ROLES = 64
"""The most roles that a file may declare."""
MAX_GLOBS = 64
"""In one list of a role."""
MAX_GLOB_CHARS = 128
MAX_TEXT_BYTES = 100_000
"""Of the globs of all roles together: one message tells a worker of all of them."""
HIGHEST = 9
"""The highest priority that there is."""
NARROWED = ("client", "admin", "worker")
"""Built-in roles that a table may narrow."""
OTHERS = ("master", "agent", "joiner")
"""Those that none may."""
ROLES_FORM = 'write a table [roles.NAME] for each, with functions = ["node.*"] and targets = ["w*"]'
ROLES_ONLY_IN_FILE = "a role can be declared in zcluster.toml only"

Lines = Mapping[tuple[str | int, ...], int]
Check = Callable[[Declared, object], object]


@dataclass(frozen=True)
class RoleSettings:
    """One role: a part of what its base may do."""

    name: str
    base: str = field(
        default="client",
        metadata=about(
            "choice",
            "What the role is a part of: client, or admin (functions for administrators). Not for client, admin and worker "
            "themselves, which a table of that name narrows.",
            choices=("client", "admin"),
            live=True,
        ),
    )
    functions: tuple[str, ...] = field(
        default=("*",), metadata=about("globs", "Functions that it may call: names and globs, such as 'node.*'.", live=True)
    )
    targets: tuple[str, ...] = field(
        default=("*",),
        metadata=about(
            "globs",
            "Where: names of nodes, globs of them, and the words any, all, master, 'agent:ID' and 'group:NAME' (these two with "
            "globs, too). A word is allowed by itself or by '*'.",
            live=True,
        ),
    )
    priorities: tuple[int, int] = field(
        default=(0, HIGHEST),
        metadata=about(
            "levels",
            "The lowest and the highest priority that its requests may have. One that says none has 5.",
            low=0,
            high=HIGHEST,
            live=True,
        ),
    )
    place: str = field(default="", compare=False)
    """Where it is declared ("zcluster.toml:12"); no setting."""


@dataclass(frozen=True)
class RolesSettings:
    """Roles for keys, beside client and admin: which functions, where, with which priorities."""

    role: tuple[RoleSettings, ...] = field(
        default=(), metadata=about("roles", f"The roles: a table [roles.NAME] for each, at most {MAX_ROLES}.", live=True)
    )


ROLE_KEYS: Mapping[str, Declared] = MappingProxyType(
    {
        key.name: Declared("roles.NAME", key.name, None if key.default is MISSING else key.default, key.metadata[SPEC_KEY])
        for key in fields(RoleSettings)
        if SPEC_KEY in key.metadata
    }
)
"""What a [roles.NAME] may say, by key."""


def read_roles(content: Mapping[str, object], path: Path, lines: Lines, check: Check) -> tuple[RoleSettings, ...]:
    """The roles that the table [roles] of a file declares.

    Args:
        content: the table.
        path: the file, for messages. lines: its lines by place (key_lines).
        check: one value against its declaration (check_value).

    Raises:
        ConfigError: what is wrong, and in which line.
    """
    first = f"{path}:{lines.get(('roles',), min((line for key, line in lines.items() if key[:1] == ('roles',)), default=0))}"
    if len(content) > MAX_ROLES:
        raise ConfigError(f"{first}: {len(content)} roles, at most {MAX_ROLES} are allowed", hint="one role may have many keys")
    roles = tuple(_role(name, said, path, lines, check) for name, said in content.items())
    size = len(json.dumps([(role.functions, role.targets) for role in roles], ensure_ascii=False).encode())
    if size > MAX_TEXT_BYTES:
        raise ConfigError(
            f"{first}: the functions and targets of all roles take {size} bytes, at most {MAX_TEXT_BYTES} are allowed",
            hint="use fewer and shorter globs",
        )
    return roles


def _role(name: str, said: object, path: Path, lines: Lines, check: Check) -> RoleSettings:
    line = lines.get(("roles", name), lines.get(("roles",), 0))
    place = f"{path}:{line}"
    if not isinstance(said, dict):
        raise ConfigError(f"{place}: expected roles.{name[:80]} to be a table", hint=ROLES_FORM)
    fault = name_fault(name) or (f"the role {name!r} has its rights by what it is" if name in OTHERS else "")
    if fault:
        raise ConfigError(f"{place}: {fault}", hint=f"choose another name; {', '.join(NARROWED)} may be narrowed")
    values: dict[str, Any] = {}
    for key, raw in said.items():
        where = f"{path}:{lines.get(('roles', name, key), line)}"
        declared = ROLE_KEYS.get(key)
        if declared is None:
            near = nearest(key, ROLE_KEYS)
            hint = f"did you mean {f'roles.{name}.{near}'!r}?" if near else f"[roles.{name}] has {', '.join(ROLE_KEYS)}"
            raise ConfigError(f"{where}: unknown setting {f'roles.{name}.{key}'[:120]!r}", hint=hint)
        if key == "base" and name in NARROWED:
            hint = "leave base out, or choose another name"
            raise ConfigError(f"{where}: the role {name!r} is built in and has no base", hint=hint)
        try:
            values[key] = check(declared, raw)
        except ConfigError as error:
            raise ConfigError(f"{where}: roles.{name}.{key}: {error.message}", hint=error.hint) from None
    if name in NARROWED:
        values["base"] = name
    return RoleSettings(name=name, place=f"{path.name}:{line}", **values)


def glob_fault(glob: str) -> str:
    """What is wrong with one glob of a role, or empty."""
    if not glob or len(glob) > MAX_GLOB_CHARS:
        return f"expected a glob of 1 to {MAX_GLOB_CHARS} characters, got {len(glob)}"
    if not glob.isprintable() or " " in glob or "," in glob:
        return f"expected one name or glob each, without spaces and commas, got {glob[:80]!r}"
    begin = glob.find("[")
    if begin >= 0 and "]" not in glob[begin + 2 :]:
        return f"expected a ']' after the '[' of {glob[:80]!r}"
    return ""
