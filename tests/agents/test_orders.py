"""What an agent does with SETTINGS."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from zcluster.agents.orders import Live, Orders, live_of
from zcluster.agents.shared import CONFIG_NAME, MAX_FILE_BYTES, SharedFiles, content_digest, shared_fault
from zcluster.agents.state import FILE, AgentState
from zcluster.core.agents.keeping import tree_digest
from zcluster.errors import PeerError
from zcluster.nodes.sampling import METRICS
from zcluster.wire.agents import Grab, Settings, Shared, SharedFile

LOGGER = logging.getLogger("test.agent")
PIECE = 10


class Host:
    """An agent's files and a node that gives them."""

    def __init__(self, place: Path) -> None:
        self.place = place / "files"
        self.files = SharedFiles(self.place)
        self.state = AgentState(place / "state", LOGGER)
        self.content: dict[str, bytes] = {}
        self.grabs: list[Grab] = []
        self.applied = asyncio.Event()
        self.wrong: bytes | None = None
        self.orders = Orders(self.files, self.state, LOGGER, self._grab, self.applied.set)

    def add(self, name: str, data: bytes) -> SharedFile:
        digest = content_digest(data)
        self.content[digest] = data
        return SharedFile(name, digest, len(data))

    def _grab(self, grab: Grab) -> None:
        self.grabs.append(grab)
        data = self.content.get(grab.digest)
        if data is None:
            reply, body = Shared(digest=grab.digest, offset=0, size=0, code="no_such_file"), b""
        else:
            reply = Shared(digest=grab.digest, offset=grab.offset, size=len(data))
            body = (self.wrong or data)[grab.offset : grab.offset + PIECE]
        asyncio.get_running_loop().call_soon(self.orders.shared, reply, body)

    async def done(self, settings: Settings) -> None:
        """Take the settings, and wait for all that follows."""
        self.orders.take(settings)
        await self.orders.finished()

    def names(self) -> list[str]:
        return sorted(path.name for path in self.place.iterdir())


def run(place: Path, test: Callable[[Host], Awaitable[None]]) -> None:
    async def main() -> None:
        host = Host(place)
        try:
            await test(host)
        finally:
            host.orders.stop()
            await host.orders.finished()
            await host.state.finish()
            host.files.close()

    asyncio.run(main())


@pytest.mark.parametrize("interval", [0.5, 3600, 7.25])
def test_an_interval_in_its_range_is_taken(interval: float) -> None:
    assert live_of({"interval": interval}) == (Live(interval=interval), [])


@pytest.mark.parametrize(
    "config",
    [
        {"interval": 0.49}, {"interval": 3601}, {"interval": "10"}, {"interval": True}, {"metrics": "cpu"}, {"metrics": ["no"]},
        {"metrics": [1]}, {"metrics": [["cpu"]]}, {"log_level": "loud"}, {"log_level": 1}, {"log_level": []},
    ],
)  # fmt: skip
def test_what_is_no_value_is_left_out_and_said(config: dict[str, Any]) -> None:
    live, faults = live_of({**config})
    assert live == Live()
    assert len(faults) == 1


def test_all_metrics_are_the_default() -> None:
    assert live_of({})[0].metrics == METRICS
    assert live_of({"metrics": []})[0].metrics == ()


