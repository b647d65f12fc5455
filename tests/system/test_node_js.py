"""docs/protocol.md a second time: examples/node, a client in JavaScript written from that page, on a real cluster.

It is installed from its lock file into a temporary copy. Without npm, or without a network, these tests are skipped; where
CI is set that is a failure.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from zcluster.bench.cluster import LocalCluster
from zcluster.config import Home
from zcluster.keys import KeyFile, generate

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "node"
FUNCTIONS = str(Path(__file__).with_name("protocol_functions.py"))
CHECKS = Path(__file__).with_name("node_client_checks.mjs")
PROGRAMS = ("call.mjs", "fanout.mjs", "stream.mjs")
INSTALL = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
"""Without scripts: the package brings what it needs built for the usual machines."""
LIMIT_S = 90.0


def missing(why: str) -> None:
    """A laptop without Node.js skips; continuous integration must have it."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(why)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, installed elsewhere: the directory of its programs."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        missing("not installed: nodejs, npm")
    copy = tmp_path_factory.mktemp("node") / "node"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("node_modules"))
    shutil.copy(CHECKS, copy)
    done = subprocess.run(INSTALL, cwd=copy, capture_output=True, text=True, timeout=LIMIT_S)
    if done.returncode != 0:
        missing(f"npm ci: {done.stderr.strip()[-1000:]}")
    return copy


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(workers=1, functions=[FUNCTIONS]) as running:
        yield running


def run(program: Path, name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["node", name, *map(str, arguments)]
    return subprocess.run(command, cwd=program, capture_output=True, text=True, timeout=LIMIT_S)


def printed(program: Path, name: str, *arguments: object) -> list[str]:
    """The lines of a program that ends well."""
    done = run(program, name, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_the_lock_file_names_no_registry() -> None:
    text = (EXAMPLE / "package-lock.json").read_text(encoding="utf-8")
    assert "resolved" not in text
    assert "://" not in text
    locked = json.loads(text)["packages"]
    assert set(locked[""]["dependencies"]) == {"zeromq"}
    assert all(re.match("sha512-", package["integrity"]) for name, package in locked.items() if name)


def test_its_programs_are_short_and_the_readme_has_them() -> None:
    readme = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    assert {path.name for path in EXAMPLE.glob("*.mjs")} >= set(PROGRAMS)
    assert [name for name in PROGRAMS if f"node {name} " not in readme] == []


def test_the_golden_frames_are_its_own(program: Path) -> None:
    environment = {**os.environ, "ZCLUSTER_GOLDEN": str(ROOT / "tests" / "golden")}
    done = subprocess.run(
        ["node", "--test"], cwd=program, env=environment, capture_output=True, text=True, timeout=LIMIT_S
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "# fail 0" in done.stdout
    assert "# pass 0" not in done.stdout


def test_its_programs_call_fan_out_and_stream(program: Path, cluster: LocalCluster) -> None:
    key = cluster.client_key
    assert printed(program, "call.mjs", key, "echo", '{"value": {"ä": [1, null]}}') == ['{"ä":[1,null]}']
    answers = dict(line.split(" ", 1) for line in printed(program, "fanout.mjs", key, "node.info"))
    assert {node: json.loads(value)["role"] for node, value in answers.items()} == {"master": "master", "worker-1": "worker"}
    assert printed(program, "stream.mjs", key, "page.count", '{"to": 300}') == [str(number) for number in range(1, 301)]
    assert printed(program, "stream.mjs", key, "page.forever", "{}", 40) == [str(number) for number in range(1, 41)]
    failed = run(program, "call.mjs", key, "nothing.there")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("no_such_function: ")


def test_it_does_what_the_page_says(program: Path, cluster: LocalCluster, tmp_path: Path) -> None:
    known = KeyFile.read(Home.of(cluster.home).master_key)
    own = KeyFile.read(cluster.client_key)
    stranger = tmp_path / "stranger.key"
    KeyFile("client", "client", own.cluster, generate(), known.pair.public, own.addresses, own.publish).write(stranger)
    assert printed(program, CHECKS.name, cluster.client_key, stranger) == ["all as it should be"]
