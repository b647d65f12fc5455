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
from zcluster.config.rules import CROSS_RULES
from zcluster.config.settings import Declared, Settings
from zcluster.config.spec import Spec
from zcluster.config.units import format_bytes, parse_bytes, parse_duration_s
from zcluster.errors import ConfigError

MAX_MODULES = 256
MAX_TEXT_CHARS = 4096

_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


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
            values = " and ".join(f"{name} is {settings.value(name)} ({origins[name]})" for name in (rule.first, rule.second))
            raise ConfigError(f"{rule.text}: {values}", hint=f"change {rule.first} or {rule.second}")


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
        raise ConfigError(f"expected {range_text(spec)} {spec.unit}, got {shown}")
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
            return str(absolute(value, base))
        case _:
            raise AssertionError(f"no check for kind {spec.kind}")
    return value


def _texts(spec: Spec, raw: object, text: bool, base: Path | None) -> tuple[str, ...]:
    if isinstance(raw, str) and text:
        raw = [part.strip() for part in raw.split(",")] if raw.strip() else []
    if not isinstance(raw, list | tuple):
        _expected('a list like ["one", "two"]', raw)
    most = MAX_ADDRESSES if spec.kind == "addresses" else MAX_MODULES
    if len(raw) > most:
        raise ConfigError(f"expected at most {most} items, got {len(raw)}")
    return tuple(_item(spec, item, base) for item in raw)


def _item(spec: Spec, item: object, base: Path | None) -> str:
    if not isinstance(item, str) or len(item) > MAX_TEXT_CHARS or "\0" in item:
        _expected("a list of texts", item)
    if spec.kind == "addresses":
        parse_address(item)
        return item
    if item.endswith(".py"):
        return str(absolute(item, base))
    if _MODULE.fullmatch(item) is None:
        raise ConfigError(f"expected a module like 'package.module' or a path ending in .py, got {item[:80]!r}")
    return item
