"""The ground of an attack: a cluster of real processes, honest peers with a watch on their latency, a watch on the master's
memory, and attackers in processes of their own.

Rules kept here:
- attackers and honest peers are processes: none of them shares an interpreter with what it measures. They are forked off a
  server of their own that has imported all and done nothing;
- attackers give way to everyone else on this machine's cores (nice): on a network they have cores of their own;
- what an attacker raises fails the attack; a wait has a deadline and ends at a fact.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import threading
import time
import traceback
from array import array
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import psutil  # type: ignore[import-untyped]

from zcluster.bench.child import start_process
from zcluster.bench.cluster import MASTER, LocalCluster
from zcluster.clients import AsyncClient
from zcluster.errors import ZClusterError

PATIENCE_S = 120.0
POLL_S = 0.01
WATCH_S = 0.01
NICE = 10
GROUP_S = 30.0
"""How long many attackers may take until each has its niceness."""
PACE_S = 0.002
WORKERS = 3
"""Of the shared cluster."""
WARM_CALLS = 200
ANSWER_S = 60.0
FORKS = multiprocessing.get_context("forkserver")
T = TypeVar("T")


def start_forks() -> None:
    """Have the server of forks ready, with all that attackers import."""
    here, before = str(Path(__file__).parent), os.environ.get("PYTHONPATH")
    multiprocessing.set_forkserver_preload(["table"])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (here, before)))
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


class Child:
    """``target(link, *args)`` in a process of its own; what it returns is told last."""

    def __init__(self, target: Callable[..., Any], *args: Any, nice: int = NICE) -> None:
        start_forks()
        self.link, theirs = FORKS.Pipe()
        self._process = FORKS.Process(target=_child, args=(theirs, nice, target, args), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self._process.pid or 0)

    def tell(self, word: Any) -> None:
        """Say something to it."""
        self.link.send(word)

    def hear(self, patience_s: float = PATIENCE_S) -> Any:
        """The next thing that it says; raises AssertionError when it failed, or says nothing in time."""
        assert self.link.poll(patience_s), f"the process {self._process.name} said nothing for {patience_s:g} s"
        kind, value = self.link.recv()
        assert kind != "failed", f"an attacker failed:\n{value}"
        return value

    def end(self) -> None:
        """Stop it, whatever it does."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self.link.close()


class Link:
    """A child's end of its pipe."""

    def __init__(self, pipe: Connection[Any, Any]) -> None:
        self._pipe = pipe

    def say(self, value: Any) -> None:
        """Tell the parent something."""
        self._pipe.send(("said", value))

    def hear(self) -> Any:
        """Wait for the parent's next word."""
        return self._pipe.recv()

    def told(self) -> bool:
        """Whether the parent has said something that was not heard yet."""
        return self._pipe.poll()


def _child(pipe: Connection[Any, Any], nice: int, target: Callable[..., Any], args: Sequence[Any]) -> None:
    try:
        _stand_alone(nice)
        pipe.send(("said", target(Link(pipe), *args)))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return
    except BaseException:
        pipe.send(("failed", traceback.format_exc()))


def _stand_alone(nice: int) -> None:
    """Have a session of its own, as the nodes do, and this niceness in it and among all others.

    Where the kernel groups processes by session (sched(7), autogroup), niceness counts within a session only, and an honest
    client in the attackers' session would wait for the cores that they have used.
    """
    os.setsid()
    os.nice(nice)
    until_s = time.monotonic() + GROUP_S
    while nice:
        try:
            Path("/proc/self/autogroup").write_text(str(nice))
        except FileNotFoundError:  # there is no such grouping here
            return
        except BlockingIOError:  # only every 0.1 s somebody without rights may do that, of all
            assert time.monotonic() < until_s, "the kernel lets no session be nice"
            time.sleep(POLL_S)
        else:
            return


@dataclass(frozen=True)
class Latencies:
    """What an honest client saw."""

    times_s: Sequence[float]
    wrong: int
    """Answers that were not the ones to its requests."""
    failed: int
    """Requests that ended in an error."""
    why: str = ""
    """The last error."""

    def p(self, percent: float) -> float:
        """A percentile, in seconds; 0 without any."""
        ordered = sorted(self.times_s)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0

    @property
    def longest_s(self) -> float:
        return max(self.times_s, default=0.0)


class Honest:
    """A client that calls ``echo`` again and again, a few hundred times a second, while it is told to."""

    def __init__(self, key: Path, target: str, pace_s: float = PACE_S) -> None:
        self._child = Child(_calls, str(key), target, pace_s, nice=0)
        self._child.hear()

    def quiet(self, seconds: float) -> Latencies:
        """What it sees for that long while nothing else goes on."""
        with self.measuring() as during:
            time.sleep(seconds)
        return during()

    @contextlib.contextmanager
    def measuring(self) -> Iterator[Callable[[], Latencies]]:
        """It calls during the block; afterwards what is given tells what it saw."""
        found: list[Latencies] = []
        self._child.tell("begin")
        yield lambda: found[0]
        self._child.tell("end")
        times, wrong, failed, why = self._child.hear()
        found.append(Latencies(array("d", times), wrong, failed, why))

    def end(self) -> None:
        """Stop it."""
        self._child.end()


def _calls(link: Link, key: str, target: str, pace_s: float) -> None:
    asyncio.run(_call_when_told(link, Path(key), target, pace_s))


async def _call_when_told(link: Link, key: Path, target: str, pace_s: float) -> None:
    async with AsyncClient(key=key, timeout=ANSWER_S) as client:
        for number in range(WARM_CALLS):
            await client.call("echo", {"value": number}, target=target)
        link.say("ready")
        while True:
            await asyncio.to_thread(link.hear)
            link.say(await _measure(link, client, target, pace_s))


