"""Real daemons under a service manager: a socket that stands in for systemd's hears when they are ready, alive, and stop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import eventually

from zcluster.bench.cluster import LocalCluster


class Manager:
    """What came to NOTIFY_SOCKET. A thread reads at once: the kernel keeps some ten datagrams."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._heard: list[str] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def has(self, line: str, count: int = 1) -> bool:
        """Whether a line that begins so came at least so often."""
        return sum(each.startswith(line) for each in self._heard) >= count

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _read(self) -> None:
        while data := self._socket.recv(4096):
            self._heard += data.decode().split("\n")


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    yield made
    made.close()


def test_a_master_and_a_worker_tell_how_they_are(manager: Manager) -> None:
    async def body() -> None:
        async with LocalCluster(1) as cluster:
            await eventually(lambda: manager.has("READY=1", 2), "both daemons to be ready")
            for status in ("master of local, epoch 1", "no session yet", "session "):
                await eventually(lambda status=status: manager.has(f"STATUS={status}"), status)  # type: ignore[misc]
            await eventually(lambda: manager.has("WATCHDOG=1", 8), "the watchdog to be fed")
            os.kill(cluster.pids["worker-1"], signal.SIGHUP)
            await eventually(lambda: manager.has("RELOADING=1") and manager.has("READY=1", 3), "the worker to have read its file")
            os.kill(cluster.pids["master"], signal.SIGTERM)
            await eventually(lambda: manager.has("STATUS=no session: "), "the worker to have lost its session")
        assert manager.has("STOPPING=1", 2)

    asyncio.run(body())
