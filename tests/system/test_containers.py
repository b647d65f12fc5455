"""packaging/: what the image is built from exists, and the commands of the compose file make a cluster of three nodes.

No container is started: each service is a plain process with a home of its own, in the order of its dependencies.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from compose_file import read_compose

import zcluster
from zcluster.bench.cluster import free_ports

ROOT = Path(__file__).resolve().parents[2]
PACKAGING = ROOT / "packaging"
HOME = "/var/lib/zcluster/home"
LIMIT_S = 60.0

Service = dict[str, Any]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return read_compose(PACKAGING / "compose.yaml")


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Containerfile in order, continued lines put together."""
    plain = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", text))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in plain.splitlines() if line)]


def test_the_image_is_built_from_what_there_is_and_holds_no_secret() -> None:
    found = instructions((PACKAGING / "Containerfile").read_text())
    sources = [
        source for word, rest in found if word == "COPY" and not rest.startswith("--from") for source in shlex.split(rest)[:-1]
    ]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert {"pyproject.toml", "README.md", "zcluster"} <= set(sources)  # pyproject.toml names the second
    kept = {line[1:] for line in (PACKAGING / "Containerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == set(sources)
    last = found[[number for number, (word, _) in enumerate(found) if word == "FROM"][-1] :]
    words = [word for word, _ in last]
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert dict(last)["USER"] == "zcluster"
    assert json.loads(dict(last)["ENTRYPOINT"]) == ["zcluster"]
    assert f"ZCLUSTER_HOME={HOME}" in dict(last)["ENV"]
    assert "zcluster check" in dict(last)["HEALTHCHECK"]
    assert not [rest for word, rest in found if word in ("ENV", "ARG", "COPY") and re.search(r"(?i)secret|token|key|\.git", rest)]


def test_every_service_is_confined_and_names_what_exists(compose: dict[str, Any]) -> None:
    services, volumes = compose["services"], compose["volumes"]
    assert list(services) == ["master", "token", "worker-1", "worker-2"]
    build = services["master"]["build"]
    assert (PACKAGING / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()
    for name, service in services.items():
        assert service["image"] == "zcluster"
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert {mount.split(":")[0] for mount in service["volumes"]} <= set(volumes)
        assert set(service.get("depends_on", {})) <= set(services)
        assert "environment" not in service


class Containers:
    """The services as processes: volumes are directories, and ``/join`` is one of them."""

    def __init__(self, compose: dict[str, Any], directory: Path) -> None:
        self.services: dict[str, Service] = compose["services"]
        self._directory = directory
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        request, publish = free_ports(2)
        self._ports = {
            "ZCLUSTER_MASTER__BIND": f"tcp://127.0.0.1:{request}", "ZCLUSTER_MASTER__PUBLISH": f"tcp://127.0.0.1:{publish}",
        }  # fmt: skip
        programs = directory / "bin"
        programs.mkdir()
        program = programs / "zcluster"
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m zcluster "$@"\n')
        program.chmod(0o700)
        for volume in compose["volumes"]:
            (directory / volume).mkdir(mode=0o700)

    def environment(self, service: Service) -> dict[str, str]:
        home = next(mount.split(":")[0] for mount in service["volumes"] if mount.split(":")[1] == HOME)
        return {
            "PATH": f"{self._directory / 'bin'}:{os.environ['PATH']}", "ZCLUSTER_HOME": str(self._directory / home),
            "PYTHONPATH": str(Path(zcluster.__file__).resolve().parents[1]), **self._ports,
        }  # fmt: skip

    def command(self, service: Service) -> list[str]:
        words = [*service.get("entrypoint", ["zcluster"]), *service["command"]]
        return [re.sub(r"(?<![\w/])/join/", f"{self._directory / 'join'}/", word).replace("$$", "$") for word in words]

    def start(self, name: str) -> None:
        service = self.services[name]
        log = (self._directory / f"{name}.log").open("ab")
        self._running[name] = subprocess.Popen(
            self.command(service), env=self.environment(service), stdout=log, stderr=log, cwd=self._directory
        )
        log.close()

    def shell(self, name: str, line: str) -> subprocess.CompletedProcess[str]:
        environment = self.environment(self.services[name])
        return subprocess.run(
            ["/bin/sh", "-c", line], env=environment, capture_output=True, text=True, timeout=LIMIT_S, cwd=self._directory
        )

    def healthy(self, name: str) -> None:
        """Wait until its health check says so."""
        kind, line = self.services[name]["healthcheck"]["test"]
        assert kind == "CMD-SHELL"
        deadline_s = time.monotonic() + LIMIT_S
        while (done := self.shell(name, line.replace("$$", "$"))).returncode != 0:
            log = (self._directory / f"{name}.log").read_text()
            assert self._running[name].poll() is None, log
            assert time.monotonic() < deadline_s, done.stderr + log

    def completed(self, name: str) -> None:
        """Run a service that ends by itself."""
        self.start(name)
        code = self._running.pop(name).wait(LIMIT_S)
        assert code == 0, (self._directory / f"{name}.log").read_text()

    def stop(self) -> None:
        for process in self._running.values():
            process.terminate()
        codes = {name: process.wait(LIMIT_S) for name, process in self._running.items()}
        assert set(codes.values()) <= {0}, codes


@pytest.fixture
def containers(compose: dict[str, Any], tmp_path: Path) -> Iterator[Containers]:
    made = Containers(compose, tmp_path)
    yield made
    made.stop()


def test_the_commands_of_the_compose_file_make_a_cluster(containers: Containers, tmp_path: Path) -> None:
    assert containers.services["token"]["depends_on"] == {"master": {"condition": "service_healthy"}}
    workers = [name for name in containers.services if name.startswith("worker")]
    for name in workers:
        assert containers.services[name]["depends_on"] == {"token": {"condition": "service_completed_successfully"}}
    containers.start("master")
    containers.healthy("master")
    containers.completed("token")
    token = (tmp_path / "join" / "worker.token").read_bytes()
    for name in workers:
        containers.start(name)
    waited = containers.shell("master", "zcluster wait nodes=3 --timeout 30s && zcluster nodes -o name")
    assert (waited.returncode, waited.stdout.split()[-3:]) == (0, ["master", *workers]), waited.stderr
    containers.healthy(workers[0])
    containers.completed("token")  # `up` again: nothing new is made
    assert (tmp_path / "join" / "worker.token").read_bytes() == token
    logs = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert token.decode().strip() not in logs
