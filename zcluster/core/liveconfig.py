"""Live configuration: what it may say, how its scopes are merged, and digests of it.

Rules kept here:
- a scope is ``defaults``, ``group/G``, ``node/N`` or ``agent/ID``; later ones win: for a node defaults, then its own; for an
  agent defaults, its groups in order, then its own;
- objects are merged key by key, at any depth; everything else, lists too, is replaced as a whole;
- a value has exactly the type that SCHEMA says, is within its range, and can be written as JSON and read again without a change;
- what is merged is bounded like what is set: an extra with which it would be too large is left out, and its scope named.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from zcluster.core.groups import checked_agent, checked_group
from zcluster.errors import ConfigError, UsageError

INTERVAL_MIN_S, INTERVAL_MAX_S = 0.5, 3600.0
DEFAULT_INTERVAL_S = 10.0
METRICS = ("cpu", "memory", "disk", "network", "load", "files", "process")
LOG_LEVELS = ("debug", "info", "warning", "error")
MAX_EXTRA_BYTES = 65_536
MAX_EXTRA_DEPTH = 16
MAX_NODE_CHARS = 64
MAX_SAFE = 2**53 - 1

SCHEMA = {
    "interval": f"seconds between two measurements, {INTERVAL_MIN_S:g} to {INTERVAL_MAX_S:g} (default {DEFAULT_INTERVAL_S:g})",
    "metrics": f"list of what is measured: {', '.join(METRICS)} (default all)",
    "log_level": f"least severe level that is logged: {', '.join(LOG_LEVELS)} (default: as the configuration file says)",
    "extra": f"object of your own, at most {MAX_EXTRA_BYTES} bytes of JSON, {MAX_EXTRA_DEPTH} levels deep",
}
"""Every key, and what it means."""
KEY = "config/"
HISTORY_KEY = "confighistory/"
DEFAULTS = "defaults"

Values = dict[str, Any]


def canonical(value: Any) -> bytes:
    """``value`` as JSON in one spelling: keys sorted, no spaces."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def digest(value: Any) -> str:
    """blake2b of 16 bytes over :func:`canonical`, hexadecimal."""
    return hashlib.blake2b(canonical(value), digest_size=16).hexdigest()


def checked_scope(scope: str) -> str:
    """``scope``; raises UsageError when it is none."""
    kind, slash, name = scope.partition("/")
    match kind:
        case "defaults" if not slash:
            return scope
        case "group" if slash:
            checked_group(name)
            return scope
        case "node" if slash and 0 < len(name) <= MAX_NODE_CHARS and name.isprintable() and "/" not in name:
            return scope
        case "agent" if slash:
            checked_agent(name)
            return scope
    raise UsageError(f"{scope[:100]!r} is no scope", hint="defaults, group/GROUP, node/NODE or agent/ID")


def checked(values: Mapping[str, Any]) -> Values:
    """``values``; raises ConfigError for what the schema does not allow, with its place."""
    for key, value in values.items():
        match key:
            case "interval":
                _check_interval(value)
            case "metrics":
                _check_metrics(value)
            case "log_level":
                _check_choice("log_level", value, LOG_LEVELS)
            case "extra":
                _check_extra(value)
            case _:
                raise unknown_key(key)
    return dict(values)


def unknown_key(key: str) -> ConfigError:
    """The error for a key that is none."""
    near = _nearest(key, SCHEMA)
    hint = f"did you mean {near!r}?" if near else f"the keys are {', '.join(SCHEMA)}; what is your own goes under extra"
    return ConfigError(f"unknown key {key[:100]!r}", hint=hint)


def _check_interval(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"interval is a number of seconds, not {_shown(value)}", hint="such as 10")
    if not INTERVAL_MIN_S <= value <= INTERVAL_MAX_S:
        raise ConfigError(f"interval {value} is not between {INTERVAL_MIN_S:g} and {INTERVAL_MAX_S:g} s", hint="such as 10")


def _check_metrics(value: Any) -> None:
    hint = f"a list of {', '.join(METRICS)}"
    if not isinstance(value, list):
        raise ConfigError(f"metrics is a list, not {_shown(value)}", hint=hint)
    for each in value:
        _check_choice("metrics", each, METRICS)
    if len(set(value)) != len(value):
        raise ConfigError("metrics names something twice", hint=hint)


