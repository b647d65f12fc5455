"""zcluster: a fleet of machines as one cluster over an encrypted ZeroMQ bus.

Rules kept here:
- importing this package costs nothing: a name is imported from its module when it is first used (PEP 562),
  so that `zcluster --help` loads neither ZeroMQ nor asyncio;
- what a program may rely on is in ``__all__``; everything else is private to the project.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zcluster.clients import AsyncClient, AsyncJob, Client, Job, Message, Result
    from zcluster.dapi import Context, Secret, function
    from zcluster.errors import (
        Busy,
        Cancelled,
        Compacted,
        ConfigError,
        Conflict,
        Draining,
        FunctionFailed,
        InvalidArguments,
        InvalidKey,
        JobDead,
        JobExpired,
        KeyConflict,
        MasterLost,
        NodeLost,
        NodeUnavailable,
        NoSuchAgent,
        NoSuchClient,
    NoSuchContext,
        NoSuchFile,
        NoSuchFunction,
        NoSuchGroup,
        NoSuchJob,
        NoSuchKey,
        NoSuchLease,
        NoSuchNode,
        NoSuchTree,
        NoSuchVersion,
        NotAllowed,
        PeerError,
        Reject,
        Retry,
        SessionReplaced,
        StoreFailed,
        TimedOut,
        TooLarge,
        Unreachable,
        UnsupportedVersion,
        UsageError,
        ZClusterError,
    )

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "AsyncJob",
    "Client",
    "Context",
    "Job",
    "Message",
    "Result",
    "Secret",
    "function",
    "Busy",
    "Cancelled",
    "ConfigError",
    "Draining",
    "FunctionFailed",
    "InvalidArguments",
    "InvalidKey",
    "JobDead",
    "JobExpired",
    "KeyConflict",
    "MasterLost",
    "NoSuchFunction",
    "NoSuchJob",
    "NoSuchKey",
    "NoSuchNode",
    "NoSuchTree",
    "StoreFailed",
    "Compacted",
    "Conflict",
    "NoSuchLease",
    "NoSuchClient",
    "NoSuchContext",
    "NoSuchGroup",
    "NoSuchFile",
    "NoSuchVersion",
    "NoSuchAgent",
    "NodeLost",
    "NodeUnavailable",
    "NotAllowed",
    "PeerError",
    "Reject",
    "Retry",
    "SessionReplaced",
    "TimedOut",
    "TooLarge",
    "Unreachable",
    "UnsupportedVersion",
    "UsageError",
    "ZClusterError",
    "__version__",
]

_MODULES = {
    "AsyncClient": "zcluster.clients",
    "AsyncJob": "zcluster.clients",
    "Client": "zcluster.clients",
    "Job": "zcluster.clients",
    "Message": "zcluster.clients",
    "Result": "zcluster.clients",
    "Context": "zcluster.dapi",
    "Secret": "zcluster.dapi",
    "function": "zcluster.dapi",
}
"""Where a public name lives; the ones that are not listed are error classes."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'zcluster' has no attribute {name!r}")
    value = getattr(import_module(_MODULES.get(name, "zcluster.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
