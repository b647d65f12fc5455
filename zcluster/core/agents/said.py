"""What an agent said (KEEP), checked and as fields of its row.

Rules kept here:
- what is beyond a bound of core/agents/row.py is refused with its place, and nothing of that KEEP is taken;
- texts that people and tables show hold no control characters;
- a full KEEP empties what it does not say.
"""

from __future__ import annotations

from typing import Any

import msgspec

from zcluster.core.agents.row import (
    MAX_LABEL_KEY_CHARS,
    MAX_LABEL_VALUE_CHARS,
    MAX_LABELS,
    MAX_METRICS_BYTES,
    MAX_OS_BYTES,
)
from zcluster.wire.agents import Keep

_EMPTY: dict[str, Any] = {
    "name": "", "address": "", "version": "", "os": {}, "labels": {}, "metrics": {}, "config": "", "tree": "",
}  # fmt: skip
_TEXTS = ("name", "address", "version", "config", "tree")
_ENCODER = msgspec.json.Encoder()


def label_fault(key: str, value: str) -> str:
    """What is wrong with a label, or empty."""
    if not 1 <= len(key) <= MAX_LABEL_KEY_CHARS or not key.isprintable() or "=" in key or " " in key:
        return f"the label {key[:MAX_LABEL_KEY_CHARS]!r}: a key has 1 to {MAX_LABEL_KEY_CHARS} characters, no space and no '='"
    if len(value) > MAX_LABEL_VALUE_CHARS or not value.isprintable():
        return f"the label {key!r}: a value has at most {MAX_LABEL_VALUE_CHARS} characters, none of them a control character"
    return ""


def labels_fault(labels: dict[str, str]) -> str:
    """What is wrong with labels, or empty."""
    if len(labels) > MAX_LABELS:
        return f"{len(labels)} labels, at most {MAX_LABELS} are allowed"
    return next(filter(None, (label_fault(key, value) for key, value in labels.items())), "")


def keep_fault(keep: Keep) -> str:
    """What is wrong with a KEEP, or empty."""
    for name in _TEXTS:
        text = getattr(keep, name)
        if text and not text.isprintable():
            return f"{name} holds control characters"
    for name, most in (("os", MAX_OS_BYTES), ("metrics", MAX_METRICS_BYTES)):
        value = getattr(keep, name)
        if value and (size := len(_ENCODER.encode(value))) > most:
            return f"{name} of {size} bytes, at most {most} are allowed"
    return labels_fault(keep.labels) if keep.labels else ""


def fields_of(keep: Keep) -> dict[str, Any]:
    """The fields of the row that ``keep`` says."""
    said = {name: value for name in _EMPTY if (value := getattr(keep, name)) is not None}
    return {**_EMPTY, **said} if keep.full else said
