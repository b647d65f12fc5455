"""docs/reference/cli.md from the click commands.

Rules kept here:
- everything comes from the commands themselves: names, arguments, options, help;
- the text does not depend on the terminal, the environment or the machine.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from zcluster.cli.main import cli

HEAD = """# Commands

Every command has `--help`, which says the same. Data goes to stdout, talk and errors to stderr; an error is one line there, and
`--debug` adds the traceback. [errors.md](errors.md) lists the exit codes.
"""


def commands(command: click.Command, parent: click.Context | None, name: str) -> Iterator[click.Context]:
    """A context for ``command`` and for each visible command below it, in the order of the help."""
    ctx = click.Context(command, info_name=name, parent=parent)
    yield ctx
    if isinstance(command, click.Group):
        for sub_name in command.list_commands(ctx):
            sub = command.get_command(ctx, sub_name)
            if sub is not None and not sub.hidden:
                yield from commands(sub, ctx, sub_name)


def render() -> str:
    """The page."""
    sections = [section(ctx) for ctx in commands(cli, None, "zcluster")]
    return HEAD + "\n" + "\n".join(sections)


def section(ctx: click.Context) -> str:
    """One command: its usage, what it says of itself, its commands, arguments and options."""
    command = ctx.command
    usage = " ".join(command.collect_usage_pieces(ctx))
    parts = [f"## `{ctx.command_path}`\n", f"```text\n{ctx.command_path} {usage}\n```\n"]
    if command.help:
        parts.append(paragraphs(command.help) + "\n")
    if isinstance(command, click.Group):
        parts.append(table(("command", "does"), [_command_row(ctx, command, name) for name in command.list_commands(ctx)]))
    options = [param for param in command.params if isinstance(param, click.Option) and not param.hidden]
    parts.append(table(("option", "means"), [_option_row(ctx, option) for option in options]))
    if command.epilog:
        parts.append(paragraphs(command.epilog) + "\n")
    return "\n".join(part for part in parts if part)


def paragraphs(text: str) -> str:
    """Help text as Markdown: paragraphs that click keeps as they are (``\\b``) become blocks of code."""
    blocks = []
    for block in inspect.cleandoc(text).split("\f")[0].strip().split("\n\n"):
        lines = block.split("\n")
        if lines[0].strip() == "\b":
            blocks.append("```text\n" + "\n".join(lines[1:]) + "\n```")
        else:
            blocks.append(plain(" ".join(line.strip() for line in lines)))
    return "\n\n".join(blocks)


def plain(text: str) -> str:
    """``text`` on one line, so that Markdown shows it as it is; what stands between backquotes is code already."""
    pieces = " ".join(text.split()).replace("``", "`").split("`")
    return "`".join(piece if odd % 2 else piece.replace("<", "&lt;").replace("*", "\\*") for odd, piece in enumerate(pieces))


def cell(text: str) -> str:
    """``text`` for a cell of a table."""
    return text.replace("|", "\\|")


def table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    """A Markdown table, or nothing when it has no rows."""
    if not rows:
        return ""
    return "\n".join(["| " + " | ".join(head) + " |", "|---|---|", *(f"| {cell(a)} | {cell(b)} |" for a, b in rows)]) + "\n"


def _command_row(ctx: click.Context, group: click.Group, name: str) -> tuple[str, str]:
    command = group.get_command(ctx, name)
    assert command is not None
    return f"[`{name}`](#{ctx.command_path.replace(' ', '-')}-{name})", plain(command.get_short_help_str(limit=500))


def _option_row(ctx: click.Context, option: click.Option) -> tuple[str, str]:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if not option.is_flag and not option.count:
        names += f" `{_metavar(option, ctx)}`"
    notes = [plain(option.help or "")]
    if option.required:
        notes.append("Required.")
    if option.show_default and option.default is not None and not callable(option.default):
        notes.append(f"Default: `{option.default}`.")
    return names, " ".join(note for note in notes if note)


def _metavar(option: click.Option, ctx: click.Context) -> str:
    if isinstance(option.type, click.IntRange) and option.type.min is not None:
        high = "" if option.type.max is None else f"{option.type.max:g}"
        return f"{option.type.min:g}..{high}"
    return option.make_metavar(ctx)
