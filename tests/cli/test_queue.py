"""``zcluster queue`` against a cluster of plain data."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zcluster.cli.queue_views import STATES, finding_lines, live, soon, stats_lines, trouble
from zcluster.core.queue.job import FINAL, WORDS
from zcluster.errors import MasterLost, NoSuchJob, NotAllowed, Unreachable, UsageError, ZClusterError
from zcluster.store.jobs import Report

Run = Callable[..., Any]
DEAD = {"code": "node_lost", "message": "w1 died", "hint": "", "request_id": ""}
JOB: dict[str, Any] = {
    "id": "0a1b2c3d-17", "function": "report.build", "target": "any", "state": "queued", "node": "", "attempt": 1, "failures": 1,
    "deaths": 0, "priority": 5, "caller": "ops", "accepted_s": 1.0, "at_s": 0, "due_in_s": 90.0, "expires_in_s": 0, "retries": 3,
    "timeout_s": 0, "retention_s": 86400.0, "idempotency_key": "k", "sequence": "", "blocked": False, "size": 2048,
    "result_bytes": 0, "error": None, "parent": None, "parts": 0, "parts_left": 0,
}  # fmt: skip
STEPS = [
    {"state": "queued", "at_s": 1.0, "node": "", "attempt": 0, "error": None},
    {"state": "queued", "at_s": 2.0, "node": "w1", "attempt": 1, "error": DEAD},
]
SHOWN = {**JOB, "args": {"day": "x", "password": "[secret]"}, "steps": STEPS}
STATS: dict[str, Any] = {
    "states": {"queued": 2, "leased": 1, "running": 4, "done": 9}, "ready": 1, "delayed_next_in_s": 90.0,
    "lanes": [{"lane": "any:f", "ready": 1, "more": False}, {"lane": "node:w1", "ready": 64, "more": True}],
    "paused": ["w1", "w-*"], "draining": False, "writable": True,
    "accepted_per_s": 12.5, "ended_per_s": 0.0, "commits_per_s": 3.0, "bytes": 2048,
    "limits": {"jobs": 1_000_000, "jobs_bytes": 2048},
    "in_memory": 7,
    "keys": [{"name": "ops", "jobs": 7, "bytes": 1024}],
}  # fmt: skip
EMPTY = {**STATS, "states": {"queued": 0, "done": 9}}
CHANGE = {
    "id": "0a1b2c3d-17", "function": "f", "state": "dead", "node": "w1\x1b[2J", "attempt": 2, "at_s": 60.0, "error": DEAD,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("queue", "queue_acts"):
        monkeypatch.setattr(f"zcluster.cli.{module}.LOOK_S", 0.0)


def page(*items: dict[str, Any], following: str | None = None) -> dict[str, Any]:
    return {"items": list(items), "next": following}


# -- ls --------------------------------------------------------------------------------------------------------------


def test_the_states_are_those_of_jobs() -> None:
    assert list(STATES) == list(WORDS)
    assert live({"states": dict.fromkeys(WORDS, 1)}) == len([state for state in WORDS.values() if state < FINAL])


def test_ls_is_a_table(cluster: Any, zcluster: Run) -> None:
    cluster.values["queue.list"] = page(JOB, {**JOB, "state": "dead", "error": DEAD})
    ran = zcluster("queue", "ls")
    head, first, second = ran.out.splitlines()
    assert head.split() == ["ID", "FUNCTION", "TARGET", "STATE", "NODE", "ATTEMPT", "ACCEPTED", "DUE-IN", "ERROR"]
    assert first.split()[:6] == ["0a1b2c3d-17", "report.build", "any", "queued", "-", "1"]
    assert "90.0 s" in first
    assert second.endswith("node_lost: w1 died")
    assert (ran.code, ran.err) == (0, "")
    assert cluster.asked[0][2] == {"state": "", "target": "", "function": "", "limit": 100, "before": ""}
    assert "ops" in zcluster("queue", "ls", "-o", "wide").out


def test_ls_as_data_has_the_cursor(cluster: Any, zcluster: Run) -> None:
    cluster.values["queue.list"] = page(JOB)
    assert json.loads(zcluster("queue", "ls", "-o", "json").out) == {"schema": 1, "items": [JOB], "total": 1, "next": None}
    assert json.loads(zcluster("queue", "ls", "--cursor", "a-9", "-o", "json").out)["total"] is None
    cluster.values["queue.list"] = page(JOB, following="0a1b2c3d-17")
    ran = zcluster("queue", "ls", "-o", "json")
    assert (json.loads(ran.out), ran.err) == ({"schema": 1, "items": [JOB], "total": None, "next": "0a1b2c3d-17"}, "")
    assert 'next: "0a1b2c3d-17"' in zcluster("queue", "ls", "-o", "yaml").out
    ran = zcluster("queue", "ls", "-o", "name")
    assert (ran.out, ran.err) == ("0a1b2c3d-17\n", "zcluster: there are more; the next page: --cursor 0a1b2c3d-17\n")
    assert json.loads(zcluster("queue", "ls", "-o", "ndjson").out) == JOB


def test_ls_asks_for_what_is_named(cluster: Any, zcluster: Run) -> None:
    cluster.values["queue.list"] = page()
    zcluster("queue", "ls", "--state", "dead", "--target", "w1", "--function", "f", "--limit", "7", "--cursor", "a-9")
    assert cluster.asked[0][2] == {"state": "dead", "target": "w1", "function": "f", "limit": 7, "before": "a-9"}


@pytest.mark.parametrize("output", ["table", "json"])
def test_ls_goes_through_all_pages(output: str, cluster: Any, zcluster: Run, turns: Any) -> None:
    cluster.values["queue.list"] = turns([page(JOB, following="x-2"), page({**JOB, "id": "x-1"})])
    ran = zcluster("queue", "ls", "--all", "-o", output)
    assert [asked[2]["before"] for asked in cluster.asked] == ["", "x-2"]
    assert [asked[2]["limit"] for asked in cluster.asked] == [1000, 1000]
    assert ran.out.count("report.build") == 2
    if output == "json":
        assert (json.loads(ran.out)["total"], json.loads(ran.out)["next"]) == (2, None)


# -- show ------------------------------------------------------------------------------------------------------------


def test_show_has_fields_and_steps(cluster: Any, zcluster: Run) -> None:
    cluster.values["queue.show"] = SHOWN
    ran = zcluster("queue", "show", "0a1b2c3d-17")
    fields, steps = ran.out.split("\n\n")
    said = dict(line.split(None, 1) for line in fields.splitlines())
    assert (said["state"], said["due_in_s"], said["expires_in_s"], said["retention_s"]) == ("queued", "90.0 s", "-", "24.0 h")
    assert (said["size"], said["args"]) == ("2.0 KiB", '{"day": "x", "password": "[secret]"}')
    assert steps.startswith("TIME ")
    assert steps.splitlines()[2].endswith("queued  w1          1  node_lost: w1 died")
    assert json.loads(zcluster("queue", "show", "0a1b2c3d-17", "-o", "json").out) == {"schema": 1, **SHOWN}
    assert zcluster("queue", "show", "0a1b2c3d-17", "-o", "name").out == "0a1b2c3d-17\n"
    assert {asked[1] for asked in cluster.asked} == {"queue.show"}


@pytest.mark.parametrize(("size", "asked"), [(65_536, True), (65_537, False)])
def test_show_has_the_value_of_a_job_that_is_done(size: int, asked: bool, cluster: Any, zcluster: Run) -> None:
    cluster.values = {"queue.show": {**SHOWN, "state": "done", "result_bytes": size}, "queue.result": [1, 2]}
    ran = zcluster("queue", "show", "0a1b2c3d-17")
    assert ("[1, 2]" in ran.out) is asked
    assert [call[1] for call in cluster.asked] == ["queue.show", "queue.result"][: 1 + asked]


def test_show_has_the_outcomes_of_a_fan_out(cluster: Any, zcluster: Run, turns: Any) -> None:
    done = {"id": "s-18", "node": "w1", "state": "done", "value": {"n": 1}, "error": None, "attempt": 1, "ended_s": 60.0}
    dead = {**done, "id": "s-19", "node": "w2", "state": "dead", "value": None, "error": DEAD}
    runs = {**done, "id": "s-20", "node": "w3", "state": "running", "value": None, "ended_s": 0}
    pages = [page(done, following="s-18"), page(dead, runs)]
    cluster.values = {"queue.show": {**SHOWN, "parts": 3, "parts_left": 1}, "queue.outcomes": turns([*pages, *pages])}
    lines = zcluster("queue", "show", "s-17").out.split("\n\n")[2].splitlines()
    assert lines[0].split() == ["NODE", "STATE", "ATTEMPT", "ENDED", "ANSWER"]
    assert lines[1].endswith('{"n": 1}')
    assert lines[2].endswith("node_lost: w1 died")
    assert lines[3].split() == ["w3", "running", "1", "-", "-"]
    assert [call[2].get("after") for call in cluster.asked] == [None, "", "s-18"]
    assert json.loads(zcluster("queue", "show", "s-17", "-o", "json").out)["outcomes"] == [done, dead, runs]


# -- watch -----------------------------------------------------------------------------------------------------------


def test_watch_is_a_line_for_each_change(cluster: Any, zcluster: Run) -> None:
    cluster.items = [CHANGE]
    cluster.values["queue.list"] = page()
    ran = zcluster("queue", "watch", "--state", "dead", "--function", "f")
    head, line = ran.out.splitlines()
    assert head.split() == ["TIME", "ID", "STATE", "FUNCTION", "NODE", "ATTEMPT", "ERROR"]
    assert line.split()[2:6] == ["0a1b2c3d-17", "dead", "f", "w1\\x1b[2J"]
    assert cluster.asked[1][1:3] == ("queue.watch", {"state": "dead", "function": "f"})
    assert zcluster("queue", "watch", "-o", "name").out == "0a1b2c3d-17\n"
    for output in ("ndjson", "json", "yaml"):
        assert json.loads(zcluster("queue", "watch", "-o", output).out) == CHANGE


def test_watch_goes_on_over_a_lost_connection(cluster: Any, zcluster: Run, monkeypatch: pytest.MonkeyPatch, turns: Any) -> None:
    rounds: list[Any] = [[CHANGE, MasterLost("gone")], [Unreachable("no master")], [CHANGE]]
    cluster.values["queue.list"] = page()
    stream = type(cluster).stream

    def turn(client: Any, *asked: Any, **options: Any) -> Any:
        cluster.items = rounds.pop(0)
        return stream(client, *asked, **options)

    monkeypatch.setattr(type(cluster), "stream", turn)
    ran = zcluster("queue", "watch", "-o", "name")
    assert (ran.code, ran.out) == (0, "0a1b2c3d-17\n0a1b2c3d-17\n")
    assert ran.err == "zcluster: gone; changes until the master is back are not shown\n"


# -- cancel, retry, drop ---------------------------------------------------------------------------------------------

REFUSED = {"id": "a-2", "code": "no_such_job", "message": "there is no job 'a-2'", "hint": "see `zcluster queue ls`"}
ENDED = {"id": "a-3", "code": "conflict", "message": "it has ended", "hint": ""}


@pytest.mark.parametrize(("verb", "past"), [("cancel", "cancelled"), ("retry", "queued again"), ("drop", "dropped")])
def test_each_id_is_told(verb: str, past: str, cluster: Any, zcluster: Run) -> None:
    cluster.values[f"queue.{verb}"] = {"done": ["a-1"], "refused": [REFUSED, ENDED]}
    ran = zcluster("queue", verb, "a-1", "a-2", "a-3")
    assert cluster.asked[0][1:3] == (f"queue.{verb}", {"ids": ["a-1", "a-2", "a-3"]})
    assert (ran.code, ran.out) == (3, f"{past}: a-1\n")
    assert ran.err.splitlines() == [
        "zcluster: error: there is no job 'a-2' (see `zcluster queue ls`)", "zcluster: error: a-3: it has ended",
    ]  # fmt: skip
    ran = zcluster("queue", verb, "a-1", "a-2", "a-3", "-o", "json")
    data = json.loads(ran.out)
    assert [(item["id"], item["ok"]) for item in data["items"]] == [("a-1", True), ("a-2", False), ("a-3", False)]
    assert data["items"][2]["error"]["code"] == "conflict"
    assert (ran.code, ran.err, data["total"], data["next"]) == (3, "", 3, None)
    assert zcluster("queue", verb, "a-1", "a-2", "a-3", "-o", "name").out == "a-1\n"


@pytest.mark.parametrize(
    ("done", "refused", "code"),
    [(["a-1"], [], 0), ([], [REFUSED, REFUSED], 5), ([], [ENDED, ENDED], 1), ([], [REFUSED, ENDED], 1)],
)
def test_the_exit_code_of_several_ids(
    done: list[str], refused: list[dict[str, Any]], code: int, cluster: Any, zcluster: Run
) -> None:
    cluster.values["queue.cancel"] = {"done": done, "refused": refused}
    assert zcluster("queue", "cancel", "a-1", "a-2").code == code


def test_one_refused_id_is_the_commands_error(cluster: Any, zcluster: Run) -> None:
    cluster.values["queue.drop"] = {"done": [], "refused": [REFUSED]}
    ran = zcluster("queue", "drop", "a-2")
    assert (ran.code, ran.out, ran.err) == (5, "", "zcluster: error: there is no job 'a-2' (see `zcluster queue ls`)\n")
    ran = zcluster("queue", "drop", "a-2", "-o", "json")
    assert (ran.code, ran.out, json.loads(ran.err)["error"]["code"]) == (5, "", "no_such_job")


def test_ids_come_from_stdin_in_batches(cluster: Any, zcluster: Run, monkeypatch: pytest.MonkeyPatch, turns: Any) -> None:
    ids = [f"a-{number}" for number in range(1001)]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n \n" + "\n".join(ids)))
    cluster.values["queue.cancel"] = turns([{"done": ids[:1000], "refused": []}, {"done": [], "refused": [REFUSED]}])
    ran = zcluster("queue", "cancel", "-", "-o", "name")
    assert [len(asked[2]["ids"]) for asked in cluster.asked] == [1000, 1]
    assert (ran.code, ran.out.split()) == (3, ids[:1000])


def test_an_empty_stdin_is_nothing_to_do(cluster: Any, zcluster: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    ran = zcluster("queue", "retry", "-")
    assert (ran.code, ran.out, ran.err, cluster.asked) == (0, "", "zcluster: stdin holds no id: nothing to retry\n", [])


def test_ids_of_stdin_are_bounded(cluster: Any, zcluster: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.values["queue.cancel"] = {"done": ["x"], "refused": []}
    for chars, code in ((199, 0), (200, 2)):
        monkeypatch.setattr("sys.stdin", io.StringIO("x" * chars + "\n"))
        assert zcluster("queue", "cancel", "-").code == code


# -- drain, pause, resume, stats -------------------------------------------------------------------------------------


def test_drain_waits_until_nothing_is_left(cluster: Any, zcluster: Run, turns: Any) -> None:
    one = {**STATS, "states": {"running": 1}}
    cluster.values = {"queue.drain": STATS, "queue.stats": turns([STATS, MasterLost("gone"), one, EMPTY])}
    ran = zcluster("queue", "drain")
    assert cluster.asked[0][1:3] == ("queue.drain", {"on": True})
    assert (ran.code, ran.out) == (0, "drained: no job is left, and no new one is accepted\n")
    assert ran.err == "zcluster: 7 jobs left\nzcluster: 1 job left\n"


def test_drain_of_an_empty_queue_as_data(cluster: Any, zcluster: Run) -> None:
    cluster.values["queue.drain"] = EMPTY
    ran = zcluster("queue", "drain", "-o", "json")
    assert (ran.code, json.loads(ran.out)["states"], ran.err) == (0, {"queued": 0, "done": 9}, "")


def test_drain_ends_at_its_timeout(cluster: Any, zcluster: Run) -> None:
    cluster.values["queue.drain"] = STATS
    ran = zcluster("queue", "drain", "--timeout", "0")
    assert (ran.code, ran.out, len(cluster.asked)) == (7, "", 1)
    assert ran.err == (
        "zcluster: error: 7 jobs left after 0.0 ms (no new jobs are accepted until `zcluster queue drain --off`)\n"
    )


def test_the_end_of_a_drain(cluster: Any, zcluster: Run) -> None:
    cluster.values["queue.drain"] = STATS
    ran = zcluster("queue", "drain", "--off")
    assert cluster.asked == [("call", "queue.drain", {"on": False}, {"target": "master", "timeout": None})]
    assert (ran.code, ran.out, ran.err) == (0, "new jobs are accepted\n", "")


def test_pause_and_resume(cluster: Any, zcluster: Run) -> None:
    cluster.values = {"queue.pause": {"paused": ["w-*", "w1"]}, "queue.resume": {"paused": []}}
    assert zcluster("queue", "pause", "w1").out == "paused: w-*, w1\n"
    assert zcluster("queue", "pause", "w1", "-o", "name").out == "w-*\nw1\n"
    assert zcluster("queue", "resume", "w1").out == "paused: nothing\n"
    assert json.loads(zcluster("queue", "resume", "w1", "-o", "json").out) == {"schema": 1, "paused": []}
    assert cluster.asked[0][1:3] == ("queue.pause", {"target": "w1"})


def test_stats(cluster: Any, zcluster: Run) -> None:
    cluster.values["queue.stats"] = STATS
    out = zcluster("queue", "stats").out
    said = {" ".join(line.split()) for line in out.splitlines()}
    assert {
        "queued 2", "done 9", "next delayed in 90.0 s", "paused w1, w-*", "draining no", "accepted per s 12.5", "bytes 2.0 KiB",
        "limit of jobs 1000000", "limit of jobs bytes 2.0 KiB",
        "LANE READY", "any:f 1", "node:w1 64+", "CALLER JOBS SIZE", "ops 7 1.0 KiB",
    } <= said  # fmt: skip
    assert json.loads(zcluster("queue", "stats", "-o", "json").out) == {"schema": 1, **STATS}


# -- check -----------------------------------------------------------------------------------------------------------

SOUND: dict[str, Any] = {"ok": True, "jobs": 3, "findings": [], "details": {}}
BROKEN: dict[str, Any] = {"ok": False, "jobs": 1, "findings": ["job a-1: its result is torn"], "details": {}}


def test_check_asks_the_master(cluster: Any, zcluster: Run) -> None:
    cluster.values["queue.check"] = SOUND
    ran = zcluster("queue", "check")
    assert (ran.code, ran.out, ran.err) == (0, "3 jobs, nothing wrong\n", "")
    cluster.values["queue.check"] = BROKEN
    ran = zcluster("queue", "check")
    assert (ran.code, ran.out) == (1, "job a-1: its result is torn\n1 job, 1 wrong\n")
    assert json.loads(zcluster("queue", "check", "-o", "json").out) == {"schema": 1, **BROKEN}


def test_check_reads_the_file_where_no_master_answers(
    cluster: Any, zcluster: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster.error = Unreachable("no master answers")
    ran = zcluster("queue", "check")
    assert (ran.code, ran.out, ran.err) == (6, "", "zcluster: error: no master answers\n"), "there is no file"

    file = tmp_path / "home" / "data" / "queue" / "jobs.db"
    file.parent.mkdir(parents=True)
    file.touch()
    read: list[Path] = []

    def check_file(path: Path) -> Report:
        read.append(path)
        return Report(**BROKEN)

    monkeypatch.setattr("zcluster.store.jobs_check.check_file", check_file)
    ran = zcluster("queue", "check")
    assert (ran.code, read, ran.out) == (1, [file], "job a-1: its result is torn\n1 job, 1 wrong\n")
    assert ran.err == f"zcluster: no master answers: {file} itself is read\n"

    cluster.error = NotAllowed("queue.check needs an admin key")
    assert zcluster("queue", "check").code == 4, "a master that answers decides"


# -- errors ----------------------------------------------------------------------------------------------------------

COMMANDS = [
    ("ls",), ("show", "a-1"), ("watch",), ("cancel", "a-1"), ("retry", "a-1"), ("drop", "a-1"), ("drain",), ("drain", "--off"),
    ("pause", "w1"), ("resume", "w1"), ("stats",), ("check",),
]  # fmt: skip


@pytest.mark.parametrize(("error", "code"), [(NoSuchJob("no job"), 5), (NotAllowed("admin only"), 4), (UsageError("no id"), 2)])
@pytest.mark.parametrize("words", COMMANDS)
def test_an_error_of_the_cluster_is_the_commands(
    words: tuple[str, ...], error: ZClusterError, code: int, cluster: Any, zcluster: Run
) -> None:
    cluster.value = error
    ran = zcluster("queue", *words)
    assert (ran.code, ran.out, ran.err) == (code, "", f"zcluster: error: {error}\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ls", "--state", "runing"), "no state 'runing'; did you mean 'running'?"),
        (("ls", "--state", "xyz"), "no state 'xyz'; there are queued, leased, running, done"),
        (("watch", "--state", "Dead"), "did you mean 'dead'?"),
        (("ls", "--limit", "0"), "0 is not in the range"),
        (("ls", "--limit", "1001"), "1001 is not in the range"),
        (("show",), "Missing argument 'ID'"),
        (("cancel",), "Missing argument 'ID...'"),
        (("drop", "-", "a-1"), "'-' and ids exclude each other"),
        (("pause",), "Missing argument 'TARGET'"),
        (("resume",), "Missing argument 'TARGET'"),
        (("drain", "--off", "--timeout", "1s"), "--off and --timeout exclude each other"),
        (("drain", "--timeout", "soon"), "expected a duration"),
        (("stat",), "did you mean 'stats'?"),
        (("ls", "-o", "xml"), "'xml' is not one of"),
    ],
)
def test_misuse_is_told_and_nothing_is_asked(words: tuple[str, ...], said: str, cluster: Any, zcluster: Run) -> None:
    ran = zcluster("queue", *words)
    assert (ran.code, ran.out, cluster.asked) == (2, "", [])
    assert said in ran.err


def test_states_are_completed(monkeypatch: pytest.MonkeyPatch, zcluster: Run) -> None:
    monkeypatch.setenv("_ZCLUSTER_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "zcluster queue ls --state d")
    monkeypatch.setenv("COMP_CWORD", "4")
    assert zcluster().out.split() == ["plain,done", "plain,dead"]


def test_texts_for_people() -> None:
    assert (trouble(None), trouble({"code": "busy", "message": "full", "hint": "wait"})) == ("-", "busy: full (wait)")
    assert (soon(None), soon(0), soon(-3), soon(5)) == ("-", "-", "-", "5.0 s")
    assert finding_lines({"ok": False, "jobs": None, "findings": []}) == ["0 jobs, not whole"]
    assert stats_lines({"delayed_next_in_s": None, "paused": []}) == ["next delayed in  -", "paused           -"]
