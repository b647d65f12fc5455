"""Processes that end with their parent, and the line protocol to those that make load.

Rules kept here:
- a child runs in a session of its own: Ctrl-C reaches the parent alone, which then stops its children in order;
- a child gets SIGTERM from the kernel when the thread that started it dies, even by SIGKILL (Linux);
- settings of zcluster in the environment (``ZCLUSTER_...``) never leak into a child;
- a loading child reads one JSON line of configuration, writes a ready line, then answers one line of result to each
  line of round, and ends at the end of its input.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from zcluster.errors import TimedOut, ZClusterError

LINE_LIMIT_BYTES = 4 * 1024 * 1024
LOG_TAIL_BYTES = 4096
STOP_S = 6.0
"""How long a child may take to end after SIGTERM before it is killed: a daemon drains for up to 5 s."""

_LEASH = (
    "import os,sys\n"
    "try:\n"
    " import ctypes; ctypes.CDLL(None).prctl(1, 15)\n"
    "except (ImportError, OSError, AttributeError): pass\n"
    "os.getppid() == int(sys.argv[1]) or sys.exit(1)\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)
"""Asks the kernel for SIGTERM at the parent's death (PR_SET_PDEATHSIG), then becomes the real program."""

T = TypeVar("T")


def leashed(arguments: Sequence[str]) -> list[str]:
    """The command line that runs ``arguments`` (the first one an absolute path) on a leash of this process."""
    return [sys.executable, "-I", "-S", "-c", _LEASH, str(os.getpid()), *arguments]


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child: this one, without ``ZCLUSTER_...``, with this zcluster importable, and ``extra``."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ZCLUSTER_")}
    here = str(Path(__file__).resolve().parents[2])
    paths = [here, *(p for p in environment.get("PYTHONPATH", "").split(os.pathsep) if p and p != here)]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    environment.update(extra or {})
    return environment


def start_process(arguments: Sequence[str], log: Path, extra: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Starts ``arguments`` on a leash; what it prints is added to the file ``log``."""
    with log.open("ab") as out:
        return subprocess.Popen(
            leashed(arguments),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=child_environment(extra),
            start_new_session=True,
        )


def stop_processes(processes: Sequence[subprocess.Popen[bytes]], stop_s: float = STOP_S) -> None:
    """SIGTERM to all at once, then SIGKILL to each that is not gone ``stop_s`` later. Blocks until all are gone."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(stop_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def log_tail(log: Path, limit_bytes: int = LOG_TAIL_BYTES) -> str:
    """The end of a log file, whole lines where possible; empty when there is none."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit_bytes))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def last_line(log: Path) -> str:
    """The last line of a log file that is not blank, or a text that says there is none."""
    lines = [line for line in log_tail(log).splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it printed nothing"


def run_cleanly(main: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run``, with SIGTERM ending it as Ctrl-C does: what was started is stopped first, then SystemExit(143).

    Afterwards SIGTERM means again what it meant before.
    """
    told = False
    main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)

    async def guarded() -> T:
        task = asyncio.current_task()
        assert task is not None

        def end() -> None:
            nonlocal told
            told = True
            task.cancel()

        if main_thread:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
        return await main

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        if not told:
            raise
        raise SystemExit(128 + signal.SIGTERM) from None
    finally:
        if main_thread and before is not None:  # None: a handler that Python did not set and cannot set again
            signal.signal(signal.SIGTERM, before)  # the loop left the default in its place: the end of the process


class RoundChild:
    """A child process of the bench that speaks lines of JSON.

    Args:
        name: how errors call it.
        module: the module that ``python -m`` runs, with its arguments.
        log: the file that its stderr goes to.
        reads: whether it goes on reading lines, and so ends at the end of its input; one that does not gets SIGTERM.
    """

    def __init__(self, name: str, module: Sequence[str], log: Path, *, reads: bool = True) -> None:
        self.name = name
        self._module = module
        self._log = log
        self._reads = reads
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Its process id; raises when it was not started."""
        return self._running().pid

    async def start(self, config: msgspec.Struct) -> None:
        """Starts it and gives it ``config``, its first line."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *leashed([sys.executable, "-m", *self._module]),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=child_environment(),
                start_new_session=True,
                limit=LINE_LIMIT_BYTES,
            )
        await self.tell(config)

    async def tell(self, line: msgspec.Struct) -> None:
        """Writes one line; raises ZClusterError when the child is gone."""
        stdin = self._running().stdin
        assert stdin is not None
        try:
            stdin.write(msgspec.json.encode(line) + b"\n")
            await stdin.drain()
        except ConnectionError:
            raise self._ended() from None

    async def hear(self, kind: type[T], timeout_s: float) -> T:
        """The next line, as a ``kind``; raises TimedOut, or ZClusterError when the child ended."""
        stdout = self._running().stdout
        assert stdout is not None
        try:
            line = await asyncio.wait_for(stdout.readline(), timeout_s)
        except TimeoutError:
            raise TimedOut(f"{self.name} said nothing for {timeout_s:g} s", hint=last_line(self._log)) from None
        if not line:
            raise self._ended()
        return msgspec.json.decode(line, type=kind)

    async def stop(self) -> None:
        """Ends it: the end of its input, then SIGTERM, then SIGKILL. Returns when it is gone; may be called again."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        if process.stdin is not None:
            process.stdin.close()
        for wait_s, next_step in ((2.0 if self._reads else 0.0, process.terminate), (2.0, process.kill)):
            try:
                await asyncio.wait_for(process.wait(), wait_s)
                return
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    next_step()
        await process.wait()

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise ZClusterError(f"{self.name} was not started", hint="call start() first")
        return self._process

    def _ended(self) -> ZClusterError:
        return ZClusterError(f"{self.name} ended early", hint=f"its last words: {last_line(self._log)}")


class Ready(msgspec.Struct, frozen=True):
    """The first line that a loading child says."""

    port: int = 0
    """The port that it listens on, for one that does."""


def say_line(line: msgspec.Struct) -> None:
    """In a child: writes one line to the parent."""
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


def read_line(kind: type[T], source: IO[bytes] | None = None) -> T | None:
    """In a child: the next line of the parent, or None when there is no more. Blocks."""
    line = (source or sys.stdin.buffer).readline()
    return msgspec.json.decode(line, type=kind) if line else None
