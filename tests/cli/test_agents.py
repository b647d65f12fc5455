"""``zcluster agents`` against a cluster of plain data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zcluster.cli import agents as agents_cli
from zcluster.core.agents.filter import OPS
from zcluster.errors import NoSuchAgent

Run = Callable[..., Any]
ROW: dict[str, Any] = {
    "id": "web-1", "name": "web-1", "status": "active", "node": "w1", "address": "10.0.0.1", "version": "4.9",
    "os": {"platform": "debian", "version": "13"}, "groups": ["web", "db"], "labels": {"site": "ber"}, "last_seen": 0.0,
}  # fmt: skip


def asked(cluster: Any) -> tuple[str, Any, str]:
    """The last call: function, arguments, target."""
    _, function, args, options = cluster.asked[-1]
    return function, args, options["target"]


def test_ls_is_a_table_and_says_where_the_next_page_begins(cluster: Any, zcluster: Run) -> None:
    cluster.value = {"items": [ROW], "next": "abc", "total": 7}
    ran = zcluster("agents", "ls", "--filter", "status=active", "--limit", "1", "--sort=-name")
    assert [line.split() for line in ran.out.splitlines()] == [
        ["ID", "STATUS", "NODE", "VERSION", "OS", "SEEN", "GROUPS"],
        ["web-1", "active", "w1", "4.9", "debian", "13", "-", "web,db"],
    ]
    assert "7 agents in all; the next page: --cursor abc" in ran.err
    function, args, target = asked(cluster)
    assert (function, target, args["filter"], args["limit"], args["sort"]) == (
        "agents.list", "master", "status=active", 1, "-name",
    )  # fmt: skip


def test_ls_formats(cluster: Any, zcluster: Run) -> None:
    cluster.value = {"items": [ROW], "next": "abc", "total": 7}
    assert json.loads(zcluster("agents", "ls", "-o", "json").out) == {"schema": 1, "items": [ROW], "total": 7, "next": "abc"}
    assert zcluster("agents", "ls", "-o", "name").out == "web-1\n"
    assert json.loads(zcluster("agents", "ls", "-o", "ndjson").out) == ROW
    assert "site=ber" in zcluster("agents", "ls", "-o", "wide").out


def test_select_makes_the_columns(cluster: Any, zcluster: Run) -> None:
    cluster.value = {"items": [{"id": "a", "labels.site": "ber", "os.platform": None}], "next": None, "total": 1}
    ran = zcluster("agents", "ls", "--select", "id, labels.site,os.platform")
    assert [line.split() for line in ran.out.splitlines()] == [["ID", "LABELS.SITE", "OS.PLATFORM"], ["a", "ber", "-"]]
    assert asked(cluster)[1]["select"] == ["id", "labels.site", "os.platform"]


def test_all_pages(cluster: Any, zcluster: Run, turns: Any) -> None:
    first, second = {"items": [ROW], "next": "c", "total": 2}, {"items": [{**ROW, "id": "z"}], "next": None, "total": None}
    cluster.values = {"agents.list": turns([first, second])}
    assert zcluster("agents", "ls", "--all", "-o", "name").out == "web-1\nz\n"


def test_count(cluster: Any, zcluster: Run) -> None:
    cluster.value = {"total": 3, "by": {}}
    assert zcluster("agents", "count").out == "3\n"
    cluster.value = {"total": 3, "by": {"active": 2, "silent": 1}}
    assert [line.split() for line in zcluster("agents", "count", "--by", "status").out.splitlines()] == [
        ["active", "2"], ["silent", "1"], ["total", "3"],
    ]  # fmt: skip


def test_show_and_a_missing_one(cluster: Any, zcluster: Run) -> None:
    cluster.value = {**ROW, "metrics": {"load": {"1m": 0.5}}, "first_seen": 0.0}
    out = zcluster("agents", "show", "web-1").out
    assert "labels.site" in out
    assert "web,db" in out
    cluster.value = NoSuchAgent("there is no agent 'x'")
    ran = zcluster("agents", "show", "x")
    assert (ran.code, ran.out) == (5, "")


def test_rm_of_ids_and_by_a_filter(cluster: Any, zcluster: Run) -> None:
    cluster.value = {"removed": ["a", "b"]}
    assert zcluster("agents", "rm", "a", "b").out == "removed: 2\n"
    assert asked(cluster) == ("agents.remove", {"ids": ["a", "b"], "filter": ""}, "master")
    assert zcluster("agents", "rm", "--filter", "status=never", "--yes", "-o", "name").out == "a\nb\n"
    cluster.values = {"agents.count": {"total": 2, "by": {}}}
    ran = zcluster("agents", "rm", "--filter", "status=never")
    assert ran.code == 2
    assert "--yes removes them" in ran.err
    cluster.values = {"agents.count": {"total": 0, "by": {}}}
    assert zcluster("agents", "rm", "--filter", "status=never").code == 5
    assert zcluster("agents", "rm").code == 2
    assert zcluster("agents", "rm", "a", "--filter", "x=1").code == 2


def test_move(cluster: Any, zcluster: Run) -> None:
    cluster.value = {"id": "a", "node": "w2", "moved": True}
    assert zcluster("agents", "move", "a", "w2").out == "a: moves to w2\n"
    cluster.value = {"id": "a", "node": "w2", "moved": False}
    assert zcluster("agents", "move", "a", "w2").out == "a: is at w2\n"


def test_import_tells_bad_lines_by_number_and_keeps_the_good_ones(
    cluster: Any, zcluster: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents_cli, "MAX_LINE_BYTES", 200)
    file = tmp_path / "agents.ndjson"
    file.write_text('{"id": "a"}\nnope\n\n[1]\n' + '{"id": "' + "x" * 400 + '"}\n{"id": "b"}\n')
    refused = [{"index": 1, "id": "b", "code": "foreign", "message": "a live session of the agent holds it"}]
    cluster.value = {"taken": 1, "refused": refused, "refused_count": 1}
    ran = zcluster("agents", "import", str(file), "--node", "w1")
    assert (ran.code, ran.out) == (3, "taken: 1, refused: 4\n")
    assert [line.split(":")[1].strip() for line in ran.err.splitlines()] == ["line 2", "line 4", "line 5", "line 6"]
    function, args, target = asked(cluster)
    assert (function, [row["id"] for row in args["rows"]], target) == ("agents.report", ["a", "b"], "w1")


def test_import_tells_bad_lines_in_their_order(cluster: Any, zcluster: Run, tmp_path: Path) -> None:
    file = tmp_path / "agents.ndjson"
    file.write_text('{"id": "a"}\nnope\n{"id": "b"}\n[1]\n')
    refused = [{"index": n, "id": "x", "code": "foreign", "message": "held"} for n in (0, 1)]
    cluster.value = {"taken": 0, "refused": refused, "refused_count": 2}
    told = [line.split(":")[1].strip() for line in zcluster("agents", "import", str(file)).err.splitlines()]
    assert told == ["line 1", "line 2", "line 3", "line 4"]


def test_import_tells_what_it_knows_when_the_cluster_is_lost(cluster: Any, zcluster: Run, tmp_path: Path) -> None:
    file = tmp_path / "agents.ndjson"
    file.write_text('nope\n{"id": "a"}\n')
    cluster.value = NoSuchAgent("gone")
    ran = zcluster("agents", "import", str(file))
    assert (ran.code, ran.err.splitlines()[0].split(":")[1].strip()) == (5, "line 1")


def test_import_sends_a_large_file_in_several_calls(
    cluster: Any, zcluster: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents_cli, "LINES_PER_CALL", 2)
    file = tmp_path / "agents.ndjson"
    file.write_text("".join(f'{{"id": "a{n}"}}\n' for n in range(5)))
    cluster.value = {"taken": 2, "refused": [], "refused_count": 0}
    ran = zcluster("agents", "import", str(file))
    assert ran.code == 0
    assert [len(args["rows"]) for _, _, args, _ in cluster.asked] == [2, 2, 1]


def test_help_names_every_operator_of_a_filter(zcluster: Run) -> None:
    words = zcluster("agents", "ls", "--help").out.split()
    assert [op for op in OPS if op not in words] == []


def test_import_of_a_file_that_is_not_there(zcluster: Run, tmp_path: Path) -> None:
    assert zcluster("agents", "import", str(tmp_path / "none")).code == 2
