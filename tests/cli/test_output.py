"""Data to text: the formats, and what may reach a terminal."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from zcluster.cli import output
from zcluster.cli.output import Column, cell, emit_list, emit_object, json_text, seconds, table

COLUMNS = (
    Column("name", "NAME"),
    Column("state", "STATE", colours={"ready": "green"}),
    Column("load", "LOAD", right=True),
    Column("note", "NOTE", wide=True),
)
ITEMS: list[dict[str, Any]] = [
    {"name": "a", "state": "ready", "load": 0.5, "note": "x"},
    {"name": "worker-10", "state": "dead", "load": None},
]


def terminal(monkeypatch: pytest.MonkeyPatch, columns: int = 80) -> None:
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((columns, 24)))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_a_table_has_a_header_and_aligned_columns() -> None:
    assert table(ITEMS, COLUMNS) == ["NAME       STATE  LOAD", "a          ready   0.5", "worker-10  dead      -"]


def test_wide_adds_columns() -> None:
    assert table(ITEMS, COLUMNS, wide=True)[1].endswith("  x")


def test_a_table_without_items_is_its_header() -> None:
    assert table([], COLUMNS) == ["NAME  STATE  LOAD"]


def test_json_of_a_list_is_the_fixed_envelope(capsys: pytest.CaptureFixture[str]) -> None:
    emit_list(ITEMS, COLUMNS, "json")
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "items": ITEMS, "total": 2, "next": None}


def test_json_of_an_object_has_its_fields_beside_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    emit_object({"a": 1}, "json", lines=())
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "a": 1}


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("ndjson", '{"name": "a"}\n{"name": "b"}\n'),
        ("name", "a\nb\n"),
        ("yaml", "schema: 1\nitems:\n  - name: a\n  - name: b\ntotal: 2\nnext: null\n"),
        (None, "NAME\na\nb\n"),
    ],
)
def test_each_format_of_a_list(form: str | None, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    emit_list([{"name": "a"}, {"name": "b"}], COLUMNS[:1], form)
    assert capsys.readouterr().out == text


@pytest.mark.parametrize(("form", "text"), [("name", "x\n"), ("yaml", "schema: 1\nname: x\n"), ("table", "the line\n")])
def test_each_format_of_an_object(form: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    emit_object({"name": "x"}, form, lines=["the line"])
    assert capsys.readouterr().out == text


def test_a_terminal_gets_colour_and_a_pipe_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[32mready\x1b[0m" not in table(ITEMS, COLUMNS)[1]
    terminal(monkeypatch)
    assert "\x1b[32mready\x1b[0m" in table(ITEMS, COLUMNS)[1]


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colour_can_be_declined(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal(monkeypatch)
    monkeypatch.setenv(name, value)
    assert "\x1b" not in "".join(table(ITEMS, COLUMNS))


def test_only_a_terminal_cuts_the_last_column(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [{"name": "a", "value": "v" * 200}]
    columns = (Column("name", "NAME"), Column("value", "VALUE"))
    assert len(table(items, columns)[1]) == 206
    terminal(monkeypatch, columns=40)
    assert len(table(items, columns)[1]) == 40
    assert table(items, columns)[1].endswith("v…")
    assert len(table(items, columns, wide=True)[1]) == 206


@pytest.mark.parametrize("text", ["\x1b[31m", "a\x9b31m", "a\nb", "\u202e", "\x00"])
def test_what_a_node_sent_cannot_steer_the_screen(text: str) -> None:
    for shown in (cell(text), cell({"k": text}), json_text(text), json_text({"k": [text]})):
        assert not any(char in shown for char in "\x1b\x9b\n\u202e\x00")


def test_escaped_json_reads_back() -> None:
    value = {"k": "\x7f\x9b\u2028\u202e é 😀"}
    assert json.loads(json_text(value)) == value
    assert "é 😀" in json_text(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), ("", "-"), (True, "yes"), (False, "no"), (3, "3"), (0.0, "0"), (12.345, "12.35"), ([1, "a"], '[1, "a"]')],
)
def test_cells(value: object, text: str) -> None:
    assert cell(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.0 ms"), (0.0004, "0.4 ms"), (0.25, "250 ms"), (1, "1.0 s"), (119.9, "119.9 s"), (180, "3 min"), (7560, "2.1 h"),
        (172_800, "48.0 h"), (172_801, "2.0 d"), (8_640_000, "100.0 d"),
    ],
)  # fmt: skip
def test_durations(value: float | None, text: str) -> None:
    assert seconds(value) == text
