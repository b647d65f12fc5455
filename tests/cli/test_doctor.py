"""``zcluster doctor``: what it finds on this machine and of a node. The way to a master: tests/system/test_operating.py."""

from __future__ import annotations

import errno
import json
import resource
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from zcluster.cli import doctor_here
from zcluster.cli.connect import Reach
from zcluster.cli.doctor_here import Clocks, disk_finding, look_at_files, look_at_home, look_at_key, look_at_steps
from zcluster.cli.doctor_way import clock_finding
from zcluster.cli.doctor_words import FINE, WRONG, said
from zcluster.cli.findings import Finding, emit_findings, first_fault
from zcluster.config import Home
from zcluster.errors import NoSuchNode, NotAllowed, Unreachable
from zcluster.keys import init_home
from zcluster.net.probe import Found, Step

NODE = {
    "name": "worker-1", "role": "worker", "state": "ready", "reason": "", "version": "0.1.0", "in_flight": 0, "waiting": 0,
    "slots": 8, "drained": False, "since_s": 1.0, "revoked": [],
    "key": {"role": "worker", "fingerprint": "SHA256:A", "previous": []},
    "session": {"no": 4, "since_s": 1.0, "address": "10.0.0.7"},
    "metrics": {"disk": {"percent": 50.0}}, "metrics_age_s": 3.0,
}  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return init_home(tmp_path / "home", "lab", "master", ("tcp://127.0.0.1:1",)).home


