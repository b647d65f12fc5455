"""The one error tree of zcluster.

Rules kept here:
- every error has a stable ``code``; it is the same in Python, on the wire, in the CLI and over HTTP;
- an error says what happened (``message``), where (``node``, ``request_id``) and what to do next (``hint``);
- ``exit_code`` is the CLI's exit status for it (docs/reference/errors.md lists them all);
- an error travels as a plain dictionary (:meth:`ZClusterError.to_dict`) and comes back as the same class
  (:func:`error_from_dict`); an unknown code comes back as the base class, so that an older client still reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_PARTIAL = 3
EXIT_NOT_ALLOWED = 4
EXIT_NO_MATCH = 5
EXIT_UNREACHABLE = 6
EXIT_TIMED_OUT = 7

MAX_TEXT_CHARS = 2000
"""The longest message or hint that is carried: an error is a line, not a document."""


class ZClusterError(Exception):
    """Base of all errors that zcluster raises on purpose.

    Args:
        message: what happened, one line.
        hint: what to do next, one line, or empty.
        node: the node where it happened, or empty.
        request_id: ``SESSION.ID`` of the request it belongs to, or empty; node logs carry the same id.
        retry_after_s: how long to wait before a retry makes sense, or None.
    """

    code: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = EXIT_FAILED

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        node: str = "",
        request_id: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        self.message = one_line(message)
        self.hint = one_line(hint)
        self.node = one_line(node)
        self.request_id = one_line(request_id)
        self.retry_after_s = retry_after_s
        super().__init__(self.message)

    def __str__(self) -> str:
        where = f" [{self.node}]" if self.node else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.message}{where}{hint}"

    def to_dict(self) -> dict[str, Any]:
        """The error as it travels: code, message, hint, request_id, and node and retry_after_s when set."""
        out: dict[str, Any] = {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "request_id": self.request_id,
        }
        if self.node:
            out["node"] = self.node
        if self.retry_after_s is not None:
            out["retry_after_s"] = self.retry_after_s
        return out


def one_line(text: str) -> str:
    """``text`` on one line, control characters escaped, at most MAX_TEXT_CHARS long."""
    if len(text) <= MAX_TEXT_CHARS and text.isprintable():
        return text
    flat = "".join(c if c.isprintable() else ("\\n" if c == "\n" else repr(c)[1:-1]) for c in text)
    return flat if len(flat) <= MAX_TEXT_CHARS else flat[: MAX_TEXT_CHARS - 1] + "…"


class UsageError(ZClusterError):
    """zcluster was called wrongly; the caller has to change the call."""

    code = "usage"
    exit_code = EXIT_USAGE


class ConfigError(UsageError):
    """A setting is unknown, has the wrong type, or is out of its range."""

    code = "invalid_config"


class InvalidKey(UsageError):
    """A key file, a key or a ring entry is missing, malformed or readable by others."""

    code = "invalid_key"


class InvalidArguments(UsageError):
    """The arguments do not fit the function's signature; the message says which."""

    code = "invalid_arguments"


class TooLarge(UsageError):
    """A body, a header or an item is larger than its limit."""

    code = "too_large"


class NotAllowed(ZClusterError):
    """The key's role does not permit this."""

    code = "not_allowed"
    exit_code = EXIT_NOT_ALLOWED


class SessionReplaced(NotAllowed):
    """A newer session of the same key took this one's place."""

    code = "session_replaced"


class NoSuchNode(ZClusterError):
    """The target matches no node; a target never falls back to everyone."""

    code = "no_such_node"
    exit_code = EXIT_NO_MATCH


class NoSuchTree(ZClusterError):
    """No tree of this name is declared, or none concerns this node."""

    code = "no_such_tree"
    exit_code = EXIT_NO_MATCH


class NoSuchAgent(ZClusterError):
    """No agent has this id, or none matches."""

    code = "no_such_agent"
    exit_code = EXIT_NO_MATCH


class NoSuchGroup(ZClusterError):
    """There is no group of this name."""

    code = "no_such_group"
    exit_code = EXIT_NO_MATCH


class NoSuchFile(ZClusterError):
    """No shared file has this name."""

    code = "no_such_file"
    exit_code = EXIT_NO_MATCH


class NoSuchVersion(ZClusterError):
    """What is kept of the past has no version of this number, or no longer."""

    code = "no_such_version"
    exit_code = EXIT_NO_MATCH


class NoSuchClient(ZClusterError):
    """No client listens under this name."""

    code = "no_such_client"
    exit_code = EXIT_NO_MATCH


class NoSuchLease(ZClusterError):
    """The lease has ended, or never was."""

    code = "no_such_lease"
    exit_code = EXIT_NO_MATCH


class Conflict(ZClusterError):
    """What was expected does not hold (any more): somebody else was first. Nothing was changed."""

    code = "conflict"
    key: str = ""
    """Of the store, the one whose expectation does not hold; only where it is raised."""


