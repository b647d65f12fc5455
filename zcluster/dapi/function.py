"""How a function is declared, and what is known of it afterwards.

Rules kept here:
- declaring changes nothing: the decorated function is the same object, callable as before;
- what requests could not call is refused where it is declared or loaded, never at the first request;
- ``Function.run`` is the hot path: one decoding pass, the call, one encoding pass.
"""

from __future__ import annotations

import inspect
import math
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from zcluster.dapi.arguments import Arguments, check_signature, schema_of
from zcluster.dapi.context import Context
from zcluster.dapi.jobs import Body
from zcluster.dapi.outcome import encode, failure, failure_of_ours
from zcluster.errors import ConfigError

Pool = Literal["thread", "process", "inline"]
Role = Literal["client", "admin"]
Kind = Literal["plain", "async", "generator", "async_generator"]
F = TypeVar("F", bound=Callable[..., Any])

ATTRIBUTE = "__zcluster__"
MAX_NAME_CHARS = 128
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*)*")


@dataclass(frozen=True, slots=True)
class Declaration:
    """What the decorator was told.

    Attributes:
        name: the name that requests use, words joined by dots.
        timeout_s: the longest that a call may take, or None: only the request's deadline counts.
        idempotent: running it twice does no harm, so a lost request may be sent to another node.
        pool: "thread" (default), "process" (killed at the deadline) or "inline" (on the event loop: microseconds only).
            An async function runs on the event loop whatever the pool says.
        role: the role that a caller needs, "client" or "admin".
    """

    name: str
    timeout_s: float | None
    idempotent: bool
    pool: Pool
    role: Role


def function(
    name: str | None = None,
    *,
    timeout_s: float | None = None,
    idempotent: bool = False,
    pool: Pool = "thread",
    role: Role = "client",
) -> Callable[[F], F]:
    """Declare a function that requests may call: ``@zcluster.function("math.add", timeout_s=5, idempotent=True)``.

    Args:
        name: see :class:`Declaration`; default: the function's own name.
        timeout_s, idempotent, pool, role: see :class:`Declaration`.

    The function is returned unchanged, with its Declaration as attribute ``__zcluster__``.
    Raises ConfigError for what could not be called by a request.
    """
    if callable(name):
        raise ConfigError("@zcluster.function was used without parentheses", hint="write @zcluster.function()")

    def declare(call: F) -> F:
        own_name = getattr(call, "__name__", "")
        declaration = Declaration(own_name if name is None else name, timeout_s, idempotent, pool, role)
        _check(declaration, call)
        setattr(call, ATTRIBUTE, declaration)
        return call

    return declare


def _check(declaration: Declaration, call: Callable[..., Any]) -> None:
    name = declaration.name
    if not isinstance(name, str) or len(name) > MAX_NAME_CHARS or not _NAME.fullmatch(name):
        raise ConfigError(
            f"'{name}' is no name for a function",
            hint=f"words of letters, digits, _ and -, joined by dots, at most {MAX_NAME_CHARS} characters: math.add",
        )
    if inspect.isclass(call) or not callable(call) or isinstance(call, staticmethod | classmethod):
        raise ConfigError(f"function {name}: only functions can be declared", hint="decorate a def at module level")
    outer = getattr(call, "__qualname__", "").rpartition(".")[0]
    if outer and not outer.endswith("<locals>"):
        raise ConfigError(f"function {name} is a method of {outer}", hint="decorate a def at module level")
    timeout_s = declaration.timeout_s
    if timeout_s is not None and (
        not isinstance(timeout_s, int | float) or isinstance(timeout_s, bool) or not 0 < timeout_s < math.inf
    ):
        raise ConfigError(f"function {name}: timeout_s is {timeout_s!r}", hint="give seconds, more than 0, or None")
    if declaration.pool not in get_args(Pool):
        raise ConfigError(f"function {name}: pool is {declaration.pool!r}", hint='"thread", "process" or "inline"')
    if declaration.role not in get_args(Role):
        raise ConfigError(f"function {name}: role is {declaration.role!r}", hint='"client" or "admin"')
    if declaration.pool != "thread" and kind_of(call) != "plain":
        raise ConfigError(
            f'function {name}: pool="{declaration.pool}" does not go with async functions and generators',
            hint="leave pool out: async ones run on the event loop, generators in a thread",
        )
    check_signature(name, call)


