"""Filters over agents: ``status=active and os.platform=debian and labels.site=ber and version<4.9``.

A term is FIELD OP VALUE; ``and`` binds more than ``or``, ``not`` more than both, and there are parentheses. A value with
spaces, parentheses or one of ``=!<>~`` stands in quotes, in which ``\\`` takes the next character as it is.

Rules kept here:
- a filter has at most MAX_FILTER_CHARS, MAX_TERMS terms and MAX_DEPTH levels: one caller's question stays small;
- each error names the place (counted from 1), and the nearest known field or word;
- a time is compared with a date, with seconds since 1970, or with an age: ``last_seen>10m`` is longer ago than 10 minutes,
  ``last_seen<10m`` within them; ages become times here, so that books know no clock. ``never`` is a time of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NoReturn, get_args

from zcluster.config.names import nearest
from zcluster.core.agents.fields import Field, field_of
from zcluster.core.agents.row import STATUSES
from zcluster.errors import UsageError

Op = Literal["=", "!=", "<", "<=", ">", ">=", "~"]
OPS: tuple[str, ...] = get_args(Op)
MAX_FILTER_CHARS = 4096
MAX_TERMS = 64
MAX_DEPTH = 32
MAX_GLOB_CHARS = 128

_TOKEN = re.compile(r"""\s*(?:(?P<paren>[()])|(?P<op>!=|<=|>=|[=<>~])|(?P<quoted>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    |(?P<word>[^\s()'"=!<>~]+))""", re.VERBOSE | re.DOTALL)  # fmt: skip
_AGE = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h|d|w)", re.ASCII)
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_NUMBER = re.compile(r"-?(\d{1,15})(\.\d{1,15})?([eE][+-]?\d{1,2})?", re.ASCII)
_WORDS = {"true": 1.0, "false": 0.0}
_OLDER: dict[str, Op] = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_EXAMPLE = "a filter is like: status=active and (os.platform=debian or not labels.site=ber) and version<4.9"


@dataclass(frozen=True, slots=True)
class Compare:
    """One field of a row against one value; ``~`` is a glob."""

    field: str
    op: Op
    value: str


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite."""

    of: Condition


@dataclass(frozen=True, slots=True)
class Both:
    """``and``."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """``or``."""

    parts: tuple[Condition, ...]


Condition = Compare | Not | Both | Either


def number_in(text: str) -> float | None:
    """The number that ``text`` is (``true`` is 1, ``false`` 0), or None."""
    if text in _WORDS:
        return _WORDS[text]
    return float(text) if _NUMBER.fullmatch(text) else None


def parse(text: str, now: float) -> Condition | None:
    """The condition that ``text`` says; None for an empty one, which every row meets. ``now``: seconds since 1970.

    Raises:
        UsageError: it is none, or too large.
    """
    if len(text) > MAX_FILTER_CHARS:
        raise UsageError(f"a filter of {len(text)} characters, at most {MAX_FILTER_CHARS} are allowed")
    return _Parser(text, now).whole() if text.strip() else None


def checked(where: Condition | None) -> Condition | None:
    """``where``, if a book can be asked it: what parse returns always, and what was made by hand if it keeps the bounds."""
    if where is not None:
        terms = _checked(where, 1)
        if terms > MAX_TERMS:
            raise _too_many(terms)
    return where


def _checked(where: Condition, depth: int) -> int:
    if depth > 2 * MAX_DEPTH + 2:
        raise UsageError(f"a filter has at most {MAX_DEPTH} levels")
    match where:
        case Compare(field, op, value):
            fault = _term_fault(field_of(field), op, value)
            if fault is not None:
                raise fault
            return 1
        case Not(of):
            return _checked(of, depth + 1)
        case Both(parts) | Either(parts):
            return sum(_checked(part, depth + 1) for part in parts)


def _too_many(terms: int) -> UsageError:
    return UsageError(f"a filter of {terms} terms, at most {MAX_TERMS} are allowed")


def _term_fault(field: Field, op: str, value: str) -> UsageError | None:
    """What is wrong with a term whose field is known."""
    orders = op not in ("=", "!=", "~")
    if op not in OPS:
        return UsageError(f"{op!r} is no comparison", hint=f"there are {' '.join(OPS)}")
    if len(value) > MAX_FILTER_CHARS or not value.isprintable():
        return UsageError(f"the value for {field.name} is too long, or holds a control character")
    if field.kind == "object":
        return UsageError(f"{field.name} is not one value", hint=f"name one in it: {field.name}.NAME")
    if op == "~":
        if field.kind in ("time", "number"):
            return UsageError(f"{field.name} is a number: ~ compares texts", hint="use = != < <= > >=")
        if len(value) > MAX_GLOB_CHARS or "[" in value:
            return UsageError(f"a glob has at most {MAX_GLOB_CHARS} characters, and no '['", hint="it has * and ?")
        return None
    if orders and field.kind in ("text", "groups"):
        return UsageError(f"{field.name} has no order", hint="use = != or ~")
    if field.kind in ("time", "number") or (orders and field.column == "metrics"):
        return None if number_in(value) is not None else UsageError(f"{field.name} is a number, and {value[:80]!r} is none")
    if field.kind == "version" and orders and not (value.isascii() and any(map(str.isdigit, value))):
        return UsageError(f"{value[:80]!r} is no version", hint="a version is like 4.9.1")
    if field.name == "status" and value not in STATUSES:
        near = nearest(value, STATUSES)
        return UsageError(
            f"there is no status {value[:80]!r}", hint=f"did you mean {near!r}?" if near else f"there are {', '.join(STATUSES)}"
        )
    return None


class _Parser:
    def __init__(self, text: str, now: float) -> None:
        self._text = text
        self._now = now
        self._at = 0
        """Where the token begins that comes next."""
        self._terms = 0
        self._kind = self._token = ""
        self._end = 0
        self._next()

    def whole(self) -> Condition:
        where = self._either(1)
        if self._kind:
            self._fail("expected 'and', 'or' or the end")
        return where

    def _either(self, depth: int) -> Condition:
        parts = [self._both(depth)]
        while self._is_word("or"):
            self._next()
            parts.append(self._both(depth))
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def _both(self, depth: int) -> Condition:
        parts = [self._one(depth)]
        while self._is_word("and"):
            self._next()
            parts.append(self._one(depth))
        return parts[0] if len(parts) == 1 else Both(tuple(parts))

    def _one(self, depth: int) -> Condition:
        if depth > MAX_DEPTH:
            self._fail(f"a filter has at most {MAX_DEPTH} levels")
        if self._is_word("not"):
            self._next()
            return Not(self._one(depth + 1))
        if self._token == "(" and self._kind == "paren":
            self._next()
            inner = self._either(depth + 1)
            if self._token != ")" or self._kind != "paren":
                self._fail("expected ')'")
            self._next()
            return inner
        return self._compare()

    def _compare(self) -> Condition:
        if self._kind != "word":
            self._fail("expected a field")
        name, start = self._token, self._at
        field = self._found(name)
        self._next()
        if self._kind != "op":
            self._fail(f"expected one of {' '.join(OPS)} after {name[:80]}")
        op: Op = self._token  # type: ignore[assignment]  # the pattern of tokens has just these
        self._next()
        if self._kind not in ("word", "quoted"):
            self._fail(f"expected a value for {name[:80]}")
        value = re.sub(r"\\(.)", r"\1", self._token[1:-1], flags=re.DOTALL) if self._kind == "quoted" else self._token
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise _too_many(self._terms)
        if field.kind == "time":
            op, value = self._time(field, op, value)
        fault = _term_fault(field, op, value)
        if fault is not None:
            self._refuse(start, fault)
        self._next()
        return Compare(field.name, op, value)

    def _found(self, name: str) -> Field:
        try:
            return field_of(name)
        except UsageError as fault:
            self._refuse(self._at, fault)

    def _time(self, field: Field, op: Op, value: str) -> tuple[Op, str]:
        age = _AGE.fullmatch(value)
        if age is not None:
            if op not in _OLDER:
                self._fail(f"an age has no {op}", hint=f"use < (within) or > (longer ago): {field.name}>10m")
            # A longer age is an earlier time.
            return _OLDER[op], _decimal(self._now - float(age[1]) * _UNIT_S[age[2]])
        if value == "never":
            if op not in ("=", "!="):
                self._fail(f"never has no {op}", hint="use = or !=")
            return op, "0"
        if number_in(value) is not None and value not in _WORDS:
            return op, value
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            self._fail(
                f"{value[:80]!r} is no time", hint="a time is like 2026-01-31, 2026-01-31T12:00:00Z, 10m (an age) or never"
            )
        return op, _decimal((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())

    def _is_word(self, word: str) -> bool:
        return self._kind == "word" and self._token.lower() == word

    def _next(self) -> None:
        rest = self._text[self._end :]
        self._at = self._end + len(rest) - len(rest.lstrip())
        found = _TOKEN.match(self._text, self._end)
        if found is None:
            self._kind = self._token = ""
            if self._at < len(self._text):
                quote = self._text[self._at] in "'\""
                self._token = self._text[self._at]
                self._fail("the quote has no end" if quote else "expected something else")
            return
        self._kind = found.lastgroup or ""
        self._token = found[self._kind]
        self._end = found.end()

    def _fail(self, expected: str, hint: str = _EXAMPLE) -> NoReturn:
        found = f"found {self._token[:40]!r}" if self._token else "it ends here"
        self._refuse(self._at, UsageError(f"{expected}; {found}" if hint == _EXAMPLE else expected, hint=hint))

    def _refuse(self, at: int, fault: UsageError) -> NoReturn:
        raise UsageError(f"filter, character {at + 1}: {fault.message}", hint=fault.hint) from None


def _decimal(seconds: float) -> str:
    return f"{max(seconds, 0.0):.6f}"
