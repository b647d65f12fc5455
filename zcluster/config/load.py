"""Settings from their four sources.

Rules kept here:
- flag > environment > file > default; a preset is a set of defaults;
- everything that a source gives is known and valid, or nothing is loaded: a typo never silently means the default;
- each value remembers where it is from;
- one call reads the file once; nothing is cached, nothing is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from zcluster.config.check import check_together, check_value
from zcluster.config.home import Home, absolute, default_home
from zcluster.config.names import nearest
from zcluster.config.roles import ROLE_KEYS, ROLES_FORM, ROLES_ONLY_IN_FILE, RoleSettings, read_roles
from zcluster.config.settings import LIVE, SETTINGS, TABLES, Settings
from zcluster.config.sync import ONLY_IN_FILE, TREE_FORM, TREE_KEYS, TreeSettings
from zcluster.config.tomltext import MAX_TOML_BYTES, TomlFault, key_lines, parse_toml
from zcluster.config.trees import read_trees
from zcluster.errors import ConfigError

PREFIX = "ZCLUSTER_"
_TOML = "text values need quotes; one setting a line: key = value; each table and each setting is there once"


@dataclass(frozen=True)
class Origin:
    """Where a value is from: ``kind``, and ``where`` as "zcluster.toml:12", "ZCLUSTER_MASTER__BIND", "--bind" or a preset."""

    kind: Literal["flag", "environment", "file", "preset", "default"]
    where: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.where}" if self.where else self.kind


@dataclass(frozen=True)
class Loaded:
    """Settings, the home that they are for, the origin of each by its name ("master.bind"), and the flags given."""

    settings: Settings
    home: Path
    origins: Mapping[str, Origin]
    flags: Mapping[str, Any] = field(default_factory=dict)


class Row(NamedTuple):
    """One line of ``config show --origin``."""

    name: str
    value: object
    origin: str
    doc: str


@dataclass(frozen=True)
class Reloaded:
    """What a re-read changes in a running process.

    Attributes:
        settings: the running settings with the live changes in them.
        applied: names of the changed settings that are live.
        needs_restart: names of the changed settings that are not; ``settings`` still has their old values.
    """

    settings: Settings
    applied: tuple[str, ...]
    needs_restart: tuple[str, ...]


class _Given(NamedTuple):
    """One value that a source gives; ``text`` and ``base`` as in check_value; ``place`` for messages."""

    raw: object
    origin: Origin
    place: str
    text: bool
    base: Path | None


def load(home: Path | None = None, flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Loaded:
    """The settings of a home.

    Args:
        home: the home directory; None takes :func:`zcluster.config.default_home`.
        flags: values by setting name ("master.bind"); None and an empty list mean that the flag was not given.
        environ: the environment; None takes the process's own.

    Raises:
        ConfigError: something is unknown, of the wrong type or out of range; it names the file and line, variable or flag.
    """
    environ = os.environ if environ is None else environ
    root = default_home(environ) if home is None else absolute(home)
    given: dict[str, _Given] = {}
    values: dict[str, object] = {}
    sources = (_from_file(Home(root)), _from_environment(environ), _from_flags(flags or {}))
    for source in sources:
        for name, one in source:
            given[name] = one
            values[name] = _checked(name, one)
    origins: dict[str, Origin] = {}
    preset = str(values.get("cluster.preset", SETTINGS["cluster.preset"].default))
    for name, declared in SETTINGS.items():
        if name in given:
            origins[name] = given[name].origin
            continue
        of_preset = preset in declared.spec.presets
        origins[name] = Origin("preset", preset) if of_preset else Origin("default")
        values[name] = declared.default_under(preset)
    settings = _settings(values)
    check_together(settings, {name: str(origin) for name, origin in origins.items()})
    return Loaded(settings, root, MappingProxyType(origins), dict(flags or {}))


def rows(loaded: Loaded) -> list[Row]:
    """Every setting with its value, origin and doc, in the order of the documentation.

    Each tree is a row of its own, "sync.tree.NAME", with all that it says by key as its value; each role "roles.NAME".
    """
    settings = loaded.settings
    apart = {name for name, each in (("sync.tree", settings.sync.tree), ("roles.role", settings.roles.role)) if each}
    found = [
        Row(name, loaded.settings.value(name), str(loaded.origins[name]), declared.spec.doc)
        for name, declared in SETTINGS.items()
        if name not in apart
    ]
    return found + [_tree_row(tree) for tree in settings.sync.tree] + [_role_row(role) for role in settings.roles.role]


def _tree_row(tree: TreeSettings) -> Row:
    value = {key: getattr(tree, key) for key in TREE_KEYS}
    return Row(f"sync.tree.{tree.name}", value, str(Origin("file", tree.place)), SETTINGS["sync.tree"].spec.doc)


def _role_row(role: RoleSettings) -> Row:
    value = {key: getattr(role, key) for key in ROLE_KEYS}
    return Row(f"roles.{role.name}", value, str(Origin("file", role.place)), SETTINGS["roles.role"].spec.doc)


def reload(running: Settings, fresh: Settings) -> Reloaded:
    """What a process with the settings ``running`` does with ``fresh`` ones.

    Raises:
        ConfigError: the live changes do not fit the settings that need a restart; ``running`` stays.
    """
    changed = [name for name in SETTINGS if running.value(name) != fresh.value(name)]
    applied = tuple(name for name in changed if name in LIVE)
    settings = _settings({name: (fresh if name in applied else running).value(name) for name in SETTINGS})
    check_together(settings, {name: "re-read" if name in applied else "running" for name in SETTINGS})
    return Reloaded(settings, applied, tuple(name for name in changed if name not in LIVE))


def _settings(values: Mapping[str, object]) -> Settings:
    tables: dict[str, Any] = {}
    for table, kind in TABLES.items():
        tables[table] = kind(**{each.key: values[name] for name, each in SETTINGS.items() if each.table == table})
    return Settings(**tables)


def _checked(name: str, given: _Given) -> object:
    try:
        return check_value(SETTINGS[name], given.raw, text=given.text, base=given.base)
    except ConfigError as error:
        raise ConfigError(f"{given.place}: {name}: {error.message}", hint=error.hint) from None


def _from_file(home: Home) -> Iterator[tuple[str, _Given]]:
    path = home.config_file
    data = _read(path)
    try:
        document = parse_toml(data)
    except TomlFault as fault:
        place = f"{path}:{fault.line}" if fault.line else str(path)
        raise ConfigError(f"{place}: not valid TOML", hint=_TOML) from None
    lines = key_lines(data.decode("utf-8"))
    for table, content in document.items():
        place = f"{path}:{lines.get((table,), _first_line(lines, table))}"
        if table not in TABLES:
            raise _unknown(f"{place}: unknown table [{table[:80]}]", table, TABLES, f"the tables are {', '.join(TABLES)}")
        if not isinstance(content, dict):
            raise ConfigError(f"{place}: expected {table} to be a table", hint=f"write [{table}] on a line of its own")
        if table == "roles":
            roles = read_roles(content, path, lines, lambda declared, raw: check_value(declared, raw, text=False))
            if roles:
                yield "roles.role", _Given(roles, Origin("file", roles[0].place), place, text=False, base=None)
            continue
        for key, raw in content.items():
            line = lines.get((table, key), lines.get((table,), 0))
            name, place = f"{table}.{key}", f"{path}:{line}"
            if name not in SETTINGS:
                keys = [each.key for each in SETTINGS.values() if each.table == table]
                raise _unknown(f"{place}: unknown setting {name[:120]!r}", key, keys, f"[{table}] has {', '.join(keys)}", table)
            origin = Origin("file", f"{path.name}:{line}")
            if name == "sync.tree":
                raw = read_trees(raw, home, path, lines)
            yield name, _Given(raw, origin, place, text=False, base=path.parent)


def _first_line(lines: Mapping[tuple[str | int, ...], int], table: str) -> int:
    """The line of a table that has no header of its own: its first key's."""
    return min((line for key, line in lines.items() if key[:1] == (table,)), default=0)


