"""The log of lines: numbers that are given once, crashes that tear the last line, rotation, faults of the disk."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from zcluster.errors import StoreFailed, TooLarge, UsageError
from zcluster.store import linefiles, linelog
from zcluster.store.linefiles import BLOCK, Segments
from zcluster.store.linelog import MAX_LINE_BYTES, MAX_READ, LineLog


def numbers(lines: Sequence[dict[str, Any]]) -> list[int]:
    return [line["sequence"] for line in lines]


def crash(log: LineLog) -> None:
    """What is left when the process is killed: nothing is closed in order."""
    assert log._waiting == 0, "the test flushes first"


async def filled(directory: Path, count: int, **more: Any) -> LineLog:
    log = await LineLog.open(directory, **more)
    for number in range(count):
        log.append({"event": "join", "n": number})
        if more:
            await log.flush()
    await log.flush()
    return log


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.log"))


def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let nothing be written until this is set."""
    go_on, write = threading.Event(), Segments.write

    def wait(self: Segments, lines: Any) -> None:
        go_on.wait()
        write(self, lines)

    monkeypatch.setattr(Segments, "write", wait)
    return go_on


def test_lines_have_numbers_at_once_and_come_back(tmp_path: Path) -> None:
    async def main() -> None:
        log = await LineLog.open(tmp_path / "log")
        assert (log.oldest, log.newest) == (1, 0)
        assert await log.read(0) == []
        assert [log.append({"event": name}) for name in ("join", "silent", "dead")] == [1, 2, 3]
        assert log.newest == 3
        assert await log.read(1) == [{"sequence": 2, "event": "silent"}, {"sequence": 3, "event": "dead"}]
        assert (await log.read(0, limit=1)) == [{"sequence": 1, "event": "join"}]
        assert await log.read(3) == []
        assert await log.read(99) == []
        await log.close()
        await log.close()
        with pytest.raises(UsageError, match="closed"):
            log.append({})
        with pytest.raises(UsageError, match="closed"):
            await log.flush()

    asyncio.run(main())


def test_a_log_goes_on_where_it_was_closed(tmp_path: Path) -> None:
    async def main() -> None:
        log = await filled(tmp_path, 3)
        id_ = log.id
        await log.close()
        again = await LineLog.open(tmp_path)
        assert (again.id, again.oldest, again.newest) == (id_, 1, 3)
        assert again.append({"n": "next"}) == 4
        assert numbers(await again.read(0)) == [1, 2, 3, 4]
        await again.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "torn", [b'{"sequence":4,"n', b'{"sequence":4}', b"\0" * 100, b'\xff\xfe\n{"seq', b'{"sequence":4,"n":\n', b""]
)
def test_a_torn_tail_is_cut_and_no_number_is_given_again(tmp_path: Path, torn: bytes) -> None:
    async def main() -> None:
        log = await filled(tmp_path, 3)
        crash(log)
        with segments(tmp_path)[-1].open("ab") as file:
            file.write(torn)
        again = await LineLog.open(tmp_path)
        assert again.id == log.id
        given = again.append({"n": "after"})
        assert 4 < given <= 3 + BLOCK + 1
        assert numbers(await again.read(0)) == [1, 2, 3, given]
        await again.close()

    asyncio.run(main())


def test_no_number_is_given_again_after_many_crashes(tmp_path: Path) -> None:
    async def main() -> None:
        seen: list[int] = []
        for _ in range(5):
            log = await LineLog.open(tmp_path)
            seen += [log.append({}), log.append({})]
            await log.flush()
            # These may be known to others already; the crash takes the lines.
            seen += [log.append({}), log.append({})]
            await log.flush()
            crash(log)
            path = segments(tmp_path)[-1]
            lines = path.read_bytes().splitlines(keepends=True)
            path.write_bytes(b"".join(lines[:-2]))
        assert len(set(seen)) == 20
        assert seen == sorted(seen)

    asyncio.run(main())


def test_a_log_whose_lines_were_all_lost_gives_new_numbers(tmp_path: Path) -> None:
    async def main() -> None:
        log = await filled(tmp_path, 3)
        crash(log)
        os.truncate(segments(tmp_path)[0], 0)
        again = await LineLog.open(tmp_path)
        assert segments(tmp_path) == []
        assert again.oldest == again.newest + 1
        assert again.append({}) > 3
        await again.close()

    asyncio.run(main())


def test_a_lost_ceiling_makes_another_log_above_the_old_numbers(tmp_path: Path) -> None:
    async def main() -> None:
        log = await filled(tmp_path, 3)
        await log.close()
        (tmp_path / "ceiling").write_text("broken\n")
        again = await LineLog.open(tmp_path)
        assert again.id != log.id
        assert again.append({}) == 4 + BLOCK
        assert numbers(await again.read(0)) == [1, 2, 3, 4 + BLOCK]
        await again.close()

    asyncio.run(main())


