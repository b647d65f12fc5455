"""Functions: how they are declared, found, checked and run.

    @zcluster.function("math.add", timeout_s=5, idempotent=True)
    def add(a: int, b: int) -> int: ...

``function`` declares, ``load_functions`` finds what modules declare, ``node_functions`` makes the built-in ones, and
``Runner`` runs them. Sockets and messages are not known here.
"""

from __future__ import annotations

from zcluster.dapi.builtins import ResourceSampler, node_functions
from zcluster.dapi.context import Context
from zcluster.dapi.function import Declaration, Function, function
from zcluster.dapi.jobs import INITIAL_CREDIT_ITEMS, Job
from zcluster.dapi.loader import ENTRY_POINT_GROUP, is_reserved, load_functions
from zcluster.dapi.runner import Runner
from zcluster.dapi.secret import Secret

__all__ = [
    "ENTRY_POINT_GROUP",
    "INITIAL_CREDIT_ITEMS",
    "Context",
    "Declaration",
    "Function",
    "Job",
    "ResourceSampler",
    "Runner",
    "Secret",
    "function",
    "is_reserved",
    "load_functions",
    "node_functions",
]
