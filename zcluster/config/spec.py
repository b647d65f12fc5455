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
from typing import Any, Literal, NamedTuple

Kind = Literal[
    "name", "choice", "integer", "bytes", "duration", "bind", "addresses", "path", "modules", "boolean", "share", "mode", "owner",
    "target", "worker path", "patterns", "command", "paths", "trees",
    "globs", "levels", "roles",
]  # fmt: skip
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
        "boolean": "true or false",
        "share": "number",
        "mode": "'keep' or octal text",
        "owner": "'user' or 'user:group'",
        "target": "target",
        "worker path": "path",
        "patterns": "list of patterns",
        "command": "list of texts",
        "paths": "list of paths",
        "trees": "tables [[sync.tree]], in the file only",
        "globs": "list of globs",
        "levels": "two numbers",
        "roles": "tables [roles.NAME], in the file only",
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
        optional: an empty text is allowed.
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
        return self.kind in ("addresses", "modules", "patterns", "command", "paths", "globs")


def about(kind: Kind, doc: str, **rest: Any) -> dict[str, Spec]:
    """The metadata of a setting's field; ``rest`` are the attributes of :class:`Spec`."""
    return {SPEC_KEY: Spec(kind, doc, **rest)}


class Declared(NamedTuple):
    """A setting as its field declares it."""

    table: str
    key: str
    default: object
    spec: Spec

    @property
    def name(self) -> str:
        """TABLE.KEY."""
        return f"{self.table}.{self.key}"

    @property
    def environment(self) -> str:
        """The environment variable that sets it."""
        return f"ZCLUSTER_{self.table}__{self.key}".upper()

    @property
    def flag(self) -> str:
        """The command line flag that sets it."""
        return self.spec.flag or "--" + self.key.replace("_", "-")

    def default_under(self, preset: str) -> object:
        """The default with this ``preset``."""
        return self.spec.presets.get(preset, self.default)
