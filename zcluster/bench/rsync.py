"""rsync as a measure: Debian's rsync, pushing from one directory to a daemon on loopback, plain or through stunnel.

Rules kept here:
- rsync runs as it comes: ``-a --delete``, and ``--fsync`` where that is measured; the daemon's settings are those that let it
  run as any user and without asking a name server;
- a run is timed from the start of the client's process to its end; daemon, stunnel and their keys were there before;
- everything of it is in the bench's own directory and on ports of 127.0.0.1; leaving stops every process;
- what is not installed is an error that says which package has it.
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import psutil  # type: ignore[import-untyped]

from zcluster.bench.child import last_line, start_process, stop_processes
from zcluster.bench.cluster import free_ports
from zcluster.bench.syncresult import MASTER, WORKER, Run
from zcluster.errors import TimedOut, UsageError, ZClusterError

PLAIN, FSYNC, TLS = "rsync", "rsync --fsync", "rsync, TLS"
"""The ways in which rsync is measured."""
READY_S = 20.0
RUN_S = 1800.0
POLL_S = 0.02
SYSTEM_PATHS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PACKAGES = {"rsync": "rsync", "stunnel4": "stunnel4", "openssl": "openssl"}
"""The Debian package of each program."""
_TOTAL = re.compile(r"^Total bytes (sent|received): ([\d,.]+)$", re.MULTILINE)


def program_path(name: str) -> str:
    """The path of ``name``, one of PACKAGES; raises UsageError that says what to install when it is missing."""
    path = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), SYSTEM_PATHS)))
    if path is None:
        raise UsageError(f"{name} is not installed", hint=f"apt-get install {PACKAGES[name]}")
    return path


def check_installed(ways: Iterable[str]) -> None:
    """Raises UsageError when a program is missing that one of ``ways`` needs."""
    for way in ways:
        for name in PACKAGES if way == TLS else ("rsync",):
            program_path(name)


def daemon_config(modules: dict[str, Path]) -> str:
    """rsyncd.conf: a writable module for each name."""
    lines = ["use chroot = no", "reverse lookup = no", "munge symlinks = no", "max connections = 0", "log file = /dev/stderr"]
    if os.geteuid() == 0:  # started by root, a daemon serves as nobody, who may not write here
        lines += ["uid = 0", "gid = 0"]
    for name, path in modules.items():
        lines += [f"[{name}]", f"path = {path}", "read only = no"]
    return "\n".join(lines) + "\n"


def stunnel_config(accept: int, connect: int, certificate: Path, key: Path | None) -> str:
    """stunnel.conf of the daemon's side, or, without a key, of the client's side, which admits that certificate alone."""
    lines = [
        "foreground = yes",
        "pid =",
        "syslog = no",
        "[rsync]",
        f"accept = 127.0.0.1:{accept}",
        f"connect = 127.0.0.1:{connect}",
    ]
    if key is not None:
        lines += [f"cert = {certificate}", f"key = {key}"]
    else:
        lines += ["client = yes", "verifyPeer = yes", f"CAfile = {certificate}"]
    return "\n".join(lines) + "\n"


def total_bytes(stats: str) -> int:
    """What ``--stats`` says was sent and received; raises ZClusterError when it does not say it."""
    found = {side: int(re.sub(r"[,.]", "", number)) for side, number in _TOTAL.findall(stats)}
    if set(found) != {"sent", "received"}:
        raise ZClusterError("rsync did not tell how many bytes it sent", hint=f"it printed: {stats[-200:]!r}")
    return found["sent"] + found["received"]


class Rsync:
    """A daemon with targets of its own, to which a directory is pushed; use it as ``async with``.

    Args:
        directory: a directory of its own, which is made, and removed at the end; targets are beneath it.
        way: PLAIN, FSYNC or TLS.
        targets: how many copies; a push goes to one after the other.
    """

    def __init__(self, directory: Path, way: str, targets: int) -> None:
        check_installed([way])
        self.name = way
        self._directory = directory
        self._modules = {f"target{n}": directory / f"target-{n}" for n in range(1, targets + 1)}
        self._port = 0
        self._client_side: list[int] = []
        self._daemon_side: list[int] = []
        self._stack = ExitStack()

    @property
    def copies(self) -> dict[str, Path]:
        """The targets, by name."""
        return {f"{self.name}, {name}": path for name, path in self._modules.items()}

    async def __aenter__(self) -> Rsync:
        try:
            self._directory.mkdir()
            self._stack.callback(shutil.rmtree, self._directory, ignore_errors=True)
            for path in self._modules.values():
                path.mkdir()
            await self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await asyncio.shield(asyncio.to_thread(self._stack.close))

    async def _start(self) -> None:
        [self._port] = free_ports(1)
        config = self._directory / "rsyncd.conf"
        config.write_text(daemon_config(self._modules))
        command = [program_path("rsync"), "--daemon", "--no-detach", f"--config={config}", "--address=127.0.0.1"]
        self._daemon_side.append(await self._server("rsync", [*command, f"--port={self._port}"], self._port))
        if self.name != TLS:
            return
        stunnel, certificate, key = program_path("stunnel4"), self._directory / "cert.pem", self._directory / "key.pem"
        await asyncio.to_thread(_make_certificate, certificate, key)
        inner, outer = free_ports(2)
        for name, accept, connect, own_key, side in (
            ("stunnel-server", inner, self._port, key, self._daemon_side),
            ("stunnel-client", outer, inner, None, self._client_side),
        ):
            config = self._directory / f"{name}.conf"
            config.write_text(stunnel_config(accept, connect, certificate, own_key))
            side.append(await self._server(name, [stunnel, str(config)], accept))
        self._port = outer

    async def _server(self, name: str, command: Sequence[str], port: int) -> int:
        """Starts a server and returns its process id when it takes connections."""
        log = self._directory / f"{name}.log"
        process = start_process(command, log)
        self._stack.callback(stop_processes, [process])
        deadline_s = time.monotonic() + READY_S
        while process.poll() is None and time.monotonic() < deadline_s:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    return process.pid
            await asyncio.sleep(POLL_S)
        if process.poll() is not None:
            raise ZClusterError(f"{name} ended with exit code {process.returncode}", hint=last_line(log))
        raise TimedOut(f"{name} does not listen", hint=last_line(log))

    async def clear(self) -> None:
        """Empties all targets."""
        for path in self._modules.values():
            await asyncio.to_thread(shutil.rmtree, path)
            path.mkdir()

    async def push(self, source: Path) -> Run:
        """Copies ``source`` to each target, one after the other, and returns what that took, all targets together."""
        extra = ["--fsync"] if self.name == FSYNC else []
        client, daemon = _children_cpu_s() + _cpu_s(self._client_side), _cpu_s(self._daemon_side)
        seconds, wire_bytes = 0.0, 0
        for module in self._modules:
            url = f"rsync://127.0.0.1:{self._port}/{module}/"
            command = [program_path("rsync"), "-a", "--delete", "--stats", "--no-human-readable", *extra, f"{source}/", url]
            began_s = time.perf_counter()
            stats = await _run(command)
            seconds += time.perf_counter() - began_s
            wire_bytes += total_bytes(stats)
        await self._connections_ended()
        cpu_s = {
            MASTER: _children_cpu_s() + _cpu_s(self._client_side) - client,
            WORKER: _cpu_s(self._daemon_side) - daemon,
        }
        return Run(seconds, wire_bytes, cpu_s)

    async def _connections_ended(self) -> None:
        """Returns when the daemon's processes of the pushes are gone: what they used counts from then on."""
        daemon = psutil.Process(self._daemon_side[0])
        deadline_s = time.monotonic() + READY_S
        while daemon.children():
            if time.monotonic() > deadline_s:
                raise TimedOut("the rsync daemon still serves a push that is over", hint=last_line(self._directory / "rsync.log"))
            await asyncio.sleep(POLL_S)


async def _run(command: Sequence[str]) -> str:
    """What ``command`` printed; raises ZClusterError when it failed, and leaves no process."""
    environment = {"PATH": SYSTEM_PATHS, "LC_ALL": "C"}
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    try:
        out, errors = await asyncio.wait_for(process.communicate(), RUN_S)
    except TimeoutError:
        raise TimedOut(f"rsync ran for more than {RUN_S:g} s", hint="give --size or --files less") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise ZClusterError(
            f"rsync ended with exit code {process.returncode}", hint=errors.decode(errors="replace").strip()[-300:]
        )
    return out.decode(errors="replace")


def _make_certificate(certificate: Path, key: Path) -> None:
    """A key (0600) and a certificate that it signs itself, for a day."""
    command = [program_path("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "1", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)]
    made = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=READY_S, check=False)
    if made.returncode:
        raise ZClusterError("openssl made no certificate", hint=made.stderr.strip()[-300:])
    key.chmod(0o600)


def _children_cpu_s() -> float:
    """CPU seconds of all children of this process that have ended and been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds of the processes, and of their children that have ended: an rsync daemon makes one a connection."""
    total = 0.0
    for pid in pids:
        times = psutil.Process(pid).cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total