def test_old_segments_go(tmp_path: Path) -> None:
    async def main() -> None:
        log = await filled(tmp_path, 20, segment_bytes=100, segments=3)
        assert len(segments(tmp_path)) == 3
        kept = numbers(await log.read(0))
        assert kept == list(range(log.oldest, 21))
        assert 1 < log.oldest < 20
        for after in range(21):
            assert numbers(await log.read(after)) == [number for number in kept if number > after]
            assert numbers(await log.read(after, limit=2)) == [number for number in kept if number > after][:2]
        await log.close()
        again = await LineLog.open(tmp_path, segment_bytes=100, segments=3)
        assert (again.oldest, again.newest) == (kept[0], 20)
        await again.close()

    asyncio.run(main())


def test_one_segment_is_enough(tmp_path: Path) -> None:
    async def main() -> None:
        log = await filled(tmp_path, 10, segment_bytes=1, segments=1)
        assert numbers(await log.read(0)) == [10]
        assert log.oldest == 10
        await log.close()

    asyncio.run(main())


def test_a_broken_line_in_the_middle_is_passed_over(tmp_path: Path) -> None:
    async def main() -> None:
        log = await filled(tmp_path, 9)
        await log.close()
        path = segments(tmp_path)[0]
        lines = path.read_bytes().splitlines(keepends=True)
        lines[4] = b"x" * (len(lines[4]) - 1) + b"\n"
        path.write_bytes(b"".join(lines))
        again = await LineLog.open(tmp_path)
        assert numbers(await again.read(0)) == [1, 2, 3, 4, 6, 7, 8, 9]
        assert numbers(await again.read(6)) == [7, 8, 9]
        await again.close()

    asyncio.run(main())


def test_lines_and_reads_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        log = await LineLog.open(tmp_path)
        room = MAX_LINE_BYTES - len(b'{"sequence":1,"t":""}\n')
        assert log.append({"t": "x" * room}) == 1
        with pytest.raises(TooLarge, match=str(MAX_LINE_BYTES)):
            log.append({"t": "x" * (room + 1)})
        with pytest.raises(UsageError, match="sequence"):
            log.append({"sequence": 1})
        with pytest.raises(UsageError, match="JSON"):
            log.append({"t": object()})
        for limit in (0, MAX_READ + 1):
            with pytest.raises(UsageError, match=str(limit)):
                await log.read(0, limit=limit)
        log.append({})
        monkeypatch.setattr(linefiles, "MAX_READ_BYTES", MAX_LINE_BYTES - 1)
        assert numbers(await log.read(0)) == [1]
        await log.close()

    asyncio.run(main())


@pytest.mark.parametrize("limit", ["MAX_WAITING", "MAX_WAITING_BYTES"])
def test_what_may_wait_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    async def main() -> None:
        go_on = held(monkeypatch)
        monkeypatch.setattr(linelog, limit, {"MAX_WAITING": 3, "MAX_WAITING_BYTES": 3 * len(b'{"sequence":1}\n')}[limit])
        log = await LineLog.open(tmp_path)
        assert [log.append({}) for _ in range(4)] == [1, 2, 3, 0]
        assert (log.newest, log.lost) == (3, 1)
        go_on.set()
        await log.flush()
        assert log.append({}) == 4
        assert numbers(await log.read(0)) == [1, 2, 3, 4]
        await log.close()

    asyncio.run(main())


def test_a_full_disk_loses_lines_says_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        log = await filled(tmp_path, 2)
        write = os.write

        def full(fd: int, data: Any) -> int:
            write(fd, bytes(data[:5]))
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        assert log.append({}) == 3
        with pytest.raises(StoreFailed, match="No space") as caught:
            await log.flush()
        assert str(tmp_path) in caught.value.hint
        assert log.lost == 1
        monkeypatch.setattr(os, "write", write)
        assert log.append({}) == 4
        await log.flush()
        assert numbers(await log.read(0)) == [1, 2, 4]
        await log.close()

    asyncio.run(main())


def test_half_a_line_that_cannot_be_taken_back_ends_its_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        log = await filled(tmp_path, 2)
        write = os.write

        def torn(fd: int, data: Any) -> int:
            write(fd, bytes(data[:5]))
            raise OSError(errno.EIO, "Input/output error")

        def stuck(fd: int, size: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as broken:
            broken.setattr(os, "write", torn)
            broken.setattr(os, "ftruncate", stuck)
            log.append({})
            with pytest.raises(StoreFailed):
                await log.flush()
        assert log.append({}) == 4
        assert numbers(await log.read(0)) == [1, 2, 4]
        assert len(segments(tmp_path)) == 2
        await log.close()

    asyncio.run(main())


def test_no_number_is_given_beyond_the_ceiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(linefiles, "BLOCK", 4)
        go_on = held(monkeypatch)
        log = await LineLog.open(tmp_path)
        assert [log.append({}) for _ in range(6)] == [1, 2, 3, 4, 0, 0]
        assert log.lost == 2
        go_on.set()
        await log.flush()
        assert log.append({}) == 5
        await log.close()

    asyncio.run(main())


def test_a_directory_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreFailed, match="file"):
            await LineLog.open(tmp_path / "file")

    asyncio.run(main())
