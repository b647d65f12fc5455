"""The runner with real processes: what dies, what is killed, and what goes on. Pipes and process ends tell, no sleeps."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import orjson
import psutil  # type: ignore[import-untyped]
import pytest

from zcluster.dapi import Job, Runner, load_functions
from zcluster.errors import (
    Cancelled,
    FunctionFailed,
    InvalidArguments,
    NodeLost,
    TimedOut,
    TooLarge,
    ZClusterError,
    error_from_dict,
)

MODULE = str(Path(__file__).with_name("runner_functions.py"))
PATIENCE_S = 60.0


class Bench:
    """A runner with a clock that the test moves."""

    def __init__(self, processes: int = 1, modules: list[str] | None = None, body_bytes: int = 64 * 1024 * 1024) -> None:
        self.functions = load_functions([MODULE], entry_points=False)
        self.ended: dict[int, list[tuple[bool, bytes]]] = {}
        self._changed = asyncio.Event()
        self.runner = Runner(
            "worker-1",
            self.functions,
            slots=8,
            processes=processes,
            modules=[MODULE] if modules is None else modules,
            clock=lambda: 100.0,
            finished=self._finished,
            item=lambda job_id, body: None,
            logger=logging.getLogger("zcluster.test"),
            entry_points=False,
            body_bytes=body_bytes,
        )

    def start(self, name: str, args: dict[str, Any] | None = None, deadline_s: float = 1000.0) -> int:
        job_id = len(self.ended) + 1
        self.ended[job_id] = []
        body = orjson.dumps(args) if args is not None else b""
        self.runner.start(Job(job_id, self.functions[name], body, deadline_s, "alice", "client", f"7.{job_id}"))
        return job_id

    async def end(self, job_id: int) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            while not self.ended[job_id]:
                self._changed.clear()
                await self._changed.wait()
        ((ok, body),) = self.ended[job_id]
        if not ok:
            raise error_from_dict(orjson.loads(body))
        return orjson.loads(body)

    async def call(self, name: str, args: dict[str, Any] | None = None) -> Any:
        return await self.end(self.start(name, args))

    async def error(self, job_id: int) -> ZClusterError:
        with pytest.raises(ZClusterError) as caught:
            await self.end(job_id)
        return caught.value

    def _finished(self, job_id: int, ok: bool, body: bytes) -> None:
        self.ended[job_id].append((ok, body))
        self._changed.set()


@pytest.fixture
def fifo(tmp_path: Path) -> str:
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    return path


async def pid_from(fifo: str) -> int:
    """The process that says through ``fifo`` that it runs."""
    return int(await asyncio.to_thread(Path(fifo).read_text))


async def gone(pid: int) -> None:
    """Wait for the end of a process."""
    try:
        watch = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = await asyncio.to_thread(select.select, [watch], [], [], PATIENCE_S)
    finally:
        os.close(watch)
    assert ready, f"process {pid} lives on"


def run(test: Callable[[Bench], Coroutine[Any, Any, None]], **settings: Any) -> None:
    async def main() -> None:
        bench = Bench(**settings)
        try:
            await test(bench)
        finally:
            bench.runner.close()
        assert all(len(ends) == 1 for ends in bench.ended.values()), "each job ends exactly once"

    asyncio.run(main())


def test_a_process_is_kept_and_gives_results_and_errors(caplog: pytest.LogCaptureFixture) -> None:
    async def test(bench: Bench) -> None:
        pid = await bench.call("p.pid")
        assert pid != os.getpid()
        assert await bench.call("p.add", {"a": 1, "b": 2}) == 3
        with pytest.raises(InvalidArguments, match=r"p\.add: argument 'a': expected int, got str"):
            await bench.call("p.add", {"a": "1", "b": 2})
        assert caplog.records == []
        failed = await bench.error(bench.start("p.fail"))
        assert isinstance(failed, FunctionFailed)
        assert (failed.message, failed.node, failed.request_id) == ("ValueError: bad disk", "worker-1", "7.4")
        (record,) = caplog.records
        assert record.__dict__["request_id"] == "7.4"
        assert "runner_functions.py" in record.getMessage()
        with pytest.raises(FunctionFailed, match="SystemExit: 3"):
            await bench.call("p.fail", {"exit_code": 3})
        assert await bench.call("p.who") == ["alice", "client", "worker-1", "7.6", False, pytest.approx(900.0, abs=50.0)]
        assert await bench.call("p.modules") == [], "it loads neither sockets nor the daemons"
        assert await bench.call("p.pid") == pid, "an exception does not cost the process"

    run(test)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"signal_number": signal.SIGKILL}, "the process running it died (signal 9)"),
        ({"signal_number": signal.SIGSEGV}, "the process running it died (signal 11)"),
        ({"exit_code": 3}, "the process running it died (exit code 3)"),
    ],
)
def test_a_process_that_dies_takes_only_its_call_with_it(args: dict[str, int], message: str, fifo: str) -> None:
    async def test(bench: Bench) -> None:
        other = bench.start("p.stick", {"fifo": fifo})
        other_pid = await pid_from(fifo)
        dead = await bench.error(bench.start("p.die", args))
        assert isinstance(dead, FunctionFailed)
        assert dead.message == message
        assert await bench.call("p.add", {"a": 1, "b": 2}) == 3
        assert bench.ended[other] == []
        assert psutil.pid_exists(other_pid)
        bench.runner.cancel(other, Cancelled("enough"))

    run(test, processes=2)


def test_a_call_past_its_deadline_is_killed_and_the_one_that_waited_runs(fifo: str) -> None:
    async def test(bench: Bench) -> None:
        stuck = bench.start("p.stick", {"fifo": fifo}, deadline_s=200.0)
        pid = await pid_from(fifo)
        waiting = bench.start("p.add", {"a": 1, "b": 2})
        dropped = bench.start("p.add", {"a": 1, "b": 2})
        bench.runner.cancel(dropped, Cancelled("not needed"))
        assert isinstance(await bench.error(dropped), Cancelled)
        bench.runner.handle_deadline(200.0)
        late = await bench.error(stuck)
        assert isinstance(late, TimedOut)
        assert "started, outcome unknown" in late.message
        await gone(pid)
        assert await bench.end(waiting) == 3
        assert bench.runner.abandoned == 0

    run(test)


def test_all_past_their_deadline_are_told_which_of_them_started(fifo: str) -> None:
    async def test(bench: Bench) -> None:
        stuck = bench.start("p.stick", {"fifo": fifo})
        pid = await pid_from(fifo)
        waiting = bench.start("p.pid")
        bench.runner.handle_deadline(1000.0)
        assert "started, outcome unknown" in (await bench.error(stuck)).message
        assert "never started" in (await bench.error(waiting)).message
        await gone(pid)

    run(test)


def test_a_process_killed_while_idle_is_replaced_without_a_failed_call() -> None:
    async def test(bench: Bench) -> None:
        pid = await bench.call("p.pid")
        process = psutil.Process(pid)
        kept = bench.runner._processes._slots[0].process
        assert kept is not None
        process.kill()
        async with asyncio.timeout(PATIENCE_S):
            while kept.alive:  # until the pool has seen it
                await asyncio.to_thread(lambda: None)
        assert await bench.call("p.pid") != pid

    run(test)


def test_close_kills_what_runs(fifo: str) -> None:
    async def test(bench: Bench) -> None:
        stuck = bench.start("p.stick", {"fifo": fifo})
        pid = await pid_from(fifo)
        bench.runner.close()
        assert isinstance(await bench.error(stuck), NodeLost)
        await gone(pid)

    run(test)


def test_large_bodies_pass_and_one_byte_too_many_does_not() -> None:
    async def test(bench: Bench) -> None:
        text = "x" * (1_000_000 - 2)
        assert await bench.call("p.size", {"text": text}) == text
        with pytest.raises(TooLarge):
            await bench.call("p.size", {"text": text + "x"})

    run(test, body_bytes=1_000_000)


def test_modules_that_do_not_load_in_the_process_fail_the_call_with_the_reason(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")

    async def test(bench: Bench) -> None:
        for _ in range(2):
            failed = await bench.error(bench.start("p.pid"))
            assert isinstance(failed, FunctionFailed)
            assert "could not load the functions" in failed.message
            assert "ZeroDivisionError" in failed.message

    run(test, modules=[str(broken)])


def test_a_function_that_the_process_lacks_is_told() -> None:
    async def test(bench: Bench) -> None:
        failed = await bench.error(bench.start("p.pid"))
        assert "the process does not have p.pid" in failed.message

    run(test, modules=[])


SCRIPT = """
import asyncio, logging, sys, threading, time
from zcluster.dapi import Function, Job, Runner, function, load_functions

