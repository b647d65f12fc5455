"""``zcluster sync`` against a cluster of plain data."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from zcluster.cli.sync_views import age, is_behind, moment, size
from zcluster.errors import MasterLost, NoSuchNode, NotAllowed, Unreachable, UsageError

ROW: dict[str, Any] = {
    "worker": "web-1",
    "tree": "rules",
    "direction": "down",
    "state": "current",
    "version": 12,
    "target": 12,
    "files_behind": 0,
    "bytes_behind": 0,
    "behind_since_s": None,
    "reason": "",
    "bytes_per_s": 0.0,
    "error": "",
    "root": "ab" * 32,
    "applied_at_s": 1.0,
}
HELD = {
    **ROW,
    "worker": "web-2",
    "state": "held",
    "target": 14,
    "files_behind": 3,
    "bytes_behind": 3_565_158,
    "behind_since_s": 1.0,
    "reason": "it would delete 9 of 10 files",
    "error": "disk full",
}
TREE: dict[str, Any] = {
    "name": "rules",
    "direction": "down",
    "path": "/srv/rules",
    "workers": "all",
    "version": 14,
    "epoch": 2,
    "root": "cd" * 32,
    "files": 10,
    "bytes": 2048,
    "held": "",
    "paused": False,
    "refused": [],
    "errors": [],
    "watching": True,
    "scanned_at_s": 1.0,
}
Run = Callable[..., Any]


def put_rows(cluster: Any, *rows: dict[str, Any], trees: tuple[dict[str, Any], ...] = (TREE,)) -> None:
    cluster.values = {**cluster.values, "sync.status": list(rows), "sync.trees": list(trees)}


# -- status, ls ------------------------------------------------------------------------------------------------------


def test_status_as_a_table_has_sizes_and_reasons(cluster: Any, zcluster: Run) -> None:
    put_rows(cluster, HELD, ROW)
    ran = zcluster("sync", "status")
    head, first, second = ran.out.splitlines()
    assert head.split() == ["WORKER", "TREE", "STATE", "VERSION", "FILES", "BEHIND", "SINCE", "PER-S", "REASON"]
    assert first.split() == ["web-1", "rules", "current", "12", "0", "0", "B", "-", "0", "B", "-"]
    assert second.split()[:7] == ["web-2", "rules", "held", "12", "3", "3.4", "MiB"]
    assert second.endswith("it would delete 9 of 10 files; last error: disk full")
    assert "abababababab" in zcluster("sync", "status", "-o", "wide").out
    assert (ran.code, ran.err) == (3, "")


def test_status_as_data_is_what_the_cluster_said(cluster: Any, zcluster: Run) -> None:
    put_rows(cluster, ROW, HELD)
    data = json.loads(zcluster("sync", "status", "-o", "json").out)
    assert data == {"schema": 1, "items": [ROW, HELD], "total": 2, "next": None}
    assert [json.loads(line) for line in zcluster("sync", "status", "-o", "ndjson").out.splitlines()] == [ROW, HELD]
    assert zcluster("sync", "status", "-o", "name").out == "web-1/rules\nweb-2/rules\n"
    assert "bytes_behind: 3565158" in zcluster("sync", "status", "-o", "yaml").out


def test_status_asks_for_one_tree_and_worker(cluster: Any, zcluster: Run) -> None:
    put_rows(cluster, ROW, trees=({**TREE, "name": "other", "held": "x"}, TREE))
    ran = zcluster("sync", "status", "--tree", "rules", "--worker", "web-1")
    assert cluster.asked[0][:3] == ("call", "sync.status", {"tree": "rules", "worker": "web-1"})
    assert (ran.code, ran.err) == (0, ""), "another tree's trouble is not asked for"


def test_status_says_when_there_is_no_tree(cluster: Any, zcluster: Run) -> None:
    put_rows(cluster, trees=())
    ran = zcluster("sync", "status", "-o", "json")
    assert (ran.code, json.loads(ran.out)["items"]) == (0, [])
    assert ran.err == "zcluster: the master's configuration declares no tree\n"


@pytest.mark.parametrize(
    ("row", "behind"),
    [
        ({"state": "current"}, False),
        ({"state": "waiting"}, True),
        ({"state": "pulling"}, True),
        ({"state": "applying"}, True),
        ({"state": "held"}, True),
        ({"state": "failed"}, True),
        ({"state": "paused"}, False),
        ({"state": "paused", "target": 13}, True),
        ({"state": "away"}, False),
        ({"state": "away", "files_behind": 1}, True),
        ({"state": "away", "error": "x"}, True),
    ],
)
def test_the_exit_code_of_status(row: dict[str, Any], behind: bool, cluster: Any, zcluster: Run) -> None:
    put_rows(cluster, ROW, {**ROW, **row})
    assert is_behind({**ROW, **row}) is behind
    assert zcluster("sync", "status", "-o", "json").code == (3 if behind else 0)


@pytest.mark.parametrize(
    ("trouble", "code", "line"),
    [
        ({"held": "the root is missing"}, 3, "tree rules is held: the root is missing"),
        ({"errors": [{"path": "a", "reason": "EACCES"}]}, 3, 'tree rules has errors: [{"path": "a", "reason": "EACCES"}]'),
        ({"paused": True}, 0, "tree rules is paused"),
        (
            {"conflicts": [{"path": "b", "worker": "two", "owner": "one", "at": "b"}], "conflict_count": 3},
            0,
            "tree rules does not merge b of two: b belongs to one, and 2 more",
        ),
        (
            {"conflicts": [{"path": "b/c", "worker": "two", "owner": "", "at": "b"}], "conflict_count": 1},
            0,
            "tree rules does not merge b/c of two: b is not from a worker",
        ),
        ({"refused": [{"path": "b", "reason": "a symbolic link"}]}, 0, "tree rules leaves out b: a symbolic link"),
        (
            {"refused": [{"path": "b", "reason": "not NFC"}, {"path": "c", "reason": "x"}]},
            0,
            "tree rules leaves out b: not NFC, and 1 more",
        ),
    ],
)
def test_troubles_of_a_tree_are_said(trouble: dict[str, Any], code: int, line: str, cluster: Any, zcluster: Run) -> None:
    put_rows(cluster, ROW, trees=({**TREE, **trouble},))
    ran = zcluster("sync", "status")
    assert (ran.code, ran.err) == (code, f"zcluster: {line}\n")
    assert zcluster("sync", "ls").err == f"zcluster: {line}\n"


def test_ls(cluster: Any, zcluster: Run) -> None:
    put_rows(cluster, trees=(TREE, {**TREE, "name": "lists", "held": "why"}))
    lines = zcluster("sync", "ls").out.splitlines()
    assert lines[0].split() == ["TREE", "DIRECTION", "STATE", "VERSION", "FILES", "SIZE", "SCANNED", "PATH"]
    assert lines[1].split()[:7] == ["rules", "down", "ok", "14", "10", "2.0", "KiB"]
    assert lines[2].split()[2] == "held"
    assert json.loads(zcluster("sync", "ls", "-o", "json").out)["items"][0] == {**TREE, "state": "ok"}
    assert zcluster("sync", "ls", "-o", "name").out == "rules\nlists\n"


# -- diff, verify ----------------------------------------------------------------------------------------------------

DIFF = {
    "worker": "web-1",
    "trees": [
        {
            "tree": "rules",
            "version": 12,
            "missing": [{"path": "a", "size": 5, "mtime_s": 1.0, "copy_size": None, "copy_mtime_s": None}],
            "shared": [{"path": "b", "size": 5, "mtime_s": 1.0, "copy_size": 2048, "copy_mtime_s": 2.0}],
            "extra": [{"path": "c", "copy_size": 1, "copy_mtime_s": 2.0}],
            "extra_valid": [{"path": "d", "copy_size": 1, "copy_mtime_s": 2.0}],
            "more": 0,
        }
    ],
}


def diff_of(**tree: Any) -> dict[str, Any]:
    return {"worker": "web-1", "trees": [{"tree": "rules", "version": 12, **tree}]}


def test_diff_lists_each_class_with_both_sides(cluster: Any, zcluster: Run) -> None:
    cluster.values["sync.diff"] = DIFF
    ran = zcluster("sync", "diff", "web-1", "--tree", "rules", "--timeout", "9s")
    assert cluster.asked == [("call", "sync.diff", {"tree": "rules"}, {"target": "web-1", "timeout": 9.0})]
    lines = [line.split() for line in ran.out.splitlines()]
    assert [(line[0], line[-1]) for line in lines] == [
        ("CLASS", "PATH"),
        ("missing", "a"),
        ("shared", "b"),
        ("extra", "c"),
        ("extra_valid", "d"),
    ]
    assert lines[2][2:6] == ["5", "B", "2.0", "KiB"]
    assert ran.code == 3
    items = json.loads(zcluster("sync", "diff", "web-1", "-o", "json").out)["items"]
    assert items[1] == {
        "class": "shared", "tree": "rules", "path": "b", "size": 5, "mtime_s": 1.0, "copy_size": 2048, "copy_mtime_s": 2.0,
    }  # fmt: skip
    assert items[2]["size"] is None
    assert zcluster("sync", "diff", "web-1", "-o", "name").out == "a\nb\nc\nd\n"


@pytest.mark.parametrize(
    ("found", "code", "err"),
    [
        (diff_of(missing=[], shared=[], extra=[], extra_valid=[], more=0), 0, "zcluster: nothing differs\n"),
        (diff_of(extra_valid=[{"path": "d"}]), 0, ""),
        (diff_of(extra=[{"path": "d"}]), 3, ""),
        (diff_of(missing=[{"path": "d"}], more=7), 3, "zcluster: and 7 more\n"),
        ({"worker": "web-1", "trees": []}, 0, "zcluster: nothing differs\n"),
    ],
)
def test_the_exit_code_of_diff(found: dict[str, Any], code: int, err: str, cluster: Any, zcluster: Run) -> None:
    cluster.values["sync.diff"] = found
    ran = zcluster("sync", "diff", "web-1")
    assert (ran.code, ran.err) == (code, err)


def test_no_difference_is_an_empty_list_for_a_program(cluster: Any, zcluster: Run) -> None:
    cluster.values["sync.diff"] = diff_of()
    ran = zcluster("sync", "diff", "web-1", "-o", "json")
    assert (json.loads(ran.out)["items"], ran.err, ran.code) == ([], "", 0)
    assert zcluster("sync", "diff", "web-1").out == ""


def test_verify_goes_through_the_trees_of_the_worker(cluster: Any, zcluster: Run, turns: Any) -> None:
    put_rows(cluster, {**ROW, "tree": "rules"}, {**ROW, "tree": "lists"})
    good = {"trees": [{"tree": "lists", "files": 1, "bytes": 10, "wrong": []}]}
    bad = {"trees": [{"tree": "rules", "files": 2, "bytes": 2048, "wrong": [{"path": "x", "reason": "another digest"}]}]}
    cluster.values["sync.verify"] = turns([good, bad])
    ran = zcluster("sync", "verify", "web-1")
    verified = [(args, options) for _, function, args, options in cluster.asked if function == "sync.verify"]
    assert verified == [
        ({"tree": "lists"}, {"target": "web-1", "timeout": 3600.0}),
        ({"tree": "rules"}, {"target": "web-1", "timeout": 3600.0}),
    ]
    assert [line.split() for line in ran.out.splitlines()] == [
        ["TREE", "FILES", "SIZE", "WRONG"],
        ["lists", "1", "10", "B", "0"],
        ["rules", "2", "2.0", "KiB", "1"],
        [],
        ["TREE", "REASON", "PATH"],
        ["rules", "another", "digest", "x"],
    ]
    assert (ran.code, ran.err) == (3, ""), "no bar without a terminal"


def test_verify_of_one_tree_that_is_whole(cluster: Any, zcluster: Run) -> None:
    cluster.values["sync.verify"] = {"trees": [{"tree": "lists", "files": 1, "bytes": 10, "wrong": []}]}
    ran = zcluster("sync", "verify", "web-1", "--tree", "lists", "--timeout", "5s", "-o", "json")
    assert (json.loads(ran.out)["items"], ran.code) == (cluster.values["sync.verify"]["trees"], 0)
    assert [asked[1:] for asked in cluster.asked] == [("sync.verify", {"tree": "lists"}, {"target": "web-1", "timeout": 5.0})]
    assert zcluster("sync", "verify", "web-1", "--tree", "lists", "-o", "name").out == ""


@pytest.mark.parametrize("command", ["diff", "verify"])
@pytest.mark.parametrize("worker", ["all", "any", "web-*", "a,b", ""])
def test_diff_and_verify_are_for_one_worker(command: str, worker: str, cluster: Any, zcluster: Run) -> None:
    ran = zcluster("sync", command, worker)
    assert (ran.code, ran.out, cluster.asked) == (2, "", [])
    assert f"{command} is for one worker" in ran.err


# -- now, pause, resume, confirm -------------------------------------------------------------------------------------


def test_now(cluster: Any, zcluster: Run) -> None:
    cluster.values["sync.now"] = {"trees": ["rules", "lists"]}
    ran = zcluster("sync", "now", "--tree", "rules")
    assert (ran.code, ran.out) == (0, "looked: rules, lists\n")
    assert cluster.asked == [("call", "sync.now", {"tree": "rules"}, {"target": "master", "timeout": 30.0})]
    assert json.loads(zcluster("sync", "now", "-o", "json").out) == {"schema": 1, "trees": ["rules", "lists"]}
    assert zcluster("sync", "now", "-o", "name").out == "rules\nlists\n"


@pytest.fixture
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcluster.clients.sync.LOOK_FIRST_S", 0.0)
    monkeypatch.setattr("zcluster.clients.sync.LOOK_MAX_S", 0.0)


@pytest.mark.usefixtures("_no_pauses")
def test_now_waits_until_all_are_current(cluster: Any, zcluster: Run, turns: Any) -> None:
    pulling = {**ROW, "state": "pulling", "version": 12, "target": 14, "bytes_behind": 100}
    done = {**ROW, "version": 14, "target": 14}
    cluster.values = {
        "sync.now": {"trees": ["rules"]},
        "sync.trees": [TREE],
        "sync.status": turns([[pulling], [{**pulling, "bytes_behind": 50}], [done]]),
    }
    ran = zcluster("sync", "now", "--wait", "-o", "json")
    assert (ran.code, ran.err, json.loads(ran.out)["items"]) == (0, "", [done])
    assert cluster.values["sync.status"].waiting == []


@pytest.mark.usefixtures("_no_pauses")
def test_now_does_not_wait_for_what_a_guard_holds(cluster: Any, zcluster: Run) -> None:
    put_rows(cluster, {**ROW, "version": 14, "target": 14}, HELD)
    ran = zcluster("sync", "now", "--wait")
    assert ran.code == 3
    assert "it would delete 9 of 10 files" in ran.out


@pytest.mark.usefixtures("_no_pauses")
def test_now_ends_at_its_timeout_with_the_reason(cluster: Any, zcluster: Run) -> None:
    put_rows(cluster, {**ROW, "state": "failed", "reason": "no space left"})
    ran = zcluster("sync", "now", "--wait", "--timeout", "0.000000001")
    assert (ran.code, ran.out) == (7, "")
    assert "1 of 1 are not current in time: web-1 rules: failed, no space left" in ran.err


@pytest.mark.usefixtures("_no_pauses")
def test_a_bar_is_drawn_on_a_terminal_and_wiped(cluster: Any, zcluster: Run, turns: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    pulling = {**ROW, "state": "pulling", "target": 14, "bytes_behind": 100, "bytes_per_s": 50}
    answers = [[pulling], [{**pulling, "bytes_behind": 50}], [{**ROW, "version": 14}]]
    cluster.values = {"sync.now": {"trees": ["rules"]}, "sync.trees": [TREE], "sync.status": turns([*answers, *answers])}
    err = zcluster("sync", "now", "--wait").err
    drawn = [part for part in err.split("\r\x1b[K") if part]
    assert [part.count("#") for part in drawn] == [0, 12, 24]
    assert drawn[1] == "[" + "#" * 12 + "." * 12 + "] 0 of 1 current, 50 B to go, 50 B/s"
    assert err.endswith("\r\x1b[K")
    assert zcluster("sync", "now", "--wait", "-o", "json").err == ""


@pytest.mark.parametrize(
    ("words", "args", "said"),
    [
        (("pause",), {"tree": "", "worker": ""}, "paused: rules"),
        (("pause", "web-1", "--tree", "rules"), {"tree": "rules", "worker": "web-1"}, "paused: rules"),
        (("resume", "web-1"), {"tree": "", "worker": "web-1"}, "resumed: rules"),
        (("confirm", "rules"), {"tree": "rules", "worker": ""}, "confirmed: rules"),
        (("confirm", "rules", "--worker", "web-1"), {"tree": "rules", "worker": "web-1"}, "confirmed: rules"),
    ],
)
def test_what_is_done_to_trees(words: tuple[str, ...], args: dict[str, str], said: str, cluster: Any, zcluster: Run) -> None:
    cluster.value = {"trees": ["rules"]}
    ran = zcluster("sync", *words)
    assert (ran.code, ran.out, ran.err) == (0, said + "\n", "")
    assert cluster.asked[0][1:3] == (f"sync.{words[0]}", args)


# -- history, show, rollback -----------------------------------------------------------------------------------------

VERSION: dict[str, Any] = {
    "tree": "rules", "version": 13, "epoch": 2, "root": "ab" * 32, "at_s": 0.0, "cause": "change", "of": 0,
    "files": 10, "bytes": 2048, "added": 1, "changed": 2, "removed": 0, "kept": True, "reason": "",
}  # fmt: skip


def test_history_is_newest_first(cluster: Any, zcluster: Run) -> None:
    newest = {**VERSION, "version": 14, "cause": "rollback", "of": 9, "kept": False, "reason": "too large"}
    cluster.values["sync.history"] = [VERSION, newest]
    lines = zcluster("sync", "history", "--tree", "rules").out.splitlines()
    assert lines[1].split() == ["14", "rules", "-", "rollback", "9", "10", "2.0", "KiB", "1", "2", "0", "no", "too", "large"]
    assert lines[2].split()[:5] == ["13", "rules", "-", "change", "-"]
    assert json.loads(zcluster("sync", "history", "-o", "json").out)["items"] == [newest, VERSION]
    assert zcluster("sync", "history", "-o", "name").out == "14\n13\n"


def test_show(cluster: Any, zcluster: Run) -> None:
    changes = [
        {"path": "a", "change": "added", "kind": "f", "size": 5, "old_size": None},
        {"path": "b", "change": "changed", "kind": "f", "size": 5, "old_size": 2048},
    ]
    cluster.values["sync.show"] = {**VERSION, "changes": changes, "more": 3}
    ran = zcluster("sync", "show", "13", "--tree", "rules")
    assert cluster.asked[0][1:3] == ("sync.show", {"version": 13, "tree": "rules"})
    lines = ran.out.splitlines()
    assert lines[0].split() == ["tree", "rules"]
    assert lines[-3].split() == ["added", "f", "5", "B", "-", "a"]
    assert lines[-2].split() == ["changed", "f", "5", "B", "2.0", "KiB", "b"]
    assert lines[-1] == "and 3 more"
    assert json.loads(zcluster("sync", "show", "13", "-o", "json").out) == {"schema": 1, **cluster.values["sync.show"]}
    assert zcluster("sync", "show", "13", "-o", "name").out == "a\nb\n"
    assert [json.loads(line) for line in zcluster("sync", "show", "13", "-o", "ndjson").out.splitlines()] == changes


def test_rollback(cluster: Any, zcluster: Run) -> None:
    cluster.values["sync.rollback"] = {"tree": "rules", "version": 15, "of": 13}
    ran = zcluster("sync", "rollback", "13")
    assert (ran.code, ran.out) == (0, "tree rules: version 15 has the content of 13\n")
    assert cluster.asked[0][1:3] == ("sync.rollback", {"version": 13, "tree": ""})
    assert json.loads(zcluster("sync", "rollback", "13", "-o", "json").out)["version"] == 15
    assert zcluster("sync", "rollback", "13", "-o", "name").out == "15\n"


# -- watch -----------------------------------------------------------------------------------------------------------


def watch(cluster: Any, zcluster: Run, monkeypatch: pytest.MonkeyPatch, turns: Any, looks: list[Any], *words: str) -> Any:
    monkeypatch.setattr("zcluster.cli.sync.WATCH_S", 0.0)
    cluster.values = {"sync.status": turns([*looks, KeyboardInterrupt()])}
    ran = zcluster("sync", "watch", *words)
    assert ran.code == 130
    return ran


def test_watch_prints_a_line_for_each_change(cluster: Any, zcluster: Run, monkeypatch: pytest.MonkeyPatch, turns: Any) -> None:
    looks = [[ROW], [ROW], MasterLost("gone"), MasterLost("gone"), [ROW, HELD], [{**ROW, "bytes_per_s": 5.0}]]
    ran = watch(cluster, zcluster, monkeypatch, turns, looks)
    assert [line.split()[1:5] for line in ran.out.splitlines()] == [
        ["web-1", "rules", "current", "12"],
        ["web-2", "rules", "held", "12"],
        ["web-2", "rules", "gone", "12"],
    ]
    assert ran.out.splitlines()[1].endswith("12 of 14  it would delete 9 of 10 files; last error: disk full")
    assert ran.err == "zcluster: gone\n"


def test_watch_as_data(cluster: Any, zcluster: Run, monkeypatch: pytest.MonkeyPatch, turns: Any) -> None:
    ran = watch(cluster, zcluster, monkeypatch, turns, [[ROW]], "-o", "json", "--tree", "rules", "--worker", "web-1")
    event = json.loads(ran.out)
    assert event.pop("at_s") > 0
    assert event == ROW
    assert cluster.asked[0][2] == {"tree": "rules", "worker": "web-1"}
    assert watch(cluster, zcluster, monkeypatch, turns, [[ROW]], "-o", "name").out == "web-1/rules\n"


def test_watch_redraws_in_a_terminal(cluster: Any, zcluster: Run, monkeypatch: pytest.MonkeyPatch, turns: Any) -> None:
    monkeypatch.setattr("zcluster.cli.sync.on_terminal", lambda: True)
    ran = watch(cluster, zcluster, monkeypatch, turns, [[ROW], Unreachable("no master"), [HELD]])
    assert ran.out.count("\x1b[H\x1b[2J") == 3
    assert ran.out.split("\x1b[H\x1b[2J")[2].splitlines()[-1] == "no master"
    assert (ran.out.splitlines()[-1], ran.err) == ("Ctrl-C ends", "")


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NoSuchNode("no worker is called 'x'"), 5),
        (UsageError("there are several trees: rules, lists", hint="name one with --tree"), 2),
        (NotAllowed("sync.confirm needs an admin key"), 4),
        (Unreachable("no master answers"), 6),
    ],
)
@pytest.mark.parametrize(
    "words",
    [
        ("status",), ("ls",), ("diff", "x"), ("verify", "x"), ("now",), ("now", "--wait"), ("pause",), ("resume",),
        ("confirm", "t"), ("history",), ("show", "1"), ("rollback", "1"), ("watch",),
    ],
)  # fmt: skip
def test_an_error_of_the_cluster_is_the_commands(
    words: tuple[str, ...], error: Exception, code: int, cluster: Any, zcluster: Run
) -> None:
    cluster.value = error
    ran = zcluster("sync", *words)
    assert (ran.code, ran.out) == (code, "")
    assert ran.err == f"zcluster: error: {error}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("diff",), "Missing argument 'WORKER'"),
        (("verify",), "Missing argument 'WORKER'"),
        (("confirm",), "Missing argument 'TREE'"),
        (("show",), "Missing argument 'VERSION'"),
        (("show", "0"), "0 is not in the range"),
        (("show", "x"), "'x' is not a valid integer"),
        (("rollback", str(2**53)), "is not in the range"),
        (("statsu",), "did you mean 'status'?"),
        (("now", "--timeout", "soon"), "expected a duration"),
        (("status", "-o", "xml"), "'xml' is not one of"),
    ],
)
def test_wrong_command_lines_are_usage_errors(words: tuple[str, ...], said: str, cluster: Any, zcluster: Run) -> None:
    ran = zcluster("sync", *words)
    assert (ran.code, ran.out, cluster.asked) == (2, "", [])
    assert said in ran.err


def test_numbers_for_people() -> None:
    assert [size(value) for value in (0, 1023, 1024, 1536, 5 * 2**40, None, True)] == [
        "0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 TiB", "-", "yes",
    ]  # fmt: skip
    assert (age(None), age(0), moment(None)) == ("-", "-", "-")
    assert age(4e9) == "0.0 ms", "a clock that is ahead"
