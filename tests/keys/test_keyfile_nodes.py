"""What a key file knows of workers' doors."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest

from zcluster.config import Home
from zcluster.core.doors import MAX_NODES, KnownKeys, KnownNode
from zcluster.errors import InvalidKey
from zcluster.keys import KeyFile, Ring, generate, init_home, new_key

PUBLIC = generate().public


def key_file(*nodes: KnownNode) -> KeyFile:
    return KeyFile("anna", "client", "c", generate(), PUBLIC, ("tcp://m:1",), ("tcp://m:2",), nodes)


def test_nodes_are_read_as_they_were_written(tmp_path: Path) -> None:
    nodes = (KnownNode("w.1", PUBLIC, ("tcp://h:1", "tcp://h:2")), KnownNode("w2", PUBLIC))
    made = key_file(*nodes)
    made.write(tmp_path / "anna.key")
    read = KeyFile.read(tmp_path / "anna.key")
    assert read == made
    assert read.known == KnownKeys(PUBLIC, nodes)


def test_without_nodes_the_file_is_as_before(tmp_path: Path) -> None:
    assert "nodes" not in key_file().text()


def test_how_many_nodes_it_may_know(tmp_path: Path) -> None:
    longest = [KnownNode(f"{number:063}", PUBLIC) for number in range(MAX_NODES + 1)]
    key_file(*longest[:MAX_NODES]).write(tmp_path / "most.key")
    assert len(KeyFile.read(tmp_path / "most.key").nodes) == MAX_NODES
    key_file(*longest).write(tmp_path / "more.key")
    with pytest.raises(InvalidKey, match="at most 256"):
        KeyFile.read(tmp_path / "more.key")


@pytest.mark.parametrize(("text", "says"), [
    ("nodes = 1", "nodes must be tables"),
    ("[nodes]\nw1 = 1", "nodes must be tables"),
    ("[nodes.w1]", "nodes.w1.public is missing"),
    ('[nodes.w1]\npublic = "x"', "public key"),
    (f'[nodes.w1]\npublic = "{PUBLIC}"\nadresses = []', "unknown field"),
    (f'[nodes.w1]\npublic = "{PUBLIC}"\naddresses = ["h:1"]', "expected an address"),
    (f'[nodes.w1]\npublic = "{PUBLIC}"\naddresses = "tcp://h:1"', "nodes.w1.addresses must be a list"),
    (f'[nodes."a/b"]\npublic = "{PUBLIC}"', "name"),
], ids=itertools.count())  # fmt: skip
def test_a_wrong_table_is_an_error_that_says_where(tmp_path: Path, text: str, says: str) -> None:
    head, rest = key_file().text().split("\n[master]")
    made = f"{head}\n{text}\n[master]{rest}" if text.startswith("nodes") else f"{head}\n[master]{rest}\n{text}\n"
    path = tmp_path / "anna.key"
    path.write_text(made)
    path.chmod(0o600)
    with pytest.raises(InvalidKey, match=says):
        KeyFile.read(path)


@pytest.mark.parametrize(("role", "knows"), [("client", True), ("admin", True), ("agent", True), ("worker", False)])
def test_a_new_key_knows_the_workers_that_there_are(tmp_path: Path, role: str, knows: bool) -> None:
    home = tmp_path / "home"
    init_home(home, "c", "master", ("tcp://m:1",), ("tcp://m:2",))
    ring = Ring(Home.of(home).ring_file)
    w2, w1 = ring.add("w2", "worker", generate().public), ring.add("w1", "worker", generate().public)
    made, path = new_key(home, "anna", role)
    assert made.nodes == ((KnownNode("w1", w1.public), KnownNode("w2", w2.public)) if knows else ())
    assert KeyFile.read(path) == made


def test_a_ring_with_more_workers_than_a_key_file_may_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcluster.keys.homes.MAX_NODES", 1)
    home = tmp_path / "home"
    init_home(home, "c", "master", ("tcp://m:1",), ("tcp://m:2",))
    ring = Ring(Home.of(home).ring_file)
    for name in ("w2", "w1"):
        ring.add(name, "worker", generate().public)
    assert [node.name for node in new_key(home, "anna", "client")[0].nodes] == ["w1"]


def test_a_master_that_starts_again_keeps_what_its_keys_know(tmp_path: Path) -> None:
    home = Home.of(tmp_path / "home")
    init_home(home, "c", "master", ("tcp://m:1",), ("tcp://m:2",))
    admin = dataclasses.replace(KeyFile.read(home.admin_key), nodes=(KnownNode("w1", PUBLIC),))
    admin.rewrite(home.admin_key)
    init_home(home, "c", "master", ("tcp://m:9",), ("tcp://m:2",))
    assert KeyFile.read(home.admin_key).nodes == (KnownNode("w1", PUBLIC),)
