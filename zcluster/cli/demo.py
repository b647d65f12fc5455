"""``zcluster demo``: a real cluster on this machine, and a short account of what it does.

Rules kept here:
- nothing is staged: every line shows what the cluster answered, and every time was measured;
- the command above each answer is the one that gives it, and works while the demo stays up;
- whatever goes wrong, the last lines of each node's log are shown, and the exit code is 1;
- it leaves nothing behind.
"""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from zcluster.cli.connect import run_async
from zcluster.cli.nodes import NODE_COLUMNS, in_order
from zcluster.cli.options import debug_option
from zcluster.cli.output import Column, json_text, put, say, seconds, table
from zcluster.errors import EXIT_OK, NodeUnavailable, TimedOut, ZClusterError

if TYPE_CHECKING:
    from zcluster.bench.cluster import LocalCluster

WORKERS = 2
VICTIM = "worker-2"
SEEN_DEAD_S = 15.0
"""How long to wait for the victim to be seen dead: the default lease is 3 s."""
LOOK_S = 0.02
BENCH_S = 2.0
LOG_LINES = 8
FAN_OUT_S = 10.0


def mebibytes(value: Any) -> str:
    """Bytes as MiB."""
    return f"{value / (1 << 20):,.0f} MiB"


INFO_COLUMNS = (
    Column("role", "ROLE"),
    Column("pid", "PID", right=True),
    Column("version", "VERSION"),
    Column("python", "PYTHON"),
    Column("hostname", "HOST"),
    Column("uptime_s", "UP", right=True, text=seconds),
)
RESOURCE_COLUMNS = (
    Column("cpu_percent", "CPU%", right=True),
    Column("memory.percent", "MEM%", right=True),
    Column("disk.percent", "DISK%", right=True),
    Column("process.rss_bytes", "PROCESS", right=True, text=mebibytes),
    Column("process.threads", "THREADS", right=True),
)


@click.command()
@click.option("--once", is_flag=True, help="End after the account, instead of staying up until Ctrl-C.")
@click.option("--functions", multiple=True, metavar="MODULE", help="Module or .py file that the workers load (may be repeated).")
@debug_option
def demo(once: bool, functions: tuple[str, ...]) -> int:
    """Start a small cluster on this machine and show what it does.

    One master and two workers, each a process of its own, encrypted, in a temporary home. Without --once it stays up
    until Ctrl-C and prints the lines to type next.
    """
    from zcluster.bench.cluster import LocalCluster

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that SIGTERM cleans up as Ctrl-C does
    put(f"One master and {WORKERS} workers on this machine: each its own process, every connection encrypted (CURVE).")
    started_s = time.monotonic()
    try:
        with LocalCluster(WORKERS, cluster_name="demo", functions=functions) as cluster:
            try:
                show_all(cluster, time.monotonic() - started_s)
            except Exception:
                show_logs(cluster)
                raise
            if not once:
                stay(cluster)
    except BrokenPipeError:
        raise
    except (ZClusterError, OSError) as error:
        raise ZClusterError(f"the demo failed: {error}") from error
    put("\nAll processes are stopped, the temporary home is removed.")
    return EXIT_OK


def show_all(cluster: LocalCluster, start_s: float) -> None:
    """The whole account, step by step."""
    title("Nodes join")
    run_async(show_nodes(cluster))
    put(f"all ready {seconds(start_s)} after the start")
    title("A call to one node")
    run_async(show_call(cluster))
    title("A fan-out to all nodes")
    run_async(show_fan_out(cluster, "node.info", INFO_COLUMNS))
    run_async(show_fan_out(cluster, "node.resources", RESOURCE_COLUMNS))
    title(f"{VICTIM} is killed (SIGKILL), and started again")
    run_async(show_death(cluster))
    run_async(show_restart(cluster))
    title(f"Throughput: {BENCH_S:g} s of echo, 100 B, 256 requests in flight")
    show_bench(cluster)


async def show_nodes(cluster: LocalCluster) -> None:
    """The table of nodes."""
    from zcluster.clients import AsyncClient

    command(cluster, "nodes")
    async with AsyncClient(key=cluster.admin_key) as c:
        put("\n".join(table(in_order(await c.nodes()), NODE_COLUMNS)))


async def show_call(cluster: LocalCluster) -> None:
    """One call, answered by the node that was named."""
    from zcluster.clients import AsyncClient

    command(cluster, "dapi", "call", "echo", "value=hello", "--target", "worker-1")
    async with AsyncClient(key=cluster.admin_key) as c:
        began_s = time.monotonic()
        value = await c.call("echo", {"value": "hello"}, target="worker-1")
        took_s = time.monotonic() - began_s
    if value != "hello":
        raise ZClusterError(f'echo answered {json_text(value)} instead of "hello"', node="worker-1")
    put(f"{json_text(value)}    (worker-1 answered within {seconds(took_s)})")


