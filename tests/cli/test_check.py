"""``zcluster check``: thresholds, and the four formats."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from zcluster.cli.health import Health, Limit, Limits, Measure, node_measures, queue_measures, tree_measures
from zcluster.cli.health_formats import nagios, prometheus
from zcluster.cli.options import Connection, State
from zcluster.errors import InvalidKey, NotAllowed, Unreachable

MASTER = {"name": "master", "role": "master", "state": "ready", "memory_percent": 10.0, "metrics": {"disk": {"percent": 50.0}}}
WORKER = {**MASTER, "name": "worker-1", "role": "worker", "load": 0.5, "drained": False}
STATS = {"states": {"queued": 3, "dead": 0}, "live": 3, "writable": True}
TREE = {"tree": "etc", "worker": "worker-1", "state": "current", "files_behind": 0}
METRIC = re.compile(r'[a-z_]+(\{[a-z]+="([^"\\\n]|\\[\\n"])*"(,[a-z]+="([^"\\\n]|\\[\\n"])*")*\})? -?[0-9.]+')


@pytest.fixture
def well(cluster: Any) -> Any:
    """A cluster that is well."""
    cluster.status_row = {"cluster": "lab", "master": "master", "requests": {"waiting": 1, "running": 2}}
    cluster.node_rows = [MASTER, WORKER]
    cluster.values = {"queue.stats": STATS, "sync.status": [TREE]}
    return cluster




@pytest.mark.parametrize(
    ("limit", "value", "state"),
    [
        (Limit(), 1e9, "ok"), (Limit(1), 0, "ok"), (Limit(1), 1, "warning"), (Limit(1, 2), 2, "critical"),
        (Limit(None, 2), 1.9, "ok"), (Limit(None, 2), 2, "critical"), (Limit(0), 0, "warning"),
    ],
)  # fmt: skip
def test_a_limit_holds_from_its_value_on(limit: Limit, value: float, state: str) -> None:
    assert limit.level(value) == state


def test_nodes_that_are_down_and_workers_that_are_left() -> None:
    down = {**WORKER, "name": "worker-2", "state": "dead"}
    found = {measure.check: measure for measure in node_measures([MASTER, WORKER, down], Limits(nodes_down=Limit(1, 2)))}
    assert (found["nodes_down"].state, found["nodes_down"].message) == ("warning", "1 node down: worker-2 dead")
    assert found["workers_ready"].state == "ok"
    found = {measure.check: measure for measure in node_measures([MASTER, down], Limits())}
    assert found["workers_ready"].state == "critical"
    found = {measure.check: measure for measure in node_measures([MASTER], Limits())}
    assert found["workers_ready"].state == "ok", "a cluster without workers is no fault"
    full = {**WORKER, "metrics": {"disk": {"percent": 96.0}}, "drained": True}
    found = {measure.check: measure for measure in node_measures([MASTER, full], Limits())}
    assert (found["disk"].state, found["disk"].message) == ("critical", "disk of worker-1 is 96 % full")
    assert found["nodes_drained"].value == 1


def test_jobs_and_trees() -> None:
    stats = {"states": {"queued": 9, "dead": 2}, "writable": False, "read_only_reason": "the disk is full"}
    found = {measure.check: measure.state for measure in queue_measures(stats, Limits(queued_jobs=Limit(9)))}
    assert found == {"dead_jobs": "warning", "queued_jobs": "warning", "queue": "critical"}
    behind = {**TREE, "state": "pulling", "behind_since_s": 100.0, "files_behind": 2}
    (measure,) = tree_measures([TREE, behind], Limits(), 399.0)
    assert (measure.state, measure.value) == ("ok", 299.0)
    (measure,) = tree_measures([TREE, behind], Limits(), 400.0)
    assert measure.state == "warning"
    (measure,) = tree_measures([{**behind, "state": "failed"}], Limits(), 100.0)
    assert measure.state == "warning"
    assert tree_measures([], Limits(), 0.0) == []


def test_text_and_json_end_with_the_codes_of_zcluster(well: Any, zcluster: Callable[..., Any]) -> None:
    ran = zcluster("check")
    assert (ran.code, ran.out.splitlines()[0].split()) == (0, ["health", "ok"])
    data = json.loads(zcluster("check", "--format", "json").out)
    assert (data["schema"], data["status"]) == (1, "ok")
    assert {"check", "state", "message", "value", "unit", "warn", "crit"} == data["checks"][0].keys()
    well.node_rows = [MASTER, WORKER, {**WORKER, "name": "worker-2", "state": "dead"}]
    ran = zcluster("check", "--format", "json")
    assert (ran.code, json.loads(ran.out)["status"]) == (3, "warning")
    assert zcluster("check", "--nodes-down-crit", "1").out.splitlines()[0].split() == ["health", "critical"]
    well.error = Unreachable("nobody listens")
    ran = zcluster("check")
    assert (ran.code, "nobody listens" in ran.out) == (6, True)


@pytest.mark.parametrize(
    ("rows", "words", "code", "word"),
    [
        ([MASTER, WORKER], (), 0, "OK"),
        ([MASTER, {**WORKER, "state": "dead"}, WORKER], (), 1, "WARNING"),
        ([MASTER, {**WORKER, "state": "dead"}, WORKER], ("--nodes-down-crit", "1"), 2, "CRITICAL"),
    ],
)
def test_nagios_has_its_own_codes(
    rows: list[Any], words: tuple[str, ...], code: int, word: str, well: Any, zcluster: Callable[..., Any]
) -> None:
    well.node_rows = rows
    ran = zcluster("check", "--format", "nagios", *words)
    assert (ran.code, ran.err) == (code, "")
    (line,) = ran.out.splitlines()
    assert line.startswith(f"ZCLUSTER {word} - ")
    data = line.partition(" | ")[2].split(" ")
    assert all(re.fullmatch(r"'[a-z_]+'=[0-9.]+(%|s|B)?;(@[0-9.]+:)?;(@[0-9.]+:)?;0(;100)?", each) for each in data)
    assert "'disk'=50%;@85:;@95:;0;100" in data


def test_nagios_is_answered_whatever_happens(well: Any, zcluster: Callable[..., Any]) -> None:
    well.error = Unreachable("nobody | listens")
    ran = zcluster("check", "--format", "nagios")
    assert (ran.code, ran.out) == (2, "ZCLUSTER CRITICAL - nobody / listens\n")
    for error in (NotAllowed("no"), InvalidKey("no key file")):
        well.error = error
        ran = zcluster("check", "--format", "nagios")
        assert (ran.code, ran.out.startswith("ZCLUSTER UNKNOWN - ")) == (3, True)
    crossed = ("--disk-warn", "9", "--disk-crit", "8")
    for words in (("--disk-warn", "x"), ("--disk-warn", "101"), ("--disk-crit", "nan"), ("--nonsense",), crossed):
        for form in (("--format", "nagios"), ("--format=nagios",)):
            ran = zcluster("check", *form, *words)
            assert (ran.code, ran.out.startswith("ZCLUSTER UNKNOWN - ")) == (3, True), words
    assert zcluster("check", "--disk-warn", "x").code == 2
    assert zcluster("check", "--disk-warn", "9", "--disk-crit", "8").code == 2


@pytest.mark.parametrize("form", ["nagios", "text", "json"])
def test_a_master_that_does_not_answer_is_told_with_its_context(
    form: str, well: Any, zcluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(state: State, _connection: Connection) -> Any:
        state.used_context = "lab"
        return well

    monkeypatch.setattr("zcluster.cli.check.open_client", opened)
    well.error = Unreachable("nobody listens", hint="is it running?")
    ran = zcluster("check", "--format", form)
    if form == "nagios":
        assert (ran.code, ran.out) == (2, "ZCLUSTER CRITICAL - nobody listens (is it running?; context 'lab')\n")
    else:
        assert (ran.code, ran.out.count("(is it running?; context 'lab')")) == (6, 1)


def test_a_limit_that_is_given_outranks_the_others_default(well: Any, zcluster: Callable[..., Any]) -> None:
    for words, disk in (
        (("--disk-crit", "50"), "'disk'=50%;;@50:;0;100"),
        (("--disk-warn", "97"), "'disk'=50%;@97:;;0;100"),
        (("--disk-crit", "85"), "'disk'=50%;@85:;@85:;0;100"),
    ):
        ran = zcluster("check", "--format", "nagios", *words)
        assert disk in ran.out.split(" "), words
    assert zcluster("check", "--format", "nagios", "--nodes-down-crit", "0").code == 2


def test_what_could_not_be_asked_is_unknown(well: Any, zcluster: Callable[..., Any]) -> None:
    well.values["queue.stats"] = NotAllowed("not for you")
    ran = zcluster("check", "--format", "nagios")
    assert (ran.code, ran.out.startswith("ZCLUSTER UNKNOWN - the queue could not be asked: not for you")) == (3, True)


def exposition(text: str) -> dict[str, list[str]]:
    """The samples by metric; every line is as the format wants it."""
    assert text.endswith("\n")
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split(" ")[2]
            assert name not in found, "all of a metric's lines are together"
            found[name] = []
        elif line.startswith("# TYPE "):
            assert line == f"# TYPE {name} gauge"
        else:
            assert METRIC.fullmatch(line), line
            assert re.split("[{ ]", line)[0] == name
            found[name].append(line)
    assert len({line for lines in found.values() for line in lines}) == sum(map(len, found.values()))
    return found


def test_prometheus_gets_the_whole_text(well: Any, zcluster: Callable[..., Any]) -> None:
    ran = zcluster("check", "--format", "prometheus")
    assert (ran.code, ran.err) == (0, "")
    found = exposition(ran.out)
    assert found["zcluster_up"] == ["zcluster_up 1"]
    assert 'zcluster_nodes{state="ready"} 2' in found["zcluster_nodes"]
    assert 'zcluster_node_load{node="worker-1",role="worker"} 0.5' in found["zcluster_node_load"]
    assert 'zcluster_queue_jobs{state="queued"} 3' in found["zcluster_queue_jobs"]
    assert 'zcluster_sync_files_behind{tree="etc",node="worker-1"} 0' in found["zcluster_sync_files_behind"]
    well.error = Unreachable("nobody listens")
    ran = zcluster("check", "--format", "prometheus")
    assert (ran.code, exposition(ran.out)["zcluster_up"]) == (0, ["zcluster_up 0"])
    for error in (NotAllowed("no"), InvalidKey("there is no key file")):
        well.error = error
        ran = zcluster("check", "--format", "prometheus")
        assert (ran.code, exposition(ran.out)["zcluster_up"]) == (0, ["zcluster_up 0"]), "the text of before would stay"
        assert ran.err == f"zcluster: error: {error}\n"
    assert zcluster("check", "--format", "prometheus", "--disk-warn", "9", "--disk-crit", "8").code == 2


def test_labels_are_escaped_and_texts_stay_on_their_line() -> None:
    odd = 'a"b\\c\nd'
    health = Health([Measure("master", "ok", "a|b\nc")], None, [{**WORKER, "name": odd}])
    found = exposition(prometheus(health))
    assert 'zcluster_node_ready{node="a\\"b\\\\c\\nd",role="worker"} 1' in found["zcluster_node_ready"]
    line, code = nagios(health)
    assert (line, code) == ("ZCLUSTER OK - a/b\\nc", 0)