@pytest.fixture
def node(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The fake cluster, with a node that is well."""
    monkeypatch.setattr("zcluster.cli.doctor_node.AsyncClient", lambda *_, **__: cluster)
    cluster.status_row = {"cluster": "lab", "master": "master", "version": "0.1.0"}
    cluster.values = {
        "nodes.describe": {**NODE}, "sync.status": [], "queue.list": {"items": []}, "events.since": {"events": []},
        "node.time": 1000.0, "keys.pending": [],
    }  # fmt: skip
    return cluster


def states(ran: Any) -> dict[str, str]:
    return {item["check"]: item["state"] for item in json.loads(ran.out)["items"]}


# -- what is printed ----------------------------------------------------------------------------------------------------


def test_the_first_fault_is_told_again_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    warn, fail = Finding("disk", "warn", "little room", "free some"), Finding("tcp", "FAIL", "nobody listens", "start it")
    fine, skip = Finding("home", "ok", "/h"), Finding("clock", "skip", "no session")
    assert first_fault([fine, warn, skip]) == warn
    assert first_fault([fine, warn, fail]) == fail
    assert emit_findings([fine, warn, fail, skip], None) == 1
    assert capsys.readouterr().out.splitlines()[-2:] == ["wrong: nobody listens", "do: start it"]
    assert emit_findings([fine, warn], None) == 3
    assert emit_findings([fine, skip], None) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing is wrong"
    assert emit_findings([fine, fail, skip], "json") == 1
    items = json.loads(capsys.readouterr().out)["items"]
    assert [item["ok"] for item in items] == [True, False, None]
    assert items[1] == {"check": "tcp", "ok": False, "state": "fail", "message": "nobody listens", "hint": "start it"}


def test_every_step_has_words_for_every_end() -> None:
    for check in FINE:
        for found in Found:
            finding = said("step", Step(found, "detail"), "tcp://a:1", "me", words_of=check)
            assert finding.check == "step"
            assert finding.state == ("ok" if found is Found.OK else "FAIL")
            assert finding.message
            assert "{" not in finding.message + finding.hint
    assert all(hint for _, hint in WRONG.values())


# -- this machine -------------------------------------------------------------------------------------------------------


def test_a_home_that_is_there_and_one_that_is_not(home: Home, tmp_path: Path) -> None:
    assert look_at_home(Reach(home.path, None, ()), home).state == "ok"
    gone = Home(tmp_path / "gone")
    assert look_at_home(Reach(gone.path, None, ()), gone).state == "FAIL"
    assert look_at_home(Reach(gone.path, Path("k"), ()), gone).state == "skip", "a key file is enough"
    home.config_file.write_text("[masterr]\n")
    finding = look_at_home(Reach(home.path, None, ()), home)
    assert (finding.state, "masterr" in finding.message) == ("FAIL", True)


def test_a_key_file_that_is_whole_private_or_not(home: Home, tmp_path: Path) -> None:
    finding, key_file = look_at_key(home.admin_key)
    assert (finding.state, key_file is not None) == ("ok", True)
    assert "admin (admin) of lab, SHA256:" in finding.message
    assert key_file is not None
    assert key_file.pair.secret not in finding.message
    home.admin_key.chmod(0o644)
    finding, key_file = look_at_key(home.admin_key)
    assert (finding.state, key_file, "chmod 600" in finding.hint) == ("FAIL", None, True)
    assert look_at_key(tmp_path / "none.key")[0].state == "FAIL"


def test_which_key_file_it_is(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from zcluster.keys import new_key

    for variable in ("ZCLUSTER_KEY", "ZCLUSTER_HOME"):
        monkeypatch.delenv(variable, raising=False)
    here = Reach(home.path, None, ())
    assert doctor_here.key_path_of(here, home) == home.admin_key
    assert doctor_here.key_path_of(Reach(home.path, Path("/k"), ()), home) == Path("/k")
    monkeypatch.setenv("ZCLUSTER_KEY", "/env.key")
    assert doctor_here.key_path_of(Reach(None, None, ()), home) == Path("/env.key")
    monkeypatch.delenv("ZCLUSTER_KEY")
    _, path = new_key(home, "worker-1", "worker")
    home.admin_key.unlink()
    assert doctor_here.key_path_of(here, home) == path, "a worker's machine has nothing but its key"
    new_key(home, "worker-2", "worker")
    assert doctor_here.key_path_of(here, home) == home.admin_key


@pytest.mark.parametrize(
    ("free", "state"), [(100, "ok"), (5.0, "ok"), (4.9, "warn"), (1.0, "warn"), (0.9, "FAIL"), (0, "FAIL")]
)
def test_room_on_the_disk(free: float, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(total=2000, used=1000 - free * 10, free=free * 10)  # the other half is kept for root
    monkeypatch.setattr("zcluster.cli.doctor_here.shutil.disk_usage", lambda _: usage)
    assert disk_finding(tmp_path).state == state
    assert list(tmp_path.iterdir()) == [], "nothing stays"


def test_room_is_told_as_people_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(total=256 << 30, used=(64 << 30) - 1, free=(64 << 30) + 1)
    monkeypatch.setattr("zcluster.cli.doctor_here.shutil.disk_usage", lambda _: usage)
    assert disk_finding(tmp_path).message == f"{tmp_path}: 64.0 GiB free (50 %)"


def test_a_disk_that_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, hint in (
        (errno.EROFS, "mount it for writing"), (errno.EACCES, "the user who owns it"), (errno.ENOSPC, "free some space"),
        (errno.EIO, "a node needs to write"),
    ):  # fmt: skip

        def refused(number: int = number, **_: Any) -> None:
            raise OSError(number, f"fault {number}")

        monkeypatch.setattr("zcluster.cli.doctor_here.tempfile.TemporaryFile", refused)
        finding = disk_finding(tmp_path)
        assert (finding.state, f"fault {number}" in finding.message, hint in finding.hint) == ("warn", True, True)
    assert disk_finding(tmp_path / "gone").state == "warn"


@pytest.mark.parametrize(("hard", "state"), [(4096, "ok"), (4095, "warn"), (resource.RLIM_INFINITY, "ok")])
def test_how_many_files_may_be_open(hard: int, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcluster.cli.doctor_here.resource.getrlimit", lambda _: (256, hard))
    assert look_at_files().state == state


def test_clocks() -> None:
    began = Clocks(100.0, 10.0)
    assert look_at_steps(began, Clocks(103.0, 13.0)).state == "ok"
    assert look_at_steps(began, Clocks(103.6, 13.0)).state == "warn"
    assert look_at_steps(began, Clocks(99.0, 13.0)).state == "warn"
    assert clock_finding("its", 2.0, 0.0).state == "ok"
    assert clock_finding("its", 2.1, 0.0).state == "warn"
    assert clock_finding("its", -2.1, 0.0).state == "warn"
    assert clock_finding("its", 4.0, 2.0).state == "ok", "half a round trip is not known"


def test_without_a_key_the_way_is_not_looked_at(zcluster: Callable[..., Any], tmp_path: Path) -> None:
    ran = zcluster("doctor", "--home", str(tmp_path / "none"), "-o", "json")
    assert (ran.code, ran.err) == (1, "")
    found = states(ran)
    assert (found["home"], found["key"], found["tcp"], found["clock"]) == ("fail", "fail", "skip", "skip")


def test_contexts_that_point_nowhere_are_a_finding(
    zcluster: Callable[..., Any], home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for variable in ("ZCLUSTER_HOME", "ZCLUSTER_KEY", "ZCLUSTER_CONTEXT"):
        monkeypatch.delenv(variable, raising=False)
    ran = zcluster("doctor", "--context", "none", "-o", "json")
    assert (ran.code, ran.err, states(ran)) == (1, "", {"context": "fail"})
    assert zcluster("context", "add", "lab", "--home", str(home.path), "--use").code == 0
    home.admin_key.rename(home.path / "away")
    ran = zcluster("doctor", "-o", "json")
    assert (ran.code, states(ran)["context"], states(ran)["key"]) == (1, "ok", "fail")
    (tmp_path / "zcluster" / "contexts.toml").write_text("broken")
    ran = zcluster("doctor", "worker-1", "-o", "json")
    assert (ran.code, ran.err, states(ran)) == (1, "", {"context": "fail"})


def test_without_time_nothing_is_looked_at(zcluster: Callable[..., Any], home: Home) -> None:
    assert zcluster("doctor", "--home", str(home.path), "--timeout", "0").code == 2


def test_addresses_that_are_none_and_nodes_that_nobody_knows(zcluster: Callable[..., Any], home: Home) -> None:
    ran = zcluster("doctor", "--home", str(home.path), "--master", "who@tcp://127.0.0.1:1", "-o", "json")
    assert (ran.code, states(ran)["resolve"]) == (1, "fail")
    assert zcluster("doctor", "--home", str(home.path), "--master", "nowhere", "-o", "json").code == 2
    assert "Traceback" not in ran.err


def test_a_unix_socket_that_is_not_there_or_that_nobody_serves(zcluster: Callable[..., Any], home: Home) -> None:
    home.bus_socket.parent.mkdir(exist_ok=True)
    way = ("doctor", "--home", str(home.path), "--master", f"ipc://{home.bus_socket}", "-o", "json")
    ran = zcluster(*way)
    assert (ran.code, ran.err, states(ran)["resolve"], states(ran)["tcp"]) == (1, "", "fail", "skip")
    assert "master.ipc" in ran.out
    with closing(socket.socket(socket.AF_UNIX)) as left_over:
        left_over.bind(str(home.bus_socket))
    ran = zcluster(*way)
    assert (ran.code, states(ran)["resolve"], states(ran)["tcp"], states(ran)["server"]) == (1, "ok", "fail", "skip")


# -- a node -------------------------------------------------------------------------------------------------------------


def test_a_node_that_is_well(node: Any, zcluster: Callable[..., Any]) -> None:
    ran = zcluster("doctor", "worker-1", "-o", "json")
    assert (ran.code, ran.err) == (0, "")
    assert states(ran) == dict.fromkeys(("master", "key", "session", "version", "clock", "disk", "denials"), "ok")
    assert zcluster("doctor", "worker-1").out.splitlines()[-1] == "nothing is wrong"


@pytest.mark.parametrize(
    ("changed", "check", "state", "code"),
    [
        ({"key": None, "revoked": [{"fingerprint": "F", "at": "2026"}]}, "key", "fail", 1),
        ({"key": None}, "key", "fail", 1),
        ({"state": None}, "session", "fail", 1),
        ({"state": "dead", "reason": "silent for 3.0 s", "session": None}, "session", "fail", 1),
        ({"drained": True, "drained_by": "root", "drained_at_s": 0.0}, "drained", "warn", 3),
        ({"in_flight": 8}, "slots", "warn", 3),
        ({"version": "0.0.9"}, "version", "warn", 3),
        ({"metrics": {"disk": {"percent": 90.0}}}, "disk", "warn", 3),
        ({"metrics": {"disk": {"percent": 98.0}}}, "disk", "fail", 1),
        ({"metrics_age_s": 121.0}, "disk", "skip", 0),
        ({"metrics": {}}, "disk", "skip", 0),
    ],
)
def test_what_may_be_wrong_with_a_node(
    changed: dict[str, Any], check: str, state: str, code: int, node: Any, zcluster: Callable[..., Any]
) -> None:
    node.values["nodes.describe"] = {**NODE, **changed}
    ran = zcluster("doctor", "worker-1", "-o", "json")
    assert (ran.code, states(ran)[check]) == (code, state)
    assert check != "slots" or "8 of 8 slots in use, 0 requests waiting" in ran.out


def test_trees_keys_that_wait_and_the_last_denial(node: Any, zcluster: Callable[..., Any]) -> None:
    tree = {"tree": "etc", "worker": "worker-1", "state": "failed", "reason": "no room", "files_behind": 1}
    node.values["sync.status"] = [tree]
    ran = zcluster("doctor", "worker-1")
    assert (ran.code, "1 of 1 trees are behind: etc: no room" in ran.out) == (3, True)
    node.values["sync.status"] = []
    node.values["nodes.describe"] = {**NODE, "key": None, "state": None}
    node.values["keys.pending"] = [{"fingerprint": "SHA256:X", "address": "10.0.0.9"}]
    node.values["events.since"] = {"events": [
        {"at_s": 0.0, "name": "key_refused", "fields": {"name": "worker-1", "address": "10.0.0.9"}},
        {"at_s": 0.0, "name": "key_refused", "fields": {"name": "worker-2"}},
    ]}  # fmt: skip
    out = zcluster("doctor", "worker-1").out
    assert "1 key waiting to be accepted, the last to try is SHA256:X from 10.0.0.9" in out
    assert "key_refused address=10.0.0.9" in out


def test_what_the_asker_may_not_see_is_no_fault(node: Any, zcluster: Callable[..., Any]) -> None:
    node.values["events.since"] = NotAllowed("no")
    ran = zcluster("doctor", "worker-1", "-o", "json")
    assert (ran.code, states(ran)["denials"]) == (0, "skip")
    node.values["node.time"] = NotAllowed("no")
    assert states(zcluster("doctor", "worker-1", "-o", "json"))["clock"] == "warn"


@pytest.mark.parametrize(
    ("error", "check"),
    [(Unreachable("nobody listens"), "master"), (NotAllowed("revoked"), "master"), (NoSuchNode("none"), "key")],
)
def test_no_master_and_no_node(error: Any, check: str, node: Any, zcluster: Callable[..., Any]) -> None:
    if check == "master":
        node.error = error
    else:
        node.values["nodes.describe"] = error
    ran = zcluster("doctor", "worker-1", "-o", "json")
    assert (ran.code, ran.err, states(ran)) == (1, "", {check: "fail"})


def test_the_clock_of_a_node_is_measured_against_the_masters(node: Any, zcluster: Callable[..., Any], turns: Any) -> None:
    node.values["node.time"] = turns([1003.0, 1000.0])
    ran = zcluster("doctor", "worker-1", "-o", "json")
    assert (ran.code, states(ran)["clock"]) == (3, "warn")
