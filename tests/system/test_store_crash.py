"""A process that is killed while it commits: nothing that was acknowledged is lost, and nothing is half there."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from zcluster.store.linelog import LineLog
from zcluster.store.opening import open_store

CHILD = Path(__file__).with_name("killed_store.py")


def acknowledged(path: Path, tasks: int, lines: int) -> list[tuple[int, str, str, int]]:
    """What a child had acknowledged before it was killed, some time after it had acknowledged ``lines`` commits."""
    with subprocess.Popen([sys.executable, CHILD, path, str(tasks)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        out = b"".join(child.stdout.readline() for _ in range(lines))
        child.send_signal(signal.SIGKILL)
        out += child.stdout.read()
        assert child.wait() == -signal.SIGKILL
    found = [line.split() for line in out.decode().splitlines(keepends=True) if line.endswith("\n")]
    return [(int(revision), key, value, int(number)) for revision, key, value, number in found]


@pytest.mark.parametrize("tasks", [1, 32])
def test_nothing_acknowledged_is_lost_by_kill(tmp_path: Path, tasks: int) -> None:
    path = tmp_path / "store.db"
    told: list[tuple[int, str, str, int]] = []
    for round_ in range(3):
        new = acknowledged(path, tasks, 40 + 30 * round_)
        assert min(revision for revision, *_ in new) > max([revision for revision, *_ in told], default=0)
        assert min(number for *_, number in new) > max([number for *_, number in told], default=0)
        told += new
        asyncio.run(check(path, told))


async def check(path: Path, told: list[tuple[int, str, str, int]]) -> None:
    store = await open_store(path, digests=["groups/"])
    newest = {key: (revision, value) for revision, key, value, _ in told}
    entries = {entry.key: entry for entry in (await store.scan("")).entries}
    for key, (revision, value) in newest.items():
        # A later commit may have come that nobody was told of.
        assert entries[key].revision >= revision
        if entries[key].revision == revision:
            assert entries[key].value == value.encode()
    for key, entry in entries.items():
        if key.startswith("groups/"):
            twin = entries["twin" + key.removeprefix("groups")]
            assert (twin.value, twin.revision) == (entry.value, entry.revision)
    changes = {(change.revision, change.key): change.value for change in (await store.changes("groups/", 0))[0]}
    assert all(changes[revision, key] == value.encode() for revision, key, value, _ in told)
    digests, _ = await store.digests("groups/")
    await store.close()
    # Counted anew, they are the same.
    await (await open_store(path)).close()
    store = await open_store(path, digests=["groups/"])
    assert (await store.digests("groups/"))[0] == digests
    await store.close()
    log = await LineLog.open(path.parent / "log", segment_bytes=20_000, segments=1000)
    lines = {line["sequence"]: line for line in await log.read(0)}
    assert all((lines[number]["key"], lines[number]["value"]) == (key, value) for _, key, value, number in told)
    await log.close()
