"""How a call's value or exception becomes the body that travels back.

Rules kept here:
- a value travels as one JSON value; what JSON cannot hold is FunctionFailed, never a guess;
- an exception travels as FunctionFailed ``TypeName: text``; only InvalidArguments, Retry and Reject keep their class, because
  the others (NotAllowed, NodeLost...) would claim that the cluster itself refused or lost the request. The errors of
  functions that are a part of zcluster are the cluster's own, and travel as they are;
- the text of a call's secrets is in no error and in no traceback;
- SystemExit and KeyboardInterrupt in a function are failures of that function, not of the node;
- a traceback goes to the log, with the request's id, and nowhere else.
"""

from __future__ import annotations

import contextlib
import logging
import math
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from zcluster.dapi.context import Context
from zcluster.dapi.jobs import AnyJob, Body
from zcluster.dapi.secret import Secret, hide
from zcluster.dapi.steps import Steps
from zcluster.errors import FunctionFailed, InvalidArguments, Reject, Retry, TooLarge, ZClusterError, error_from_dict

_dumps = orjson.dumps
PIECE_CHARS = 1024 * 1024


def text_of(error: BaseException) -> str:
    """``TypeName: text`` of any exception, also of one whose own ``__str__`` raises."""
    try:
        text = str(error)
    except BaseException as second:
        text = f"(its text cannot be read: {type(second).__name__})"
    kind = type(error).__name__
    return f"{kind}: {text}" if text else kind


def failure(error: BaseException, secrets: Sequence[str] = ()) -> ZClusterError:
    """The error that travels for ``error``, which a function raised, without the ``secrets`` of its call."""
    if isinstance(error, Retry | Reject):
        return _asked_for(error, secrets)
    if isinstance(error, InvalidArguments | FunctionFailed):
        return without(error, secrets)
    return FunctionFailed(hide(text_of(error), secrets), hint="the traceback is in the log of the node, under the request's id")


def failure_of_ours(error: BaseException, secrets: Sequence[str] = ()) -> ZClusterError:
    """:func:`failure` for a function that is a part of zcluster: the cluster's own errors travel as they are."""
    return without(error, secrets) if isinstance(error, ZClusterError) else failure(error, secrets)


def without(error: ZClusterError, secrets: Sequence[str]) -> ZClusterError:
    """``error`` itself, or what travels instead of it when it tells one of ``secrets``."""
    message, hint = hide(error.message, secrets), hide(error.hint, secrets)
    if message == error.message and hint == error.hint:
        return error
    return error_from_dict({**error.to_dict(), "message": message, "hint": hint})


def _asked_for(error: Retry | Reject, secrets: Sequence[str]) -> ZClusterError:
    """What travels for an error by which a function says what is to become of its job.

    Made anew of what can be relied on: a subclass may have a code or a constructor of its own.
    """
    cls = Retry if isinstance(error, Retry) else Reject
    message, wait_s = getattr(error, "message", None), getattr(error, "retry_after_s", None)
    if not isinstance(wait_s, int | float) or not 0 <= wait_s < math.inf:
        wait_s = None
    return cls(
        hide(message if isinstance(message, str) else text_of(error), secrets),
        hint=hide(str(getattr(error, "hint", "")), secrets),
        retry_after_s=wait_s,
    )


def traceback_of(error: BaseException, secrets: Sequence[str]) -> str:
    """The traceback of ``error`` as text, without ``secrets``."""
    return hide("".join(traceback.format_exception(error)), secrets)


def encode(name: str, value: Any) -> bytes:
    """``value``, which function ``name`` returned, as JSON; raises FunctionFailed when JSON cannot hold it."""
    try:
        return _dumps(value)
    except orjson.JSONEncodeError as error:
        hint = "return None, booleans, numbers within 64 bits, text, lists, and dictionaries with text keys"
        if _holds_secret(value):
            hint = "a Secret is not returned; reveal() it if the caller is to read it"
        raise FunctionFailed(f"{name} returned a {type(value).__name__} that is not JSON: {error}", hint=hint) from error


def encode_in_steps(name: str, value: Any) -> Steps[Body]:
    """What :func:`encode` does; a long text goes piece by piece, and so does the room for it."""
    if type(value) is not str or len(value) <= PIECE_CHARS:
        return encode(name, value)
    body = bytearray(b'"')
    for first in range(0, len(value), PIECE_CHARS):
        body += memoryview(encode(name, value[first : first + PIECE_CHARS]))[1:-1]
        yield
    body += b'"'
    return body


def _holds_secret(value: Any) -> bool:
    """Whether the first thing in ``value`` that is not JSON is a Secret."""
    found: list[bool] = []

    def look(part: Any) -> Any:
        found.append(isinstance(part, Secret))
        raise TypeError

    with contextlib.suppress(orjson.JSONEncodeError):
        orjson.dumps(value, default=look)
    return any(found)


