"""Declaring a function, and what is then known of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import zcluster
from zcluster.dapi import Declaration, Function, function
from zcluster.dapi.function import MAX_NAME_CHARS, declaration_of
from zcluster.errors import ConfigError, FunctionFailed, InvalidArguments, NotAllowed


@zcluster.function("math.add", timeout_s=5, idempotent=True)
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def plain() -> None:
    return None


async def asynchronous() -> None:
    return None


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[str]:
    yield "a"


def test_the_function_stays_what_it_was() -> None:
    assert add(1, 2) == 3
    assert declaration_of(add) == Declaration("math.add", 5, True, "thread", "client")


def test_the_name_defaults_to_the_functions_own() -> None:
    def disk_usage() -> None:
        return None

    assert Function(function()(disk_usage)).name == "disk_usage"


def test_describe_tells_callers_everything() -> None:
    assert Function(add).describe() == {
        "name": "math.add",
        "doc": "Add two numbers.",
        "parameters": {
            "title": "math.add",
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
        "returns": {"type": "integer"},
        "timeout_s": 5,
        "idempotent": True,
        "stream": False,
        "role": "client",
        "pool": "thread",
    }


@pytest.mark.parametrize(
    ("call", "kind", "returns"),
    [
        (plain, "plain", {"type": "null"}),
        (asynchronous, "async", {"type": "null"}),
        (generator, "generator", {"type": "integer"}),
        (async_generator, "async_generator", {"type": "string"}),
    ],
)
def test_the_four_kinds(call: Callable[..., Any], kind: str, returns: dict[str, Any]) -> None:
    found = Function(function("f")(call))
    assert found.kind == kind
    assert found.stream == ("generator" in kind)
    assert found.describe()["returns"] == returns


def test_a_result_that_json_schema_cannot_name_has_an_empty_schema() -> None:
    def opaque() -> object:
        return None

    assert Function(function("f")(opaque)).describe()["returns"] == {}


def star(*values: int) -> None:
    return None


def double_star(**values: int) -> None:
    return None


def positional(a: int, /) -> None:
    return None


def accented(é: int) -> None:
    return None


class Holder:
    def method(self) -> None:
        return None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (star, "parameter 'values' is *args"),
        (double_star, "parameter 'values' is **kwargs"),
        (positional, "parameter 'a' is positional-only"),
        (accented, "is not ASCII"),
        (Holder, "only functions can be declared"),
        (Holder.method, "is a method of Holder"),
        (staticmethod(plain), "only functions can be declared"),
        (3, "only functions can be declared"),
    ],
)
def test_what_cannot_be_called_by_name_is_refused_where_it_is_declared(call: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        function("f")(call)
    assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("name", ["", "a b", "1a", ".a", "a.", "a..b", "a/b", "é", "x" * (MAX_NAME_CHARS + 1)])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no name for a function"):
        function(name)(plain)


@pytest.mark.parametrize("name", ["a", "a.b", "disk-usage.v2", "_x", "x" * MAX_NAME_CHARS])
def test_good_names_are_taken(name: str) -> None:
    assert Function(function(name)(plain)).name == name


@pytest.mark.parametrize("timeout_s", [0, -1, float("inf"), float("nan"), True, "5s"])
def test_bad_timeouts_are_refused(timeout_s: Any) -> None:
    with pytest.raises(ConfigError, match="timeout_s is"):
        function("f", timeout_s=timeout_s)(plain)


def test_bad_pools_and_roles_are_refused() -> None:
    with pytest.raises(ConfigError, match="pool is 'gpu'"):
        function("f", pool="gpu")(plain)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="role is 'root'"):
        function("f", role="root")(plain)  # type: ignore[arg-type]


@pytest.mark.parametrize("pool", ["inline", "process"])
@pytest.mark.parametrize("call", [asynchronous, generator, async_generator])
def test_only_plain_functions_are_inline_or_in_a_process(pool: Any, call: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="does not go with async functions and generators"):
        function("f", pool=pool)(call)


def test_forgotten_parentheses_are_told() -> None:
    with pytest.raises(ConfigError) as caught:
        function(plain)  # type: ignore[arg-type]
    assert caught.value.hint == "write @zcluster.function()"


def test_an_undeclared_function_is_refused() -> None:
    def bare() -> None:
        return None

    with pytest.raises(ConfigError, match="is not declared"):
        Function(bare)


def failing(error: BaseException) -> Function:
    def fail() -> None:
        raise error

    return Function(function("f", pool="inline")(fail))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("bad disk"), "ValueError: bad disk"),
        (KeyError(), "KeyError"),
        (NotAllowed("not you"), "NotAllowed: not you"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (ValueError("two\nlines"), "ValueError: two\\nlines"),
    ],
)
def test_an_exception_is_function_failed_with_type_and_text(error: BaseException, message: str) -> None:
    with pytest.raises(FunctionFailed) as caught:
        failing(error).run(b"")
    assert caught.value.message == message
    assert caught.value.__cause__ is error


def test_invalid_arguments_and_function_failed_stay_as_the_function_raised_them() -> None:
    for error in (InvalidArguments("the path must be absolute"), FunctionFailed("no such disk")):
        with pytest.raises(type(error)) as caught:
            failing(error).run(b"")
        assert caught.value is error


def test_an_error_of_a_function_of_zcluster_itself_is_the_clusters_own() -> None:
    def refuse(key: zcluster.Secret) -> None:
        raise NotAllowed(f"not you, {key.reveal()}")

    made = Function(function("refuse")(refuse), own_errors=True)
    with pytest.raises(NotAllowed) as caught:
        made.run(b'{"key": "hunter2"}')
    assert (caught.value.message, caught.value.hint) == ("not you, ***", "")


def test_an_exception_whose_text_cannot_be_read_is_told_all_the_same() -> None:
    class Nasty(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    with pytest.raises(FunctionFailed) as caught:
        failing(Nasty()).run(b"")
    assert caught.value.message == "Nasty: (its text cannot be read: RuntimeError)"


@pytest.mark.parametrize("value", [{1, 2}, {1: 2}, object(), 2**64, "\ud800", b"x"])
def test_a_result_that_is_not_json_is_told(value: object) -> None:
    def give() -> object:
        return value

    with pytest.raises(FunctionFailed) as caught:
        Function(function("f")(give)).run(b"")
    assert caught.value.message.startswith(f"f returned a {type(value).__name__} that is not JSON")
