"""sd_notify over real datagram sockets: a path, an abstract address, none; what is told when."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from zcluster.process.lifetime import FEEDS, Lifetime
from zcluster.process.notify import MAX_STATUS_CHARS, Notify


class Manager:
    """Stands in for systemd: the socket, and the messages that came."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.setblocking(False)

    def heard(self) -> list[list[str]]:
        """The messages until now, each as its lines."""
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode().split("\n"))
            except BlockingIOError:
                return found


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify"))
    yield made
    made.socket.close()


def test_what_is_told(manager: Manager) -> None:
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/"}
    notify = Notify(environ)
    assert environ == {"HOME": "/"}  # a child does not speak for the daemon
    assert notify.watchdog_s == 3.0
    notify.say("READY=1", status="it\nserves")
    notify.say(status="x" * (MAX_STATUS_CHARS + 1))
    notify.say()
    notify.reloading()
    first, status, reloading = manager.heard()
    assert first == ["READY=1", "STATUS=it\\nserves"]
    assert status == ["STATUS=" + "x" * MAX_STATUS_CHARS]
    assert reloading[0] == "RELOADING=1"
    assert reloading[1].removeprefix("MONOTONIC_USEC=").isdigit()


def test_an_abstract_address() -> None:
    manager = Manager(f"@zcluster-{secrets.token_hex(8)}")
    try:
        Notify({"NOTIFY_SOCKET": manager.address}).say("READY=1")
        assert manager.heard() == [["READY=1"]]
    finally:
        manager.socket.close()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"NOTIFY_SOCKET": ""},
        {"NOTIFY_SOCKET": "vsock:1:2", "WATCHDOG_USEC": "1000000"},
        {"WATCHDOG_USEC": "1000000"},
        {"NOTIFY_SOCKET": "/nobody/listens", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/nobody/listens", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
    ],
)
def test_what_is_not_for_this_process_does_nothing(environ: dict[str, str]) -> None:
    notify = Notify(environ)
    notify.say("READY=1")
    assert notify.watchdog_s == 0.0


def test_a_manager_that_does_not_read_holds_nothing_up(manager: Manager) -> None:
    notify = Notify({"NOTIFY_SOCKET": manager.address})
    for number in range(5000):
        notify.say(f"X={number}")
    assert 0 < len(manager.heard()) < 5000
    notify.say("READY=1")
    assert manager.heard() == [["READY=1"]]


def test_the_life_of_a_daemon(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    reloads: list[str] = []

    async def next_of(manager: Manager) -> list[list[str]]:
        loop, came = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(manager.socket.fileno(), came.set)
        await came.wait()
        loop.remove_reader(manager.socket.fileno())
        return manager.heard()

    async def main() -> None:
        lifetime = Lifetime(asyncio.get_running_loop(), lambda: reloads.append("now"))
        assert "NOTIFY_SOCKET" not in os.environ
        lifetime._reloaded()  # too early: kept until it is ready
        assert (reloads, manager.heard()) == ([], [])
        lifetime.ready("it serves")
        assert reloads == ["now"]
        first, fed, reloading, again = manager.heard()
        assert (first, fed, reloading[0], again) == (["READY=1", "STATUS=it serves"], ["WATCHDOG=1"], "RELOADING=1", ["READY=1"])
        for _ in range(2 * FEEDS):  # the loop feeds it
            assert (await next_of(manager))[0] == ["WATCHDOG=1"]
        os.kill(os.getpid(), signal.SIGHUP)
        while reloads == ["now"]:
            await next_of(manager)
        os.kill(os.getpid(), signal.SIGTERM)
        await lifetime.stopped()
        lifetime.stop()
        told = [lines for lines in manager.heard() if lines[0].startswith("STOPPING")]
        assert told == [["STOPPING=1", "STATUS=draining"]]

    asyncio.run(main())


def test_without_a_watchdog_it_is_not_fed(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)

    async def main() -> None:
        Lifetime(asyncio.get_running_loop(), lambda: None).ready("")

    asyncio.run(main())
    assert manager.heard() == [["READY=1"]]
