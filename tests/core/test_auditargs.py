"""Arguments in the audit log: without secrets, small, plain."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from zcluster.core import auditargs as module
from zcluster.core.auditargs import MAX_DEPTH, MAX_SCHEMA_CHARS, MAX_SCHEMAS, Arguments
from zcluster.core.auditing import MAX_ARGS_BYTES
from zcluster.core.redact import HIDDEN


def schema(**properties: Any) -> str:
    return msgspec.json.encode({"type": "object", "properties": properties}).decode()


TEXT = {"type": "string"}
SECRET = {"type": "string", "writeOnly": True, "format": "password"}
OPEN: dict[str, Any] = {}


def told(value: Any, *schemas: str) -> Any:
    body = value if isinstance(value, bytes) else msgspec.json.encode(value)
    return Arguments().told(body, schemas)


def test_secrets_are_hidden() -> None:
    assert told({"user": "u", "password": "hunter2"}, schema(user=TEXT, password=SECRET)) == {"user": "u", "password": HIDDEN}


def test_what_one_node_declares_secret_is_secret() -> None:
    for schemas in ((schema(p=SECRET), schema(p=TEXT)), (schema(p=TEXT), schema(p=SECRET))):
        assert told({"p": "hunter2"}, *schemas) == {"p": HIDDEN}


def test_a_misspelt_secret_is_hidden() -> None:
    assert told({"pasword": "hunter2"}, schema(password=SECRET)) == {"pasword": HIDDEN}


@pytest.mark.parametrize("text", ["", "{}", "[]", "{", '{"type":"object"}', '{"type":"object","properties":[]}', "[" * 5000])
def test_without_a_schema_nothing_is_told(text: str) -> None:
    assert told({"p": "hunter2"}) is None
    assert told({"p": "hunter2"}, text) is None
    assert told({"p": "hunter2"}, schema(p=TEXT), text) is None


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"text"', b"null", b'{"p":"\xff"}', b'{"p":"\\ud800"}', b"[" * 4000])
def test_what_are_no_arguments_is_not_told(body: bytes) -> None:
    assert told(body, schema(p=OPEN)) is None


@pytest.mark.parametrize("more", [0, 1])
def test_large_arguments_are_not_told(more: int) -> None:
    body = b'{"p":"' + b"x" * (MAX_ARGS_BYTES - 8 + more) + b'"}'
    assert len(body) == MAX_ARGS_BYTES + more
    assert (told(body, schema(p=TEXT)) is None) == bool(more)


def test_arguments_that_grow_when_they_are_hidden_are_not_told() -> None:
    body = msgspec.json.encode({"p": [""] * 1300})
    assert len(body) <= MAX_ARGS_BYTES
    assert told(body, schema(p={"type": "array", "items": SECRET})) is None


@pytest.mark.parametrize("more", [0, 1])
def test_deep_arguments_are_not_told(more: int) -> None:
    levels = MAX_DEPTH + more
    value = msgspec.json.decode(b"[" * levels + b"]" * levels)
    assert (told({"p": value}, schema(p=OPEN)) is None) == bool(more)


@pytest.mark.parametrize("more", [0, 1])
def test_schemas_are_bounded(more: int) -> None:
    many = [schema(p=TEXT, **{f"q{number}": TEXT}) for number in range(MAX_SCHEMAS + more)]
    assert (told({"p": "x"}, *many) is None) == bool(more)
    long = schema(p=TEXT, q={"description": ""})
    long = long.replace('""', '"' + "d" * (MAX_SCHEMA_CHARS - len(long) + more) + '"')
    assert (told({"p": "x"}, long) is None) == bool(more)


def test_numbers_are_such_that_every_writer_can_write_them() -> None:
    body = b'{"p":[9223372036854775807,9223372036854775808,-99999999999999999999999]}'
    assert told(body, schema(p=OPEN)) == {"p": [2**63 - 1, "9223372036854775808", "-99999999999999999999999"]}


def test_few_schemas_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT_SCHEMAS", 2)
    arguments = Arguments()
    for name in "abca":
        assert arguments.told(b"{}", [schema(**{name: TEXT})]) == {}
    assert len(arguments._schemas) == 2
