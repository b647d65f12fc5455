"""A body becomes checked arguments, or an error that says which argument is wrong."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcluster.dapi import Context, Function, function
from zcluster.dapi.longtext import LONG_BYTES
from zcluster.dapi.steps import at_once
from zcluster.dapi.weight import LARGE_BYTES
from zcluster.errors import ConfigError, InvalidArguments


def declared(call: Callable[..., Any], name: str = "math.add") -> Function:
    return Function(function(name)(call))


def add(a: int, b: int) -> int:
    return a + b


def greet(name: str, greeting: str = "hello", *, times: int = 1) -> str:
    return f"{greeting} {name} " * times


def free(value, other=None):  # type: ignore[no-untyped-def]
    return value


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


def rich(point: Point, colour: Colour, size: Annotated[float, msgspec.Meta(ge=0)], mode: Literal["a", "b"] = "a") -> None:
    return None


def table(rows: dict[str, list[int]]) -> None:
    return None


def refused(call: Callable[..., Any], body: bytes) -> str:
    with pytest.raises(InvalidArguments) as caught:
        declared(call).decode(body)
    assert "zcluster dapi describe math.add" in caught.value.hint or "once" in caught.value.hint
    return caught.value.message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"a":"1","b":2}', "math.add: argument 'a': expected int, got str"),
        (b'{"a":true,"b":2}', "math.add: argument 'a': expected int, got bool"),
        (b'{"a":1,"b":2.0}', "math.add: argument 'b': expected int, got float"),
        (b'{"a":1,"b":null}', "math.add: argument 'b': expected int, got null"),
        (b'{"a":1,"b":2,"c":3}', "math.add: unknown argument 'c' (it takes a, b)"),
        (b'{"a":1}', "math.add: missing argument 'b'"),
        (b"", "math.add: missing argument 'a'"),
        (b"null", "math.add: missing argument 'a'"),
        (b"[1,2]", "math.add: the arguments must be one JSON object: expected object, got array"),
        (b'"x"', "math.add: the arguments must be one JSON object: expected object, got str"),
        (b'{"a":1,"b":2,"b":3}', "math.add: argument 'b' is given twice"),
        (b'{ "a" : 1, "a" : 1, "b" : 3}', "math.add: argument 'a' is given twice"),
        (b'{"a":1,"b":2,"\\u0062":3}', "math.add: an argument is given twice, or its name is written with escapes"),
    ],
)
def test_the_error_says_which_argument(body: bytes, message: str) -> None:
    assert refused(add, body) == message


@pytest.mark.parametrize("body", [b"{", b'{"a":1,"b":2}x', b'{"a":1 "b":2}', b'{"a\xff":1,"b":2}', b"\xff", b'{"a":NaN,"b":1}'])
def test_what_is_not_json_is_said_to_be_so(body: bytes) -> None:
    message = refused(add, body)
    assert message.startswith("math.add: ")
    assert "not valid JSON" in message or "argument 'a'" in message


def test_a_place_inside_an_argument_is_named() -> None:
    assert refused(table, b'{"rows":{"k":[1,"2"]}}') == "math.add: argument 'rows' at [...][1]: expected int, got str"


def test_values_nested_too_deep_are_refused() -> None:
    body = b'{"value":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert refused(free, body) == "math.add: the arguments are nested too deep"


def test_constraints_enums_and_dataclasses_are_checked() -> None:
    good = declared(rich).decode(b'{"point":{"x":1},"colour":"red","size":2}')
    assert good == (Point(1, 0), Colour.RED, 2.0, "a")
    assert "argument 'size': expected float >= 0" in refused(rich, b'{"point":{"x":1},"colour":"red","size":-1}')
    assert "argument 'mode': invalid enum value 'c'" in refused(rich, b'{"point":{"x":1},"colour":"red","size":1,"mode":"c"}')
    assert "argument 'point': object missing required field x" in refused(rich, b'{"point":{},"colour":"red","size":1}')


def test_defaults_and_keyword_only_arguments() -> None:
    found = declared(greet)
    assert found.run(b'{"name":"bob"}') == b'"hello bob "'
    assert found.run(b'{"times":2,"name":"bob","greeting":"hi"}') == b'"hi bob hi bob "'


def test_an_optional_argument_given_twice_is_refused() -> None:
    # As many colons as the function has arguments: only counting the names tells.
    assert refused(free, b'{"value":1,"value":2}') == "math.add: argument 'value' is given twice"
    assert refused(greet, b'{"name":"a","times":1,"times":2}') == "math.add: argument 'times' is given twice"


@pytest.mark.parametrize(
    "value", ["value", '"value"', 'a"value":b', "\\u0076alue", "\n", {"value": {"value": 1}}, ["value", "value"], ":"]
)
def test_a_value_that_looks_like_a_name_is_no_duplicate(value: object) -> None:
    assert declared(free).decode(orjson.dumps({"value": value})) == (value, None)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_any_json_value_arrives_as_it_was_sent(value: object) -> None:
    body = json.dumps({"value": value}).encode()
    assert declared(free).decode(body) == (value, None)


@given(st.binary(max_size=60))
def test_any_bytes_give_arguments_or_an_error_of_ours(body: bytes) -> None:
    try:
        values = declared(add).decode(body)
    except InvalidArguments:
        return
    assert [type(value) for value in values] == [int, int]


@pytest.mark.parametrize("body", [b"", b"null", b" null\n", b"{}", b" { } "])
def test_no_arguments_may_be_written_in_each_of_these_ways(body: bytes) -> None:
    def nothing() -> str:
        return "ran"

    assert declared(nothing).run(body) == b'"ran"'
    assert declared(lambda a=1: a).run(body) == b"1"


def test_a_function_without_arguments_says_that_it_takes_none() -> None:
    def nothing() -> None:
        return None

    assert refused(nothing, b'{"a":1}') == "math.add: unknown argument 'a' (it takes none)"


def test_a_mutable_default_is_the_same_object_each_time_as_in_python() -> None:
    default = [1, 2]

    def keep(values: list[int] = default) -> list[int]:
        return values

    assert declared(keep).decode(b"")[0] is default


def test_parameters_may_have_any_name() -> None:
    def odd(self_: int, __struct_fields__: int, f0: int, f1: int) -> list[int]:
        return [self_, __struct_fields__, f0, f1]

    assert declared(odd).run(b'{"f1":4,"f0":3,"__struct_fields__":2,"self_":1}') == b"[1,2,3,4]"


def test_the_context_is_no_argument() -> None:
    def who(context: Context, a: int) -> list[Any]:
        return [context.caller, a]

    found = declared(who)
    assert found.wants_context
    assert list(found.schema()["properties"]) == ["a"]
    assert "unknown argument 'context' (it takes a)" in refused(who, b'{"a":1,"context":{}}')
    context = Context(caller="alice", role="client", node="n", request_id="1.1", deadline_s=0.0, clock=lambda: 0.0)
    assert found.run(b'{"a":1}', context) == b'["alice",1]'


class Opaque:
    pass


def takes_opaque(a: Opaque) -> None:
    return None


def takes_two_contexts(a: Context, b: Context) -> None:
    return None


def takes_unknown(a: Missing) -> None:  # type: ignore[name-defined] # noqa: F821
    return None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (takes_opaque, "its arguments cannot come from JSON"),
        (takes_two_contexts, "two parameters take the Context"),
        (takes_unknown, "its annotations cannot be read"),
    ],
)
def test_what_no_request_could_fill_is_refused_when_loaded(call: Callable[..., Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        declared(call)
    assert words in caught.value.message
    assert "math.add" in caught.value.message
    assert caught.value.hint


def test_the_schema_is_an_object_that_admits_no_other_names() -> None:
    schema = declared(greet).schema()
    assert schema["type"] == "object"
    assert schema["title"] == "math.add"
    assert schema["required"] == ["name"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["greeting"] == {"type": "string", "default": "hello"}
    assert "$defs" in declared(rich).schema()


def test_a_body_gathered_from_chunks_is_as_good_as_one_that_came_whole() -> None:
    assert declared(add).run(bytearray(b'{"a":1,"b":2}')) == b"3"
    with pytest.raises(InvalidArguments, match="given twice"):
        declared(add).decode(bytearray(b'{"a":1,"a":1,"b":2}'))
    with pytest.raises(InvalidArguments, match="missing argument 'a'"):
        declared(add).decode(bytearray())


def two(value: Any, other: Any = None) -> Any:
    return value


FILLER = b"x" * LARGE_BYTES


def outcome(decode: Callable[[bytes], Any], body: bytes) -> Any:
    try:
        return decode(body)
    except InvalidArguments as error:
        return error.message, error.hint


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"value":"%s"}', ""),
        (b'{"value":"%s","other":1}', ""),
        (b'{"other":1,"value":"%s"}', ""),
        (b'\n{\r\n\t"value" : "%s" ,\n "other" : {"value":1,"other":":"} }\n', ""),
        (b'{"value":"\\"value\\":%s","other":"\\u0076alue"}', ""),
        (b'{"value":"%s","value":1}', "'value' is given twice"),
        (b'{"value":1,"value":"%s"}', "'value' is given twice"),
        (b'{"other":0,"value":"%s","other":0}', "'other' is given twice"),
        (b'{"value":"%s","v\\u0061lue":1}', "given twice, or its name is written with escapes"),
        (b'{"v\\u0061lue":"%s"}', "given twice, or its name is written with escapes"),
        (b'{"value":"%s\\n","v\\u0061lue":"\\n"}', "given twice, or its name is written with escapes"),
        (b'{"value":"%s"', "not valid JSON"),
        (b'{"value":"%s\xff"}', "not UTF-8"),
        (b'{"other":"%s"}', "missing argument 'value'"),
        (b'["%s"]', "must be one JSON object"),
        (b'{"value":1,"more":"%s"}', "unknown argument 'more' (it takes value, other)"),
    ],
)
def test_large_arguments_are_checked_like_others(body: bytes, words: str) -> None:
    declared_two = declared(two)
    large = body.replace(b"%s", FILLER)
    found = outcome(declared_two.decode, large)
    assert outcome(lambda each: at_once(declared_two.decode_large(each)), bytearray(large)) == found
    if words:
        assert words in found[0]
    else:
        assert found == tuple(json.loads(large).get(name) for name in ("value", "other"))


NAMES = st.sampled_from(['"value"', '"other"', '"v\\u0061lue"', '"oth\\u0065r"'])
VALUES = st.sampled_from(['"value"', '"\\"value\\":"', '"\\u0076alue"', "1", '{"value":1}', '[":",","]', '"%s"'])
BLANKS = st.sampled_from(["", " ", "\n    "])


@given(st.lists(st.tuples(BLANKS, NAMES, BLANKS, BLANKS, VALUES, BLANKS), max_size=4))
def test_a_large_object_is_refused_where_a_small_one_is_and_where_a_name_has_escapes(members: list[tuple[str, ...]]) -> None:
    declared_two = declared(two)
    body = "{" + ",".join(f"{a}{name}{b}:{c}{value}{d}" for a, name, b, c, value, d in members) + "}"
    small = outcome(declared_two.decode, body.encode())
    large = outcome(lambda each: at_once(declared_two.decode_large(each)), body.encode())
    if large != small:
        assert "written with escapes" in large[0]
        assert any("\\" in name for _, name, *_ in members)


@pytest.mark.parametrize("size", [400, 100_000, 2 * LARGE_BYTES, 2 * LONG_BYTES])
def test_an_error_does_not_repeat_a_long_name(size: int) -> None:
    message = refused(two, b'{"value":1,"' + b"n" * size + b'":1}')
    assert message.startswith("math.add: unknown argument 'nnn")
    assert message.endswith("nnn' (it takes value, other)")
    assert len(message) < 500


def test_large_blanks_are_no_arguments_of_a_large_body() -> None:
    assert "not valid JSON" in refused(two, b" " * (LARGE_BYTES + 1))
    assert "missing argument 'value'" in refused(two, b" " * LARGE_BYTES)