async def show_fan_out(cluster: LocalCluster, function: str, columns: Sequence[Column]) -> None:
    """One function on every node: some fields of each answer, in the order of arrival."""
    from zcluster.clients import AsyncClient

    command(cluster, "dapi", "call", function, "--target", "all")
    rows: list[dict[str, Any]] = []
    async with AsyncClient(key=cluster.admin_key) as c:
        async for result in c.fan_out(function, target="all", timeout=FAN_OUT_S):
            if result.error is not None:
                raise result.error
            rows.append({**flat(result.value), "node": result.node, "elapsed_s": result.elapsed_s})
    if len(rows) != WORKERS + 1:
        raise ZClusterError(f"{function} brought {len(rows)} answers instead of {WORKERS + 1}")
    put("\n".join(table(rows, (Column("node", "NODE"), *columns, Column("elapsed_s", "ELAPSED", right=True, text=seconds)))))


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``value`` with the fields of its inner mappings beside its own, named OUTER.INNER."""
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found.update(flat(inner, f"{prefix}{name}.") if isinstance(inner, Mapping) else {prefix + name: inner})
    return found


async def show_death(cluster: LocalCluster) -> None:
    """A killed worker is seen dead, and what it is asked then fails at once."""
    from zcluster.clients import AsyncClient

    async with AsyncClient(key=cluster.admin_key) as c:
        cluster.kill(VICTIM)
        took_s = await _until(c, "dead")
        put(f"{VICTIM} was seen dead after {seconds(took_s)}")
        command(cluster, "dapi", "call", "echo", "value=hello", "--target", VICTIM)
        began_s = time.monotonic()
        try:
            await c.call("echo", {"value": "hello"}, target=VICTIM)
        except NodeUnavailable as error:
            put(f"{error.code}: {error}    (told after {seconds(time.monotonic() - began_s)})")
        else:
            raise ZClusterError(f"{VICTIM} answered after its death")


async def show_restart(cluster: LocalCluster) -> None:
    """The same worker again, by a new process with the same key."""
    began_s = time.monotonic()
    await cluster.restart_worker(VICTIM)
    put(f"{VICTIM} was ready again {seconds(time.monotonic() - began_s)} after its restart")


def show_bench(cluster: LocalCluster) -> None:
    """A short bench of the cluster that runs."""
    from zcluster.bench.dapi import DapiOptions, run_dapi

    command(cluster, "bench", "dapi", "--duration", f"{BENCH_S:g}s", "--rounds", "1")
    options = DapiOptions(duration_s=BENCH_S, rounds=1, key=cluster.client_key)
    (mine,) = run_dapi(options, lambda _text: None).contenders
    if mine.errors or not mine.requests:
        raise ZClusterError(f"the bench had {mine.requests} good answers and these errors: {json_text(mine.errors)}")
    percentiles = f"p50 {mine.percentile_s(50) * 1e3:.2f} ms, p99 {mine.percentile_s(99) * 1e3:.2f} ms"
    put(f"{mine.rate:,.0f} requests/s, {percentiles}, {mine.requests:,} answers, no errors")


def stay(cluster: LocalCluster) -> None:
    """Print the lines to type next, and return at Ctrl-C."""
    put("\nThe cluster stays up until Ctrl-C. In another terminal:\n")
    put(f"  export ZCLUSTER_HOME={shlex.quote(str(cluster.home))}")
    for words in (
        "nodes --watch",
        "status",
        "dapi ls",
        "dapi call node.resources --target all",
        "dapi call node.sleep seconds=1 --target worker-1",
        "keys ls",
    ):
        put(f"  zcluster {words}")
    try:
        while True:
            signal.pause()
    except KeyboardInterrupt:
        say("")  # ends the line on which the terminal shows ^C


def show_logs(cluster: LocalCluster) -> None:
    """The last lines of every node's log, to stderr."""
    for name in ("master", *cluster.worker_names):
        try:
            lines = cluster.logs(name).splitlines()[-LOG_LINES:]
        except ZClusterError:
            lines = []
        say(f"--- the last lines of {name}:")
        for line in lines or ["(nothing)"]:
            say(line)


def title(text: str) -> None:
    """The heading of a step."""
    put(f"\n== {text}")


def command(cluster: LocalCluster, *words: str) -> None:
    """The command line that asks what the demo asks now."""
    put(f"$ {command_line(words, str(cluster.home))}")


def command_line(words: Sequence[str], home: str) -> str:
    """``zcluster WORDS --home HOME`` as a shell takes it."""
    return shlex.join(["zcluster", *words, "--home", home])


async def _until(c: Any, state: str) -> float:
    """Seconds until VICTIM is in ``state``."""
    import asyncio

    began_s = time.monotonic()
    while time.monotonic() - began_s < SEEN_DEAD_S:
        rows = await c.nodes()
        if any(row["name"] == VICTIM and row["state"] == state for row in rows):
            return time.monotonic() - began_s
        await asyncio.sleep(LOOK_S)
    raise TimedOut(f"{VICTIM} was not seen {state} within {SEEN_DEAD_S:g} s")
