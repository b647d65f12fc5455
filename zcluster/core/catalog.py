"""Which function is where: what the nodes that have a session can run.

Rule kept here: a join or a leave costs as many steps as the node has functions, however many nodes there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import msgspec

from zcluster.core.peers import Node
from zcluster.wire import Catalog, FunctionInfo

MAX_CATALOG_BYTES = 262_144
"""Names of functions in a CATALOG: a function beyond is not retried by clients, which is always allowed."""

UNKNOWN = {"client": 0}
"""The roles that a function asks of its caller as long as no node has it."""
_NO_SCHEMAS: dict[str, int] = {}


class Functions:
    """The functions of the nodes that have a session."""

    def __init__(self) -> None:
        self.providers: dict[str, dict[str, Node]] = {}
        """By function name and node name."""
        self.changes = 0
        """Grows whenever a node comes or goes."""
        self.drained = False
        """Whether a node may be drained: while none is, nobody looks."""
        self._roles: dict[str, Counter[str]] = {}
        self._schemas: dict[str, Counter[str]] = {}
        self._unsafe: Counter[str] = Counter()

    def provide(self, node: Node) -> None:
        """``node`` has joined with its functions."""
        self.changes += 1
        for name, info in node.functions.items():
            self.providers.setdefault(name, {})[node.name] = node
            self._count(name, info, 1)

    def withdraw(self, node: Node) -> None:
        """``node`` has gone with its functions."""
        self.changes += 1
        for name, info in node.functions.items():
            providers = self.providers.get(name)
            if providers is None or providers.pop(node.name, None) is None:
                continue
            self._count(name, info, -1)
            if not providers:
                del self.providers[name]
                del self._roles[name]
                del self._schemas[name]

    def roles(self, name: str) -> dict[str, int]:
        """The roles that the providers of a function ask of its caller."""
        return self._roles.get(name, UNKNOWN)

    def schemas(self, name: str) -> Collection[str]:
        """The different schemas of a function's arguments that its providers gave, as JSON."""
        return self._schemas.get(name, _NO_SCHEMAS).keys()

    def idempotent(self) -> list[str]:
        """The functions that every node that has them declares idempotent, by name."""
        return sorted(name for name in self.providers if not self._unsafe[name])

    def catalog(self) -> Catalog:
        """What callers are told: the first idempotent functions whose names take at most MAX_CATALOG_BYTES as JSON."""
        names, total_bytes = self.idempotent(), 0
        for index, name in enumerate(names):
            total_bytes += len(msgspec.json.encode(name)) + 1
            if total_bytes > MAX_CATALOG_BYTES:
                return Catalog(idempotent=names[:index])
        return Catalog(idempotent=names)

    def candidates(self, name: str) -> list[Node]:
        """The nodes with room that ``any`` may mean now: workers; the master only when no usable worker has the function."""
        providers = self.providers.get(name, {}).values()
        workers = [node for node in providers if node.role == "worker" and node.usable]
        return [node for node in workers or providers if node.usable and node.free > 0]

    def _count(self, name: str, info: FunctionInfo, step: int) -> None:
        roles = self._roles.setdefault(name, Counter())
        roles[info.role] += step
        if not roles[info.role]:
            del roles[info.role]
        schemas = self._schemas.setdefault(name, Counter())
        schemas[info.parameters] += step
        if not schemas[info.parameters]:
            del schemas[info.parameters]
        if not info.idempotent:
            self._unsafe[name] += step
            if not self._unsafe[name]:
                del self._unsafe[name]
