"""The kinds of command groups.

Rules kept here:
- a group without a command shows its help on stderr and is a usage error (exit code 2), on every version of click;
- the help of a lazy group is written from its table alone: a command's module is imported when that command is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import click

from zcluster.errors import EXIT_USAGE


class Entry(NamedTuple):
    """One command of a lazy group."""

    place: str
    """``module:attribute`` of the click command."""
    summary: str
    """Its line in the group's help; a test holds it equal to what the command says of itself."""


class Group(click.Group):
    """A group that answers a missing or an unknown command in one way."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does it; no arguments at all show the help and end with the code of a usage error."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(EXIT_USAGE)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it; an unknown name is told with the nearest known one."""
        name = args[0]
        known = self.list_commands(ctx)
        if not ctx.resilient_parsing and name not in known and not name.startswith("-"):
            import difflib  # only a mistake needs it

            near = difflib.get_close_matches(name, known, n=1)
            suffix = f"; did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"no such command {name!r}{suffix}", ctx=ctx)
        return super().resolve_command(ctx, args)


class DefaultGroup(Group):
    """A group that does something itself when no command of it is named: its callback asks :meth:`has_command` first."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "invoke_without_command": True})

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does it: no arguments are no mistake here."""
        return click.Group.parse_args(self, ctx, args)

    @staticmethod
    def has_command(ctx: click.Context) -> bool:
        """Whether a command follows; its options are its own, so that those of the group alone are a usage error then."""
        if ctx.invoked_subcommand is None:
            return False
        for name, value in ctx.params.items():
            if value:
                raise click.UsageError(f"--{name.replace('_', '-')} is to be given behind {ctx.invoked_subcommand!r}", ctx=ctx)
        return True


class LazyGroup(Group):
    """A group whose commands are given by ``sections``: title -> name -> :class:`Entry`."""

    def __init__(self, *args: Any, sections: Mapping[str, Mapping[str, Entry]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections = sections
        self.entries = {name: entry for group in sections.values() for name, entry in group.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the order of the table."""
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command ``cmd_name``, imported now, or None."""
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.place.partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table, one section after the other, in one column width."""
        width = max(map(len, self.entries))
        for title, group in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), entry.summary) for name, entry in group.items()])
