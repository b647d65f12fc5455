"""``zcluster master`` and ``zcluster worker``, with a stand-in for what they start."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from zcluster.keys import KeyFile, fingerprint
from zcluster.process import OneProcess


class Started:
    """What was handed over to the daemon."""

    loaded: Any = None
    key_file: Any = None
    code = 0


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """Replaces the two daemons by functions that record their arguments."""
    found = Started()

    def serve_master(loaded: Any, *, ready: Callable[[Any], None]) -> int:
        found.loaded = loaded
        ready(None)
        return found.code

    def serve_worker(loaded: Any, key_file: Any) -> int:
        found.loaded, found.key_file = loaded, key_file
        return found.code

    for name, serve in (("zcluster.brokers.master", serve_master), ("zcluster.workers.worker", serve_worker)):
        module = ModuleType(name)
        module.serve = serve  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    return found


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_the_first_start_of_a_master_makes_its_home_and_says_how_to_go_on(
    started: Started, zcluster: Callable[..., Any], home: Path
) -> None:
    ran = zcluster("master", "--cluster", "lab", "--bind", "tcp://127.0.0.1:7580", "--publish", "tcp://127.0.0.1:7581")
    assert ran.code == 0
    key_file = KeyFile.read(home / "keys" / "master.key")
    assert (key_file.name, key_file.cluster, key_file.addresses) == ("master", "lab", ("tcp://127.0.0.1:7580",))
    assert started.loaded.settings.master.bind == "tcp://127.0.0.1:7580"
    lines = ran.out.splitlines()
    assert lines[0] == "cluster     lab"
    assert f"key         {fingerprint(key_file.master_public)}" in lines
    assert f"  zcluster keys new worker-1 --role worker --home {home}" in lines
    assert any(line.startswith(f"  zcluster worker --key {home}/keys/worker-1.key") for line in lines)


def test_the_lines_to_paste_name_a_worker_that_is_free(started: Started, zcluster: Callable[..., Any]) -> None:
    zcluster("keys", "init")
    zcluster("keys", "new", "worker-1", "--role", "worker")
    ran = zcluster("master")
    assert "keys new worker-2 " in ran.out
    assert "worker-1" not in ran.out


def test_a_master_ends_with_the_code_of_its_daemon(started: Started, zcluster: Callable[..., Any]) -> None:
    started.code = 4
    assert zcluster("master").code == 4


def test_the_flags_of_a_worker_become_settings(started: Started, zcluster: Callable[..., Any], home: Path) -> None:
    zcluster("keys", "init")
    zcluster("keys", "new", "w", "--role", "worker")
    words = ["--master", "tcp://a:1", "--master", "tcp://b:2", "--functions", "one.two", "--functions", "three"]
    assert zcluster("worker", "--key", str(home / "keys" / "w.key"), *words).code == 0
    settings = started.loaded.settings
    assert settings.worker.master == ("tcp://a:1", "tcp://b:2")
    assert settings.functions.modules == ("one.two", "three")
    assert started.key_file.key_file.name == "w"
    assert str(started.loaded.origins["worker.master"]) == "flag --master"


@pytest.mark.parametrize("how", ["--key", "setting", "--name", "node.name", "only"])
def test_which_key_a_worker_uses(
    how: str, started: Started, zcluster: Callable[..., Any], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zcluster("keys", "init")
    zcluster("keys", "new", "me", "--role", "client")
    for name in ("b",) if how == "only" else ("a", "b"):
        zcluster("keys", "new", name, "--role", "worker")
    path = str(home / "keys" / "b.key")
    words = {"--key": ["--key", path], "--name": ["--name", "b"]}.get(how, [])
    if how == "setting":
        monkeypatch.setenv("ZCLUSTER_WORKER__KEY", path)
    if how == "node.name":
        monkeypatch.setenv("ZCLUSTER_NODE__NAME", "b")
    assert zcluster("worker", *words).code == 0
    assert started.key_file.key_file.name == "b"


def test_several_worker_keys_ask_for_a_choice(started: Started, zcluster: Callable[..., Any]) -> None:
    zcluster("keys", "init")
    for name in ("a", "b"):
        zcluster("keys", "new", name, "--role", "worker")
    ran = zcluster("worker")
    assert ran.code == 5
    assert "--name or --key" in ran.err


@pytest.mark.parametrize("words", [(), ("--name", "w")])
def test_without_a_key_the_hint_shows_how_to_make_one(
    words: tuple[str, ...], started: Started, zcluster: Callable[..., Any]
) -> None:
    ran = zcluster("worker", *words)
    assert ran.code == 5
    assert "zcluster keys new NAME --role worker" in ran.err
    assert started.loaded is None


def test_a_name_that_is_not_the_key_s_is_refused(started: Started, zcluster: Callable[..., Any], home: Path) -> None:
    zcluster("keys", "init")
    zcluster("keys", "new", "w", "--role", "worker")
    ran = zcluster("worker", "--key", str(home / "keys" / "w.key"), "--name", "other")
    assert ran.code == 2
    assert "is the key of 'w', not of 'other'" in ran.err


def test_a_wrong_address_is_refused_before_anything_is_made(started: Started, zcluster: Callable[..., Any], home: Path) -> None:
    ran = zcluster("master", "--bind", "tcp://nowhere")
    assert ran.code == 2
    assert "flag --bind" in ran.err
    assert not home.exists()


@pytest.mark.parametrize(("role", "named"), [("client", "a client"), ("admin", "an admin"), ("agent", "an agent")])
def test_a_worker_needs_a_worker_s_key(role: str, named: str, started: Started, zcluster: Callable[..., Any], home: Path) -> None:
    zcluster("keys", "init")
    zcluster("keys", "new", "other", "--role", role)
    path = home / "keys" / "other.key"
    ran = zcluster("worker", "--key", str(path))
    assert (ran.code, ran.err.count("\n")) == (4, 1)
    assert f"{path} is the key of {named}: a worker needs a key of role worker" in ran.err
    assert started.loaded is None


def test_a_master_s_key_starts_no_worker(started: Started, zcluster: Callable[..., Any], home: Path) -> None:
    zcluster("keys", "init")
    assert zcluster("worker", "--key", str(home / "keys" / "master.key")).code == 4
    assert started.loaded is None


def tree(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("command", [("master",), ("keys", "init")])
def test_while_a_master_runs_its_home_is_not_touched(
    command: tuple[str, ...], started: Started, zcluster: Callable[..., Any], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zcluster("master", "--bind", "tcp://127.0.0.1:7580")
    monkeypatch.setenv("ZCLUSTER_MASTER__BIND", "tcp://127.0.0.1:7590")
    started.loaded = None
    running = OneProcess(home / "run" / "master.lock")
    try:
        before = tree(home)
        ran = zcluster(*command)
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
        assert f"this home is in use by process {os.getpid()}" in ran.err
        assert tree(home) == before
        assert started.loaded is None
    finally:
        running.close()
    assert zcluster(*command).code == 0
    assert KeyFile.read(home / "keys" / "admin.key").addresses == (f"ipc://{home}/run/bus.sock", "tcp://127.0.0.1:7590")


def test_a_new_home_is_private(zcluster: Callable[..., Any], home: Path) -> None:
    created = json.loads(zcluster("keys", "init", "-o", "json").out)["created"]
    assert created[:2] == [str(home), str(home / "run")]
    for path in (home, home / "run", home / "keys", home / "data"):
        assert path.stat().st_mode & 0o777 == 0o700, path


def test_a_master_that_serves_has_the_last_word_on_its_addresses(
    zcluster: Callable[..., Any], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zcluster.keys import init_home

    def serve(_loaded: Any, *, ready: Callable[[Any], None]) -> int:
        init_home(home, "zcluster", "", ("tcp://other:1",), ("tcp://other:2",))  # another start, before this one had the lock
        ready(None)
        return 0

    module = ModuleType("zcluster.brokers.master")
    module.serve = serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "zcluster.brokers.master", module)
    ran = zcluster("master", "--bind", "tcp://127.0.0.1:7580")
    assert KeyFile.read(home / "keys" / "admin.key").addresses == (f"ipc://{home}/run/bus.sock", "tcp://127.0.0.1:7580")
    assert "reached at  tcp://127.0.0.1:7580" in ran.out


@pytest.mark.parametrize("option", ["bind", "publish"])
def test_a_port_that_the_system_chooses_is_refused_before_anything_is_made(
    option: str, started: Started, zcluster: Callable[..., Any], home: Path
) -> None:
    ran = zcluster("master", f"--{option}", "tcp://127.0.0.1:*")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "a master needs a fixed port: other machines have to know it" in ran.err
    assert f"master.{option}" in ran.err
    assert not home.exists()
