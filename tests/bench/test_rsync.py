"""rsync as a contender: what it is told, what is read of it, and real pushes where it is installed."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from zcluster.bench import rsync
from zcluster.bench.rsync import (
    FSYNC,
    PLAIN,
    SYSTEM_PATHS,
    TLS,
    Rsync,
    check_installed,
    daemon_config,
    stunnel_config,
    total_bytes,
)
from zcluster.bench.trees import SourceTree, check_same
from zcluster.errors import TimedOut, UsageError, ZClusterError


@pytest.fixture
def installed() -> None:
    """Skips on a laptop without rsync and stunnel4; in CI, where they are to be installed, that is a failure."""
    missing = [name for name in rsync.PACKAGES if shutil.which(name, path=SYSTEM_PATHS) is None]
    if missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"not installed: {', '.join(missing)}")


@pytest.fixture
def source(tmp_path: Path) -> SourceTree:
    made = SourceTree(tmp_path / "source", tmp_path / "beside", 30, 500)
    made.prepare()
    made.show()
    return made


def test_the_totals_are_read_from_the_stats() -> None:
    assert total_bytes("x\nTotal bytes sent: 1234\nTotal bytes received: 66\n") == 1300
    assert total_bytes("Total bytes sent: 41,123,456\nTotal bytes received: 1.000\n") == 41_124_456
    for stats in ("", "Total bytes sent: 12\n", "Total bytes sent: many\nTotal bytes received: 1\n"):
        with pytest.raises(ZClusterError, match="how many bytes"):
            total_bytes(stats)


def test_a_daemon_of_root_serves_as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {"one": Path("/a/one"), "two": Path("/a/two")}
    monkeypatch.setattr("zcluster.bench.rsync.os.geteuid", lambda: 1000)
    text = daemon_config(modules)
    assert "uid" not in text
    assert text.index("use chroot = no") < text.index("[one]\npath = /a/one\nread only = no") < text.index("[two]")
    monkeypatch.setattr("zcluster.bench.rsync.os.geteuid", lambda: 0)
    assert daemon_config(modules).index("uid = 0\ngid = 0") < daemon_config(modules).index("[one]")


def test_the_client_admits_the_daemons_certificate_alone() -> None:
    server, client = (stunnel_config(1, 2, Path("/c.pem"), key) for key in (Path("/k.pem"), None))
    assert "key = /k.pem" in server
    assert "client = yes" not in server
    assert "verifyPeer = yes\nCAfile = /c.pem" in client
    assert "key =" not in client
    assert "accept = 127.0.0.1:1\nconnect = 127.0.0.1:2" in client


@pytest.mark.parametrize(("way", "missing"), [(PLAIN, "rsync"), (FSYNC, "rsync"), (TLS, "stunnel4"), (TLS, "openssl")])
def test_what_is_not_installed_is_named_with_its_package(way: str, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcluster.bench.rsync.shutil.which", lambda name, path: None if name == missing else f"/usr/bin/{name}")
    with pytest.raises(UsageError, match=f"{missing} is not installed") as caught:
        check_installed([way])
    assert caught.value.hint == f"apt-get install {missing}"


def test_without_tls_no_stunnel_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcluster.bench.rsync.shutil.which", lambda name, path: "/usr/bin/rsync" if name == "rsync" else None)
    check_installed([PLAIN, FSYNC])


def in_way(way: str, directory: Path, targets: int, use: Callable[[Rsync], Awaitable[None]]) -> list[int]:
    """Runs ``use`` with a contender; returns the processes that it has left."""
    before = set(psutil.Process().children(recursive=True))

    async def main() -> None:
        async with Rsync(directory, way, targets) as contender:
            await use(contender)

    asyncio.run(main())
    return [process.pid for process in set(psutil.Process().children(recursive=True)) - before]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("way", [PLAIN, FSYNC, TLS])
def test_every_target_gets_everything_and_later_only_what_changed(way: str, tmp_path: Path, source: SourceTree) -> None:
    async def use(contender: Rsync) -> None:
        first = await contender.push(source.data)
        check_same(source.data, contender.copies)
        assert len(contender.copies) == 2
        assert first.wire_bytes is not None
        assert first.wire_bytes > 2 * 30 * 500
        assert first.seconds > 0
        assert set(first.cpu_s) == {"master", "worker"}
        source.apply(source.prepare_changes(3))
        source.file(4).unlink()
        second = await contender.push(source.data)
        check_same(source.data, contender.copies)
        assert second.wire_bytes is not None
        assert 2 * 3 * 500 < second.wire_bytes < first.wire_bytes
        await contender.clear()
        assert [list(path.iterdir()) for path in contender.copies.values()] == [[], []]

    assert in_way(way, tmp_path / "contender", 2, use) == []
    assert not (tmp_path / "contender").exists()


@pytest.mark.usefixtures("installed")
def test_a_push_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    async def use(contender: Rsync) -> None:
        with pytest.raises(ZClusterError, match="exit code 23") as caught:
            await contender.push(tmp_path / "missing")
        assert "missing" in caught.value.hint

    assert in_way(PLAIN, tmp_path / "contender", 1, use) == []


@pytest.mark.usefixtures("installed")
def test_a_push_that_takes_too_long_is_ended(tmp_path: Path, source: SourceTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rsync, "RUN_S", 0.0)

    async def use(contender: Rsync) -> None:
        with pytest.raises(TimedOut):
            await contender.push(source.data)

    assert in_way(PLAIN, tmp_path / "contender", 1, use) == []


def test_a_daemon_that_does_not_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rsync, "program_path", lambda _name: "/bin/false")

    async def use(_contender: Rsync) -> None:
        raise AssertionError("it cannot be up")

    with pytest.raises(ZClusterError, match="rsync ended with exit code 1"):
        in_way(PLAIN, tmp_path / "contender", 1, use)
    assert not (tmp_path / "contender").exists()
