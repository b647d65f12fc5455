"""One node's answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zcluster.errors import ZClusterError


@dataclass(frozen=True)
class Result:
    """What one node answered.

    Attributes:
        node: its name.
        ok: whether it gave a value.
        value: the value (of a generator function: the list of its items), or None.
        error: why there is no value, or None.
        elapsed_s: from the call to this answer.
    """

    node: str
    ok: bool
    value: Any
    error: ZClusterError | None
    elapsed_s: float