def test_changes_are_logged_with_the_old_and_the_new_value(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(host: Host) -> None:
        await host.done(Settings(digest="d1", groups=["web"], config={"interval": 2.0, "metrics": ["cpu"]}))
        assert host.orders.live == Live(2.0, ("cpu",))
        assert (host.orders.digest, host.orders.groups) == ("d1", ["web"])
        caplog.clear()
        await host.done(Settings(digest="d2", groups=["web"], config={"interval": 5.0, "metrics": ["cpu"]}))

    with caplog.at_level(logging.INFO):
        run(tmp_path, test)
    said = [getattr(record, "fields", {}) for record in caplog.records if record.message == "configuration applied"]
    assert said == [{"setting": "interval", "old": 2.0, "new": 5.0}]


def test_files_are_brought_in_pieces_and_go_when_they_are_not_wanted(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        rules, empty = host.add("rules.txt", b"r" * (2 * PIECE + 1)), host.add("empty", b"")
        await host.done(Settings(digest="d1", files=[rules, empty]))
        assert host.names() == ["empty", "rules.txt"]
        assert (host.place / "rules.txt").read_bytes() == b"r" * (2 * PIECE + 1)
        assert [grab.offset for grab in host.grabs] == [0, PIECE, 2 * PIECE, 0]
        assert host.orders.tree == tree_digest([("rules.txt", rules.digest), ("empty", empty.digest)])
        (host.place / "its own").write_text("not the agent's")
        fresh = host.add("rules.txt", b"new")
        host.grabs.clear()
        await host.done(Settings(digest="d2", files=[fresh]))
        assert host.names() == ["its own", "rules.txt"]
        assert (host.place / "rules.txt").read_bytes() == b"new"
        assert len(host.grabs) == 1
        assert host.orders.held == {"rules.txt": fresh.digest}

    run(tmp_path, test)


def test_a_file_that_is_not_what_its_digest_says_is_not_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(host: Host) -> None:
        file = host.add("f", b"right")
        host.wrong = b"wrong"
        await host.done(Settings(digest="d1", files=[file]))
        assert host.names() == []
        assert host.orders.tree == ""

    run(tmp_path, test)
    assert "not what its digest says" in caplog.text


def test_a_file_that_the_node_does_not_have_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(host: Host) -> None:
        await host.done(Settings(digest="d1", files=[SharedFile("f", "0" * 64, 5)]))
        assert host.names() == []

    run(tmp_path, test)
    assert "no_such_file" in caplog.text


@pytest.mark.parametrize("name", ["../up", "a/b", "..", ".zcluster", "nul\0", "", CONFIG_NAME, "x" * 256])
def test_names_that_lead_elsewhere_are_not_taken(tmp_path: Path, name: str) -> None:
    assert shared_fault(name, 1)
    files = SharedFiles(tmp_path / "files")
    with pytest.raises(PeerError):
        files.write(name, content_digest(b"x"), b"x")
    assert list((tmp_path / "files").iterdir()) == []
    files.close()


def test_the_size_of_a_file_is_bounded() -> None:
    assert shared_fault("f", MAX_FILE_BYTES) == ""
    assert shared_fault("f", MAX_FILE_BYTES + 1)


def test_a_link_in_place_of_a_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        outside = tmp_path / "outside"
        outside.write_text("keep")
        (host.place / "f").symlink_to(outside)
        await host.done(Settings(digest="d1", files=[host.add("f", b"new")]))
        assert outside.read_text() == "keep"
        assert (host.place / "f").read_bytes() == b"new"
        assert not (host.place / "f").is_symlink()

    run(tmp_path, test)


def test_extra_is_written_for_the_host_s_programs(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        await host.done(Settings(digest="d1"))
        assert host.names() == []
        await host.done(Settings(digest="d2", config={"extra": {"proxy": "ü", "n": 1}}))
        assert json.loads((host.place / CONFIG_NAME).read_bytes()) == {"proxy": "ü", "n": 1}
        await host.done(Settings(digest="d3", config={}))
        assert json.loads((host.place / CONFIG_NAME).read_bytes()) == {}

    run(tmp_path, test)


def test_after_a_restart_only_what_is_still_right_is_held(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        await host.done(Settings(digest="d1", files=[host.add("a", b"a"), host.add("b", b"b")]))

    run(tmp_path, test)
    (tmp_path / "files" / "b").write_text("changed by somebody")
    kept = AgentState(tmp_path / "state", LOGGER).kept
    files = SharedFiles(tmp_path / "files")
    assert set(kept.files) == {"a", "b"}
    assert files.held(kept.files) == {"a": content_digest(b"a")}
    assert files.held({"../state/agent.json": "x", "gone": "y"}) == {}
    files.close()


def test_newer_settings_stop_older_ones(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        held_back = SharedFile("old", "f" * 64, 5)
        host.orders._grab = host.grabs.append
        host.orders.take(Settings(digest="d1", files=[held_back]))
        await asyncio.sleep(0)
        host.orders._grab = host._grab
        await host.done(Settings(digest="d2", files=[host.add("new", b"new")]))
        assert host.names() == ["new"]

    run(tmp_path, test)


def test_a_broken_state_is_begun_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE).write_text("{broken")
    state = AgentState(tmp_path, LOGGER)
    assert state.kept.epoch == 0
    assert "begun anew" in caplog.text
    state.close()


def test_a_state_that_cannot_be_kept_is_said_and_the_agent_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")

    async def main() -> None:
        state = AgentState(tmp_path / "file" / "below", LOGGER)
        state.kept.epoch = 5
        state.touch()
        await state.finish()

    asyncio.run(main())
    assert "keeps nothing over a restart" in caplog.text


def test_the_state_is_kept_over_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        state = AgentState(tmp_path, LOGGER)
        for epoch in (5, 6, 7):
            state.kept.epoch = epoch
            state.touch()
        await state.finish()

    asyncio.run(main())
    assert AgentState(tmp_path, LOGGER).kept.epoch == 7


def test_what_is_being_written_does_not_come_after_what_is_newer(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        begun, gate, write = asyncio.Event(), threading.Event(), host.files.write
        loop = asyncio.get_running_loop()

        def slow(name: str, digest: str, data: bytes) -> None:
            if data == b"old":
                loop.call_soon_threadsafe(begun.set)
                gate.wait(30)
            write(name, digest, data)

        host.files.write = slow  # type: ignore[method-assign]
        host.orders.take(Settings(digest="1", files=[host.add("f", b"old"), host.add("g", b"old")]))
        await begun.wait()
        fresh = host.add("f", b"new")
        host.orders.take(Settings(digest="2", files=[fresh]))
        for _ in range(20):
            await asyncio.sleep(0)
        gate.set()
        await host.orders.finished()
        assert (host.place / "f").read_bytes() == b"new"
        assert host.orders.held == {"f": fresh.digest}

    run(tmp_path, test)


def test_what_was_written_while_the_session_ended_is_known_and_goes_with_the_next_settings(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        begun, gate, write = asyncio.Event(), threading.Event(), host.files.write
        loop = asyncio.get_running_loop()

        def slow(name: str, digest: str, data: bytes) -> None:
            loop.call_soon_threadsafe(begun.set)
            gate.wait(30)
            write(name, digest, data)

        host.files.write = slow  # type: ignore[method-assign]
        host.orders.take(Settings(digest="1", files=[host.add("f", b"old")]))
        await begun.wait()
        host.orders.stop()
        gate.set()
        await host.done(Settings(digest="2"))
        assert host.names() == []
        assert host.orders.held == {}

    run(tmp_path, test)


def test_a_file_that_cannot_be_written_or_had_keeps_no_other_from_coming(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        (host.place / "a").mkdir()
        gone = host.add("b", b"gone")
        del host.content[gone.digest]
        files = [host.add("a", b"1"), gone, host.add("x" * 255, b"2"), host.add("z", b"3")]
        await host.done(Settings(digest="1", files=files))
        assert host.orders.held == {"x" * 255: files[2].digest, "z": files[3].digest}
        assert (host.place / ("x" * 255)).read_bytes() == b"2"

    run(tmp_path, test)
