"""The contexts of a user: clusters by name, in ``contexts.toml`` of the user's configuration directory.

Rules kept here:
- the file is the user's own (0600) and replaced in one step; it holds paths and addresses, never a key;
- a context is a home or a key file, with addresses where the key file's own are not the right ones;
- a file that cannot be read is an error that names it: a command never goes to another cluster than was meant.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zcluster.errors import ConfigError, NoSuchContext, UsageError

FILE_NAME = "contexts.toml"
DEFAULT = "default"
"""The word for no context: the default home."""
MAX_BYTES = 1 << 20
MAX_CONTEXTS = 1000
MAX_MASTERS = 16
_FIELDS = ("home", "key", "master")


@dataclass(frozen=True)
class Kept:
    """A context: how to reach one cluster."""

    name: str
    home: Path | None = None
    key: Path | None = None
    masters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contexts:
    """What the file holds."""

    by_name: Mapping[str, Kept] = field(default_factory=dict)
    current: str = ""
    """The one that commands take when nothing says otherwise; empty: the default home."""

    def get(self, name: str) -> Kept:
        """The context ``name``. Raises NoSuchContext."""
        found = self.by_name.get(name)
        if found is None:
            from zcluster.config import nearest

            near = nearest(name, self.by_name)
            hint = f"did you mean {near!r}?" if near else "`zcluster context ls` lists them"
            raise NoSuchContext(f"there is no context {name[:80]!r}", hint=hint)
        return found


def contexts_file(environ: Mapping[str, str] | None = None) -> Path:
    """Where the contexts are: below XDG_CONFIG_HOME, or ~/.config."""
    from zcluster.config import absolute

    environ = os.environ if environ is None else environ
    # the XDG specification: a relative XDG_CONFIG_HOME is to be ignored
    given = environ.get("XDG_CONFIG_HOME", "")
    base = Path(given) if given.startswith("/") else absolute(environ.get("HOME") or "~") / ".config"
    return base / "zcluster" / FILE_NAME


def read_contexts(path: Path, *, mend: bool = False) -> Contexts:
    """What ``path`` holds; nothing when there is no file. With ``mend`` a current context that is not there is none, so that
    another one can be chosen.

    Raises:
        ConfigError: it is broken; the message says where. InvalidKey: it cannot be read, or others may write it.
    """
    if not path.exists():
        return Contexts()
    from zcluster.config import TomlFault, parse_toml
    from zcluster.keys.private import read_private

    data, _found = read_private(path, MAX_BYTES, forbid=0o022)
    try:
        return _read(parse_toml(data), mend)
    except TomlFault as fault:
        where = f"{path}:{fault.line}" if fault.line else str(path)
        raise ConfigError(f"{where}: not valid TOML", hint="repair it, or move it away and add the contexts again") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", hint=error.hint or "repair it, or add the context again") from None


def change_contexts(path: Path, edit: Callable[[Contexts], Contexts]) -> Contexts:
    """Replace what ``path`` holds by what ``edit`` makes of it, in one step.

    Raises:
        what :func:`read_contexts` and ``edit`` raise; Busy: another process changes it all the time. Nothing is changed then.
    """
    from zcluster.keys import make_private_dir
    from zcluster.keys.private import locked, replace

    if not path.parent.is_dir():
        make_private_dir(path.parent)
    with locked(path.with_name(path.name + ".lock")):
        made = edit(read_contexts(path, mend=True))
        if len(made.by_name) > MAX_CONTEXTS:
            raise UsageError(f"there are {MAX_CONTEXTS} contexts, more are not kept", hint="zcluster context rm NAME")
        replace(path, _text(made).encode())
    return made


def _text(contexts: Contexts) -> str:
    from zcluster.config import toml_value

    lines = ["# The contexts of zcluster: `zcluster context --help`", f"current = {toml_value(contexts.current)}"]
    for name in sorted(contexts.by_name):
        kept = contexts.by_name[name]
        lines += ["", f"[contexts.{toml_value(name)}]"]
        lines += [f"home = {toml_value(str(kept.home))}"] if kept.home is not None else []
        lines += [f"key = {toml_value(str(kept.key))}"] if kept.key is not None else []
        lines += [f"master = {toml_value(list(kept.masters))}"] if kept.masters else []
    return "\n".join(lines) + "\n"


def _read(document: Mapping[str, Any], mend: bool) -> Contexts:
    unknown = next((name for name in document if name not in ("current", "contexts")), None)
    tables, current = document.get("contexts", {}), document.get("current", "")
    if unknown is not None or not isinstance(tables, dict) or not isinstance(current, str):
        raise ConfigError("expected `current` and the tables [contexts.NAME]")
    if len(tables) > MAX_CONTEXTS:
        raise ConfigError(f"{len(tables)} contexts, at most {MAX_CONTEXTS} are allowed")
    kept = {name: _read_one(name, table) for name, table in tables.items()}
    if current and current not in kept:
        if mend:
            return Contexts(kept)
        raise ConfigError(f"the current context {current[:80]!r} is not there", hint="zcluster context use NAME")
    return Contexts(kept, current)


def _read_one(name: str, table: Any) -> Kept:
    check_name(name)
    if not isinstance(table, dict) or not all(key in _FIELDS for key in table):
        raise ConfigError(f"the context {name!r} has something else than {', '.join(_FIELDS)}")
    home, key, masters = (table.get(each) for each in _FIELDS)
    texts = all(value is None or isinstance(value, str) for value in (home, key))
    if not texts or not (masters is None or (isinstance(masters, list) and all(isinstance(each, str) for each in masters))):
        raise ConfigError(f"the context {name!r}: home and key are texts, master is a list of addresses")
    return checked(Kept(name, Path(home) if home else None, Path(key) if key else None, tuple(masters or ())))


def check_name(name: str) -> None:
    """Raises ConfigError when no context may be called ``name``."""
    from zcluster.config import name_fault

    fault = name_fault(name) or (f"the name {DEFAULT!r} is the word for no context" if name == DEFAULT else "")
    if fault:
        raise ConfigError(fault)


def checked(kept: Kept) -> Kept:
    """``kept`` itself. Raises ConfigError when it reaches nothing."""
    from zcluster.clients.checks import checked_address

    if (kept.home is None) == (kept.key is None):
        what = "needs a home or a key file" if kept.home is None else "has a home and a key file, where one is enough"
        raise ConfigError(f"the context {kept.name!r} {what}", hint="one of --home DIR and --key FILE")
    if len(kept.masters) > MAX_MASTERS:
        raise ConfigError(f"{len(kept.masters)} addresses, at most {MAX_MASTERS} are allowed")
    for address in kept.masters:
        try:
            checked_address(address)
        except UsageError as error:
            raise ConfigError(error.message, hint=error.hint) from None
    return kept