def _check_choice(key: str, value: Any, choices: tuple[str, ...]) -> None:
    if isinstance(value, str) and value in choices:
        return
    near = _nearest(value, choices) if isinstance(value, str) else ""
    hint = f"did you mean {near!r}?" if near else f"one of {', '.join(choices)}"
    raise ConfigError(f"{key}: {_shown(value)} is not known", hint=hint)


def _check_extra(value: Any) -> None:
    if not isinstance(value, dict):
        raise ConfigError(f"extra is an object, not {_shown(value)}", hint='such as {"site": "berlin"}')
    _check_tree(value, "extra", 1)
    try:
        size_bytes = len(canonical(value))
    except orjson.JSONEncodeError as error:
        raise ConfigError(f"extra cannot be written as JSON: {error}") from None
    if size_bytes > MAX_EXTRA_BYTES:
        raise ConfigError(f"extra has {size_bytes} bytes of JSON", hint=f"at most {MAX_EXTRA_BYTES}")


def _check_tree(value: Any, place: str, depth: int) -> None:
    if depth > MAX_EXTRA_DEPTH:
        raise ConfigError(f"{place[:100]} is too deep", hint=f"extra has at most {MAX_EXTRA_DEPTH} levels")
    match value:
        case bool() | str() | None:
            return
        case int():
            safe = -MAX_SAFE <= value <= MAX_SAFE
        case float():
            safe = math.isfinite(value) and (abs(value) <= MAX_SAFE or not value.is_integer())
        case dict():
            for key, each in value.items():
                if not isinstance(key, str):
                    raise ConfigError(f"{place[:100]}: the key {_shown(key)} is no text")
                _check_tree(each, f"{place}.{key}", depth + 1)
            return
        case list():
            for position, each in enumerate(value):
                _check_tree(each, f"{place}[{position}]", depth + 1)
            return
        case _:
            raise ConfigError(f"{place[:100]}: {_shown(value)} is nothing that JSON has")
    if not safe:
        raise ConfigError(
            f"{place[:100]}: the number {_shown(value)} would not arrive as it is", hint="send it as a text, or within 2^53-1"
        )


def _nearest(word: str, known: Iterable[str]) -> str:
    import difflib  # only a mistake needs it

    return next(iter(difflib.get_close_matches(word[:100], list(known), n=1)), "")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


@dataclass(frozen=True, slots=True)
class Merged:
    """What several scopes say together."""

    values: Values = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    """Each key's scope: the last one that says something of it."""
    left_out: tuple[str, ...] = ()
    """Scopes whose extra is not in it: it would be too large."""


def merged(scopes: Iterable[tuple[str, Mapping[str, Any]]]) -> Merged:
    """Merge the values of scopes, in order."""
    values: Values = {}
    origin: dict[str, str] = {}
    left_out = []
    for scope, more in scopes:
        if "extra" in more and "extra" in values:
            extra = _deep(values["extra"], more["extra"])
            if len(canonical(extra)) > MAX_EXTRA_BYTES:
                left_out.append(scope)
                more = {key: value for key, value in more.items() if key != "extra"}
            else:
                more = {**more, "extra": extra}
        values.update(more)
        origin.update(dict.fromkeys(more, scope))
    return Merged(values, origin, tuple(left_out))


def _deep(below: Mapping[str, Any], above: Mapping[str, Any]) -> Values:
    out = dict(below)
    for key, value in above.items():
        before = out.get(key)
        out[key] = _deep(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return out


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """What a node does by, with the defaults filled in."""

    interval: float = DEFAULT_INTERVAL_S
    """Seconds between two measurements."""
    metrics: tuple[str, ...] = METRICS
    log_level: str = ""
    """Empty: as the configuration file says."""
    extra: Values = field(default_factory=dict)
    digest: str = ""
    """Of what the scopes say; of nothing it is empty."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> NodeConfig:
        """From merged values."""
        return cls(
            interval=float(values.get("interval", DEFAULT_INTERVAL_S)),
            metrics=tuple(values.get("metrics", METRICS)),
            log_level=str(values.get("log_level", "")),
            extra=dict(values.get("extra", {})),
            digest=digest(dict(values)) if values else "",
        )


def record(values: Mapping[str, Any], version: int, at_s: float, by: str) -> bytes:
    """What is stored for a scope."""
    return canonical({"values": values, "version": version, "at_s": round(at_s, 3), "by": by})


def history_key(scope: str, version: int) -> str:
    """Where the record of an old version is kept."""
    return f"{HISTORY_KEY}{scope}/{version:09d}"