class Compacted(ZClusterError):
    """What changed so long ago is no longer known: read everything, and go on from there."""

    code = "compacted"
    oldest: int = 0
    """From which revision on changes are known; only where it is raised."""


class StoreFailed(ZClusterError):
    """The disk is full or broken: nothing was changed."""

    code = "store_failed"


class NoSuchJob(ZClusterError):
    """There is no job of this id (any more), or it is not yours."""

    code = "no_such_job"
    exit_code = EXIT_NO_MATCH


class KeyConflict(ZClusterError):
    """The idempotency key belongs to a job with other arguments or another target: nothing was submitted."""

    code = "key_conflict"


class NoSuchFunction(ZClusterError):
    """No eligible node has a function of this name."""

    code = "no_such_function"
    exit_code = EXIT_NO_MATCH


class NoSuchKey(ZClusterError):
    """The ring has no key of this name."""

    code = "no_such_key"
    exit_code = EXIT_NO_MATCH


class NoSuchContext(ZClusterError):
    """There is no context of this name."""

    code = "no_such_context"
    exit_code = EXIT_NO_MATCH


class Unreachable(ZClusterError):
    """No master answers at the given addresses."""

    code = "unreachable"
    exit_code = EXIT_UNREACHABLE


class NodeUnavailable(ZClusterError):
    """The node is known but silent, dead or leaving; the request was never started."""

    code = "node_unavailable"
    exit_code = EXIT_UNREACHABLE


class NodeLost(ZClusterError):
    """The node died or went silent with the request on it: whether it ran is unknown."""

    code = "node_lost"
    exit_code = EXIT_UNREACHABLE


class MasterLost(ZClusterError):
    """The connection to the master ended before the answer: whether the request ran is unknown."""

    code = "master_lost"
    exit_code = EXIT_UNREACHABLE


class Draining(ZClusterError):
    """The node is shutting down and takes no new work."""

    code = "draining"
    exit_code = EXIT_UNREACHABLE


class TimedOut(ZClusterError):
    """The deadline passed. Unless the message says it never started, whether it ran is unknown."""

    code = "timed_out"
    exit_code = EXIT_TIMED_OUT


class Busy(ZClusterError):
    """A bounded queue is full; ``retry_after_s`` says how long to wait."""

    code = "busy"


class Cancelled(ZClusterError):
    """The request was cancelled before it ended."""

    code = "cancelled"


class FunctionFailed(ZClusterError):
    """The function raised; the message is ``TypeName: text``. The traceback is in the node's log."""

    code = "function_failed"


class Retry(ZClusterError):
    """Raised by a function: this attempt failed, and another may succeed. A job is tried again ``after_s`` seconds later
    (default: after its back-off), as often as its ``retries`` allow; the caller of an ordinary request gets it as an error.

    Args:
        message: what happened, one line.
        after_s: how long to wait before the next attempt, in seconds; None: as the back-off says.
    """

    code = "retry"

    def __init__(
        self, message: str = "the function asks to be run again", *, after_s: float | None = None, hint: str = "", node: str = "",
        request_id: str = "", retry_after_s: float | None = None,
    ) -> None:  # fmt: skip
        wait_s = retry_after_s if after_s is None else after_s
        super().__init__(message, hint=hint, node=node, request_id=request_id, retry_after_s=wait_s)


class Reject(ZClusterError):
    """Raised by a function: the arguments will never do. A job fails at once, without another attempt."""

    code = "rejected"


class JobDead(ZClusterError):
    """The job is with the dead letters: its attempts are used up, or it killed the nodes that ran it."""

    code = "dead"


class JobExpired(ZClusterError):
    """The job had not begun when its time was over."""

    code = "expired"
    exit_code = EXIT_TIMED_OUT


class PeerError(ZClusterError):
    """The peer broke the protocol; the connection or the message is dropped and counted."""

    code = "protocol_error"


class UnsupportedVersion(PeerError):
    """The peer speaks no protocol version that we speak."""

    code = "unsupported_version"


def _subclasses(cls: type[ZClusterError]) -> list[type[ZClusterError]]:
    found = [cls]
    for sub in cls.__subclasses__():
        found.extend(_subclasses(sub))
    return found


ERRORS: dict[str, type[ZClusterError]] = {cls.code: cls for cls in _subclasses(ZClusterError)}
"""Every error class by its code."""


def error_from_dict(data: Mapping[str, Any]) -> ZClusterError:
    """The error that ``data`` (see :meth:`ZClusterError.to_dict`) describes; never raises on odd fields."""
    retry = data.get("retry_after_s")
    cls = ERRORS.get(str(data.get("code", "")), ZClusterError)
    return cls(
        str(data.get("message", "an error without a message")),
        hint=str(data.get("hint", "")),
        node=str(data.get("node", "")),
        request_id=str(data.get("request_id", "")),
        retry_after_s=float(retry) if isinstance(retry, int | float) else None,
    )
