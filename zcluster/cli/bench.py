"""``zcluster bench``: measure, print, and report.

Rules kept here:
- what goes on during a bench is talk (stderr); its figures are data (stdout);
- exit code 3 when the bench ran but missed a bar, or a request of zcluster failed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zcluster.cli.groups import Group
from zcluster.cli.options import BYTES, DIRECTORY, DURATION, FILE, State, common_options, debug_option
from zcluster.cli.output import put, say
from zcluster.errors import EXIT_OK, EXIT_PARTIAL, UsageError

if TYPE_CHECKING:
    from zcluster.bench.report import Result

SPECIALS = {
    "sleep": "How long 1,000 calls of a function that sleeps 10 ms take.",
    "fanout": "How many fan-outs to 16 workers a second.",
    "reconnect": "How long 500 workers take to come back after their master was away.",
    "idle": "What 1,000 idle workers cost a master.",
    "memory": "How much memory a started, idle master needs.",
}
"""The named benches and their line of help; a test holds the names equal to those of zcluster.bench."""
WORKS = ("small", "small4", "large", "large4", "pages", "insert", "changed", "one", "idle", "million")
"""The works of ``bench sync``; held equal likewise."""
AGENT_WORKS = ("first", "changed", "idle", "million", "live")
"""The works of ``bench agents``; held equal likewise."""
QUEUE_WORKS = ("done", "accept", "million")
"""The works of ``bench queue``; held equal likewise."""

PAGES, DATA = (".html", ".htm"), (".json",)
"""How the name of a report ends."""


def _report_place(_context: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    """Refuses, before minutes are spent on measuring, a report that could not be written."""
    if path is None:
        return None
    if path.suffix.lower() not in (*PAGES, *DATA):
        raise UsageError(f"--report does not know what {path.name} is to be", hint="end its name with .html or .json")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"cannot write {path}: there is no directory {path.parent}", hint="give --report another place")
    return path


class _InFlight(click.ParamType[tuple[int, ...]]):
    """Numbers with commas between: the last one is what the figures are of."""

    name = "numbers"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> tuple[int, ...]:
        try:
            return tuple(int(word) for word in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a number, or several with commas between, such as 1,8,64,256.", parameter, context)


def in_flight_option(what: str) -> Callable[[Any], Any]:
    """--in-flight for a bench that can measure several loads; ``what`` is under way."""
    return click.option(
        "--in-flight",
        type=_InFlight(),
        default="256",
        metavar="N,...",
        show_default=True,
        help=f"{what} Of several numbers each is measured, and the figures are those of the last.",
    )


report_option = click.option(
    "--report",
    type=FILE,
    metavar="FILE",
    callback=_report_place,
    help="Also write the result as one page (FILE.html) or as data (FILE.json).",
)
format_option = click.option(
    "-o", "--output", type=click.Choice(("table", "json")), default="table", show_default=True, help="How to print the figures."
)
directory_option = click.option(
    "--dir", "directory", type=DIRECTORY, metavar="DIR", help="Where the files are. [default: the directory for temporary files]"
)


@click.group(cls=Group)
def bench() -> None:
    """Measure requests, jobs, fan-outs, file sync, agents, groups, reconnection and memory.

    Each bench starts a cluster of its own, and leaves nothing behind.
    """


@bench.command()
@click.option("--size", "size_bytes", type=BYTES, default=100, show_default=True, help="Length of the value that is echoed.")
@in_flight_option("Requests under way at once, at each client.")
@click.option("--clients", type=int, default=1, show_default=True, help="Client processes.")
@click.option("--workers", type=int, default=1, show_default=True, help="Worker processes.")
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Requests a second by timetable, more than 0 (open loop). [default: closed loop]",
)
@click.option("--duration", "duration_s", type=DURATION, default=5.0, show_default=True, help="Measured time of each contender.")
@click.option(
    "--rounds", type=int, default=3, show_default=True, help="Turns that the contenders take; at least 3 with --compare."
)
@click.option(
    "--compare", default="", metavar="raw,nats", help="Also measure a plain pyzmq program, or NATS, in turns (3 rounds or more)."
)
@click.option("--target", default="any", show_default=True, help="Node that answers.")
@click.option("--timeout", "timeout_s", type=DURATION, default=30.0, show_default=True, help="Deadline of each request.")
@click.option("--key", type=FILE, metavar="FILE", help="Use the running cluster of this key file (or of --home).")
@click.option("--master", default="", metavar="tcp://HOST:PORT", help="Address of the running cluster's master.")
@report_option
@format_option
@common_options
@click.pass_obj
def dapi(
    state: State,
    /,
    compare: str,
    rate: float | None,
    in_flight: tuple[int, ...],
    report: Path | None,
    output: str,
    **options: Any,
) -> int:
    """Measure requests across the bus: how many a second, how fast, at what cost.

    Latency with --rate counts from the moment at which a request was due.
    """
    from zcluster.bench.dapi import DapiOptions, run_dapi

    names = tuple(name for name in compare.split(",") if name)
    *sweep, last = in_flight
    load: dict[str, Any] = {"rate": rate or 0.0, "in_flight": last, "sweep": tuple(sweep)}
    result = run_dapi(DapiOptions(home=state.home, compare=names, **load, **options), say)
    return _show(result, output, report, good=not result.contenders[0].errors)


@bench.command()
@click.option(
    "--work", "works", default="small,changed", metavar="NAME,...", show_default=True, help=f"Works: {', '.join(WORKS)}, or all."
)
@click.option("--files", type=int, help="Files of the tree. [default: as the work says]")
@click.option("--size", "size_bytes", type=BYTES, help="Length of each file. [default: as the work says]")
@click.option("--workers", type=int, help="Workers that have a copy, and rsync's targets. [default: as the work says]")
@click.option(
    "--change", type=click.FloatRange(0, 1), help="Share of the files, or of a file's pages, that changes. [default: 0.01]"
)
@click.option("--compare", default="", metavar="rsync", help="Also measure rsync, in turns.")
@click.option("--rounds", type=int, default=3, show_default=True, help="How often each work is measured.")
@click.option("--changes", type=int, default=200, show_default=True, help="Changes that the work one makes.")
@click.option("--duration", "duration_s", type=DURATION, default=60.0, show_default=True, help="How long the work idle watches.")
@click.option(
    "--dir",
    "directory",
    type=DIRECTORY,
    metavar="DIR",
    help="Where the files are. [default: /dev/shm or the temporary one]",
)
@report_option
@format_option
@debug_option
def sync(works: str, compare: str, report: Path | None, output: str, **options: Any) -> int:
    """Measure how fast files reach the workers, and at what cost.

    A work with its own load has the bar of what file sync promises; with another load it has none.
    """
    from zcluster.bench.sync import SyncOptions, run_sync

    names, others = (tuple(name for name in text.split(",") if name) for text in (works, compare))
    result = run_sync(SyncOptions(works=names, compare=others, **options), say)
    return _show(result, output, report, good=result.met)


@bench.command()
@click.option(
    "--work",
    "works",
    multiple=True,
    type=click.Choice((*AGENT_WORKS, "all")),
    help="What to measure (may be repeated). [default: first, changed]",
)
@click.option("--agents", type=int, help="How many agents there are. [default: as the work says]")
@click.option("--workers", type=int, help="Workers that have agents, of the work idle. [default: 10]")
@click.option("--rounds", type=int, default=3, show_default=True, help="How often each work is measured.")
@click.option(
    "--duration", "duration_s", type=DURATION, default=60.0, show_default=True, help="How long the works idle and live watch."
)
@directory_option
@report_option
@format_option
@debug_option
def agents(works: tuple[str, ...], report: Path | None, output: str, **options: Any) -> int:
    """Measure what it costs to know of many agents on one master.

    A work with its own load has the bars of what is promised of agents; with another load it has none.
    """
    from zcluster.bench.agents import DEFAULT_WORKS, AgentsOptions, run_agents

    result = run_agents(AgentsOptions(works=works or DEFAULT_WORKS, **options), say)
    return _show(result, output, report, good=result.met)


@bench.command()
@click.option("--agents", type=int, help="How many agents are assigned by one call. [default: 10000]")
@click.option("--workers", type=int, help="Workers that have copies of the groups. [default: 16]")
@click.option("--rounds", type=int, default=5, show_default=True, help="How often to measure.")
@directory_option
@report_option
@format_option
@debug_option
def groups(report: Path | None, output: str, **options: Any) -> int:
    """Measure how fast every worker knows of agents that were assigned to another group."""
    from zcluster.bench.agents import GROUPS, AgentsOptions, run_agents

    result = run_agents(AgentsOptions(works=(GROUPS.name,), **options), say)
    return _show(result, output, report, good=result.met)


@bench.command()
@click.option("--work", "works", default="done", metavar="NAME,...", show_default=True, help=f"Works: {', '.join(QUEUE_WORKS)}.")
@in_flight_option("Jobs under way at once, of the work done.")
@click.option("--size", "size_bytes", type=BYTES, default=100, show_default=True, help="Length of the value that is echoed.")
@click.option("--compare", default="", metavar="sqlite,celery,redis", help="Also measure these, in turns (3 rounds or more).")
@click.option(
    "--rounds", type=int, default=3, show_default=True, help="Turns that the contenders take; at least 3 with --compare."
)
@click.option("--duration", "duration_s", type=DURATION, default=9.0, show_default=True, help="Measured time of each contender.")
@click.option("--jobs", type=int, default=1_000_000, show_default=True, help="Queued jobs, of the work million.")
@directory_option
@report_option
@format_option
@debug_option
def queue(works: str, compare: str, in_flight: tuple[int, ...], report: Path | None, output: str, **options: Any) -> int:
    """Measure durable jobs: how many a second, how fast they are accepted and done, at what cost.

    A commit is as fast as the disk of --dir. A work with its own load has the bars of what is promised of jobs; with another
    load it has none.
    """
    from zcluster.bench.queue import QueueOptions, run_queue

    names, others = (tuple(name for name in text.split(",") if name) for text in (works, compare))
    *sweep, last = in_flight
    result = run_queue(QueueOptions(works=names, compare=others, in_flight=last, sweep=tuple(sweep), **options), say)
    return _show(result, output, report, good=result.met)


def _special(name: str, summary: str) -> click.Command:
    @click.command(name, help=summary)
    @click.option("--workers", type=int, default=0, help="Workers. [default: as the bar says]")
    @click.option("--in-flight", type=int, default=0, help="Requests under way at once. [default: as the bar says]")
    @click.option("--duration", "duration_s", type=DURATION, default=5.0, show_default=True, help="Measured time.")
    @click.option("--rounds", type=int, default=5, show_default=True, help="How often to measure.")
    @report_option
    @format_option
    @debug_option
    def command(report: Path | None, output: str, **options: Any) -> int:
        from zcluster.bench.special import SpecialOptions, run_special

        result = run_special(name, SpecialOptions(**options), say)
        return _show(result, output, report, good=result.met)

    return command


def _show(result: Result, output: str, report: Path | None, *, good: bool) -> int:
    from zcluster.bench.report import render, write_report

    put(render(result, output))
    if report is not None:
        write_report(result, report)
        say(f"wrote {report}")
    return EXIT_OK if good else EXIT_PARTIAL


for _name, _summary in SPECIALS.items():
    bench.add_command(_special(_name, _summary))
