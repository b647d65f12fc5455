"""``zcluster audit`` against a cluster of plain data."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zcluster.cli.audit import as_row, asked, where
from zcluster.errors import Draining, MasterLost, NotAllowed, Unreachable

Run = Callable[..., Any]
ACCEPTED: dict[str, Any] = {
    "sequence": 7, "at_s": 60.0, "what": "accepted", "job": "0a1b2c3d-17", "key": "ops\x1b[2J", "public": "ab12",
    "role": "client",
    "function": "report.build", "target": "any", "nodes": [], "nodes_total": 0, "attempts": 0, "outcome": "queued", "error": None,
    "failed": 0, "took_s": None, "args": {"day": "x"},
}  # fmt: skip
REQUEST: dict[str, Any] = {
    **{name: value for name, value in ACCEPTED.items() if name != "job"}, "sequence": 8, "what": "request", "request_id": "5.9",
    "nodes": ["w1", "w2"], "nodes_total": 70, "outcome": "done", "took_s": 0.25, "args": None,
}  # fmt: skip
LOST = {"sequence": 9, "at_s": 60.0, "what": "lost", "count": 3}


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcluster.cli.audit.LOOK_S", 0.0)
    monkeypatch.setattr(time, "time", lambda: 10_000.0)


def page(*items: dict[str, Any], following: int | None = None) -> dict[str, Any]:
    return {"items": list(items), "next": following, "oldest": 1}


def test_a_table_says_who_asked_for_what_and_how_it_ended(cluster: Any, zcluster: Run) -> None:
    cluster.values["audit.since"] = page(ACCEPTED, REQUEST, LOST)
    ran = zcluster("audit")
    head, first, second, third = ran.out.splitlines()
    assert head.split() == ["TIME", "WHAT", "ID", "KEY", "FUNCTION", "TARGET", "NODES", "OUTCOME", "TOOK", "ARGUMENTS"]
    assert first.split()[2:7] == ["accepted", "0a1b2c3d-17", "ops\\x1b[2J", "report.build", "any"]
    assert first.endswith('{"day": "x"}')
    assert second.split()[2:4] == ["request", "5.9"]
    assert "w1,w2,and 68 more  done" in second
    assert third.split()[2:] == ["lost", "-", "-", "-", "-", "-", "-", "-", "3", "records"]
    assert (ran.code, ran.err) == (0, "")
    assert cluster.asked == [
        ("call", "audit.since", {"since_s": 6400.0, "after": 0, "key": "", "limit": 1000}, {"target": "master"})
    ]  # fmt: skip
    assert "ab12" in zcluster("audit", "-o", "wide").out


def test_the_formats_of_a_list(cluster: Any, zcluster: Run) -> None:
    cluster.values["audit.since"] = page(ACCEPTED, REQUEST)
    data = json.loads(zcluster("audit", "-o", "json").out)
    assert data == {"schema": 1, "items": [ACCEPTED, REQUEST], "total": 2, "next": None}
    assert [json.loads(line) for line in zcluster("audit", "-o", "ndjson").out.splitlines()] == [ACCEPTED, REQUEST]
    assert zcluster("audit", "-o", "name").out == "0a1b2c3d-17\n5.9\n"


def test_an_empty_log_is_a_header(cluster: Any, zcluster: Run) -> None:
    cluster.values["audit.since"] = page()
    assert zcluster("audit").out.split()[0] == "TIME"
    assert json.loads(zcluster("audit", "-o", "json").out)["items"] == []


@pytest.mark.parametrize(("since", "since_s", "after"), [("42", 0.0, 42), ("90s", 9910.0, 0), ("1d", -76_400.0, 0)])
def test_since_is_a_sequence_or_a_time(since: str, since_s: float, after: int, cluster: Any, zcluster: Run) -> None:
    cluster.values["audit.since"] = page()
    assert zcluster("audit", "--since", since).code == 0
    assert (cluster.asked[0][2]["since_s"], cluster.asked[0][2]["after"]) == (since_s, after)


def test_key_is_a_name_and_the_key_file_is_named_apart(cluster: Any, zcluster: Run, tmp_path: Path) -> None:
    cluster.values["audit.since"] = page()
    assert zcluster("audit", "--key", "ops", "--key-file", "admin.key").code == 0
    assert (cluster.asked[0][2]["key"], cluster.connections[0].key) == ("ops", Path("admin.key"))
    mistaken = tmp_path / "ops.key"
    mistaken.write_text("x")
    ran = zcluster("audit", "--key", str(mistaken))
    assert (ran.code, ran.out, len(cluster.asked)) == (2, "", 1)
    assert "--key is the name of a key here" in ran.err


def test_pages_are_read_up_to_the_limit(cluster: Any, zcluster: Run, turns: Any) -> None:
    cluster.values["audit.since"] = turns([page(ACCEPTED, following=7), page(following=7_000), page(REQUEST, following=8_000)])
    ran = zcluster("audit", "--limit", "2", "-o", "name")
    assert [(one[2]["after"], one[2]["limit"]) for one in cluster.asked] == [(0, 2), (7, 1), (7_000, 1)]
    assert (ran.out, ran.err) == ("0a1b2c3d-17\n5.9\n", "zcluster: there are more: --since 8000 goes on\n")
    cluster.values["audit.since"] = page(ACCEPTED, following=7)
    ran = zcluster("audit", "--limit", "1", "-o", "json")
    assert (json.loads(ran.out)["next"], json.loads(ran.out)["total"], ran.err) == (7, None, "")


@pytest.mark.parametrize("output", ["json", "ndjson", "yaml"])
def test_following_goes_on_behind_the_last_record(output: str, cluster: Any, zcluster: Run, turns: Any) -> None:
    cluster.values["audit.since"] = turns(
        [page(), page(ACCEPTED), MasterLost("gone"), Draining("closed"), Draining("closed"), page(REQUEST)]
    )
    ran = zcluster("audit", "--follow", "--limit", "2", "-o", output)
    assert [json.loads(line) for line in ran.out.splitlines()] == [ACCEPTED, REQUEST]
    assert [one[2]["after"] for one in cluster.asked] == [0, 0, 7, 7, 7, 7]
    assert {one[2]["since_s"] for one in cluster.asked} == {10_000.0}
    assert ran.err == "zcluster: gone\nzcluster: closed\n"


def test_following_prints_rows_for_people(cluster: Any, zcluster: Run, turns: Any) -> None:
    cluster.values["audit.since"] = turns([page(), page(ACCEPTED), page(), KeyboardInterrupt()])
    ran = zcluster("audit", "-f")
    assert (ran.code, len(ran.out.splitlines())) == (130, 2)


@pytest.mark.parametrize(("error", "code"), [(NotAllowed("audit.since needs an admin key"), 4), (Unreachable("no master"), 6)])
@pytest.mark.parametrize("follow", [(), ("-f",)])
def test_an_error_at_the_beginning_is_the_commands(
    follow: tuple[str, ...], error: Exception, code: int, cluster: Any, zcluster: Run
) -> None:
    cluster.value = error
    ran = zcluster("audit", *follow)
    assert (ran.code, ran.out, ran.err) == (code, "", f"zcluster: error: {error}\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--since", "soon"), "expected a duration"),
        (("--since", "-5"), "expected a duration"),
        (("--limit", "0"), "0 is not in the range"),
        (("--limit", "1000001"), "1000001 is not in the range"),
        (("--key", ""), "--key is empty"),
        (("-o", "xml"), "'xml' is not one of"),
    ],
)
def test_misuse_is_told_and_nothing_is_asked(words: tuple[str, ...], said: str, cluster: Any, zcluster: Run) -> None:
    ran = zcluster("audit", *words)
    assert (ran.code, ran.out, cluster.asked) == (2, "", [])
    assert said in ran.err


def test_texts_for_people() -> None:
    assert (where({}), where({"nodes": ["w1"], "nodes_total": 1})) == ("-", "w1")
    assert (asked({"what": "omitted", "count": 1}), asked({"args": {}})) == ("1 record", "{}")
    event = {"what": "event", "event": "key_revoked", "fields": {"name": "w1"}}
    assert (as_row(event)["function"], asked(event)) == ("key_revoked", '{"name": "w1"}')
