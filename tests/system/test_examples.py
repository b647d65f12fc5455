"""Each example runs as it is shown, against a cluster that offers examples/functions.py."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import zcluster
from zcluster.bench.cluster import LocalCluster

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LIMIT_S = 60.0

EXPECTED = {
    "agents.py": [
        "taken: 2",
        "refused: example-3 labels.colour: expected text",
        "by version: {'4.10.0': 1, '4.8.2': 1}",
        "the node that holds example-1: worker-2",
        "(did you mean 'status'?)",
        "removed: example-1, example-2",
    ],
    "chat.py": ["example-bob (admin) says 'hello' to 1 session", "not sent: nobody listens as example-bob", "kept: True"],
    "durable_jobs.py": [
        "the same job: True True",
        "refused: ",
        "from another process: {'day': '2026-11-19', 'node': 'worker-",
        "'attempt': 2}",
        "attempt 1  the data of 2026-11-19 is not there yet",
        "worker-1: ",
        "worker-2: ",
    ],
    "events.py": ["     1  ", "join         master"],
    "client_async.py": ["1 + 2 = 3", "1000 calls at once, the last one: 1998", "item 1", "item 2", "item 3", "refused: "],
    "client_blocking.py": ["master       master   ready", "worker-1     worker   ready", "request: {", "item 3"],
    "groups.py": ["agents changed: 2", "its groups: default, example-web", "worker-1 measures every 2 s", "refused: unknown key"],
    "fan_out.py": ["master       cpu ", "worker-1     cpu ", "worker-2     cpu "],
}
ARGUMENTS = {"events.py": ["0", "3"]}
"""What makes an example end that would go on for ever."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A cluster whose workers have the functions of the examples."""
    with LocalCluster(2, functions=[str(EXAMPLES / "functions.py")]) as running:
        yield running


def test_every_example_is_here() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted([*EXPECTED, "functions.py"])


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_an_example_runs(name: str, cluster: LocalCluster) -> None:
    environment = {
        **os.environ,
        "ZCLUSTER_HOME": str(cluster.home),
        "PYTHONPATH": str(Path(zcluster.__file__).resolve().parents[1]),
    }
    command = [sys.executable, str(EXAMPLES / name), *ARGUMENTS.get(name, [])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.stderr == ""
    assert done.returncode == 0
    for line in EXPECTED[name]:
        assert line in done.stdout


def test_each_kind_of_function_answers(cluster: LocalCluster, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    port = int(cluster.address.rpartition(":")[2])
    with zcluster.Client(home=cluster.home) as c:
        assert c.call("file.sha256", {"path": str(file)}) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        assert c.call("port.open", {"host": "127.0.0.1", "port": port}) is True
        assert list(c.stream("count.up", {"to": 3, "start": 2})) == [2, 3]
        signature = "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8"
        assert c.call("text.sign", {"text": "The quick brown fox jumps over the lazy dog", "key": "key"}) == signature
        about = c.call("request.about", target="worker-2", timeout=9.0)
    assert (about["caller"], about["role"], about["node"]) == ("admin", "admin", "worker-2")
    assert 0 < about["remaining_s"] <= 9
