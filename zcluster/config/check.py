"""One value against its declaration, and all values against each other.

Rules kept here:
- a value is checked before it is used, wherever it came from, even when a stronger source overrides it;
- text (from a flag or the environment) is read as the setting's kind; a value of a file must already have its TOML type,
  except that a size or a duration may be text with a unit;
- a ConfigError here says what is expected; its caller puts the place before it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from zcluster.config.addresses import MAX_ADDRESSES, parse_address
from zcluster.config.home import absolute
from zcluster.config.names import name_fault, nearest
from zcluster.config.patterns import pattern_fault
from zcluster.config.roles import MAX_GLOBS, ROLES_FORM, ROLES_ONLY_IN_FILE, glob_fault
from zcluster.config.rules import CROSS_RULES
from zcluster.config.settings import Settings
from zcluster.config.spec import Declared, Spec
from zcluster.config.sync import ONLY_IN_FILE, TREE_FORM
from zcluster.config.units import format_bytes, parse_bytes, parse_duration_s
from zcluster.errors import ConfigError

MAX_MODULES = 256
MAX_PATTERNS = 256
MAX_WORDS = 64
"""Of a command."""
MAX_ROOTS = 64
MAX_TEXT_CHARS = 4096
MAX_OWNER_CHARS = 128

_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_MODE = re.compile(r"0?[0-7]{3}")
_OWNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?(:[A-Za-z0-9_][A-Za-z0-9_.-]*\$?)?")
_MOST = {"addresses": MAX_ADDRESSES, "modules": MAX_MODULES, "patterns": MAX_PATTERNS, "command": MAX_WORDS, "paths": MAX_ROOTS}
_MOST |= {"globs": MAX_GLOBS}


def check_value(declared: Declared, raw: object, *, text: bool, base: Path | None = None) -> object:
    """``raw`` as the value of a setting.

    Args:
        declared: the setting.
        raw: what a source gave.
        text: text is read as the setting's kind (flags, environment); otherwise its type must fit (a file).
        base: the directory that relative paths are below; None is the working directory.

    Raises:
        ConfigError: what is expected.
    """
    spec = declared.spec
    if spec.is_list:
        return _texts(spec, raw, text, base)
    match spec.kind:
        case "integer":
            return _in_range(spec, _integer(raw, text))
        case "bytes":
            if isinstance(raw, float):
                _expected("a size: a whole number of bytes, or text like '64MiB'", raw)
            return _in_range(spec, parse_bytes(raw) if isinstance(raw, str | int) else _expected("a size", raw))
        case "duration":
            return _in_range(spec, parse_duration_s(raw) if isinstance(raw, str | int | float) else _expected("a duration", raw))
        case "boolean":
            return raw if isinstance(raw, bool) else _expected("true or false, without quotes", raw)
        case "share":
            if isinstance(raw, bool) or not isinstance(raw, int | float):
                _expected("a number from 0 to 1", raw)
            return float(_in_range(spec, raw))
        case "trees":
            if text:
                raise ConfigError(ONLY_IN_FILE, hint=TREE_FORM)
            return raw  # zcluster.config.trees has read and checked them
        case "roles":
            if text:
                raise ConfigError(ROLES_ONLY_IN_FILE, hint=ROLES_FORM)
            return raw  # zcluster.config.roles has read and checked them
        case "levels":
            return _levels(spec, raw)
        case _:
            return _text(spec, raw, base)


def check_together(settings: Settings, origins: Mapping[str, str]) -> None:
    """Hold ``settings`` against the rules between settings.

    Args:
        settings: the settings, each already checked by itself.
        origins: where each value is from, for the message.

    Raises:
        ConfigError: the first rule that is broken, with both values and where they are from.
    """
    for rule in CROSS_RULES:
        if not rule.holds(settings):
            names = (rule.first, rule.second)
            values = " and ".join(f"{name} is {_shown(settings.value(name))} ({origins[name]})" for name in names)
            raise ConfigError(f"{rule.text}: {values}", hint=f"change {rule.first} or {rule.second}")


def _shown(value: object) -> object:
    """A value for a message: of trees, how many there are."""
    return len(value) if isinstance(value, tuple) else value


def range_text(spec: Spec) -> str:
    """The values that are allowed, in a few words; empty when the kind says it all."""
    if spec.choices:
        return " | ".join(spec.choices)
    if spec.kind == "bytes":
        return f"{format_bytes(int(spec.low))} to {format_bytes(int(spec.high))}"
    return f"{spec.low:.15g} to {spec.high:.15g}" if spec.high else ""


def _expected(what: str, raw: object) -> NoReturn:
    shown = repr(raw[:80]) if isinstance(raw, str) else type(raw).__name__ if isinstance(raw, list | dict) else repr(raw)[:80]
    raise ConfigError(f"expected {what}, got {shown}")


def _integer(raw: object, text: bool) -> int:
    if isinstance(raw, str) and text and re.fullmatch(r"-?[0-9]{1,20}", raw.strip()):
        return int(raw)
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    _expected("an integer", raw)


def _in_range(spec: Spec, value: float) -> float:
    # compared before anything prints it: an integer of ten thousand digits has no cheap text
    if not spec.low <= value <= spec.high:
        shown = str(value) if abs(value) < 1e18 else "a larger number" if value > 0 else "a smaller number"
        unit = f" {spec.unit}" if spec.unit else ""
        raise ConfigError(f"expected {range_text(spec)}{unit}, got {shown}")
    return value


def _text(spec: Spec, raw: object, base: Path | None) -> str:
    if not isinstance(raw, str | Path):
        _expected("text", raw)
    value = str(raw)
    if len(value) > MAX_TEXT_CHARS or "\0" in value:
        raise ConfigError(f"expected text of at most {MAX_TEXT_CHARS} characters, without NUL")
    if spec.optional and not value:
        return value
    match spec.kind:
        case "choice":
            if value not in spec.choices:
                near = nearest(value, spec.choices)
                raise ConfigError(
                    f"expected {' or '.join(spec.choices)}, got {value[:80]!r}", hint=f"did you mean {near!r}?" if near else ""
                )
        case "name":
            fault = name_fault(value)
            if fault:
                raise ConfigError(fault)
        case "bind":
            parse_address(value, bind=True)
        case "path":
            if not value:
                raise ConfigError("expected a path, got nothing")
            return str(absolute(value, base))
        case "worker path" | "target" | "mode" | "owner":
            _form(spec, value)
        case _:
            raise AssertionError(f"no check for kind {spec.kind}")
    return value


def _form(spec: Spec, value: str) -> None:
    """Raises ConfigError when ``value``, which is not empty unless that is an error, has not the form of its kind."""
    if spec.kind == "mode" and value != "keep" and _MODE.fullmatch(value) is None:
        raise ConfigError(f"expected 'keep' or permission bits such as '0640', got {value[:80]!r}")
    if spec.kind == "owner" and (len(value) > MAX_OWNER_CHARS or _OWNER.fullmatch(value) is None):
        raise ConfigError(f"expected 'user' or 'user:group', got {value[:80]!r}")
    if spec.kind == "worker path" and ".." in value.split("/"):
        raise ConfigError(f"expected a path without '..', got {value[:80]!r}")
    if spec.kind == "target":
        parts = [part.strip() for part in value.split(",")]
        if not all(parts):
            raise ConfigError(f"expected all, a name, a glob, or a comma list of these, got {value[:80]!r}")
        words = {"any", "master"}.intersection(parts)
        if words:
            raise ConfigError(f"expected workers, got {words.pop()!r}", hint="name the workers, or all")


def _levels(spec: Spec, raw: object) -> tuple[int, int]:
    if not isinstance(raw, list | tuple) or len(raw) != 2:
        _expected("a list like [0, 5], the lowest and the highest", raw)
    low, high = (int(_in_range(spec, _integer(level, False))) for level in raw)
    if low > high:
        raise ConfigError(f"expected the lowest before the highest, got [{low}, {high}]")
    return low, high


def _texts(spec: Spec, raw: object, text: bool, base: Path | None) -> tuple[str, ...]:
    if isinstance(raw, str) and text:
        raw = [part.strip() for part in raw.split(",")] if raw.strip() else []
    if not isinstance(raw, list | tuple):
        _expected('a list like ["one", "two"]', raw)
    most = _MOST[spec.kind]
    if len(raw) > most:
        raise ConfigError(f"expected at most {most} items, got {len(raw)}")
    if spec.kind == "command" and raw and raw[0] == "":
        raise ConfigError("expected the program's name first, got an empty text")
    return tuple(_item(spec, item, base) for item in raw)


def _item(spec: Spec, item: object, base: Path | None) -> str:
    if not isinstance(item, str) or len(item) > MAX_TEXT_CHARS or "\0" in item:
        _expected("a list of texts", item)
    if spec.kind == "addresses":
        parse_address(item)
        return item
    if spec.kind == "command":
        return item
    if spec.kind == "globs":
        fault = glob_fault(item)
        if fault:
            raise ConfigError(fault, hint="such as 'node.*', 'w*', 'any', 'group:*'")
        return item
    if spec.kind == "patterns":
        fault = pattern_fault(item)
        if fault:
            raise ConfigError(fault, hint="patterns are those of gitignore, such as '*.tmp', '/build/', 'a/**/b'")
        return item
    if spec.kind == "paths":
        if not item:
            raise ConfigError("expected a path, got nothing")
        return str(absolute(item, base))
    if item.endswith(".py"):
        return str(absolute(item, base))
    if _MODULE.fullmatch(item) is None:
        raise ConfigError(f"expected a module like 'package.module' or a path ending in .py, got {item[:80]!r}")
    return item
