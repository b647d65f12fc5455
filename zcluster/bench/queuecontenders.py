"""The contenders of ``bench queue``, each a set of processes that is ready for rounds of jobs: zcluster, sqlite, celery, redis.

Rules kept here:
- a contender is an async context manager; leaving it leaves no process;
- the files of all are on the same file system, in the directory of the bench;
- roles are named alike: the process that has the disk is the master (a redis-server, the plain loop's only process), what
  runs a job is the worker, what submits it and waits is the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]

from zcluster.bench.celery_contender import WORKERS, check_celery
from zcluster.bench.child import Ready, RoundChild, last_line, start_process, stop_processes
from zcluster.bench.cluster import LocalCluster
from zcluster.bench.contenders import CLIENT, MASTER, READY_S, WORKER
from zcluster.bench.queueload import QueueLoadConfig
from zcluster.bench.queuerounds import QueueWatched
from zcluster.bench.redis_contender import RedisConfig, redis_config, redis_server_path
from zcluster.bench.sqlite_contender import SqliteConfig
from zcluster.clients import AsyncClient
from zcluster.errors import TimedOut

ZCLUSTER, SQLITE, CELERY, REDIS = "zcluster", "sqlite", "celery", "redis"
OTHERS = (SQLITE, CELERY, REDIS)
TIMEOUT_S = 30.0
FIRST_S = 60.0
"""How long a loading process may take until its first job is done."""
POLL_S = 0.02

Contend = Callable[[Path, int], AbstractAsyncContextManager[QueueWatched]]
"""Makes a contender: its directory, the size of a job's value."""


def check_installed(names: Sequence[str]) -> None:
    """Raises UsageError that says what to install when a contender lacks something."""
    if CELERY in names:
        check_celery()
    if REDIS in names:
        redis_server_path()


async def _loader(stack: AsyncExitStack, name: str, module: Sequence[str], config: msgspec.Struct, directory: Path) -> RoundChild:
    child = await _child(stack, f"{name} client", module, config, directory)
    await child.hear(Ready, FIRST_S)
    return child


async def _child(
    stack: AsyncExitStack, name: str, module: Sequence[str], config: msgspec.Struct, directory: Path, *, reads: bool = True
) -> RoundChild:
    child = RoundChild(name, module, directory / f"{name.replace(' ', '-')}.log", reads=reads)
    stack.push_async_callback(child.stop)
    await child.start(config)
    return child


@asynccontextmanager
async def zcluster_queue(directory: Path, size_bytes: int) -> AsyncIterator[QueueWatched]:
    """A master, a worker, and a client process."""
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(LocalCluster(1, cluster_name="bench", parent=directory))
        config = QueueLoadConfig(str(cluster.client_key), size_bytes, TIMEOUT_S)
        loader = await _loader(stack, ZCLUSTER, ["zcluster.bench.queueload"], config, directory)
        pids = {MASTER: [cluster.pids[MASTER]], WORKER: [cluster.pids["worker-1"]], CLIENT: [loader.pid]}
        asking = await stack.enter_async_context(AsyncClient(key=cluster.admin_key, timeout=TIMEOUT_S))

        async def commits() -> int:
            return int((await asking.queue.stats())["commits"])

        yield QueueWatched(loader, directory, pids, commits)


@asynccontextmanager
async def sqlite_queue(directory: Path, size_bytes: int) -> AsyncIterator[QueueWatched]:
    """The plain loop, see :mod:`zcluster.bench.sqlite_contender`."""
    async with AsyncExitStack() as stack:
        config = SqliteConfig(str(directory / "plain.db"), size_bytes)
        loader = await _loader(stack, SQLITE, ["zcluster.bench.sqlite_contender"], config, directory)
        yield QueueWatched(loader, directory, {MASTER: [loader.pid]}, one_commit=True)


@asynccontextmanager
async def redis_queue(directory: Path, size_bytes: int) -> AsyncIterator[QueueWatched]:
    """Redis streams, see :mod:`zcluster.bench.redis_contender`."""
    module = "zcluster.bench.redis_contender"
    async with AsyncExitStack() as stack:
        server, config = await _redis_server(stack, directory, size_bytes)
        consumer = await _child(stack, "redis consumer", [module, "consumer"], config, directory, reads=False)
        await consumer.hear(Ready, READY_S)
        loader = await _loader(stack, REDIS, [module, "producer"], config, directory)
        yield QueueWatched(loader, directory, {MASTER: [server], WORKER: [consumer.pid], CLIENT: [loader.pid]})


@asynccontextmanager
async def celery_queue(directory: Path, size_bytes: int) -> AsyncIterator[QueueWatched]:
    """Celery with Redis, see :mod:`zcluster.bench.celery_contender`."""
    module = "zcluster.bench.celery_contender"
    async with AsyncExitStack() as stack:
        server, config = await _redis_server(stack, directory, size_bytes)
        workers = [await _celery_worker(stack, name, config, directory) for name in WORKERS]
        loader = await _loader(stack, CELERY, [module, "client"], config, directory)
        pools = [child.pid for worker in workers for child in psutil.Process(worker).children(recursive=True)]
        yield QueueWatched(loader, directory, {MASTER: [server], WORKER: [*workers, *pools], CLIENT: [loader.pid]})


async def _celery_worker(stack: AsyncExitStack, name: str, config: RedisConfig, directory: Path) -> int:
    module = ["zcluster.bench.celery_contender", "worker", name]
    worker = await _child(stack, f"celery {name}", module, config, directory, reads=False)
    # Leaves after the worker itself: its pool would outlive a worker that had to be killed.
    stack.callback(_end_group, worker.pid)
    stack.push_async_callback(worker.stop)
    return worker.pid


def _end_group(pid: int) -> None:
    """Kills what is left of the session that a child of ours has led."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


async def _redis_server(stack: AsyncExitStack, directory: Path, size_bytes: int) -> tuple[int, RedisConfig]:
    """Starts a server; returns its process id and what its clients are told."""
    # A socket's path has to be short, which --dir need not be.
    short = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zcluster-redis-")))
    socket, config_file, log = short / "socket", directory / "redis.conf", directory / "redis-server.log"
    config_file.write_text(redis_config(socket, directory))
    server = start_process([redis_server_path(), str(config_file)], log)
    stack.callback(stop_processes, [server])
    deadline_s = time.monotonic() + READY_S
    while not socket.is_socket():
        if server.poll() is not None or time.monotonic() > deadline_s:
            raise TimedOut("redis-server does not listen", hint=last_line(log))
        await asyncio.sleep(POLL_S)
    return server.pid, RedisConfig(str(socket), size_bytes)


CONTENDERS: dict[str, Contend] = {ZCLUSTER: zcluster_queue, SQLITE: sqlite_queue, CELERY: celery_queue, REDIS: redis_queue}
