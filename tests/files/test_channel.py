"""The line between a node's two processes: whole messages out of any pieces, and one end."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from zcluster.files.channel import COALESCE_BYTES, FRAME, FREE, IN_SLOT, LARGE, MAX_BYTES, NOTE, PREFIX, SESSION, SLOT, Channel
from zcluster.files.slots import COUNT, MIN_BYTES, SLOT_BYTES, Slots, make_shared


class End:
    """One end of a line, and what came there."""

    def __init__(self, sock: socket.socket, fd: int, *, first: bool) -> None:
        self.notes: list[dict[str, Any]] = []
        self.frames: list[tuple[int, bytes]] = []
        self.ends = 0
        self.channel = Channel(sock, Slots(fd, first=first), self.notes.append, self._frame, self._end)

    def _frame(self, session: int, frame: memoryview) -> None:
        self.frames.append((session, bytes(frame)))

    def _end(self) -> None:
        self.ends += 1


@pytest.fixture
def fd() -> Iterator[int]:
    made = make_shared()
    yield made
    os.close(made)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test(), 20)

    asyncio.run(bounded())


async def until(true: Callable[[], bool]) -> None:
    """Let the loop turn until something is so; :func:`run` bounds it."""
    while not true():  # noqa: ASYNC110 - the channel tells nobody that it has turned
        await asyncio.sleep(0)


def pair(fd: int) -> tuple[End, End]:
    one, other = socket.socketpair()
    return End(one, fd, first=True), End(other, fd, first=False)


def test_notes_and_frames_of_any_size_arrive_in_order(fd: int) -> None:
    async def main() -> None:
        one, other = pair(fd)
        sizes = [1, COALESCE_BYTES - SESSION.size, COALESCE_BYTES, SLOT_BYTES, SLOT_BYTES + 1, 9_000_000]
        for number, size in enumerate(sizes):
            one.channel.note(kind="n", number=number)
            one.channel.frame(2**63 + number, b"h", bytes([number]) * (size - 1))
        await until(lambda: len(other.frames) == len(sizes))
        assert [note["number"] for note in other.notes] == list(range(len(sizes)))
        assert other.frames == [(2**63 + number, b"h" + bytes([number]) * (size - 1)) for number, size in enumerate(sizes)]
        await until(lambda: not one.channel.backlog_bytes)
        one.channel.close()
        other.channel.close()

    run(main)


def test_what_the_other_end_does_not_read_waits_and_is_counted(fd: int) -> None:
    async def main() -> None:
        sock, silent = socket.socketpair()
        one = End(sock, fd, first=True)
        frame = bytes(2 * SLOT_BYTES)
        for _ in range(20):
            one.channel.frame(1, frame)
        waiting = one.channel.backlog_bytes
        assert 0 < waiting < 20 * (len(frame) + 100)
        one.channel.frame(1, frame)
        assert one.channel.backlog_bytes == waiting + len(frame) + PREFIX.size + SESSION.size
        other = End(silent, fd, first=False)
        await until(lambda: len(other.frames) == 21)
        assert one.channel.backlog_bytes == 0
        assert {data for _, data in other.frames} == {frame}
        other.channel.close()
        await until(lambda: one.ends == 1)

    run(main)


def test_a_message_may_come_byte_by_byte(fd: int) -> None:
    async def main() -> None:
        sock, raw = socket.socketpair()
        one = End(sock, fd, first=True)
        data = PREFIX.pack(10, NOTE) + b'{"kind":1}' + PREFIX.pack(SESSION.size + 2, FRAME) + SESSION.pack(5) + b"ab"
        for byte in data:
            raw.send(bytes([byte]))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await until(lambda: bool(one.frames))
        assert (one.notes, one.frames, one.ends) == ([{"kind": 1}], [(5, b"ab")], 0)
        one.channel.close()
        raw.close()

    run(main)


@pytest.mark.parametrize(
    "data",
    [
        PREFIX.pack(MAX_BYTES + 1, FRAME),
        PREFIX.pack(0, NOTE),
        PREFIX.pack(1, FREE + 1) + b"x",
        PREFIX.pack(3, NOTE) + b"{x}",
        PREFIX.pack(SESSION.size, FRAME) + SESSION.pack(1),
        PREFIX.pack(IN_SLOT.size, LARGE) + IN_SLOT.pack(1, COUNT, 100),
        PREFIX.pack(IN_SLOT.size, LARGE) + IN_SLOT.pack(1, 0, SLOT_BYTES + 1),
        PREFIX.pack(1, LARGE) + b"x",
        PREFIX.pack(SLOT.size, FREE) + SLOT.pack(COUNT),
        PREFIX.pack(1, FREE) + b"x",
    ],
)  # fmt: skip
def test_a_line_that_says_what_no_line_of_ours_says_ends(data: bytes, fd: int) -> None:
    async def main() -> None:
        sock, raw = socket.socketpair()
        one = End(sock, fd, first=True)
        raw.sendall(data + PREFIX.pack(2, NOTE) + b"{}")
        await until(lambda: one.ends > 0)
        assert (one.notes, one.frames, one.ends) == ([], [], 1)
        one.channel.note(kind="late")
        assert one.channel.backlog_bytes == 0
        raw.close()

    run(main)


def test_the_largest_message_is_waited_for(fd: int) -> None:
    async def main() -> None:
        sock, raw = socket.socketpair()
        one = End(sock, fd, first=True)
        raw.sendall(PREFIX.pack(MAX_BYTES, FRAME) + SESSION.pack(1))
        for _ in range(20):
            await asyncio.sleep(0)
        assert one.ends == 0
        one.channel.close()
        raw.close()

    run(main)


def test_the_end_is_told_once_and_not_for_our_own(fd: int) -> None:
    async def main() -> None:
        one, other = pair(fd)
        one.channel.close()
        one.channel.close()
        await until(lambda: other.ends == 1)
        other.channel.frame(1, b"late")
        other.channel.close()
        assert (one.ends, other.ends) == (0, 1)

    run(main)


def test_an_end_that_holds_reads_no_question_while_its_answers_wait(fd: int) -> None:
    async def main() -> None:
        sock, raw = socket.socketpair()
        hold_bytes = 20_000_000
        answered = 0

        def answer(session: int, frame: memoryview) -> None:
            nonlocal answered
            answered += 1
            channel.frame(session, bytes(3_000_000))

        ends: list[int] = []
        channel = Channel(sock, Slots(fd, first=True), lambda note: None, answer, lambda: ends.append(1), hold_bytes)
        raw.setblocking(False)
        raw.sendall((PREFIX.pack(SESSION.size + 1, FRAME) + SESSION.pack(1) + b"?") * 100)
        for _ in range(50):
            await asyncio.sleep(0)
        assert hold_bytes < channel.backlog_bytes <= hold_bytes + 3_000_100
        taken = 0
        while taken < 100 * (3_000_000 + PREFIX.size + SESSION.size):
            try:
                taken += len(raw.recv(1 << 20))
            except BlockingIOError:
                await asyncio.sleep(0)
            assert channel.backlog_bytes <= hold_bytes + 3_000_100
        assert (answered, channel.backlog_bytes, ends) == (100, 0, [])
        raw.close()
        await until(lambda: bool(ends))

    run(main)


def test_an_end_that_holds_hears_that_its_line_has_ended(fd: int) -> None:
    async def main() -> None:
        sock, raw = socket.socketpair()
        ends: list[int] = []
        answer = bytes(8_000_000)
        channel = Channel(
            sock, Slots(fd, first=True), lambda note: None, lambda session, frame: channel.frame(session, answer),
            lambda: ends.append(1), 1_000_000,
        )  # fmt: skip
        raw.sendall((PREFIX.pack(SESSION.size + 1, FRAME) + SESSION.pack(1) + b"?") * 3)
        await until(lambda: channel.backlog_bytes > 0)
        raw.close()
        await until(lambda: bool(ends))

    run(main)


class Keeper(End):
    """An end that keeps the views of what came."""

    def __init__(self, sock: socket.socket, fd: int) -> None:
        self.views: list[memoryview] = []
        super().__init__(sock, fd, first=False)

    def _frame(self, session: int, frame: memoryview) -> None:
        self.views.append(frame)
        self.frames.append((session, b""))


async def filled(fd: int, frames: int) -> tuple[End, Keeper, Slots]:
    """An end that has sent so many large frames, the one that has them all, and the slots of the first."""
    sock, other = socket.socketpair()
    slots = Slots(fd, first=True)
    one, keeper = End(sock, fd, first=True), Keeper(other, fd)
    one.channel._slots = slots
    for number in range(frames):
        one.channel.frame(number, bytes([number]) * MIN_BYTES)
    await until(lambda: len(keeper.views) == frames)
    return one, keeper, slots


def test_without_a_free_slot_large_frames_go_by_the_socket(fd: int) -> None:
    async def main() -> None:
        one, keeper, slots = await filled(fd, COUNT + 2)
        assert slots._free == []
        assert sorted(view[0] for view in keeper.views) == list(range(COUNT + 2))
        assert all(view == bytes([session]) * MIN_BYTES for (session, _), view in zip(keeper.frames, keeper.views, strict=True))
        one.channel.close()
        keeper.channel.close()

    run(main)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "on another thread"])
def test_a_slot_is_free_again_when_its_view_is_dropped(elsewhere: bool, fd: int) -> None:
    async def main() -> None:
        one, keeper, slots = await filled(fd, COUNT)
        one.channel.note(kind="after")
        await until(lambda: len(keeper.notes) == 1)
        assert slots._free == [], "its view is still there"
        if elsewhere:
            thread = threading.Thread(target=keeper.views.clear)
            thread.start()
            thread.join()
        else:
            keeper.views.clear()
        await until(lambda: len(slots._free) == COUNT)
        one.channel.frame(1, b"x" * MIN_BYTES)
        assert len(slots._free) == COUNT - 1
        await until(lambda: len(keeper.views) == 1)
        assert keeper.views == [b"x" * MIN_BYTES]
        assert (one.ends, keeper.ends) == (0, 0)
        one.channel.close()
        keeper.channel.close()

    run(main)


def test_a_view_that_outlives_its_line_or_its_loop_is_dropped_in_peace(fd: int) -> None:
    kept: list[memoryview] = []

    async def main() -> None:
        one, keeper, _ = await filled(fd, 2)
        kept.append(keeper.views.pop())
        keeper.channel.close()
        keeper.views.clear()
        await until(lambda: one.ends == 1)
        assert keeper.channel.backlog_bytes == 0

    run(main)
    thread = threading.Thread(target=kept.clear)
    thread.start()
    thread.join()
    assert kept == []


def test_a_slot_that_is_freed_twice_ends_the_line(fd: int) -> None:
    async def main() -> None:
        sock, raw = socket.socketpair()
        one = End(sock, fd, first=True)
        one.channel.frame(1, bytes(MIN_BYTES))
        (_, slot, _) = IN_SLOT.unpack(raw.recv(100)[PREFIX.size :])
        free = PREFIX.pack(SLOT.size, FREE) + SLOT.pack(slot)
        raw.sendall(free + PREFIX.pack(2, NOTE) + b"{}")
        await until(lambda: one.notes == [{}])
        assert one.ends == 0
        raw.sendall(free)
        await until(lambda: one.ends == 1)
        raw.close()

    run(main)
