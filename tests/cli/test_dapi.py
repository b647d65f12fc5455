"""``zcluster dapi`` against a cluster of plain data."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from zcluster.errors import NodeLost, NoSuchFunction, NoSuchNode, Unreachable

ADD = {
    "name": "math.add",
    "doc": "Add two numbers.\n\nSlowly.\x1b[2J",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": 2}},
        "required": ["a"],
    },
    "returns": {"type": "array", "items": {"type": "integer"}},
    "timeout_s": 5.0,
    "idempotent": True,
    "stream": False,
    "role": "client",
    "pool": "thread",
    "nodes": ["worker-1", "worker-2"],
}
COUNT = {**ADD, "name": "count.up", "doc": None, "stream": True, "parameters": {"type": "object", "properties": {}}}


@pytest.fixture(autouse=True)
def _functions(cluster: Any) -> None:
    cluster.function_rows = [ADD, COUNT]


def test_one_answer_is_the_bare_value(cluster: Any, zcluster: Callable[..., Any]) -> None:
    cluster.value = {"sum": 3}
    ran = zcluster("dapi", "call", "math.add", "a=1", "b=2", "--target", "worker-1", "--timeout", "250ms", "--priority", "9")
    assert (ran.code, ran.out, ran.err) == (0, '{"sum": 3}\n', "")
    assert cluster.asked == [("call", "math.add", {"a": 1, "b": 2}, {"target": "worker-1", "timeout": 0.25, "priority": 9})]
    assert cluster.closed


def test_the_defaults_of_a_call(cluster: Any, zcluster: Callable[..., Any]) -> None:
    zcluster("dapi", "call", "math.add")
    assert cluster.asked == [("call", "math.add", {}, {"target": "any", "timeout": 30.0, "priority": 5})]


@pytest.mark.parametrize("value", [None, 0, "", "text", [1, 2]])
def test_any_value_is_printed_as_json(value: Any, cluster: Any, zcluster: Callable[..., Any]) -> None:
    cluster.value = value
    assert json.loads(zcluster("dapi", "call", "math.add").out) == value


def test_one_answer_as_json_is_a_list_of_one(cluster: Any, zcluster: Callable[..., Any]) -> None:
    cluster.value, cluster.answers_as = 3, "worker-1"
    data = json.loads(zcluster("dapi", "call", "math.add", "--target", "worker-1", "-o", "json").out)
    assert (data["schema"], data["total"], data["next"]) == (1, 1, None)
    assert {**data["items"][0], "elapsed_s": 0} == {"node": "worker-1", "ok": True, "value": 3, "error": None, "elapsed_s": 0}


@pytest.mark.parametrize("target", ["any", "master", "agent:7001"])
def test_the_node_that_answered_is_named(target: str, cluster: Any, zcluster: Callable[..., Any]) -> None:
    cluster.value, cluster.answers_as = 3, "worker-9"
    assert json.loads(zcluster("dapi", "call", "math.add", "--target", target, "-o", "ndjson").out)["node"] == "worker-9"
    assert zcluster("dapi", "call", "math.add", "--target", target, "-o", "name").out == "worker-9\n"
    assert zcluster("dapi", "call", "math.add", "--target", target).out == "3\n"


def test_one_answer_as_yaml_is_the_bare_value(cluster: Any, zcluster: Callable[..., Any]) -> None:
    cluster.value = {"a": [1]}
    assert zcluster("dapi", "call", "math.add", "-o", "yaml").out == "a:\n  - 1\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [(NoSuchNode("none"), 5), (NoSuchFunction("none"), 5), (NodeLost("gone", node="w"), 6), (Unreachable("no"), 6)],
)
def test_a_failed_call_is_an_error(error: Exception, code: int, cluster: Any, zcluster: Callable[..., Any]) -> None:
    cluster.value = error
    ran = zcluster("dapi", "call", "math.add")
    assert (ran.code, ran.out) == (code, "")
    assert ran.err == f"zcluster: error: {error}\n"
    ran = zcluster("dapi", "call", "math.add", "-o", "json")
    assert (ran.code, ran.out) == (code, "")
    assert json.loads(ran.err)["error"]["message"] == str(error).partition(" [")[0]


@pytest.mark.parametrize("target", ["all", "worker-*", "worker-1,worker-2", "worker-?", "[ab]"])
def test_several_nodes_are_a_fan_out(
    target: str, cluster: Any, zcluster: Callable[..., Any], answered: Callable[..., Any]
) -> None:
    cluster.answers = [answered("worker-2", error=NodeLost("it died")), answered("worker-1", value=1)]
    ran = zcluster("dapi", "call", "math.add", "a=1", "--target", target)
    assert ran.code == 3
    assert [line.split()[0] for line in ran.out.splitlines()] == ["NODE", "worker-2", "worker-1"]
    assert cluster.asked == [("fan_out", "math.add", {"a": 1}, {"target": target, "timeout": 30.0, "priority": 5})]


def test_all_that_failed_alike_end_with_their_code(
    cluster: Any, zcluster: Callable[..., Any], answered: Callable[..., Any]
) -> None:
    cluster.answers = [answered("a", error=NodeLost("it died")), answered("b", error=NodeLost("it died"))]
    assert zcluster("dapi", "call", "math.add", "--target", "all").code == 6


def test_a_generator_prints_an_item_a_line(cluster: Any, zcluster: Callable[..., Any]) -> None:
    cluster.items = [1, {"a": 2}, None]
    ran = zcluster("dapi", "call", "count.up", "--timeout", "5")
    assert (ran.code, ran.out) == (0, '1\n{"a": 2}\nnull\n')
    assert cluster.asked == [("stream", "count.up", {}, {"target": "any", "timeout": 5.0, "priority": 5})]
    assert json.loads(zcluster("dapi", "call", "count.up", "-o", "json").out)["items"] == [1, {"a": 2}, None]


def test_a_generator_on_several_nodes_is_a_fan_out(
    cluster: Any, zcluster: Callable[..., Any], answered: Callable[..., Any]
) -> None:
    cluster.answers = [answered("a", value=[1, 2]), answered("b", value=[])]
    ran = zcluster("dapi", "call", "count.up", "--target", "all", "-o", "ndjson")
    assert ran.code == 0
    assert [json.loads(line)["value"] for line in ran.out.splitlines()] == [[1, 2], []]


def test_arguments_from_stdin(cluster: Any, zcluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"a": 5}')))
    assert zcluster("dapi", "call", "math.add", "--stdin").code == 0
    assert cluster.asked[0][2] == {"a": 5}


def test_stdin_is_bounded_by_the_configuration(
    cluster: Any, zcluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 1 << 20
    monkeypatch.setenv("ZCLUSTER_LIMITS__BODY_BYTES", str(limit))
    body = b'{"a": "' + b"x" * (limit - 9) + b'"}'
    for data, code in ((body, 0), (body + b" ", 2)):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert zcluster("dapi", "call", "math.add", "--stdin").code == code
    assert len(cluster.asked) == 1


@pytest.mark.parametrize(
    "words",
    [("--stdin", "a=1"), ("a",), ("--priority", "10"), ("--priority", "-1"), ("--timeout", "5 parsecs"), ("-o", "xml")],
)
def test_a_wrong_call_is_a_usage_error(words: tuple[str, ...], cluster: Any, zcluster: Callable[..., Any]) -> None:
    ran = zcluster("dapi", "call", "math.add", *words)
    assert ran.code == 2
    assert ran.err.startswith("zcluster: error: ")
    assert ran.err.count("\n") == 1
    assert cluster.asked == []


def test_how_to_connect_is_passed_on(cluster: Any, zcluster: Callable[..., Any]) -> None:
    zcluster("dapi", "ls", "--key", "me.key", "--master", "tcp://a:1", "--master", "tcp://b:2", "--timeout", "1s")
    (found,) = cluster.connections
    assert (str(found.key), found.masters, found.timeout_s) == ("me.key", ("tcp://a:1", "tcp://b:2"), 1.0)


def test_ls_lists_functions_by_name(zcluster: Callable[..., Any]) -> None:
    lines = zcluster("dapi", "ls").out.splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", "count.up", "math.add"]
    assert lines[2].endswith("worker-1,worker-2  Add two numbers.")
    assert zcluster("dapi", "ls", "-o", "name").out == "count.up\nmath.add\n"


def test_describe_tells_the_arguments(zcluster: Callable[..., Any]) -> None:
    lines = zcluster("dapi", "describe", "math.add").out.splitlines()
    assert lines[-3:] == ["arguments:", "  a: integer", "  b: integer | null = 2"]
    assert "returns     array of integer" in lines
    assert "Slowly.\\x1b[2J" in lines
    assert zcluster("dapi", "describe", "count.up").out.splitlines()[-1] == "no arguments"
    assert json.loads(zcluster("dapi", "describe", "math.add", "-o", "json").out) == {"schema": 1, **ADD}


def test_describe_tells_which_arguments_are_secret(cluster: Any, zcluster: Callable[..., Any]) -> None:
    secret = {"type": "string", "writeOnly": True, "format": "password"}
    properties = {"password": secret, "old": {"anyOf": [secret, {"type": "null"}]}, "all": {"type": "array", "items": secret}}
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    cluster.function_rows = [{**ADD, "parameters": parameters}]
    lines = zcluster("dapi", "describe", "math.add").out.splitlines()
    assert lines[-3:] == ["  password: secret", "  old: secret | null", "  all: array of secret"]


def test_describe_of_an_unknown_function_tells_the_nearest(zcluster: Callable[..., Any]) -> None:
    ran = zcluster("dapi", "describe", "math.ad")
    assert (ran.code, ran.out) == (5, "")
    assert "did you mean math.add?" in ran.err


ITEM = {"node": "worker-1", "ok": True, "value": 3, "error": None, "elapsed_s": 0}
"""The answer of ``any``, without its time."""


def timeless(text: str) -> Any:
    return {**json.loads(text), "elapsed_s": 0}


def test_each_format_of_one_answer_is_as_the_help_says(cluster: Any, zcluster: Callable[..., Any]) -> None:
    cluster.value = 3
    out = {form: zcluster("dapi", "call", "math.add", "-o", form).out for form in ("table", "wide", "ndjson", "yaml", "name")}
    assert out["table"] == out["wide"]
    assert [line.split()[0] for line in out["table"].splitlines()] == ["NODE", "worker-1"]
    assert timeless(out["ndjson"]) == ITEM
    assert (out["yaml"], out["name"]) == ("3\n", "worker-1\n")
    (item,) = json.loads(zcluster("dapi", "call", "math.add", "-o", "json").out)["items"]
    assert {**item, "elapsed_s": 0} == ITEM


def test_each_format_of_a_stream_is_as_the_help_says(cluster: Any, zcluster: Callable[..., Any]) -> None:
    cluster.items = [1, {"a": 2}]
    for form in ("table", "wide", "ndjson", "name"):
        assert zcluster("dapi", "call", "count.up", "-o", form).out == '1\n{"a": 2}\n', form
    assert zcluster("dapi", "call", "count.up", "-o", "yaml").out == "schema: 1\nitems:\n  - 1\n  - a: 2\ntotal: 2\nnext: null\n"


def test_each_format_of_several_answers_is_as_the_help_says(
    cluster: Any, zcluster: Callable[..., Any], answered: Callable[..., Any]
) -> None:
    cluster.answers = [answered("b", error=NodeLost("it died")), answered("a", value=3)]
    call = ("dapi", "call", "math.add", "--target", "all", "-o")
    assert zcluster(*call, "table").out == zcluster(*call, "wide").out == zcluster(*call[:-1]).out
    assert zcluster(*call, "name").out == "b\na\n"
    assert [json.loads(line)["node"] for line in zcluster(*call, "ndjson").out.splitlines()] == ["b", "a"]
    assert json.loads(zcluster(*call, "json").out)["total"] == 2
    assert zcluster(*call, "yaml").out.startswith("schema: 1\nitems:\n  - node: b\n")


@pytest.mark.parametrize("word", ["value=NaN", "value=1e999", '{"value": -Infinity}'])
def test_what_json_has_no_number_for_is_a_usage_error(word: str, cluster: Any, zcluster: Callable[..., Any]) -> None:
    ran = zcluster("dapi", "call", "math.add", word)
    assert (ran.code, ran.err.count("\n"), cluster.asked) == (2, 1, [])