def _unknown(message: str, word: str, known: Mapping[str, object] | list[str], otherwise: str, table: str = "") -> ConfigError:
    near = nearest(word, known)
    if not near and table:
        # perhaps the right key stands in the wrong table
        near = next((name for name, each in SETTINGS.items() if each.key == word), "")
        return ConfigError(message, hint=f"did you mean {near!r}?" if near else otherwise)
    full = f"{table}.{near}" if table else near
    return ConfigError(message, hint=f"did you mean {full!r}?" if near else otherwise)


def _read(path: Path) -> bytes:
    """The file's content; nothing when there is no file: all settings have defaults."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TOML_BYTES + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", hint="check its type and permissions") from None
    if len(data) > MAX_TOML_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_TOML_BYTES} bytes", hint="is it really a zcluster.toml?")
    return data


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, _Given]]:
    known = {declared.environment: name for name, declared in SETTINGS.items()}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or "__" not in variable[len(PREFIX) :]:
            continue
        if variable not in known:
            if variable.upper().startswith(SETTINGS["sync.tree"].environment + "__"):
                raise ConfigError(f"environment variable {variable[:120]}: {ONLY_IN_FILE}", hint=TREE_FORM)
            if variable.upper().startswith("ZCLUSTER_ROLES__"):
                raise ConfigError(f"environment variable {variable[:120]}: {ROLES_ONLY_IN_FILE}", hint=ROLES_FORM)
            near = nearest(variable.upper(), known)
            hint = f"did you mean {near}?" if near else "the form is ZCLUSTER_TABLE__KEY; `zcluster config show` lists them"
            raise ConfigError(f"environment variable {variable[:120]} sets no known setting", hint=hint)
        place = f"environment variable {variable}"
        yield known[variable], _Given(environ[variable], Origin("environment", variable), place, text=True, base=None)


def _from_flags(flags: Mapping[str, Any]) -> Iterator[tuple[str, _Given]]:
    for name, raw in flags.items():
        if name not in SETTINGS:
            near = nearest(name, SETTINGS)
            raise ConfigError(f"unknown setting {name[:120]!r}", hint=f"did you mean {near!r}?" if near else "")
        if raw is None or raw == () or raw == []:
            continue
        flag = SETTINGS[name].flag
        yield name, _Given(raw, Origin("flag", flag), f"flag {flag}", text=True, base=None)
