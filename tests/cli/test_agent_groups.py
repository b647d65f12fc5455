"""``zcluster groups`` against a cluster of plain data."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zcluster.cli.agent_groups import MAX_FILE_BYTES, MAX_LINE_CHARS, MAX_TOLD
from zcluster.cli.sync_views import moment
from zcluster.errors import NoSuchFile, NoSuchGroup, NotAllowed

Run = Callable[..., Any]
ROW: dict[str, Any] = {
    "name": "web", "agents": 2, "files": 1, "comment": "web servers", "created_s": 1.0, "by": "eve", "removing": False,
}  # fmt: skip
DONE = {"changed": 2, "same": 1, "refused": [], "refused_count": 0}


def asked(cluster: Any) -> tuple[str, Any, str]:
    """The last call: function, arguments, target."""
    _, function, args, options = cluster.asked[-1]
    return function, args, options["target"]


def test_ls_is_a_table_of_groups(cluster: Any, zcluster: Run) -> None:
    cluster.value = [ROW]
    ran = zcluster("groups", "ls")
    assert [line.split() for line in ran.out.splitlines()] == [
        ["NAME", "AGENTS", "FILES", "COMMENT"], ["web", "2", "1", "web", "servers"],
    ]  # fmt: skip
    assert asked(cluster) == ("groups.list", {}, "master")
    assert json.loads(zcluster("groups", "ls", "-o", "json").out) == {"schema": 1, "items": [ROW], "total": 1, "next": None}
    assert zcluster("groups", "ls", "-o", "name").out == "web\n"


def test_ls_of_a_worker_says_how_old_its_copy_is(cluster: Any, zcluster: Run) -> None:
    cluster.value = [{**ROW, "node": "w", "age_s": 0.5, "revision": 9, "agents": None}]
    ran = zcluster("groups", "ls", "--node", "w")
    assert asked(cluster)[2] == "w"
    assert "AGE" in ran.out
    assert "500 ms" in ran.out


def test_show_has_files_and_configuration(cluster: Any, zcluster: Run) -> None:
    shown = {**ROW, "files": [{"name": "r.conf", "digest": "d", "size": 3}], "config": {"interval": 2}}
    cluster.value = shown
    lines = zcluster("groups", "show", "web").out.splitlines()
    assert "file      r.conf  3 bytes" in lines
    assert 'config    {"interval": 2}' in lines
    assert f"created   {moment(1.0)}" in lines
    assert not any("created_s" in line for line in lines)
    cluster.value = {**shown, "created_s": None, "files": [], "config": {}}
    assert zcluster("groups", "show", "default").out.splitlines()[-2:] == ["created   -", "config    {}"]
    cluster.value = shown
    assert json.loads(zcluster("groups", "show", "web", "-o", "json").out) == {"schema": 1, **shown}


def test_of_an_agent(cluster: Any, zcluster: Run) -> None:
    cluster.value = {"agent": "7", "groups": ["default", "web"], "assigned": True}
    assert zcluster("groups", "of", "7").out == "default,web\n"
    assert zcluster("groups", "of", "7", "-o", "name").out == "default\nweb\n"
    assert asked(cluster) == ("groups.of", {"agent": "7"}, "master")


def test_create_and_rm_take_several(cluster: Any, zcluster: Run) -> None:
    cluster.value = ROW
    assert zcluster("groups", "create", "web", "db", "--comment", "c").code == 0
    assert [args for _, _, args, _ in cluster.asked] == [{"name": "web", "comment": "c"}, {"name": "db", "comment": "c"}]
    cluster.value = {"name": "web", "agents": 3}
    assert zcluster("groups", "rm", "web").out.split() == ["REMOVED", "AGENTS", "web", "3"]
    assert asked(cluster)[0] == "groups.delete"


def test_add_remove_and_set(cluster: Any, zcluster: Run) -> None:
    cluster.value = DONE
    ran = zcluster("groups", "add", "web", "7", "8", "--new")
    assert asked(cluster) == ("groups.add", {"group": "web", "new": True, "agents": ["7", "8"]}, "master")
    assert (ran.code, ran.out) == (0, "2 agents changed, 1 was so already\n")
    zcluster("groups", "remove", "web", "--filter", "status=active")
    assert asked(cluster) == ("groups.remove", {"group": "web", "agents": [], "filter": "status=active"}, "master")
    zcluster("groups", "set", "7", "web,db")
    assert asked(cluster) == ("groups.set", {"groups": ["web", "db"], "new": False, "agents": ["7"]}, "master")
    zcluster("groups", "set", "--filter", "id~7*", "web")
    assert asked(cluster)[1] == {"groups": ["web"], "new": False, "agents": [], "filter": "id~7*"}
    assert json.loads(zcluster("groups", "add", "web", "7", "-o", "json").out) == {"schema": 1, **DONE}


def test_agents_from_a_file(cluster: Any, zcluster: Run, tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("7\n\n # no\n  8  \n9")
    cluster.value = {"changed": 1, "same": 1, "bad": [[4, "what is wrong"]], "bad_count": 1}
    ran = zcluster("groups", "add", "web", "--from-file", str(tmp_path / "ids"), "--new")
    lines = ["7", "", " # no", "  8  ", "9"]
    assert asked(cluster)[:2] == ("groups.bulk", {"lines": lines, "first": 1, "new": True, "op": "add", "group": "web"})
    assert (ran.code, ran.out, ran.err) == (3, "1 agent changed, 1 was so already\n", "zcluster: line 4: what is wrong\n")
    assert zcluster("groups", "remove", "web", "--from-file", str(tmp_path / "ids")).code == 3
    assert asked(cluster)[1] == {"lines": lines, "first": 1, "new": False, "op": "remove", "group": "web"}


def test_bulk_tells_bad_lines_and_ends_with_3(
    cluster: Any, zcluster: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.value = {"changed": 1, "same": 0, "bad": [[2, "what is wrong\x1b[2J"]], "bad_count": 1}
    (tmp_path / "lines").write_text("7 web\nnonsense\n" + "x" * (3 * MAX_LINE_CHARS) + "\nlast web\n")
    ran = zcluster("groups", "set", "--from-file", str(tmp_path / "lines"))
    assert (ran.code, ran.out) == (3, "1 agent changed, 0 were so already\n")
    assert ran.err == "zcluster: line 2: what is wrong\\x1b[2J\n"
    lines = asked(cluster)[1]["lines"]
    assert (lines[:2], len(lines[2]) > MAX_LINE_CHARS, lines[3]) == (["7 web", "nonsense"], True, "last web")
    assert len(lines[2]) < 2 * MAX_LINE_CHARS, "what is too long is not held"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"7 web\n"), encoding="utf-8"))
    zcluster("groups", "set", "--from-file", "-")
    assert asked(cluster)[1] == {"lines": ["7 web"], "first": 1, "new": False}


def test_what_was_refused_is_told_up_to_a_limit(cluster: Any, zcluster: Run) -> None:
    refused = [{"agent": str(n), "reason": "because"} for n in range(MAX_TOLD + 5)]
    cluster.value = {"changed": 0, "same": 0, "refused": refused, "refused_count": 99}
    ran = zcluster("groups", "add", "web", "--filter", "id~*")
    assert ran.code == 3
    told = ran.err.splitlines()
    assert (len(told), told[0], told[-1]) == (MAX_TOLD + 1, "zcluster: 0: because", "zcluster: and 79 more")


@pytest.mark.parametrize(
    "words",
    [
        ["add", "web"],
        ["add", "web", "7", "--filter", "x=y"],
        ["remove", "web"],
        ["set"],
        ["set", "7"],
        ["set", "7", "8", "web"],
        ["set", "--filter", "x=y", "7", "web"],
        ["set", "--from-file", "f", "web"],
        ["set", "--from-file", "f", "--filter", "x=y"],
        ["files", "web", "put"],
        ["files", "web", "ls", "x"],
        ["files", "web", "get", "x", "--name", "y"],
        ["files", "web", "rm", "x", "--out", "y"],
        ["files", "web", "burn", "x"],
        ["create"],
        ["rm"],
        ["show"],
    ],
)
def test_what_is_asked_wrongly_is_a_usage_error(cluster: Any, zcluster: Run, words: list[str]) -> None:
    ran = zcluster("groups", *words)
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1)
    assert cluster.asked == []


def test_files(cluster: Any, zcluster: Run, tmp_path: Path) -> None:
    file = tmp_path / "rules.conf"
    file.write_bytes(b"\x00\xff")
    cluster.value = {"name": "rules.conf", "digest": "d", "size": 2}
    data = base64.b64encode(b"\x00\xff").decode()
    zcluster("groups", "files", "web", "put", str(file))
    assert asked(cluster)[:2] == ("groups.file_put", {"group": "web", "name": "rules.conf", "data": data})
    zcluster("groups", "files", "web", "put", str(file), "--name", "other")
    assert asked(cluster)[1]["name"] == "other"
    zcluster("groups", "files", "web", "rm", "other")
    assert asked(cluster)[:2] == ("groups.file_remove", {"group": "web", "name": "other"})
    cluster.value = {"data": data}
    zcluster("groups", "files", "web", "get", "other", "--out", str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == b"\x00\xff"
    cluster.value = [{"name": "rules.conf", "digest": "d", "size": 2}]
    assert json.loads(zcluster("groups", "files", "web", "ls", "-o", "json").out)["total"] == 1


def test_get_writes_the_content_and_nothing_else(cluster: Any, zcluster: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr("sys.stdout", out)
    cluster.value = {"data": base64.b64encode(b"\x00\xff").decode()}
    assert zcluster("groups", "files", "web", "get", "x").code == 0
    assert out.buffer.getvalue() == b"\x00\xff"


def test_a_file_that_is_too_large_is_not_sent(cluster: Any, zcluster: Run, tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    ran = zcluster("groups", "files", "web", "put", str(file))
    assert (ran.code, cluster.asked) == (2, [])
    assert "too large to be shared" in ran.err


@pytest.mark.parametrize(
    ("error", "code"),
    [(NoSuchGroup("there is no group 'x'"), 5), (NoSuchFile("no file"), 5), (NotAllowed("an admin key is needed"), 4)],
)
def test_an_error_is_one_line_and_its_code(cluster: Any, zcluster: Run, error: Exception, code: int) -> None:
    cluster.value = error
    ran = zcluster("groups", "add", "x", "7")
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (code, "", 1)
    told = json.loads(zcluster("groups", "rm", "x", "-o", "json").err)["error"]
    assert told["code"] in ("no_such_group", "no_such_file", "not_allowed")
