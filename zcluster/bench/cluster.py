"""A whole cluster on this machine for a while: one master, some workers, each its own process, encrypted as always.

Rules kept here:
- everything lives in one new directory (0700), under ports of 127.0.0.1 that are free; nothing outside is touched;
- entering returns when all nodes are ready, or raises with the last words of the one that is not;
- leaving stops every process and removes the directory, whatever happened within; the kernel stops them if we are killed;
- a node that ended by itself is found while waiting, not after a timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from zcluster.bench.child import STOP_S, last_line, log_tail, start_process, stop_processes
from zcluster.clients import AsyncClient
from zcluster.config import Home
from zcluster.errors import (
    Draining,
    MasterLost,
    NodeLost,
    NodeUnavailable,
    NoSuchNode,
    TimedOut,
    Unreachable,
    UsageError,
    ZClusterError,
)
from zcluster.keys import init_home, new_key

MASTER = "master"
CLIENT = "client"
READY_S = 20.0
POLL_S = 0.02
LOG_LIMIT_BYTES = 1024 * 1024
_NOT_YET = (Draining, MasterLost, NodeLost, NodeUnavailable, NoSuchNode, TimedOut, Unreachable)
"""Errors that pass while nodes start."""
FIRST_PORT, LAST_PORT = 20_000, 32_700
"""Below the range from which the kernel takes ports for connections: a port found free here stays free."""


def free_ports(count: int) -> list[int]:
    """``count`` different ports of 127.0.0.1 on which nothing listens now."""
    found: list[int] = []
    for _ in range(1000 * count):
        if len(found) == count:
            return found
        port = FIRST_PORT + secrets.randbelow(LAST_PORT - FIRST_PORT)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    raise ZClusterError("no free port on 127.0.0.1", hint=f"free some of {FIRST_PORT}-{LAST_PORT}")


class LocalCluster:
    """One master and ``workers`` workers (worker-1, worker-2, …) as processes of this machine.

    Use it as ``async with`` or, outside an event loop, as ``with``: both start the nodes, wait until they are ready, and
    clean up at the end. The methods that are coroutines work in both forms (``asyncio.run(cluster.restart_worker(...))``).
    The thread that starts a node has to live as long as the node.

    Args:
        workers: how many workers to start; 0 is allowed.
        cluster_name: the cluster's name.
        functions: modules of functions that every worker loads, as for ``zcluster worker --functions``.
        settings: settings of all nodes, as {"session.heartbeat_s": 0.5}.
        ready_s: how long the nodes may take to be ready, at the start and after a restart.
        config: TOML that is added to the end of the home's zcluster.toml, such as ``[[sync.tree]]`` tables.
        parent: the directory in which the cluster's own is made; None: the system's for temporary files.
    """

    def __init__(
        self,
        workers: int = 1,
        *,
        cluster_name: str = "local",
        functions: Sequence[str] = (),
        settings: Mapping[str, object] | None = None,
        ready_s: float = READY_S,
        config: str = "",
        parent: Path | None = None,
    ) -> None:
        if workers < 0:
            raise UsageError(f"a cluster has 0 or more workers, not {workers}")
        self.worker_names: tuple[str, ...] = tuple(f"worker-{n}" for n in range(1, workers + 1))
        self._cluster_name = cluster_name
        self._functions = tuple(functions)
        self._environment = {f"ZCLUSTER_{k.upper().replace('.', '__')}": str(v) for k, v in (settings or {}).items()}
        self._ready_s = ready_s
        self._config = config
        self._parent = parent
        self._directory: Path | None = None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.address = ""
        """The address of the master's front, tcp://127.0.0.1:PORT."""
        self.publish_address = ""

    # -- where things are

    @property
    def home(self) -> Path:
        """The home of all its nodes."""
        if self._directory is None:
            raise UsageError("the cluster is not started", hint="use it as `async with LocalCluster() as cluster:`")
        return self._directory / "home"

    @property
    def client_key(self) -> Path:
        """The key file of a client."""
        return self.key_file(CLIENT)

    @property
    def admin_key(self) -> Path:
        """The key file of the administrator."""
        return self.key_file("admin")

    def key_file(self, name: str) -> Path:
        """The key file of ``name``."""
        return Home.of(self.home).key_file(name)

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by node name, of the processes that run (a stopped one runs)."""
        return {name: process.pid for name, process in self._processes.items() if process.poll() is None}

    def logs(self, name: str) -> str:
        """The end of what the node has printed, all its starts together."""
        self._process(name)
        return log_tail(self._log(name), LOG_LIMIT_BYTES)

    # -- start and stop

    async def __aenter__(self) -> LocalCluster:
        try:
            self._start_all()
            await self.wait_ready(*self.pids)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(self.close))
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # In a thread, so that the caller's clients can say good-bye meanwhile; shielded, so that Ctrl-C cannot leave
        # processes behind.
        await asyncio.shield(asyncio.to_thread(self.close))

    def __enter__(self) -> LocalCluster:
        try:
            self._start_all()
            asyncio.run(self.wait_ready(*self.pids))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stops all nodes, workers first, and removes the directory. Blocks; may be called again."""
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
        workers = [process for name, process in self._processes.items() if name != MASTER]
        stop_processes(workers)
        stop_processes([process for name, process in self._processes.items() if name == MASTER])
        self._processes.clear()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def _start_all(self) -> None:
        if self._directory is not None:
            raise UsageError("the cluster is already started")
        self._directory = Path(tempfile.mkdtemp(prefix="zcluster-", dir=self._parent))
        front, publish = free_ports(2)
        self.address, self.publish_address = f"tcp://127.0.0.1:{front}", f"tcp://127.0.0.1:{publish}"
        init_home(self.home, self._cluster_name, MASTER, (self.address,), (self.publish_address,))
        if self._config:
            with Home.of(self.home).config_file.open("a", encoding="utf-8") as file:
                file.write(f"\n{self._config}")
        self.new_key(CLIENT, "client")
        self.start_master()
        for name in self.worker_names:
            self.new_key(name, "worker")
            self.start_worker(name)

    def new_key(self, name: str, role: str) -> Path:
        """Makes a key of this cluster and admits it; returns its file."""
        return new_key(self.home, name, role)[1]

    def start_master(self, environment: Mapping[str, str] | None = None) -> None:
        """Starts the master's process; does not wait. Raises UsageError when it runs.

        Args:
            environment: variables for this start alone.
        """
        command = ["master", "--home", str(self.home), "--bind", self.address, "--publish", self.publish_address]
        self._start(MASTER, command, environment)

    def start_worker(self, name: str, environment: Mapping[str, str] | None = None) -> None:
        """Starts a worker's process; does not wait. The name needs a key (see :meth:`new_key`).

        Args:
            name: the worker's.
            environment: variables for this start alone.
        """
        functions = [word for module in self._functions for word in ("--functions", module)]
        self._start(name, ["worker", "--home", str(self.home), "--name", name, *functions], environment)

    def _start(self, name: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        if name in self.pids:
            raise UsageError(f"{name} already runs", hint="kill() or terminate() it first")
        command = [sys.executable, "-m", "zcluster", *arguments]
        self._processes[name] = start_process(command, self._log(name), {**self._environment, **(environment or {})})

    # -- what tests and the demo do to it

    def kill(self, name: str, signal_number: int = signal.SIGKILL) -> None:
        """Sends a signal to a node's process; SIGKILL and SIGTERM do not wait for its end."""
        self._process(name).send_signal(signal_number)

    async def terminate(self, name: str) -> int:
        """SIGTERM, then SIGKILL if it does not end in time; returns its exit code (negative: the signal)."""
        process = self._process(name)
        process.send_signal(signal.SIGCONT)
        await asyncio.to_thread(stop_processes, [process], STOP_S)
        return process.wait()

    async def restart_worker(self, name: str) -> None:
        """Ends the worker if it runs, starts it again, and returns when its new process is ready."""
        await self.terminate(name)
        self.start_worker(name)
        await self.wait_ready(name)

    async def restart_master(self) -> None:
        """Ends the master if it runs, starts it again, and returns when the nodes that run are ready again."""
        await self.terminate(MASTER)
        self.start_master()
        await self.wait_ready(*self.pids)

    async def wait_ready(self, *names: str) -> None:
        """Returns when the nodes of ``names`` are ready, each in its present process; raises TimedOut or ZClusterError."""
        deadline_s = time.monotonic() + self._ready_s
        waiting, trouble = set(names), [""]
        asking = asyncio.ensure_future(self._ask(waiting, trouble))
        try:
            while not asking.done():
                # Beside the question, which waits for an answer that a process that has ended never gives.
                self._check(waiting, deadline_s, trouble[0])
                await asyncio.wait([asking], timeout=POLL_S)
            asking.result()
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _ask(self, waiting: set[str], trouble: list[str]) -> None:
        """Takes from ``waiting`` who is ready, until nobody is left; ``trouble`` is what came between last."""
        while waiting:
            try:
                async with AsyncClient(key=self.admin_key, timeout=2.0) as client:
                    while waiting:
                        waiting -= await self._ready(client, waiting)
                        await asyncio.sleep(POLL_S)
            except _NOT_YET as error:
                trouble[0] = str(error)
                await asyncio.sleep(POLL_S)

    async def _ready(self, client: AsyncClient, names: set[str]) -> set[str]:
        """Which of ``names`` are ready. A process that was just replaced may still be listed: the pid tells."""
        listed = {str(node["name"]) for node in await client.nodes() if node["state"] == "ready"}
        ready: set[str] = set()
        for name in sorted(names & listed):
            info: dict[str, Any] = await client.call("node.info", target=name, timeout=2.0)
            if info.get("pid", self.pids.get(name)) == self.pids.get(name):
                ready.add(name)
        return ready

    def _check(self, waiting: set[str], deadline_s: float, trouble: str) -> None:
        for name in sorted(waiting):
            code = self._process(name).poll()
            if code is not None:
                raise ZClusterError(f"{name} ended with exit code {code}", hint=last_line(self._log(name)))
        if waiting and time.monotonic() >= deadline_s:
            why = trouble or f"{min(waiting)} printed: {last_line(self._log(min(waiting)))}"
            raise TimedOut(f"not ready after {self._ready_s:g} s: {', '.join(sorted(waiting))}", hint=why)

    def _process(self, name: str) -> subprocess.Popen[bytes]:
        if name not in self._processes:
            raise NoSuchNode(f"this cluster has no node {name}", hint=f"it has {', '.join(self._processes) or 'none'}")
        return self._processes[name]

    def _log(self, name: str) -> Path:
        return self.home.parent / f"{name}.log"
