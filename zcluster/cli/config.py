"""``zcluster config``: every setting with its value and where it is from; a file checked before it is used."""

from __future__ import annotations

from pathlib import Path

import click

from zcluster.cli.groups import Group
from zcluster.cli.options import FILE, State, common_options, output_option
from zcluster.cli.output import Column, cell, emit_list, say
from zcluster.errors import ConfigError

NAME = Column("name", "NAME")
VALUE = Column("value", "VALUE", text=lambda value: _value(value))
ORIGIN = Column("origin", "ORIGIN")
DOC = Column("doc", "MEANING", wide=True)


def _value(value: object) -> str:
    """A value as it stands in the table; of a tree, what it says that is not the default."""
    if not isinstance(value, dict):
        return '""' if value == "" else cell(value)
    from zcluster.config import TREE_KEYS, toml_value

    said = (f"{key} = {toml_value(each)}" for key, each in value.items() if each != TREE_KEYS[key].default and key != "name")
    return cell(", ".join(said))


@click.group(cls=Group)
def config() -> None:
    """Show where each setting comes from; check a file."""


@config.command()
@click.option("--origin", is_flag=True, help="Also print where each value is from: flag, environment, file and line, default.")
@output_option
@common_options
@click.pass_obj
def show(state: State, origin: bool) -> None:
    """Show every setting with its value; -o wide adds what it means."""
    from zcluster.config import load, rows

    items = [row._asdict() for row in rows(load(state.home))]
    if not origin:
        items = [{key: value for key, value in item.items() if key != "origin"} for item in items]
    emit_list(items, [NAME, VALUE, *([ORIGIN] if origin else []), DOC], state.output)


@config.command()
@click.argument("file", required=False, type=FILE)
@common_options
@click.pass_obj
def validate(state: State, file: Path | None) -> None:
    """Check FILE, or the home's configuration together with the environment; exit code 2 when it is not valid."""
    from zcluster.config import Home, load

    if file is None:
        loaded = load(state.home)
        path = Home(loaded.home).config_file
        say(f"{path}: valid" if path.exists() else f"{path}: there is none; defaults and environment are valid")
        return
    if not file.exists():
        raise ConfigError(f"{file}: there is no such file", hint="`zcluster config validate` without FILE checks the home's")
    check_file(file)
    say(f"{file}: valid")


def check_file(file: Path) -> None:
    """Load ``file`` alone, as the configuration of a home that has nothing else.

    Raises:
        ConfigError: what is wrong with it, and in which line.
    """
    import tempfile

    from zcluster.config import Home, load

    with tempfile.TemporaryDirectory(prefix="zcluster-validate-") as directory:
        stand_in = Home(Path(directory)).config_file
        stand_in.symlink_to(file.absolute())
        try:
            load(Path(directory), environ={})
        except ConfigError as error:
            message = error.message.replace(str(stand_in), str(file)).replace(directory, "HOME")
            raise ConfigError(message, hint=error.hint) from None
