"""``zcluster config get|set|unset|watch|history|rollback`` against a cluster of plain data."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from zcluster.errors import ConfigError, NoSuchNode

Run = Callable[..., Any]
ROW: dict[str, Any] = {"scope": "node/w", "values": {"interval": 2}, "version": 3, "at_s": 1.0, "by": "eve"}


def asked(cluster: Any) -> tuple[str, Any]:
    """The last call: function and arguments."""
    return cluster.asked[-1][1], cluster.asked[-1][2]


def test_get_shows_what_is_set(cluster: Any, zcluster: Run) -> None:
    cluster.value = ROW
    assert zcluster("config", "get", "node/w").out == "interval = 2\n"
    assert asked(cluster) == ("config.get", {"scope": "node/w", "effective": False})
    assert json.loads(zcluster("config", "get", "node/w", "-o", "json").out) == {"schema": 1, **ROW}
    cluster.value = {**ROW, "values": {}}
    ran = zcluster("config", "get", "node/w")
    assert (ran.out, ran.err) == ("", "zcluster: nothing is set for node/w\n")


def test_get_effective_says_where_each_is_from(cluster: Any, zcluster: Run) -> None:
    cluster.value = {"scope": "node/w", "values": {"interval": 2}, "from": {"interval": "defaults"}, "left_out": ["group/g"]}
    ran = zcluster("config", "get", "node/w", "--effective")
    assert ran.out == "interval = 2  (defaults)\n"
    assert "the extra of group/g is left out" in ran.err
    assert asked(cluster)[1]["effective"] is True
    assert zcluster("config", "get", "--effective").code == 2


def test_get_without_a_scope_lists_all(cluster: Any, zcluster: Run, turns: Any) -> None:
    other = {**ROW, "scope": "defaults", "at_s": time.time()}
    pages = [{"items": [other], "next": "defaults"}, {"items": [ROW], "next": None}]
    cluster.values = {"config.scopes": turns([*pages, *pages])}
    lines = zcluster("config", "get").out.splitlines()
    assert lines[0].split() == ["SCOPE", "VERSION", "AGO", "BY", "VALUES"]
    assert lines[2].startswith("node/w")
    assert asked(cluster)[1] == {"after": "defaults"}
    assert zcluster("config", "get", "-o", "name").out == "defaults\nnode/w\n"


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (['{"interval": 2, "metrics": ["cpu","memory"]}'], {"interval": 2, "metrics": ["cpu", "memory"]}),
        (["interval=2", "log_level=debug"], {"interval": 2, "log_level": "debug"}),
    ],
)
def test_set(cluster: Any, zcluster: Run, words: list[str], values: Any) -> None:
    cluster.value = ROW
    ran = zcluster("config", "set", "node/w", *words)
    assert asked(cluster) == ("config.set", {"scope": "node/w", "values": values})
    assert ran.out == 'node/w  version 3 by eve  {"interval": 2}\n'


def test_set_from_stdin(cluster: Any, zcluster: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.value = ROW
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b'{"interval": 3}')))
    assert zcluster("config", "set", "defaults", "-").code == 0
    assert asked(cluster)[1]["values"] == {"interval": 3}


def test_unset(cluster: Any, zcluster: Run) -> None:
    cluster.value = ROW
    zcluster("config", "unset", "node/w", "interval", "metrics")
    assert asked(cluster) == ("config.unset", {"scope": "node/w", "keys": ["interval", "metrics"], "everything": False})
    zcluster("config", "unset", "node/w", "--all")
    assert asked(cluster)[1] == {"scope": "node/w", "keys": [], "everything": True}


def test_history_and_rollback(cluster: Any, zcluster: Run) -> None:
    cluster.value = [{**ROW, "current": True}]
    assert zcluster("config", "history", "node/w").out.splitlines()[1].split()[-3:] == ["eve", '{"interval":', "2}"]
    assert zcluster("config", "history", "node/w", "-o", "name").out == "3\n"
    cluster.value = ROW
    zcluster("config", "rollback", "node/w", "2")
    assert asked(cluster) == ("config.rollback", {"scope": "node/w", "version": 2})


def test_watch_prints_each_change(cluster: Any, zcluster: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended(Exception):
        pass

    async def ends(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("zcluster.clients.liveconfig.asyncio", SimpleNamespace(sleep=ends))
    cluster.items = [{**ROW, "revision": 1}, {**ROW, "scope": "group/g", "values": {}, "version": 0, "by": "", "revision": 2}]
    ran = zcluster("config", "watch")
    assert ran.code == 130
    assert ran.out == 'node/w  version 3 by eve  {"interval": 2}\ngroup/g  version 0  {}\n'
    assert [json.loads(line)["revision"] for line in zcluster("config", "watch", "-o", "json").out.splitlines()] == [1, 2]
    assert zcluster("config", "watch", "node/w", "-o", "name").out == "node/w\ngroup/g\n"


@pytest.mark.parametrize(
    "words",
    [
        ["set", "node/w"],
        ["set", "node/w", "nonsense"],
        ["set", "node/w", "{"],
        ["unset", "node/w"],
        ["unset", "node/w", "a", "--all"],
        ["rollback", "node/w", "0"],
        ["rollback", "node/w"],
        ["history"],
    ],
)
def test_what_is_asked_wrongly_is_a_usage_error(cluster: Any, zcluster: Run, words: list[str]) -> None:
    ran = zcluster("config", *words)
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1)
    assert cluster.asked == []


@pytest.mark.parametrize(("error", "code"), [(NoSuchNode("no node 'x'"), 5), (ConfigError("unknown key 'x'"), 2)])
def test_an_error_is_one_line_and_its_code(cluster: Any, zcluster: Run, error: Exception, code: int) -> None:
    cluster.value = error
    ran = zcluster("config", "set", "node/x", "interval=2")
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (code, "", 1)
