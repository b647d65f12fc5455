"""What is known about one setting besides its name, type and default.

Rules kept here:
- a setting is declared once, as a dataclass field whose metadata is ``about(...)``; checks, the template, ``config show``
  and the reference are all made from that declaration;
- every declaration has a doc; a number has a range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

Kind = Literal["name", "choice", "integer", "bytes", "duration", "bind", "addresses", "path", "modules"]
"""What a value is: how it is read, checked and shown."""

SPEC_KEY = "zcluster"
"""Where the Spec is in the metadata of a dataclass field."""

KIND_TEXT: Mapping[Kind, str] = MappingProxyType(
    {
        "name": "name",
        "choice": "choice",
        "integer": "integer",
        "bytes": "size",
        "duration": "duration",
        "bind": "address",
        "addresses": "list of addresses",
        "path": "path",
        "modules": "list of modules",
    }
)


@dataclass(frozen=True)
class Spec:
    """The declaration of one setting.

    Attributes:
        kind: how its value is read.
        doc: what it does, in a sentence or two.
        unit: the unit of a number ("seconds", "bytes", "requests"), or empty.
        low, high: the range of a number, both included.
        choices: the words that are allowed, for kind "choice".
        optional: an empty text is allowed (kinds "name" and "path").
        live: SIGHUP applies it without a restart.
        presets: the default under another preset than "lan".
        flag: the command line flag that sets it.
    """

    kind: Kind
    doc: str
    unit: str = ""
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()
    optional: bool = False
    live: bool = False
    presets: Mapping[str, object] = field(default_factory=dict)
    flag: str = ""

    @property
    def is_list(self) -> bool:
        """Whether the value is a list of texts."""
        return self.kind in ("addresses", "modules")


def about(kind: Kind, doc: str, **rest: Any) -> dict[str, Spec]:
    """The metadata of a setting's field; ``rest`` are the attributes of :class:`Spec`."""
    return {SPEC_KEY: Spec(kind, doc, **rest)}
