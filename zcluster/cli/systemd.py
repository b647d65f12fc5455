"""``zcluster systemd``: write the unit of a daemon for this interpreter, and take it away again.

Rules kept here:
- nothing but the unit file is written or removed: what is to be run next is printed, not run;
- a unit that a person changed, or that is not one of ours, stays as it is without ``--force``;
- the file is replaced in one step, durably.
"""

from __future__ import annotations

import os
import pwd
import shlex
import stat
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import click

import zcluster
from zcluster.cli.groups import Group
from zcluster.cli.options import DIRECTORY, State, common_options
from zcluster.cli.output import put, say
from zcluster.cli.systemd_unit import DEFAULT_HOME, DEFAULT_USER, ROLES, UNIT_DIR, Unit, unchanged
from zcluster.config.home import SYSTEM_HOME
from zcluster.errors import Conflict, NoSuchFile, UsageError, ZClusterError, one_line
from zcluster.files.durable import fsync_dir, read_file, replace_file

MAX_UNIT_BYTES = 256 * 1024
UNIT_MODE = 0o644

role_option = click.option("--role", type=click.Choice(tuple(ROLES)), required=True, help="Which daemon.")
prefix_option = click.option(
    "--prefix", type=DIRECTORY, default=Path("/"), metavar="DIR", help="Root of the system that it is for. [default: /]"
)


@click.group(cls=Group)
def systemd() -> None:
    """Run the daemons under systemd: write their units."""


@systemd.command()
@role_option
@click.option("--user", default=DEFAULT_USER, metavar="NAME", help=f"The user that it runs as. [default: {DEFAULT_USER}]")
@click.option("--dry-run", is_flag=True, help="Print the unit, write nothing.")
@click.option("--force", is_flag=True, help="Also over a unit that was changed by hand.")
@prefix_option
@common_options
@click.pass_obj
def install(state: State, role: str, user: str, dry_run: bool, force: bool, prefix: Path) -> None:
    """Write the unit of a daemon for this interpreter, and say what to do next.

    Its home is --home, else /var/lib/zcluster/home: the only place that it may write to.
    """
    unit = unit_of(role, user, state.home)
    if dry_run:
        put(unit.text)
        return
    path = unit_path(prefix, unit)
    before = read_unit(path)
    if before is not None and not unchanged(before) and not force:
        raise _changed(path, f"put your change into a drop-in (systemctl edit {unit.name}), or replace it: --force")
    write_unit(path, unit.text)
    _warn_of_what_is_missing()
    put(f"{'unchanged' if before == unit.text else 'written'}: {path}")
    put("\n".join(["next:", *(f"  {line}" for line in next_steps(unit, _has_user(user, prefix)))]))


@systemd.command()
@role_option
@click.option("--force", is_flag=True, help="Also a unit that was changed by hand.")
@prefix_option
@common_options
@click.pass_obj
def uninstall(state: State, role: str, force: bool, prefix: Path) -> None:
    """Remove the unit of a daemon. Stop and disable it before; its home stays."""
    path = unit_path(prefix, unit_of(role, DEFAULT_USER, None))
    before = read_unit(path)
    if before is None:
        raise NoSuchFile(f"there is no unit {path}", hint="nothing is to be removed; --role and --prefix say which one is meant")
    if not unchanged(before) and not force:
        raise _changed(path, "remove it all the same: --force")
    try:
        path.unlink()
        _in_directory(path.parent, fsync_dir)
    except OSError as error:
        raise _failed("removed", path, error) from None
    put(f"removed: {path}")
    put("next:\n  systemctl daemon-reload")


def unit_of(role: str, user: str, home: Path | None) -> Unit:
    """The unit of a daemon that this interpreter runs."""
    code = (Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve(), Path(zcluster.__file__).resolve())
    place = DEFAULT_HOME if home is None else Path(os.path.normpath(home.expanduser().absolute()))
    return Unit(role, Path(sys.executable), place, user, code)


def unit_path(prefix: Path, unit: Unit) -> Path:
    """Where its file goes."""
    return prefix / UNIT_DIR.relative_to("/") / unit.name


def read_unit(path: Path) -> str | None:
    """What is in the unit file; None when there is none.

    Raises:
        Conflict: it is no ordinary file, or larger than any unit. UsageError: it cannot be read.
    """
    try:
        found = path.lstat()
        data = _in_directory(path.parent, lambda fd: read_file(fd, path.name, MAX_UNIT_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _failed("read", path, error) from None
    if data is None or not stat.S_ISREG(found.st_mode):
        raise Conflict(f"{path} is no ordinary file of a unit", hint="a masked unit is a link to /dev/null: systemctl unmask it")
    return str(data.decode("utf-8", "surrogateescape"))


def write_unit(path: Path, text: str) -> None:
    """Write the unit file in one step, readable by everybody: it has no secret.

    Raises:
        UsageError: it could not be written.
    """

    def write(fd: int) -> None:
        replace_file(fd, path.name, text.encode())
        os.chmod(path.name, UNIT_MODE, dir_fd=fd)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _in_directory(path.parent, write)
    except OSError as error:
        raise _failed("written", path, error) from None


def next_steps(unit: Unit, has_user: bool) -> list[str]:
    """The commands that make it run, in their order."""
    own = [path for path in reversed(unit.home.parents) if path.is_relative_to(SYSTEM_HOME)]
    directories = shlex.join(str(path) for path in (*own, unit.home, unit.home / "keys"))
    lines = [] if has_user else [f"useradd --system --no-create-home --shell /usr/sbin/nologin {unit.user}"]
    lines.append(f"install -d -o {unit.user} -m 0700 {directories}")
    if unit.role != "master":
        join = shlex.join([str(unit.python), "-m", "zcluster", "keys", "join", "--join-file", "FILE", "--home", str(unit.home)])
        lines += [
            f"# a key: on the master `zcluster token create --role {unit.role} --out FILE`; bring that file here, then",
            f"{join} && chown {unit.user} {shlex.quote(str(unit.key))}",
        ]
    service = f"zcluster-{unit.role}"
    return [*lines, "systemctl daemon-reload", f"systemctl enable --now {service}", f"journalctl -u {service} -f"]


def _has_user(name: str, prefix: Path) -> bool:
    """Whether this system has the user; of another one nothing is known."""
    if prefix != Path("/"):
        return False
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _warn_of_what_is_missing() -> None:
    try:
        distribution("zcluster")
    except PackageNotFoundError:
        say(f"zcluster: it is not installed for {sys.executable}: the service will not find it (pip install it there)")


def _in_directory(path: Path, work: Any) -> Any:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return work(fd)
    finally:
        os.close(fd)


def _changed(path: Path, hint: str) -> ZClusterError:
    return Conflict(f"{path} was changed by hand, or is not a unit of zcluster", hint=hint)


def _failed(what: str, path: Path, error: OSError) -> ZClusterError:
    hint = "run it with sudo, or see the unit with --dry-run" if isinstance(error, PermissionError) else ""
    return UsageError(f"{path} cannot be {what}: {one_line(error.strerror or str(error))}", hint=hint)
