"""Redis streams as a measure: XADD, XREADGROUP and XACK by redis-py with hiredis, every write synced before it is answered.

Rules kept here:
- the server is Debian's redis-server on a unix socket, ``appendonly yes`` and ``appendfsync always``, without snapshots and
  rewrites, which only cost;
- the producer sends what waits as one pipeline when the last one is answered, on the event loop that zcluster's client runs on;
- the consumer reads what is there (up to BATCH entries), and writes the results and the acknowledgement as one pipeline: one that
  dies before leaves the entries pending, so it is at least once, as zcluster's jobs;
- a job is done when the producer has read its result from the stream of results.

``python -m zcluster.bench.redis_contender consumer|producer`` speaks the lines of :mod:`zcluster.bench.child`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from zcluster.bench.child import Ready, read_line, say_line
from zcluster.bench.loops import first_answer, run_loop
from zcluster.bench.queueloops import Wait, serve_jobs
from zcluster.errors import UsageError, ZClusterError

BATCH = 256
BLOCK_MS = 1000
JOBS, RESULTS, GROUP, CONSUMER = "bench:jobs", "bench:results", "bench", "one"
MAX_SOCKET_BYTES = 107
"""The longest path of a unix socket."""
SYSTEM_PATHS = "/usr/sbin:/usr/bin:/usr/local/bin"


class RedisConfig(msgspec.Struct, frozen=True):
    """The first line that a process gets."""

    socket: str
    """Path of the server's socket."""
    size_bytes: int = 0


def redis_server_path() -> str:
    """The path of redis-server; raises UsageError that says what to install when it or redis-py is missing."""
    path = shutil.which("redis-server", path=os.pathsep.join((os.environ.get("PATH", ""), SYSTEM_PATHS)))
    if path is None:
        raise UsageError("redis-server is not installed", hint="apt-get install redis-server")
    if importlib.util.find_spec("redis") is None:
        raise UsageError("redis-py is not installed", hint="pip install 'zcluster[bench]'")
    return path


def redis_config(socket: Path, directory: Path) -> str:
    """The configuration of a server whose files are in ``directory``. Raises UsageError for a place that it cannot have."""
    for path in (socket, directory):
        if any(letter.isspace() or letter in "\"'\\" for letter in str(path)):
            raise UsageError(f"redis-server cannot use {path}", hint="give --dir a path without spaces and quotes")
    if len(os.fsencode(socket)) > MAX_SOCKET_BYTES:
        raise UsageError(f"{socket} is too long for a socket", hint="set TMPDIR to a shorter path")
    lines = (
        "port 0", f"unixsocket {socket}", "unixsocketperm 700", f"dir {directory}",
        "appendonly yes", "appendfsync always", 'save ""', "auto-aof-rewrite-percentage 0",
    )  # fmt: skip
    return "".join(f"{line}\n" for line in lines)


def _consume(config: RedisConfig) -> None:
    import redis  # not a dependency of zcluster: only the contenders' processes need it

    client: Any = redis.Redis(unix_socket_path=config.socket, protocol=2)
    client.xgroup_create(JOBS, GROUP, id="0", mkstream=True)
    say_line(Ready())
    while True:
        for _stream, entries in client.xreadgroup(GROUP, CONSUMER, {JOBS: ">"}, count=BATCH, block=BLOCK_MS):
            pipeline = client.pipeline(transaction=False)
            for _entry, fields in entries:
                pipeline.xadd(RESULTS, fields)
            pipeline.xack(JOBS, GROUP, *(entry for entry, _fields in entries))
            pipeline.execute()


class Producer:
    """Submits jobs and reads their results; :meth:`send` and :meth:`read` have to run meanwhile.

    Args:
        sender: a client of redis.asyncio that writes.
        reader: another one, which waits for results.
        value: what each job carries.
    """

    def __init__(self, sender: Any, reader: Any, value: bytes) -> None:
        self._sender, self._reader, self._value = sender, reader, value
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._results: dict[int, asyncio.Future[bytes]] = {}
        self._wake = asyncio.Event()

    async def submit(self) -> Wait:
        """Adds a job; returns when the server has acknowledged it."""
        number, loop = next(self._numbers), asyncio.get_running_loop()
        # Its result may come before its acknowledgement, on the other connection.
        self._results[number] = result = loop.create_future()
        self._waiting[number] = accepted = loop.create_future()
        self._wake.set()
        await accepted
        return lambda: result

    async def send(self) -> None:
        """Sends what waits, again and again."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            waiting, self._waiting = self._waiting, {}
            pipeline = self._sender.pipeline(transaction=False)
            for number in waiting:
                pipeline.xadd(JOBS, {"n": number, "value": self._value})
            await pipeline.execute()
            for accepted in waiting.values():
                accepted.set_result(None)

    async def read(self) -> None:
        """Reads results, again and again."""
        last: bytes | str = "0"
        while True:
            for _stream, entries in await self._reader.xread({RESULTS: last}, count=BATCH, block=BLOCK_MS):
                last = entries[-1][0]
                for _entry, fields in entries:
                    self._resolve(fields)

    def _resolve(self, fields: Mapping[bytes, bytes]) -> None:
        result = self._results.pop(int(fields[b"n"]), None)
        if result is None:
            raise ZClusterError("a result of Redis belongs to no job", hint="run the bench again")
        result.set_result(fields[b"value"])


async def _produce(config: RedisConfig) -> None:
    from redis.asyncio import Redis

    value = b"x" * config.size_bytes
    sender, reader = (Redis(unix_socket_path=config.socket, protocol=2) for _ in range(2))
    producer = Producer(sender, reader, value)

    async def whole() -> object:
        return await (await producer.submit())()

    async with sender, reader, asyncio.TaskGroup() as group:
        tasks = [group.create_task(producer.send()), group.create_task(producer.read())]
        await first_answer(whole, value.__eq__)
        await serve_jobs(producer.submit, value.__eq__)
        for task in tasks:
            task.cancel()


def main() -> None:
    """``python -m zcluster.bench.redis_contender consumer|producer``."""
    config = read_line(RedisConfig)
    if config is None:
        return
    if sys.argv[1] == "consumer":
        _consume(config)
    else:
        run_loop(partial(_produce, config), open_loop=False)


if __name__ == "__main__":
    main()
