"""What tests of agents' faults share: books of agents written and read beside their nodes, agents' processes, hostile peers.

Rules kept here:
- a book is written only while its node is stopped, and read from a copy, so that no test is in a node's way;
- a hostile peer is a raw DEALER with an admitted key, which says what it likes.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import zmq
from waiting import PATIENCE_S, eventually

from zcluster import wire
from zcluster.bench.child import child_environment, start_process
from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient
from zcluster.config import Home
from zcluster.core.agents.row import Row
from zcluster.keys import KeyFile
from zcluster.store.book_opening import open_book
from zcluster.wire.agents import Rows

LIMITS = wire.WireLimits()
BEAT_S = 0.15
PUT_ROWS = 5_000

# -- books ----------------------------------------------------------------------------------------------------------------


def data_of(cluster: LocalCluster, node: str) -> Path:
    """The directory with the databases of a node."""
    data = Home.of(cluster.home).data_dir
    return data / "node" if node == "master" else data / "nodes" / node


async def write_book(cluster: LocalCluster, node: str, rows: Sequence[Row]) -> None:
    """Put rows into the book of a worker that does not run."""
    book = await open_book(data_of(cluster, node) / "agents.db")
    try:
        for start in range(0, len(rows), PUT_ROWS):
            await book.put(rows[start : start + PUT_ROWS])
    finally:
        await book.close()


def some_rows(node: str, count: int, pad_chars: int = 250) -> list[Row]:
    """Rows of agents that programs reported at ``node``."""
    now_ms = int(time.time() * 1000)
    return [
        Row(
            id=f"{node}.{number:05}", name=f"host {number}", node=node, status="active", epoch=now_ms, held="report",
            first_seen=1.0, last_seen=now_ms / 1000,
            labels={"number": str(number), "pad": "p" * pad_chars, "more": "m" * pad_chars},
        )
        for number in range(count)
    ]  # fmt: skip


@dataclass(frozen=True)
class BookCopy:
    """What was in a book."""

    rows: dict[str, tuple[str, str]]
    """Node and status of each agent."""
    cursors: dict[str, int]


def read_book(cluster: LocalCluster, node: str) -> BookCopy:
    """What is in the book of a node that does not run."""
    with tempfile.TemporaryDirectory() as place:
        for path in data_of(cluster, node).glob("agents.db*"):
            shutil.copy(path, place)
        connection = sqlite3.connect(Path(place) / "agents.db")
        rows = {id_: (its_node, status) for id_, its_node, status in connection.execute("SELECT id, node, status FROM agents")}
        cursors = dict(connection.execute("SELECT node, upto FROM cursors"))
        connection.close()
    return BookCopy(rows, cursors)


# -- what the master knows --------------------------------------------------------------------------------------------------


async def known(client: AsyncClient, where: str = "", select: Sequence[str] = ("id", "node", "status")) -> dict[str, Any]:
    """The agents that the master knows, all of them, by id."""
    found: dict[str, Any] = {}
    cursor: str | None = ""
    while cursor is not None:
        page = await client.agents.list(where, select=[*select], limit=10_000, cursor=cursor, timeout=PATIENCE_S)
        for row in page["items"]:
            assert row["id"] not in found, f"{row['id']} is there twice"
            found[row["id"]] = row
        cursor = page["next"]
    return found


async def count_at(client: AsyncClient, node: str) -> int:
    """How many agents the master knows at a node."""
    return int((await client.agents.count(f"node={node}"))["total"])


async def agent_is(client: AsyncClient, id_: str, **wanted: Any) -> dict[str, Any]:
    """Wait until the master knows these fields of the agent; its row."""

    async def check() -> dict[str, Any] | None:
        row = await client.agents.show(id_)
        return row if all(row[name] == value for name, value in wanted.items()) else None

    return dict(await eventually(check, f"{id_} is {wanted}"))


async def events(client: AsyncClient, after: int, *names: str) -> list[dict[str, Any]]:
    """The events of these names since the one with the number ``after``."""
    return [event async for event in client.events(after, names=names, follow=False)]


async def newest_event(client: AsyncClient) -> int:
    """The number of the newest event."""
    return max([event["sequence"] async for event in client.events(follow=False)], default=0)


# -- processes --------------------------------------------------------------------------------------------------------------


def start_agent(cluster: LocalCluster, directory: Path, name: str, *words: str) -> subprocess.Popen[bytes]:
    """A process ``zcluster agent`` with the key of ``name``."""
    key = cluster.key_file(name) if cluster.key_file(name).exists() else cluster.new_key(name, "agent")
    command = [sys.executable, "-m", "zcluster", "agent", "--key", str(key), "--home", str(directory / name), *words]
    return start_process(command, directory / f"{name}.log")


def zcluster(cluster: LocalCluster, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """One run of the command."""
    command = [sys.executable, "-m", "zcluster", *words]
    environment = {**child_environment(), "ZCLUSTER_HOME": str(cluster.home)}
    return subprocess.run(command, env=environment, capture_output=True, timeout=2 * PATIENCE_S, input=stdin)


# -- hostile peers ------------------------------------------------------------------------------------------------------------


class Raw:
    """A key and a socket; it beats while it waits. For one thread."""

    def __init__(self, key_path: Path, *, epoch: int = 0) -> None:
        key = KeyFile.read(key_path)
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDTIMEO, int(PATIENCE_S * 1000))
        self.socket.curve_publickey = key.pair.public.encode()
        self.socket.curve_secretkey = key.pair.secret.encode()
        self.socket.curve_serverkey = key.master_public.encode()
        self.socket.connect(key.addresses[0])
        self.send(wire.Hello(versions=[1], instance="hostile", epoch=epoch, parts=["agents"]))
        self.wait_for(wire.Welcome)

    def send(self, message: wire.Message, body: bytes = b"") -> None:
        self.socket.send(wire.encode(message) + body)

    def send_header(self, kind: int, header: bytes, body: bytes = b"") -> None:
        """A frame whose header is any bytes."""
        frame = wire.encode(wire.Beat())
        self.socket.send(frame[:2] + bytes([kind]) + frame[3:4] + len(header).to_bytes(4, "big") + header + body)

    def wait_for(self, *kinds: type[Any], wait_s: float = PATIENCE_S) -> Any:
        """The next message of one of these kinds, all others thrown away."""
        found = self.maybe(*kinds, wait_s=wait_s)
        assert found is not None, f"none of {[kind.__name__ for kind in kinds]} came"
        return found

    def maybe(self, *kinds: type[Any], wait_s: float) -> Any:
        """As wait_for; None when none comes in time."""
        deadline_s = time.monotonic() + wait_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            if self.socket.poll(int(min(left_s, BEAT_S) * 1000) + 1):
                message, _ = wire.decode(self.socket.recv(), LIMITS)
                if isinstance(message, kinds):
                    return message
            else:
                self.send(wire.Beat())
        return None

    def close(self) -> None:
        self.socket.close()
        self.context.term()


def row_of(id_: str, *, op: str = "put", epoch: int = 1, held: str = "report", **fields: Any) -> list[Any]:
    """One row as it travels."""
    return [id_, op, epoch, held, {"status": "active", **fields}]


def chunk(
    base: int, upto: int, rows: Iterable[Any], *, source: str = "book", more: bool = False, body: bytes | None = None,
    said: Mapping[str, Any] | None = None,
) -> tuple[Rows, bytes]:  # fmt: skip
    """ROWS and its body; ``said`` is what it says wrongly of itself."""
    listed = [*rows]
    packed = msgspec.json.encode(listed) if body is None else body
    fields = {
        "source": source, "base": base, "upto": upto, "count": len(listed), "more": more, "raw_bytes": len(packed),
        **(said or {}),
    }  # fmt: skip
    return Rows(**fields), packed