@function("stuck")
def stuck() -> None:
    entered.set()
    threading.Event().wait()

entered = threading.Event()

async def main(module: str, fifo: str) -> None:
    functions = {"stuck": Function(stuck), **load_functions([module], entry_points=False)}
    runner = Runner("n", functions, slots=2, processes=1, modules=[module], clock=time.monotonic,
        finished=lambda job_id, ok, body: print(job_id, ok, flush=True), item=lambda job_id, body: None,
        logger=logging.getLogger("n"), entry_points=False)
    def job(job_id: int, name: str, body: bytes) -> Job:
        return Job(job_id, functions[name], body, time.monotonic() + 3600, "a", "client", "1.1")
    runner.start(job(1, "stuck", b""))
    await asyncio.to_thread(entered.wait)
    if fifo:
        runner.start(job(2, "p.stick", b'{"fifo":"%s"}' % fifo.encode()))
        await asyncio.Event().wait()
    runner.close()

if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
"""


def script(tmp_path: Path, fifo: str) -> subprocess.Popen[str]:
    path = tmp_path / "node.py"
    path.write_text(textwrap.dedent(SCRIPT))
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, str(path), MODULE, fifo],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if fifo else subprocess.PIPE,  # of one that is killed, Python's helpers complain
        text=True,
    )


def test_a_stuck_thread_does_not_keep_the_process_from_exiting(tmp_path: Path) -> None:
    with script(tmp_path, "") as node:
        out, complaints = node.communicate(timeout=PATIENCE_S)
    assert node.returncode == 0
    assert (out, complaints) == ("1 False\n", "")


def test_processes_end_with_a_node_that_is_killed(tmp_path: Path, fifo: str) -> None:
    with script(tmp_path, fifo) as node:
        pid = asyncio.run(pid_from(fifo))
        node.kill()
        asyncio.run(gone(pid))