async def _measure(link: Link, client: AsyncClient, target: str, pace_s: float) -> tuple[bytes, int, int, str]:
    times, wrong, failed, why, number = array("d"), 0, 0, "", 0
    while not link.told():
        number += 1
        began_s = time.monotonic()
        try:
            wrong += await client.call("echo", {"value": number}, target=target) != number
        except ZClusterError as error:
            failed, why = failed + 1, str(error)
        times.append(time.monotonic() - began_s)
        await asyncio.sleep(pace_s)
    link.hear()
    return times.tobytes(), wrong, failed, why


class Watch:
    """The most memory that a process has held resident since the block began, beyond what it held then."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._before = self._most = 0

    def __enter__(self) -> Watch:
        self._before = self._most = self._now()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    @property
    def grown_bytes(self) -> int:
        """The peak so far, over the beginning."""
        return self._most - self._before

    def _look(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            while not self._over.wait(WATCH_S):
                self._most = max(self._most, self._now())

    def _now(self) -> int:
        return int(self._process.memory_info().rss)


class Ground:
    """A cluster with what an attack needs beside it; leaving stops what it has started there.

    Args:
        cluster: it runs.
        honest: clients that are there already, to be used before new ones are made.
    """

    def __init__(self, cluster: LocalCluster, honest: Sequence[Honest] = ()) -> None:
        self.cluster = cluster
        self._children: list[Child] = []
        self._there, self._honest = [*honest], list[Honest]()
        self._pids = cluster.pids

    def close(self) -> None:
        """Stop what was started."""
        for child in self._children:
            child.end()
        for honest in self._honest:
            honest.end()

    def attacker(self, target: Callable[..., Any], *args: Any) -> Child:
        """Start ``target(link, *args)`` in a process of its own."""
        child = Child(target, *args)
        self._children.append(child)
        return child

    def honest(self, target: str = "worker-1", pace_s: float = PACE_S) -> Honest:
        """An honest client, warm."""
        if self._there:
            return self._there.pop()
        self._honest.append(Honest(self.cluster.new_key(f"honest-{len(self._honest)}", "client"), target, pace_s))
        return self._honest[-1]

    def key(self, name: str, role: str = "client") -> str:
        """The path of a new, admitted key."""
        return str(self.cluster.new_key(name, role))

    @property
    def master_pid(self) -> int:
        return self._pids[MASTER]

    @contextlib.contextmanager
    def other_master(self, prefix: Sequence[str]) -> Iterator[None]:
        """Another program as the master during the block: ``prefix`` before the arguments of ``zcluster``."""
        cluster = self.cluster
        self._end_master()
        arguments = ["master", "--home", str(cluster.home), "--bind", cluster.address, "--publish", cluster.publish_address]
        cluster._processes[MASTER] = start_process([*prefix, *arguments], cluster._log(MASTER))
        try:
            asyncio.run(cluster.wait_ready("worker-1"))
            self._pids = cluster.pids
            yield
        finally:
            self._end_master()
            cluster.start_master()
            asyncio.run(cluster.wait_ready("worker-1"))

    def _end_master(self) -> None:
        self.cluster.kill(MASTER)
        self.cluster._processes[MASTER].wait()

    def watch(self) -> Watch:
        """A watch on the master's memory."""
        return Watch(self.master_pid)

    @property
    def deaths(self) -> int:
        """How many nodes are not the processes that they were."""
        now = self.cluster.pids
        return sum(now.get(name) != pid for name, pid in self._pids.items())

    @property
    def aborts(self) -> int:
        """How many nodes a signal ended."""
        return sum((process.poll() or 0) < 0 for process in self.cluster._processes.values())

    def ask(self, question: Callable[[AsyncClient], Awaitable[T]]) -> T:
        """Ask something of the cluster as its administrator."""

        async def asked() -> T:
            async with AsyncClient(key=self.cluster.admin_key, timeout=PATIENCE_S) as client:
                return await question(client)

        return asyncio.run(asked())

    def counters(self) -> dict[str, int]:
        """The master's counters."""

        async def question(client: AsyncClient) -> dict[str, int]:
            return dict((await client.status())["counters"])

        return self.ask(question)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The master's events of a name."""

        async def question(client: AsyncClient) -> list[dict[str, Any]]:
            return [event async for event in client.events(0, names=[name], follow=False)]

        return self.ask(question)


class Shared:
    """The cluster of all attacks in small: making one takes longer than most of them."""

    def __init__(self) -> None:
        self.cluster = LocalCluster(WORKERS, ready_s=PATIENCE_S)
        self.honest: Honest | None = None

    def start(self) -> None:
        """Start it, with an honest client."""
        self.cluster.__enter__()
        self.honest = Honest(self.cluster.client_key, "worker-1")

    def close(self) -> None:
        """Stop all of it."""
        if self.honest is not None:
            self.honest.end()
        self.cluster.close()


@contextlib.contextmanager
def ground_of(shared: Shared | None, workers: int = 1, settings: Mapping[str, object] | None = None) -> Iterator[Ground]:
    """The ground of one attack: on the shared cluster, or (None) on one of its own with so many workers and these settings."""
    with contextlib.ExitStack() as stack:
        if shared is not None and shared.honest is not None:
            ground = Ground(shared.cluster, [shared.honest])
        else:
            ground = Ground(stack.enter_context(LocalCluster(workers, settings=settings, ready_s=PATIENCE_S)))
        stack.callback(ground.close)
        yield ground


def until(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> float:
    """Wait until ``condition``; returns how long that took."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < patience_s, f"not within {patience_s:g} s: {what}"
        time.sleep(POLL_S)
    return time.monotonic() - began_s