def error_body(error: ZClusterError, node: str, request_id: str) -> bytes:
    """``error`` as JSON, saying where it happened unless it already does."""
    data = error.to_dict()
    data["request_id"] = error.request_id or request_id
    data["node"] = error.node or node
    return _dumps(data)


class Outcomes:
    """Makes the bodies of one node, keeps its limits, and writes its tracebacks; used from any thread.

    Args:
        node: this node's name.
        logger: where tracebacks go.
        clock: the runner's clock, seconds.
        body_bytes: the largest result.
        item_bytes: the largest item of a stream.
    """

    __slots__ = ("_body_bytes", "_clock", "_item_bytes", "_logger", "_node")

    def __init__(
        self, node: str, logger: logging.Logger, clock: Callable[[], float], *, body_bytes: int, item_bytes: int
    ) -> None:
        self._node = node
        self._logger = logger
        self._clock = clock
        self.set_limits(body_bytes, item_bytes)

    def set_limits(self, body_bytes: int, item_bytes: int) -> None:
        """The largest result and the largest item of a stream, from now on."""
        self._body_bytes = body_bytes
        self._item_bytes = item_bytes

    def context(self, job: AnyJob, deadline_s: float) -> Context:
        """The context of ``job``."""
        return Context(
            caller=job.caller,
            role=job.role,
            node=self._node,
            request_id=job.request_id,
            deadline_s=deadline_s,
            clock=self._clock,
            mark=job.mark,
            held=job.held,
        )

    def result(self, job: AnyJob, body: Body) -> tuple[bool, Body]:
        """``body`` when it is within the limit, else the TooLarge that says so."""
        if len(body) <= self._body_bytes:
            return True, body
        return False, self.refused(job, self._too_large(job, "result", len(body), self._body_bytes))

    def item(self, job: AnyJob, value: Any) -> tuple[bool, bytes]:
        """One item of a stream: (True, JSON), or (False, the error that ends the stream)."""
        try:
            body = encode(job.function.name, value)
        except FunctionFailed as error:
            return False, self.failed(job, error)
        if len(body) <= self._item_bytes:
            return True, body
        return False, self.refused(job, self._too_large(job, "item", len(body), self._item_bytes))

    def failed(self, job: AnyJob, error: BaseException) -> bytes:
        """The body for what ``job`` raised; FunctionFailed leaves its traceback in the log."""
        secrets = job.function.secrets(job.body)
        seen = failure_of_ours(error, secrets) if job.function.own_errors else failure(error, secrets)
        if isinstance(seen, FunctionFailed):
            self._log(job, seen, error.__cause__ or error if isinstance(error, FunctionFailed) else error, secrets)
        return self.refused(job, seen)

    def _log(self, job: AnyJob, seen: FunctionFailed, cause: BaseException, secrets: Sequence[str]) -> None:
        """Write the traceback of ``cause`` to the log."""
        name, extra = job.function.name, {"request_id": job.request_id}
        if secrets:  # whoever formats the record must not see the exception
            self._logger.error("%s failed: %s\n%s", name, seen.message, traceback_of(cause, secrets), extra=extra)
        else:
            self._logger.error("%s failed: %s", name, seen.message, exc_info=cause, extra=extra)

    def failed_elsewhere(self, job: AnyJob, body: bytes, traceback: str) -> bytes:
        """The body that a process of ours made for ``job``; its traceback, if it left one, goes to the log here."""
        if traceback:
            self._logger.error("%s failed in its process\n%s", job.function.name, traceback, extra={"request_id": job.request_id})
        return body

    def refused(self, job: AnyJob, error: ZClusterError) -> bytes:
        """The body for an error of our own making."""
        return error_body(error, self._node, job.request_id)

    def run(self, job: AnyJob, context: Context | None) -> tuple[bool, Body]:
        """Run a plain function here and now: (whether it succeeded, the body). Never raises."""
        try:
            body = job.function.run(job.body, context)
        except BaseException as error:
            return False, self.failed(job, error)
        if len(body) <= self._body_bytes:  # as result() does; here to spare the hot path a call
            return True, body
        return self.result(job, body)

    def run_decoded(self, job: AnyJob, values: tuple[Any, ...], context: Context | None) -> tuple[bool, Body]:
        """:meth:`run` where the arguments have been decoded."""
        try:
            body = encode(job.function.name, job.function.call(values, context))
        except BaseException as error:
            return False, self.failed(job, error)
        return self.result(job, body)

    def _too_large(self, job: AnyJob, what: str, size_bytes: int, limit_bytes: int) -> TooLarge:
        return TooLarge(
            f"{job.function.name}: {what} of {size_bytes} bytes; the limit is {limit_bytes}",
            hint="return less, or stream it in pieces from a generator",
        )
