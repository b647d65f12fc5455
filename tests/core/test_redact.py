"""Arguments without their secrets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcluster.core.redact import MAX_ALTERNATIVES, MAX_DEPTH, redact
from zcluster.dapi import Function, Secret, function

SECRET = {"type": "string", "writeOnly": True}
PLAIN = {"type": "string"}


class Login(msgspec.Struct):
    """With a reference to itself."""

    user: str
    password: Secret
    next: Login | None = None


class Row(msgspec.Struct, array_like=True):
    name: str
    token: Secret


class Cat(msgspec.Struct, tag=True):
    name: str


class Dog(msgspec.Struct, tag=True):
    name: Secret


@dataclass
class Account:
    id: int
    pin: Secret | None = None


@function("plain")
def plain(a: int, b: Any = None) -> None:
    """No secret."""


@function("nested")
def nested(login: Login | None, rows: list[Row], by_name: dict[str, Secret], account: Account, size: int = 3) -> None:
    """Secrets at any depth."""


@function("flat")
def flat(
    user: str, password: Secret, old: Secret | None = None, several: list[Secret] | None = None,
    about: Annotated[Secret | None, msgspec.Meta(description="a token")] = None, pair: tuple[int, Secret] | None = None,
    anything: Any = None, settings: dict[str, int] | None = None,
) -> None:  # fmt: skip
    """Secrets in every way that an argument has one."""


@function("pets")
def pets(pet: Cat | Dog) -> None:
    """One of two."""


def told(call: Callable[..., Any], **arguments: Any) -> Any:
    """The arguments as they are told."""
    return redact(arguments, Function(call).schema())


def of(schema: dict[str, Any], value: Any) -> Any:
    """One argument ``x`` of this schema; there is a secret beside it."""
    return redact({"x": value}, {"type": "object", "properties": {"x": schema, "other": SECRET}})["x"]


def test_arguments_without_a_secret_are_told_as_they_are() -> None:
    arguments = {"a": 1, "b": {"password": ["x", None, 1.5, True]}, "unknown": "y"}
    assert told(plain, **arguments) == arguments


def test_each_way_to_declare_a_secret() -> None:
    assert told(flat, user="ann", password="hunter2", old="hunter1", several=["a", "b"], about="t", pair=[1, "b"]) == {
        "user": "ann", "password": "***", "old": "***", "several": ["***", "***"], "about": "***", "pair": [1, "***"],
    }  # fmt: skip


def test_what_is_not_secret_beside_one_is_told() -> None:
    shown = {"user": "ann", "anything": {"deep": [{"er": "x"}]}, "settings": {"a": 1}}
    assert told(flat, **shown, password="p") == {**shown, "password": "***"}


def test_a_secret_is_hidden_at_any_depth() -> None:
    login = {"user": "ann", "password": "p1", "next": {"user": "bob", "password": "p2", "next": None}}
    assert told(nested, login=login, rows=[["a", "t"]], by_name={"a": "x"}, account={"id": 1, "pin": "1234"}, size=4) == {
        "login": {"user": "ann", "password": "***", "next": {"user": "bob", "password": "***", "next": None}},
        "rows": [["a", "***"]],
        "by_name": {"a": "***"},
        "account": {"id": 1, "pin": "***"},
        "size": 4,
    }


def test_what_one_alternative_hides_is_hidden_whichever_was_meant() -> None:
    assert told(pets, pet={"type": "Cat", "name": "Tom"}) == {"pet": {"type": "Cat", "name": "***"}}


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        ({"passwrod": "hunter2"}, {"passwrod": "***"}),  # a name that it does not know
        ({"several": "hunter2"}, {"several": "***"}),  # text in place of a list
        ({"user": ["hunter2"]}, {"user": "***"}),
        ({"user": {"password": "hunter2"}}, {"user": "***"}),
        ({"password": {"is": "hunter2"}}, {"password": "***"}),
        ({"pair": [1, "b", "hunter2"]}, {"pair": [1, "***", "***"]}),
        ({"settings": {"a": "hunter2"}}, {"settings": {"a": "***"}}),
    ],
)
def test_what_is_not_as_declared_may_hold_the_secret(arguments: dict[str, Any], seen: dict[str, Any]) -> None:
    assert told(flat, **arguments) == seen


@pytest.mark.parametrize(
    ("schema", "value", "shown"),
    [
        ({"type": "integer"}, 3, True),
        ({"type": "integer"}, True, False),
        ({"type": "integer"}, 1.5, False),
        ({"type": "number"}, 3, True),
        ({"type": "number"}, 1.5, True),
        ({"type": "boolean"}, False, True),
        ({"type": "null"}, None, True),
        ({"type": "string"}, None, False),
        ({"enum": ["a", "b"]}, "a", True),
        ({"enum": ["a", "b"]}, "c", False),
        ({"const": 1}, 1, True),
        ({"const": 1}, 2, False),
        ({"type": "array"}, ["x"], True),
        ({"type": "object"}, {"x": "y"}, True),
        ({"type": "object", "additionalProperties": False}, {"x": "y"}, False),
        ({"description": "anything"}, ["x"], True),
        ({"oneOf": [PLAIN, {"type": "null"}]}, "a", True),
        ({"allOf": [{"$ref": "#/$defs/nowhere"}]}, "a", False),
        ({"$ref": "http://elsewhere"}, "a", False),
        ({"$ref": 5}, "a", False),
        (True, ["x"], True),
        (False, "x", False),
    ],
)
def test_beside_a_secret_only_what_fits_its_schema_is_told(schema: Any, value: Any, shown: bool) -> None:
    seen = of(schema, value)
    assert (seen == value) is shown
    assert shown or "***" in (seen, *(seen.values() if isinstance(seen, dict) else ()))


def test_a_reference_that_goes_round_ends() -> None:
    schema = {"properties": {"x": {"$ref": "#/$defs/A"}, "y": SECRET}, "type": "object"}
    around = {**schema, "$defs": {"A": {"anyOf": [{"$ref": "#/$defs/B"}]}, "B": {"anyOf": [{"$ref": "#/$defs/A"}]}}}
    assert redact({"x": "a"}, around) == {"x": "***"}


@pytest.mark.parametrize(("count", "shown"), [(MAX_ALTERNATIVES - 1, "a"), (MAX_ALTERNATIVES, "***")])
def test_alternatives_are_bounded(count: int, shown: str) -> None:
    assert of({"anyOf": [dict(PLAIN) for _ in range(count)]}, "a") == shown


@pytest.mark.parametrize(("depth", "shown"), [(MAX_DEPTH - 1, "a"), (MAX_DEPTH, "***")])
def test_depth_is_bounded(depth: int, shown: str) -> None:
    schema: Any = {"$ref": "#/$defs/A"}
    nested = {"anyOf": [PLAIN, {"type": "array", "items": schema}]}
    root = {"$defs": {"A": nested, "S": SECRET}, **schema}
    value: Any = "a"
    for _ in range(depth):
        value = [value]
    seen = redact(value, root)
    for _ in range(depth):
        [seen] = seen
    assert seen == shown


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda some: st.lists(some) | st.dictionaries(st.text(max_size=5), some),
)
WORDS = st.sampled_from(
    ["type", "anyOf", "$ref", "$defs", "properties", "items", "prefixItems", "additionalProperties", "writeOnly", "enum"]
)
SCHEMAS = st.recursive(
    st.sampled_from([True, False, "string", "object", "array", "#/$defs/x", 5, None]),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(WORDS, some, max_size=4),
)


@given(JSON, st.dictionaries(WORDS, SCHEMAS, max_size=5))
def test_no_schema_breaks_it(value: Any, schema: dict[str, Any]) -> None:
    redact(value, schema)


@given(st.dictionaries(st.sampled_from(["user", "password", "old", "several", "pair", "settings", "other"]), JSON))
def test_a_value_where_a_secret_is_never_shows(arguments: dict[str, Any]) -> None:
    seen = told(flat, **arguments)
    assert all(seen[name] == "***" for name in ("password", "old", "other") if name in seen)
