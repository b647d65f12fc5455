"""Options that several commands share, and the state that they fill.

Rules kept here:
- an option that many commands have is declared once, with one help text;
- options that say how the command behaves (``--home``, ``--debug``, ``-o``) are kept in :class:`State`, which
  :func:`zcluster.cli.main.run` owns: it still has them when the command has failed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

FORMATS = ("table", "wide", "json", "ndjson", "yaml", "name")
"""What ``-o`` accepts."""

MACHINE_FORMATS = ("json", "ndjson", "yaml")
"""Formats that a program reads: with them an error is a JSON object on stderr."""

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

if TYPE_CHECKING:  # generic only since click 8.5, and only on paper
    FloatType = click.ParamType[float]
    IntegerType = click.ParamType[int]
else:
    FloatType = IntegerType = click.ParamType

F = TypeVar("F", bound=Callable[..., Any])


def completes(name: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """What the shell is offered for a word: what the function ``name`` of completing.py finds, which is imported only then."""

    def complete(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from zcluster.cli import completing

        found: list[CompletionItem] = getattr(completing, name)(ctx, incomplete)
        return found

    return complete


@dataclass
class State:
    """What one run of the command was told, apart from the command's own arguments."""

    home: Path | None = None
    debug: bool = False
    output: str | None = None
    """The format asked for, or None when ``-o`` was not given."""
    context: str | None = None
    """The context asked for, or None when ``--context`` was not given."""
    used_context: str = ""
    """The context that the command went by; an error says so."""


@dataclass(frozen=True)
class Connection:
    """How to reach the cluster, as told on the command line; None and () leave it to the configuration."""

    key: Path | None = None
    masters: tuple[str, ...] = ()
    timeout_s: float | None = None


class DurationType(FloatType):
    """A duration such as ``5s``, ``250ms``, ``10m`` or a number of seconds; the value is in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds of ``value``; a value that is no duration is a usage error that shows the accepted forms."""
        from zcluster.config import parse_duration_s
        from zcluster.errors import ConfigError

        if isinstance(value, int | float):
            return float(value)
        try:
            return parse_duration_s(str(value))
        except ConfigError as error:
            self.fail(f"{error.message}; {error.hint}", param, ctx)


class BytesType(IntegerType):
    """A size such as ``100``, ``64KiB`` or ``1MiB``; the value is in bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes of ``value``; a value that is no size is a usage error that shows the accepted forms."""
        from zcluster.config import parse_bytes
        from zcluster.errors import ConfigError

        if isinstance(value, int):
            return value
        try:
            return parse_bytes(str(value))
        except ConfigError as error:
            self.fail(f"{error.message}; {error.hint}", param, ctx)


class PathType(click.Path):
    """A path. An empty one, which a shell makes of a variable that is not set, is a usage error, not the working directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As click does it."""
        if value == "":
            self.fail("an empty path", param, ctx)
        return super().convert(value, param, ctx)


DURATION = DurationType()
BYTES = BytesType()
FILE = PathType(path_type=Path, dir_okay=False)
DIRECTORY = PathType(path_type=Path, file_okay=False)


def _keep(attribute: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A callback that stores an option's value in the run's :class:`State`; the innermost one given wins."""

    def callback(ctx: click.Context, _param: click.Parameter, value: Any) -> Any:
        if value or value == "":
            setattr(ctx.ensure_object(State), attribute, value)
        return value

    return callback


def home_option(command: F) -> F:
    """``--home DIR`` into ``State.home``."""
    return click.option(
        "--home",
        type=DIRECTORY,
        metavar="DIR",
        is_eager=True,
        expose_value=False,
        callback=_keep("home"),
        help="Directory with configuration, keys and data. [env: ZCLUSTER_HOME]",
    )(command)


def debug_option(command: F) -> F:
    """``--debug`` into ``State.debug``."""
    return click.option(
        "--debug",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_keep("debug"),
        help="Show the traceback of an error.",
    )(command)


def common_options(command: F) -> F:
    """The options of every command: ``--home`` and ``--debug``."""
    return home_option(debug_option(command))


def output_option(command: F) -> F:
    """``-o FORMAT`` into ``State.output``."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(FORMATS),
        is_eager=True,
        expose_value=False,
        callback=_keep("output"),
        help="How to print the data. [default: table]",
    )(command)


def _reaches(command: F, key_flag: str) -> F:
    command = click.option(
        "--context",
        metavar="NAME",
        is_eager=True,
        expose_value=False,
        callback=_keep("context"),
        shell_complete=completes("context_names"),
        help="Cluster to ask, by the name that `context add` gave it. [env: ZCLUSTER_CONTEXT]",
    )(command)
    command = click.option(
        "--master",
        multiple=True,
        metavar="[NAME@]tcp://HOST:PORT",
        help="Address of a master or of a worker's door, instead of those in the key file (may be repeated).",
    )(command)
    return click.option(
        key_flag,
        "key",
        type=FILE,
        metavar="FILE",
        help="Key file to use. [env: ZCLUSTER_KEY; default: keys/admin.key in the home]",
    )(command)


def connection_options(command: F) -> F:
    """``--key`` and ``--master``, passed to the command as ``key`` and ``master``."""
    return _reaches(command, "--key")


def key_file_options(command: F) -> F:
    """As :func:`connection_options`, for a command whose ``--key`` means something else: the file is ``--key-file`` there."""
    return _reaches(command, "--key-file")


def refuse_key_file(text: str, meaning: str) -> None:
    """Raise UsageError when ``text``, given with a ``--key`` that means ``meaning``, is a key file as elsewhere."""
    if text.endswith(".key") and Path(text).is_file():
        from zcluster.errors import UsageError

        raise UsageError(f"--key is {meaning} here, and {text!r} is a file", hint="--key-file names the key file")


def timeout_option(command: F) -> F:
    """``--timeout``, passed to the command as ``timeout`` (seconds, or None)."""
    return click.option(
        "--timeout",
        type=DURATION,
        metavar="DURATION",
        help="How long to wait: 5s, 250ms, 10m. [default: 5s for a master, client.timeout_s for a call]",
    )(command)


def shared_options(command: F) -> F:
    """What every command that asks the cluster takes: --timeout, --key, --master, -o, --home and --debug."""
    return timeout_option(connection_options(output_option(common_options(command))))
