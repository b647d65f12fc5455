"""``zcluster check``: is the cluster well, asked once, for people and for monitoring.

Rules kept here:
- ``text`` and ``json`` end with the codes of zcluster (0, 3 degraded, 6 unreachable, or the error's own);
- ``nagios`` ends with 0, 1, 2 or 3 and prints its one line on stdout, whatever happens: a wrong command line is UNKNOWN (3);
- ``prometheus`` ends with 0 when it has printed the whole text, with ``zcluster_up 0`` when the master does not answer or cannot
  be asked: what collects it would otherwise keep the text of before. Only a wrong command line is an error (2);
- a fault names the context that the command went by: monitoring asks several clusters;
- a limit that was given outranks the default of the other one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from zcluster.cli.complaints import masked, name_context
from zcluster.cli.connect import connection, open_client, run_async
from zcluster.cli.options import DURATION, State, common_options, connection_options, timeout_option
from zcluster.cli.output import json_text, on_terminal, put, say
from zcluster.errors import EXIT_OK, EXIT_PARTIAL, ZClusterError

FORMATS = ("text", "json", "nagios", "prometheus")
UNKNOWN = 3
F = TypeVar("F", bound=Callable[..., Any])


class PercentType(click.FloatRange):
    """A number from 0 to 100."""

    name = "percentage"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; "nan", which no range refuses, is a usage error too."""
        found = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value!r} is not a valid percentage.", param, ctx)
        return found


COUNT = click.IntRange(min=0)
PERCENT = PercentType(0, 100)
LIMITS: tuple[tuple[str, Any, str, Any, Any], ...] = (
    ("nodes-down", COUNT, "nodes that are silent or dead", 1, None),
    ("dead-jobs", COUNT, "dead letters", 1, None),
    ("queued-jobs", COUNT, "jobs that wait", None, None),
    ("sync-behind", DURATION, "the longest that a copy of a tree has been behind", 300.0, None),
    ("disk", PERCENT, "the fullest disk of a node, in percent", 85.0, 95.0),
    ("memory", PERCENT, "the fullest memory of a node, in percent", None, None),
)
"""Option, type, meaning, and the defaults of warning and critical; None: no limit."""


def limit_options(command: F) -> F:
    """``--X-warn`` and ``--X-crit`` for each of LIMITS."""
    for name, kind, meaning, warn, crit in reversed(LIMITS):
        for word, state, default in (("crit", "critical", crit), ("warn", "a warning", warn)):
            shown = "none" if default is None else f"{default:g}"
            command = click.option(
                f"--{name}-{word}", type=kind, default=default, metavar="N" if kind is COUNT else "LIMIT",
                help=f"From here on it is {state}: {meaning}. [default: {shown}]",
            )(command)  # fmt: skip
    return command


class Monitored(click.Command):
    """A command whose usage errors are for Nagios too, when it is asked for its format."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does it."""
        wanted = any(word == "--format=nagios" for word in args) or any(
            (word, after) == ("--format", "nagios") for word, after in pairwise(args)
        )
        try:
            rest = super().parse_args(ctx, args)
            _settle_limits(ctx)
            return rest
        except click.UsageError as error:
            if not wanted:
                raise
            _unknown(error.format_message())
            ctx.exit(UNKNOWN)


@click.command(cls=Monitored)
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", help="How to print it. [default: text]")
@limit_options
@timeout_option
@connection_options
@common_options
@click.pass_obj
def check(
    state: State, /, form: str, timeout: float | None, key: Path | None, master: tuple[str, ...], **limits: float | None
) -> int:
    """Check the cluster's health once, for people and monitoring.

    Exit codes of text and json: 0 ok, 3 degraded, 6 unreachable. Of nagios: 0 ok, 1 warning, 2 critical (also: the master does
    not answer), 3 unknown. Of prometheus: 0, with zcluster_up 0 when the master does not answer.
    """
    from zcluster.cli import health_formats
    from zcluster.cli.health import Health, Measure, measured

    try:
        judged = _limits(limits)
        client = open_client(state, connection(key, master, timeout))
        health = run_async(measured(client, judged, time.time(), state.used_context))
    except ZClusterError as error:
        name_context(error, state.used_context)
        if form == "nagios":
            _unknown(str(error))
            return UNKNOWN
        if form != "prometheus":
            raise
        say(masked(f"zcluster: error: {error}"))
        health = Health([Measure("master", "unknown", str(error))], error)
    match form:
        case "nagios":
            line, code = health_formats.nagios(health)
            put(line)
            return code
        case "prometheus":
            put(health_formats.prometheus(health))
            return EXIT_OK
        case "json":
            items = [measure.item() for measure in health.measures]
            put(json_text({"schema": 1, "status": health.state, "checks": items}, pretty=on_terminal()))
        case _:
            put("\n".join(health_formats.text_lines(health)))
    if health.error is not None:
        return health.error.exit_code
    return EXIT_OK if health.state == "ok" else EXIT_PARTIAL


def _settle_limits(ctx: click.Context) -> None:
    """A default that contradicts the other limit, which was given, is no limit. Raises click.UsageError when both were given."""
    for name, *_ in LIMITS:
        fields = [f"{name.replace('-', '_')}_{word}" for word in ("warn", "crit")]
        warn, crit = (ctx.params.get(field) for field in fields)
        if warn is None or crit is None or warn <= crit:
            continue
        defaults = [field for field in fields if ctx.get_parameter_source(field) is ParameterSource.DEFAULT]
        if not defaults:
            said = f"--{name}-warn {warn:g} is above --{name}-crit {crit:g}"
            raise click.UsageError(f"{said}: a warning comes before critical", ctx)
        ctx.params[defaults[0]] = None


def _limits(values: dict[str, float | None]) -> Any:
    from zcluster.cli.health import Limit, Limits

    fields = [name.replace("-", "_") for name, *_ in LIMITS]
    return Limits(**{field: Limit(values[f"{field}_warn"], values[f"{field}_crit"]) for field in fields})


def _unknown(text: str) -> None:
    from zcluster.cli.health_formats import nagios_line

    put(nagios_line("UNKNOWN", masked(text)))
