"""``zcluster dapi submit`` against a cluster of plain data."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from zcluster.errors import (
    Busy,
    FunctionFailed,
    JobDead,
    JobExpired,
    KeyConflict,
    MasterLost,
    NotAllowed,
    TimedOut,
    ZClusterError,
)

Run = Callable[..., Any]
ID = "0a1b2c3d-17"
NEVER = object()
"""Among the outcomes: nothing comes any more."""


@dataclass
class Job:
    """Stands in for AsyncJob."""

    rounds: list[list[Any]] = field(default_factory=list)
    """What each iteration of its outcomes gives."""
    known: bool = False
    is_in: Any = "queued"
    id: str = ID

    async def state(self) -> str:
        if isinstance(self.is_in, BaseException):
            raise self.is_in
        return str(self.is_in)

    async def outcomes(self) -> AsyncIterator[Any]:
        for outcome in self.rounds.pop(0):
            if outcome is NEVER:
                await asyncio.get_running_loop().create_future()
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch, cluster: Any) -> None:
    monkeypatch.setattr("zcluster.cli.submit.LOOK_S", 0.0)
    cluster.job = Job()


# -- the submission --------------------------------------------------------------------------------------------------


def test_the_id_is_on_stdout(cluster: Any, zcluster: Run) -> None:
    for output in ((), ("-o", "wide"), ("-o", "name")):
        ran = zcluster("dapi", "submit", "report.build", "day=2026-11-19", "n=3", *output)
        assert (ran.code, ran.out, ran.err) == (0, f"{ID}\n", "")
    assert cluster.asked[0] == (
        "submit", "report.build", {"day": "2026-11-19", "n": 3},
        {
            "target": "any", "timeout": 30.0, "priority": 5, "delay_s": 0.0, "at_s": None, "expires_s": None,
            "retries": 3, "attempt_timeout_s": None, "retention_s": None, "sequence": "", "idempotency_key": "",
        },
    )  # fmt: skip
    assert cluster.closed


def test_the_id_as_data_has_the_state(cluster: Any, zcluster: Run) -> None:
    assert json.loads(zcluster("dapi", "submit", "f", "-o", "json").out) == {
        "schema": 1, "id": ID, "state": "queued", "known": False,
    }  # fmt: skip
    cluster.job = Job(known=True, is_in="done")
    ran = zcluster("dapi", "submit", "f", "--key", "k1", "-o", "ndjson")
    assert json.loads(ran.out) == {"schema": 1, "id": ID, "state": "done", "known": True}
    assert ran.err == f"zcluster: job {ID} was there already, with the idempotency key k1\n"
    assert "known: true" in zcluster("dapi", "submit", "f", "-o", "yaml").out


def test_an_accepted_job_is_told_though_its_state_is_not_known(cluster: Any, zcluster: Run) -> None:
    cluster.job = Job(is_in=MasterLost("gone"))
    ran = zcluster("dapi", "submit", "f", "-o", "json")
    assert (ran.code, json.loads(ran.out)["id"], json.loads(ran.out)["state"]) == (0, ID, None)
    assert "gone" in ran.err


def test_all_options_reach_the_submission(cluster: Any, zcluster: Run) -> None:
    ran = zcluster(
        "dapi", "submit", "f", "{}", "--target", "w-*", "--priority", "9", "--delay", "10m", "--expires", "1h", "--retries", "0",
        "--key", "report/2026", "--sequence", "s", "--attempt-timeout", "5m", "--retention", "1d", "--timeout", "9s",
    )  # fmt: skip
    assert (ran.code, ran.err) == (0, "")
    assert cluster.asked[0][3] == {
        "target": "w-*", "timeout": 9.0, "priority": 9, "delay_s": 600.0, "at_s": None, "expires_s": 3600.0,
        "retries": 0, "attempt_timeout_s": 300.0, "retention_s": 86400.0, "sequence": "s", "idempotency_key": "report/2026",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("target", "printed"),
    [("any", "1\n"), ("agent:7", "1\n"), ("w1", "1\n"), ("all", None), ("a,b", None), ("w*", None), ("group:web", None)],
)
def test_what_is_a_fan_out(target: str, printed: str | None, cluster: Any, zcluster: Run, answered: Any) -> None:
    cluster.job = Job([[answered("w1", 1)]])
    out = zcluster("dapi", "submit", "f", "--target", target, "--wait").out
    assert out == printed or (printed is None and out.startswith("NODE"))


def test_the_key_file_is_named_apart(cluster: Any, zcluster: Run, tmp_path: Path) -> None:
    assert zcluster("dapi", "submit", "f", "--key-file", "ops.key", "--key", "k", "--master", "tcp://h:1").code == 0
    assert (cluster.connections[0].key, cluster.connections[0].masters) == (Path("ops.key"), ("tcp://h:1",))
    assert cluster.asked[0][3]["idempotency_key"] == "k"
    help_text = " ".join(zcluster("dapi", "submit", "--help").out.split())
    assert "--key is the idempotency key here, not the key file: that is --key-file, or ZCLUSTER_KEY" in help_text

    mistaken = tmp_path / "ops.key"
    mistaken.write_text("x")
    ran = zcluster("dapi", "submit", "f", "--key", str(mistaken))
    assert (ran.code, ran.out) == (2, "")
    assert "--key-file names the key file" in ran.err


def test_arguments_from_stdin(cluster: Any, zcluster: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"a": 1}')))
    assert zcluster("dapi", "submit", "f", "--stdin").code == 0
    assert cluster.asked[0][2] == {"a": 1}


def test_at_is_a_time(cluster: Any, zcluster: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_795_000_000.0)
    assert zcluster("dapi", "submit", "f", "--at", "@1795000001").err == ""
    ran = zcluster("dapi", "submit", "f", "--at", "2020-01-01T00:00Z")
    assert (ran.code, ran.out, ran.err) == (0, f"{ID}\n", "zcluster: 2020-01-01T00:00Z is past: the job runs at once\n")
    zcluster("dapi", "submit", "f", "--at", "0001-02-01T00:00Z")
    assert [asked[3]["at_s"] for asked in cluster.asked] == [1_795_000_001.0, 1_577_836_800.0, 0.0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--delay", "1s", "--at", "08:00"), "--delay and --at exclude each other"),
        (("--at", "soon"), "expected a time, got 'soon'"),
        (("--delay", "soon"), "expected a duration"),
        (("--delay", "-1"), "expected a duration"),
        (("--expires", "0"), "--expires is 0"),
        (("--attempt-timeout", "0s"), "--attempt-timeout is 0"),
        (("--retention", "0d"), "--retention is 0"),
        (("--priority", "10"), "10 is not in the range"),
        (("--priority", "-1"), "-1 is not in the range"),
        (("--retries", "101"), "101 is not in the range"),
        (("--retries", "many"), "'many' is not a valid integer"),
        (("--key", ""), "--key is empty"),
        (("--sequence", ""), "--sequence is empty"),
        (("--stdin", "a=1"), "--stdin and ARGS exclude each other"),
        (("a=1", "a=2"), "given twice"),
        (("nonsense",), "is not name=value"),
        (("-o", "xml"), "'xml' is not one of"),
        (("--idempotency-key", "k"), "No such option"),
    ],
)
def test_misuse_is_told_and_nothing_is_submitted(words: tuple[str, ...], said: str, cluster: Any, zcluster: Run) -> None:
    ran = zcluster("dapi", "submit", "f", *words)
    assert (ran.code, ran.out, cluster.asked) == (2, "", [])
    assert said.lower() in ran.err.lower()
    assert ran.err.count("\n") == 1


def test_a_function_is_needed(cluster: Any, zcluster: Run) -> None:
    ran = zcluster("dapi", "submit")
    assert (ran.code, cluster.asked) == (2, [])
    assert "FUNCTION" in ran.err


@pytest.mark.parametrize(
    ("error", "code"),
    [(Busy("full", hint="wait"), 1), (KeyConflict("other arguments"), 1), (NotAllowed("no"), 4), (TimedOut("?"), 7)],
)
@pytest.mark.parametrize("wait", [(), ("--wait",)])
def test_a_refused_submission_is_the_commands_error(
    wait: tuple[str, ...], error: ZClusterError, code: int, cluster: Any, zcluster: Run
) -> None:
    cluster.job = error
    ran = zcluster("dapi", "submit", "f", *wait)
    assert (ran.code, ran.out, ran.err) == (code, "", f"zcluster: error: {error}\n")


# -- waiting ---------------------------------------------------------------------------------------------------------


def test_wait_prints_the_value_as_a_call_does(cluster: Any, zcluster: Run, answered: Any) -> None:
    for output, printed in (((), '{"sum": 3}\n'), (("-o", "yaml"), "sum: 3\n"), (("-o", "name"), "w1\n")):
        cluster.job = Job([[answered("w1", {"sum": 3})]])
        ran = zcluster("dapi", "submit", "f", "--wait", *output)
        assert (ran.code, ran.out) == (0, printed)
        assert ran.err == ("" if "yaml" in output else f"zcluster: job {ID}\n")
    cluster.job = Job([[answered("w1", 3)]], known=True)
    ran = zcluster("dapi", "submit", "f", "--wait", "-o", "json", "--key", "k")
    assert json.loads(ran.out)["items"] == [{"node": "w1", "ok": True, "value": 3, "error": None, "elapsed_s": 0.25}]
    assert "was there already" in ran.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FunctionFailed("ValueError: no", node="w1"), 1),
        (NotAllowed("raised by the function"), 1),
        (TimedOut("raised by the function"), 1),
        (JobDead("4 attempts"), 1),
        (JobExpired("too late"), 7),
    ],
)
def test_wait_ends_with_the_jobs_error(error: ZClusterError, code: int, cluster: Any, zcluster: Run, answered: Any) -> None:
    cluster.job = Job([[answered("w1", error=error)]])
    ran = zcluster("dapi", "submit", "f", "--wait")
    assert (ran.code, ran.out, ran.err) == (code, "", f"zcluster: job {ID}\nzcluster: error: {error}\n")
    cluster.job = Job([[answered("w1", error=error)]])
    assert json.loads(zcluster("dapi", "submit", "f", "--wait", "-o", "json").err)["error"]["code"] == error.code


def test_wait_prints_a_fan_out_as_a_table(cluster: Any, zcluster: Run, answered: Any) -> None:
    good, bad = answered("w1", 1), answered("w2", error=JobDead("killed 3 nodes"))
    for outcomes, code in (([good, bad], 3), ([good], 0), ([bad, bad], 1)):
        cluster.job = Job([outcomes])
        assert zcluster("dapi", "submit", "f", "--wait", "--target", "all").code == code
    cluster.job = Job([[good, bad]])
    lines = zcluster("dapi", "submit", "f", "--wait", "--target", "all").out.splitlines()
    assert lines[0].split() == ["NODE", "OK", "ELAPSED", "ANSWER"]
    assert lines[1].split() == ["w1", "yes", "250", "ms", "1"]
    assert lines[2].endswith("dead: killed 3 nodes")
    cluster.job = Job([[good, bad]])
    data = json.loads(zcluster("dapi", "submit", "f", "--wait", "--target", "all", "-o", "json").out)
    assert [item["ok"] for item in data["items"]] == [True, False]


def test_a_timeout_says_that_the_job_goes_on(cluster: Any, zcluster: Run, answered: Any) -> None:
    told = f"job {ID} has not ended within 1.0 ms (it goes on: zcluster queue show {ID})"
    cluster.job = Job([[NEVER]])
    ran = zcluster("dapi", "submit", "f", "--wait", "--timeout", "1ms")
    assert (ran.code, ran.out) == (7, "")
    assert ran.err == f"zcluster: job {ID}\nzcluster: error: {told}\n"

    cluster.job = Job([[answered("w1", 1), NEVER]])
    ran = zcluster("dapi", "submit", "f", "--wait", "--timeout", "1ms", "--target", "all", "-o", "json")
    assert ran.code == 7
    assert [item["node"] for item in json.loads(ran.out)["items"]] == ["w1"], "what is known is told"
    assert json.loads(ran.err)["error"]["hint"] == f"it goes on: zcluster queue show {ID}"


def test_waiting_goes_on_over_lost_connections(cluster: Any, zcluster: Run, answered: Any) -> None:
    one, two = answered("w1", 1), answered("w2", 2)
    cluster.job = Job([[one, MasterLost("gone")], [MasterLost("gone")], [TimedOut("late")], [one, two]])
    ran = zcluster("dapi", "submit", "f", "--wait", "--target", "all", "-o", "name")
    assert (ran.code, ran.out) == (0, "w1\nw2\n")
    assert ran.err.splitlines()[1:] == [
        "zcluster: gone; the job goes on, and so does the waiting",
        "zcluster: late; the job goes on, and so does the waiting",
    ]
