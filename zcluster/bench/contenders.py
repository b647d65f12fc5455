"""The contenders of a bench, each a set of processes that is ready for rounds of load: zcluster, raw, nats.

Rules kept here:
- a contender is an async context manager; leaving it leaves no process;
- its roles are named alike (master, worker, client), so that figures stand side by side: what stands between the
  clients and the workers is the master, be it a plain ROUTER or a nats-server.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import zmq

from zcluster.bench import nats, raw
from zcluster.bench.child import Ready, RoundChild, last_line, start_process, stop_processes
from zcluster.bench.cluster import LocalCluster, free_ports
from zcluster.bench.load import LoadConfig
from zcluster.bench.rounds import Watched
from zcluster.errors import TimedOut

MASTER, WORKER, CLIENT = "master", "worker", "client"
READY_S = 30.0


async def start_clients(
    stack: AsyncExitStack, watched: Watched, count: int, module: Sequence[str], configs: Sequence[msgspec.Struct], logs: Path
) -> None:
    """Starts ``count`` loading processes (the configurations in turns) and waits until each is ready."""
    for number in range(count):
        child = RoundChild(f"bench client {number + 1}", module, logs / f"client-{number + 1}.log")
        stack.push_async_callback(child.stop)
        await child.start(configs[number % len(configs)])
        watched.clients.append(child)
        watched.pids.setdefault(CLIENT, []).append(child.pid)
    for child in watched.clients:
        await child.hear(Ready, READY_S)


@asynccontextmanager
async def zcluster_contender(
    config: LoadConfig, clients: int, cluster: LocalCluster | None, logs: Path
) -> AsyncIterator[Watched]:
    """zcluster: loading processes on ``cluster``, or on a running one whose processes are not watched when it is None."""
    watched = Watched()
    if cluster is not None:
        pids = cluster.pids
        watched.pids = {MASTER: [pids["master"]], WORKER: [pid for name, pid in pids.items() if name != "master"]}
    async with AsyncExitStack() as stack:
        await start_clients(stack, watched, clients, ["zcluster.bench.load"], [config], logs)
        yield watched


@asynccontextmanager
async def raw_contender(size_bytes: int, clients: int, workers: int, logs: Path) -> AsyncIterator[Watched]:
    """The plain pyzmq program, see :mod:`zcluster.bench.raw`."""
    public, secret = (key.decode() for key in zmq.curve_keypair())
    names = tuple(f"worker-{n}" for n in range(1, workers + 1))
    watched = Watched()
    async with AsyncExitStack() as stack:
        router = await _raw_child(stack, "router", raw.RawConfig(public, secret), logs)
        port = (await router.hear(Ready, READY_S)).port
        watched.pids = {MASTER: [router.pid], WORKER: []}
        for name in names:
            child = await _raw_child(stack, "worker", raw.RawConfig(public, port=port, workers=(name,)), logs)
            await child.hear(Ready, READY_S)
            watched.pids[WORKER].append(child.pid)
        config = raw.RawConfig(public, port=port, workers=names, size_bytes=size_bytes)
        await start_clients(stack, watched, clients, ["zcluster.bench.raw", "client"], [config], logs)
        yield watched


async def _raw_child(stack: AsyncExitStack, role: str, config: raw.RawConfig, logs: Path) -> RoundChild:
    child = RoundChild(f"raw {role}", ["zcluster.bench.raw", role], logs / f"raw-{role}.log", reads=False)
    stack.push_async_callback(child.stop)
    await child.start(config)
    return child


@asynccontextmanager
async def nats_contender(size_bytes: int, clients: int, workers: int, logs: Path, *, open_loop: bool) -> AsyncIterator[Watched]:
    """nats-server with nats-py, see :mod:`zcluster.bench.nats`."""
    [port] = free_ports(1)
    config_file, log = logs / "nats.conf", logs / "nats-server.log"
    config_file.write_text(nats.server_config(port))
    watched = Watched()
    async with AsyncExitStack() as stack:
        server = start_process([nats.server_path(), "-c", str(config_file)], log)
        stack.callback(stop_processes, [server])
        await _wait_listening(port, log)
        watched.pids = {MASTER: [server.pid], WORKER: []}
        configs = [nats.NatsConfig(port, f"bench.worker-{n}", size_bytes, open_loop) for n in range(1, workers + 1)]
        for config in configs:
            child = RoundChild("nats worker", ["zcluster.bench.nats", "worker"], logs / "nats-worker.log")
            stack.push_async_callback(child.stop)
            await child.start(config)
            await child.hear(Ready, READY_S)
            watched.pids[WORKER].append(child.pid)
        await start_clients(stack, watched, clients, ["zcluster.bench.nats", "client"], configs, logs)
        yield watched


async def _wait_listening(port: int, log: Path) -> None:
    deadline_s = time.monotonic() + READY_S
    while True:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        if time.monotonic() > deadline_s:
            raise TimedOut("nats-server does not listen", hint=last_line(log))
        await asyncio.sleep(0.02)


def echo_config(key: Path, target: str, size_bytes: int, timeout_s: float, **more: Any) -> LoadConfig:
    """The load of an echo of ``size_bytes``; ``more`` as in LoadConfig."""
    return LoadConfig(
        key=str(key), function="echo", arguments=None, size_bytes=size_bytes, target=target, timeout_s=timeout_s, **more
    )
