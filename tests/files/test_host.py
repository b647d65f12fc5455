"""A node's sync process as its main process sees it, where it does not read, or cannot be started."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import subprocess
from typing import Any

import pytest

from zcluster.files import host
from zcluster.files.host import SyncProcess


class Owner:
    """Who has the sync process."""

    def __init__(self) -> None:
        self.started = 0

    def sync_started(self) -> None:
        self.started += 1

    def sync_frame(self, session: int, frame: memoryview) -> None:
        """Nothing comes here."""

    def sync_held(self, digest: str) -> None:
        """Nothing comes here."""

    def sync_event(self, name: str, fields: dict[str, Any], level: str) -> None:
        """Nothing comes here."""


class Silent:
    """A sync process that never reads."""

    pid = 1

    def __init__(self, command: list[str], *, pass_fds: list[int], **_: Any) -> None:
        self.sock = socket.socket(fileno=os.dup(pass_fds[0]))

    def wait(self, timeout: float | None = None) -> int:
        self.sock.close()
        return 0

    def poll(self) -> int | None:
        return None


def test_what_waits_for_a_process_that_does_not_read_is_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(subprocess, "Popen", Silent)
    monkeypatch.setattr(host, "MAX_BACKLOG_BYTES", 10_000_000)

    async def main() -> None:
        process = SyncProcess(Owner(), dict, logging.getLogger("test"))
        process.start()
        channel = process._channel
        assert channel is not None
        for _ in range(20):
            process.frame(1, bytes(2_000_000))
            process.held(1, "x")
        assert 10_000_000 < channel.backlog_bytes < 12_001_000
        assert len([record for record in caplog.records if "does not read" in record.message]) == 1
        process.session_down(1)
        process.close()

    asyncio.run(main())


def test_a_process_that_cannot_be_started_is_started_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(host, "FIRST_PAUSE_S", 0.0)
    tries = []

    def start(*args: Any, **kwargs: Any) -> Silent:
        tries.append(1)
        if len(tries) < 3:
            raise OSError(errno.EAGAIN, "no process left")
        return Silent(*args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", start)

    async def main() -> None:
        owner = Owner()
        process = SyncProcess(owner, dict, logging.getLogger("test"))
        before = len(os.listdir("/proc/self/fd"))
        process.start()
        assert (process.running, process.pid, len(os.listdir("/proc/self/fd"))) == (False, 0, before)
        while not owner.started:  # noqa: ASYNC110 - nobody tells when it has started
            await asyncio.sleep(0)
        assert process.running
        process.close()

    asyncio.run(asyncio.wait_for(main(), 20))
    assert len([record for record in caplog.records if "cannot be started" in record.message]) == 2
