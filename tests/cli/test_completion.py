"""Completion: the scripts, and the names of the running cluster."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from zcluster.cli.completing import agent_ids
from zcluster.cli.options import State
from zcluster.core.joining import Stranger
from zcluster.errors import Unreachable
from zcluster.keys import Ring, fingerprint, generate, init_home, new_key
from zcluster.keys.pending import write_pending
from zcluster.keys.tokens import create_token


@pytest.fixture
def complete(zcluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """What the shell offers for the last of some words."""

    def invoke(*words: str) -> list[str]:
        monkeypatch.setenv("_ZCLUSTER_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", " ".join(("zcluster", *words)))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        ran = zcluster()
        assert (ran.code, ran.err) == (0, "")
        return [line.partition(",")[2] for line in ran.out.split()]

    return invoke


@pytest.fixture
def _names(cluster: Any) -> None:
    cluster.node_rows = [{"name": "worker-2"}, {"name": "worker-1"}, {"name": "master"}, {"name": "web"}]
    cluster.function_rows = [{"name": "math.add", "doc": "Add.\nMore."}, {"name": "echo"}]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell: str, zcluster: Callable[..., Any]) -> None:
    ran = zcluster("completion", shell)
    assert ran.code == 0
    assert f"_ZCLUSTER_COMPLETE={shell}_complete" in ran.out


def test_the_script_is_one_that_bash_accepts(zcluster: Callable[..., Any]) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "-n"], input=zcluster("completion", "bash").out, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_shell_is_a_usage_error(zcluster: Callable[..., Any]) -> None:
    assert zcluster("completion", "tcsh").code == 2


def test_commands_and_options_are_completed(complete: Callable[..., list[str]]) -> None:
    assert complete("no") == ["nodes"]
    assert complete("dapi", "c") == ["call"]
    assert complete("nodes", "--wa") == ["--watch"]
    assert "yaml" in complete("nodes", "-o", "")


@pytest.mark.usefixtures("_names")
def test_functions_are_completed(complete: Callable[..., list[str]], cluster: Any) -> None:
    assert complete("dapi", "call", "") == ["echo", "math.add"]
    assert complete("dapi", "call", "ma") == ["math.add"]
    assert complete("dapi", "describe", "e") == ["echo"]
    assert all(found.timeout_s < 1 for found in cluster.connections)


@pytest.mark.usefixtures("_names")
def test_trees_and_workers_are_completed(complete: Callable[..., list[str]], cluster: Any) -> None:
    cluster.values["sync.trees"] = [{"name": "rules", "path": "/srv"}, {"name": "lists"}]
    cluster.node_rows = [{"name": "web", "role": "worker"}, {"name": "master", "role": "master"}]
    assert complete("sync", "confirm", "") == ["lists", "rules"]
    assert complete("sync", "status", "--tree", "r") == ["rules"]
    assert complete("sync", "diff", "") == ["web"]
    assert complete("sync", "confirm", "rules", "--worker", "m") == []


@pytest.mark.usefixtures("_names")
def test_targets_are_completed_in_lists_too(complete: Callable[..., list[str]]) -> None:
    assert complete("dapi", "call", "echo", "--target", "") == ["all", "any", "master", "web", "worker-1", "worker-2"]
    assert complete("dapi", "call", "echo", "--target", "a") == ["all", "any"]
    assert complete("dapi", "call", "echo", "--target", "web,wor") == ["web,worker-1", "web,worker-2"]


@pytest.fixture
def _agents(cluster: Any) -> None:
    cluster.node_rows = [{"name": "worker-1", "state": "ready"}, {"name": "master"}]
    cluster.values["agents.list"] = {"items": [{"id": "web-1", "status": "active"}, {"id": "web-2"}], "next": None}
    cluster.values["groups.list"] = [{"name": "web", "comment": "made by hand"}, {"name": "berlin"}]


@pytest.mark.usefixtures("_agents")
def test_agents_are_completed(complete: Callable[..., list[str]], cluster: Any) -> None:
    assert complete("agents", "show", "") == ["web-1", "web-2"]
    assert complete("agents", "rm", "web-1", "we") == ["web-1", "web-2"]
    assert complete("agents", "move", "web-1") == ["web-1"]
    asked = [args for _, function, args, _ in cluster.asked if function == "agents.list"]
    assert [(args["filter"], args["limit"]) for args in asked] == [("", 100), ("id~we*", 100), ("id~web-1*", 100)]


@pytest.mark.usefixtures("_agents")
@pytest.mark.parametrize("word", ["-", "a(b", "a'", "x" * 129])
def test_what_begins_no_id_is_not_asked_for(word: str, cluster: Any) -> None:
    ctx = click.Context(click.Command("show"), obj=State())
    assert agent_ids(ctx, word) == []
    assert cluster.asked == []


@pytest.mark.usefixtures("_agents")
def test_nodes_for_agents_are_completed(complete: Callable[..., list[str]]) -> None:
    assert complete("agents", "move", "web-1", "") == ["master", "worker-1"]
    assert complete("agents", "import", "--node", "w") == ["worker-1"]
    assert complete("groups", "ls", "--node", "w") == ["worker-1"]


@pytest.mark.usefixtures("_agents")
def test_groups_are_completed(complete: Callable[..., list[str]]) -> None:
    assert complete("groups", "show", "") == ["berlin", "web"]
    assert complete("groups", "add", "w") == ["web"]
    assert complete("groups", "add", "web", "") == ["web-1", "web-2"]
    assert complete("groups", "of", "web-2") == ["web-2"]
    assert complete("groups", "create", "") == []


@pytest.mark.usefixtures("_agents")
def test_the_words_of_groups_set_are_completed(complete: Callable[..., list[str]]) -> None:
    assert complete("groups", "set", "w") == ["web-1", "web-2"]
    assert complete("groups", "set", "web-1", "b") == ["berlin"]
    assert complete("groups", "set", "web-1", "web,b") == ["web,berlin"]
    assert complete("groups", "set", "--filter", "status=active", "b") == ["berlin"]


@pytest.mark.usefixtures("_agents")
def test_scopes_are_completed(complete: Callable[..., list[str]]) -> None:
    assert complete("config", "get", "") == ["agent/", "defaults", "group/", "node/"]
    assert complete("config", "set", "node/w") == ["node/worker-1"]
    assert complete("config", "history", "group/") == ["group/berlin", "group/web"]
    assert complete("config", "unset", "agent/web-1") == ["agent/web-1"]
    assert complete("config", "watch", "nothing/") == []


@pytest.mark.parametrize("error", [Unreachable("no master"), OSError("no"), TimeoutError()])
def test_without_a_cluster_there_is_nothing_and_no_word(
    error: Exception, complete: Callable[..., list[str]], cluster: Any
) -> None:
    cluster.error = error
    assert complete("dapi", "call", "") == []


@pytest.mark.parametrize("command", ["show", "revoke"])
def test_names_of_keys_are_completed_from_the_home(command: str, complete: Callable[..., list[str]], tmp_path: Path) -> None:
    init_home(tmp_path / "home", "lab", "", ("tcp://a:1",), ("tcp://a:2",))
    new_key(tmp_path / "home", "worker-1", "worker")
    assert complete("keys", command, "") == ["admin", "master", "worker-1"]
    assert complete("keys", command, "w") == ["worker-1"]


@pytest.mark.parametrize("ring", [None, "broken"])
def test_without_a_ring_no_key_is_offered(ring: str | None, complete: Callable[..., list[str]], tmp_path: Path) -> None:
    if ring is not None:
        (tmp_path / "home" / "keys").mkdir(parents=True)
        (tmp_path / "home" / "keys" / "ring.json").write_text(ring)
    assert complete("keys", "show", "") == []


@pytest.mark.usefixtures("_names")
def test_jobs_events_and_listeners_are_completed(complete: Callable[..., list[str]], cluster: Any) -> None:
    cluster.values["queue.list"] = {"items": [{"id": "j1", "function": "f", "state": "done"}, {"id": "k1"}], "next": None}
    cluster.values["events.since"] = {"events": [{"name": "join"}, {"name": "dead"}, {"name": "join"}]}
    cluster.values["notes.who"] = [{"name": "alice"}]
    assert complete("queue", "show", "j") == ["j1"]
    assert complete("queue", "cancel", "j1", "") == ["j1", "k1"]
    assert complete("events", "--name", "") == ["dead", "join"]
    assert complete("msg", "send", "") == ["alice", "all"]
    assert complete("msg", "send", "alice", "") == []


@pytest.mark.usefixtures("_names")
def test_nodes_and_conditions_are_completed(complete: Callable[..., list[str]], cluster: Any) -> None:
    cluster.values["sync.trees"] = [{"name": "rules"}]
    assert complete("nodes", "describe", "w") == ["web", "worker-1", "worker-2"]
    assert complete("doctor", "m") == ["master"]
    cluster.node_rows = [{"name": "web", "role": "worker"}, {"name": "master", "role": "master"}]
    assert complete("nodes", "drain", "") == ["web"]
    assert complete("nodes", "rm", "w") == ["web"]
    assert complete("wait", "no") == ["node:", "nodes="]
    assert complete("wait", "nodes=3", "node:w") == ["node:web=ready"]
    assert complete("wait", "sync=") == ["sync=rules"]


def test_tokens_strangers_and_roles_are_completed_from_the_home(complete: Callable[..., list[str]], tmp_path: Path) -> None:
    home = init_home(tmp_path / "home", "prod", addresses=["tcp://m:7570"]).home
    token, _pair = create_token(Ring(home.ring_file), "worker", ttl_s=60.0)
    stranger = generate().public
    write_pending(home, [Stranger(stranger, "10.0.0.7", 1.0, 1.0, 1)])
    with home.config_file.open("a") as file:
        file.write('\n[roles.reader]\nfunctions = ["node.*"]\n')
    assert complete("token", "revoke", "") == [token.id]
    assert complete("keys", "reject", "SHA256:") == [fingerprint(stranger)]
    assert complete("keys", "new", "w", "--role", "r") == ["reader"]
    assert complete("token", "create", "--role", "w") == ["worker"]
    home.config_file.write_text("[nonsense")
    assert complete("keys", "new", "w", "--role", "r") == []
    assert complete("keys", "new", "w", "--role", "w") == ["worker"]