def kind_of(call: Callable[..., Any]) -> Kind:
    """Which of the four kinds of function ``call`` is."""
    if inspect.isasyncgenfunction(call):
        return "async_generator"
    if inspect.iscoroutinefunction(call):
        return "async"
    if inspect.isgeneratorfunction(call):
        return "generator"
    return "plain"


def declaration_of(call: Any) -> Declaration | None:
    """The Declaration of ``call``, or None; looks without running any code of ``call``."""
    found = inspect.getattr_static(call, ATTRIBUTE, None)
    return found if isinstance(found, Declaration) else None


class Function:
    """A declared function, ready to run.

    Args:
        call: a function that :func:`function` decorated. Raises ConfigError when it is none, or when its annotations
            cannot be read from JSON.
        own_errors: it is a part of zcluster: the errors that it raises are the cluster's own, and travel as they are.

    Attributes:
        name, timeout_s, idempotent, pool, role: as declared.
        kind: "plain", "async", "generator" or "async_generator".
        stream: whether it is a generator: its items go to the caller one by one.
        doc: its docstring.
        wants_context: whether a parameter takes the Context.
        secrets: ``secrets(body)`` gives the text of each Secret of a call, to be hidden in what it says when it fails.
        decode: ``decode(body)`` gives the checked arguments for :meth:`call`; raises InvalidArguments.
        decode_large: the same in steps, for a body longer than :data:`zcluster.dapi.weight.LARGE_BYTES`.
        run: ``run(body, context=None)`` runs a plain function: the result as JSON, or a raised ZClusterError
            (InvalidArguments, Retry, Reject, with ``own_errors`` any; or FunctionFailed, whose cause is the original exception).
    """

    def __init__(self, call: Callable[..., Any], *, own_errors: bool = False) -> None:
        self.own_errors = own_errors
        declaration = declaration_of(call)
        if declaration is None:
            raise ConfigError(f"{call!r} is not declared", hint="decorate it with @zcluster.function()")
        self.name = declaration.name
        self.timeout_s = declaration.timeout_s
        self.idempotent = declaration.idempotent
        self.pool: Pool = declaration.pool
        self.role: Role = declaration.role
        self.kind: Kind = kind_of(call)
        self.stream = self.kind in ("generator", "async_generator")
        self.doc = inspect.getdoc(call) or ""
        self.target = call
        self._arguments = Arguments(self.name, call)
        self.wants_context = self._arguments.context_name is not None
        self.secrets = self._arguments.secrets
        self.decode = self._arguments.decode
        self.decode_large = self._arguments.decode_large
        self.run = self._make_run()

    def call(self, values: tuple[Any, ...], context: Context | None = None) -> Any:
        """Call it with what :attr:`decode` gave; the return value, coroutine or generator as it comes."""
        arguments = self._arguments
        if arguments.by_position:
            return self.target(*values)
        keywords = dict(zip(arguments.names, values, strict=True))
        if arguments.context_name is not None:
            keywords[arguments.context_name] = context
        return self.target(**keywords)

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments object."""
        return self._arguments.schema()

    def describe(self) -> dict[str, Any]:
        """What callers see of it: name, doc, parameters and returns (JSON schemas), and how it runs."""
        return {
            "name": self.name,
            "doc": self.doc,
            "parameters": self.schema(),
            "returns": schema_of(self._returned()),
            "timeout_s": self.timeout_s,
            "idempotent": self.idempotent,
            "stream": self.stream,
            "role": self.role,
            "pool": self.pool,
        }

    def place(self) -> str:
        """Where it was declared: ``file:line``."""
        code = getattr(inspect.unwrap(self.target), "__code__", None)
        return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(self.target)

    def _returned(self) -> Any:
        returns = self._arguments.returns
        if self.stream:  # Iterator[int]: the schema of an item
            items = typing.get_args(returns)
            return items[0] if items else Any
        return returns

    def _make_run(self) -> Callable[..., bytes]:
        # A closure, not a method: this runs for every request.
        name = self.name
        decode = self.decode
        call = self.call
        target = self.target
        secrets = self.secrets
        by_position = self._arguments.by_position
        failed = failure_of_ours if self.own_errors else failure

        def run(body: Body, context: Context | None = None) -> bytes:
            try:
                values = decode(body)
                value = target(*values) if by_position else call(values, context)
            except BaseException as error:
                seen = failed(error, secrets(body))
                try:
                    if seen is error:
                        raise
                    raise seen from error
                finally:
                    # Its traceback holds this frame: with it here they would hold each other, and the arguments, until the
                    # collector looks, which it does seldom.
                    del seen
            return encode(name, value)

        return run
