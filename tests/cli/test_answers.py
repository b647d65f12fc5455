"""The answers of several nodes, and the exit code that sums them up."""

from __future__ import annotations

import json
from typing import Any

import pytest

from zcluster.cli.answers import AnswerPrinter, exit_code
from zcluster.clients.result import Result
from zcluster.errors import NodeLost, TimedOut

GOOD = Result("worker-1", True, {"a": 1}, None, 0.25)
LOST = Result("worker-2", False, None, NodeLost("it died", node="worker-2"), 0.5)


@pytest.mark.parametrize(
    ("codes", "code"), [([], 0), ([0], 0), ([0, 0], 0), ([0, 6], 3), ([6], 6), ([6, 6], 6), ([6, 7], 1), ([0, 6, 7], 3)]
)
def test_exit_codes(codes: list[int], code: int) -> None:
    assert exit_code(codes) == code


def test_a_table_prints_each_answer_as_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    printer = AnswerPrinter(None)
    printer.add(GOOD)
    first = capsys.readouterr().out
    assert first == 'NODE          OK    ELAPSED  ANSWER\nworker-1      yes    250 ms  {"a": 1}\n'
    printer.add(LOST)
    assert capsys.readouterr().out == "worker-2      no     500 ms  node_lost: it died [worker-2]\n"
    assert printer.close() == 3
    assert capsys.readouterr().out == ""


def test_ndjson_prints_each_answer_as_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    printer = AnswerPrinter("ndjson")
    printer.add(LOST)
    item: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert item == {
        "node": "worker-2",
        "ok": False,
        "value": None,
        "error": LOST.error and LOST.error.to_dict(),
        "elapsed_s": 0.5,
    }


def test_json_is_one_list_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    printer = AnswerPrinter("json")
    printer.add(GOOD)
    printer.add(Result("worker-3", False, None, TimedOut("late"), 1.0))
    assert capsys.readouterr().out == ""
    assert printer.close() == 3
    data = json.loads(capsys.readouterr().out)
    assert (data["schema"], data["total"], data["next"]) == (1, 2, None)
    assert data["items"][0] == {"node": "worker-1", "ok": True, "value": {"a": 1}, "error": None, "elapsed_s": 0.25}
    assert data["items"][1]["error"]["code"] == "timed_out"


def test_name_prints_the_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    printer = AnswerPrinter("name")
    printer.add(GOOD)
    assert capsys.readouterr().out == "worker-1\n"
