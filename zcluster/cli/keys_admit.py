"""``zcluster keys pending | accept | reject`` on the master's machine, ``keys request | join`` on the new one.

Rules kept here:
- a key is accepted by its whole fingerprint, which the new machine shows: who accepts compares, and a name proves nothing;
- on the new machine only its own key file is written.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zcluster.cli.joining import join_file_option, token_of
from zcluster.cli.keyhome import check_known_role, home_of, ring_of, role_option
from zcluster.cli.options import FILE, State, common_options, completes, output_option
from zcluster.cli.output import Column, emit_list, emit_object, pairs, say
from zcluster.errors import UsageError

if TYPE_CHECKING:
    from zcluster.config import Home
    from zcluster.core.joining import Stranger
    from zcluster.keys import KeyFile, Ring

PENDING = (
    Column("fingerprint", "FINGERPRINT"),
    Column("address", "ADDRESS"),
    Column("tries", "TRIES"),
    Column("last_at", "LAST"),
    Column("first_at", "FIRST", wide=True),
    Column("public", "PUBLIC", wide=True),
)


@click.command()
@output_option
@common_options
@click.pass_obj
def pending(state: State) -> None:
    """List the keys that have tried to connect and that nobody has decided on.

    The master notes them while it runs; a key that has not tried since its start is not there.
    """
    from zcluster.keys.rows import pending_row

    home = home_of(state)
    rows = [pending_row(each) for each in _waiting(home, ring_of(home))]
    emit_list(rows, PENDING, state.output, name_key="fingerprint")


@click.command()
@click.argument("name")
@click.option(
    "--fingerprint", required=True, metavar="SHA256:…", shell_complete=completes("pending_fingerprints"),
    help="The whole fingerprint, as the new machine shows it.",
)  # fmt: skip
@role_option(default="worker")
@output_option
@common_options
@click.pass_obj
def accept(state: State, name: str, fingerprint: str, role: str) -> None:
    """Admit the key of this fingerprint, which has tried to connect, under NAME."""
    from zcluster.keys.pending import accept as accept_key
    from zcluster.keys.pending import find
    from zcluster.keys.rows import key_row

    home = home_of(state)
    ring = ring_of(home)
    stranger = find(_waiting(home, ring), fingerprint)
    item = key_row(accept_key(ring, stranger.public, name, check_known_role(state, role)))
    emit_object(item, state.output, lines=pairs(list(item.items())[:4]))


@click.command()
@click.argument("fingerprint", metavar="SHA256:…", shell_complete=completes("pending_fingerprints"))
@output_option
@common_options
@click.pass_obj
def reject(state: State, fingerprint: str) -> None:
    """Let the key of this fingerprint wait no longer; its next tries are refused and not listed."""
    from zcluster.keys.pending import find
    from zcluster.keys.pending import reject as reject_key
    from zcluster.keys.rows import pending_row

    home = home_of(state)
    ring = ring_of(home)
    stranger = find(_waiting(home, ring), fingerprint)
    reject_key(ring, stranger.public)
    item = pending_row(stranger)
    emit_object(item, state.output, lines=pairs(list(item.items())[:2]), name_key="fingerprint")


@click.command()
@click.option("--master", multiple=True, required=True, metavar="tcp://HOST:PORT", help="Address of the master.")
@click.option("--master-key", required=True, metavar="PUBLIC-KEY", help="The master's public key: 40 characters of Z85.")
@role_option(default="worker", help="What the key is for; who accepts it decides.")
@click.option("--name", metavar="NAME", help="The name that it would like. [default: the machine's]")
@click.option("--cluster", default="zcluster", metavar="NAME", help="Name of the cluster, until the master says it.")
@click.option("--out", type=FILE, metavar="FILE", help="The key file to write. [default: keys/NAME.key in the home]")
@output_option
@common_options
@click.pass_obj
def request(
    state: State, master: tuple[str, ...], master_key: str, role: str, name: str | None, cluster: str, out: Path | None
) -> None:
    """Make a key file on a new machine that has no token, and show what its administrator is to do.

    The master's public key is what `zcluster keys show master -o wide` prints on its machine; quote it for the shell.
    """
    from zcluster.config import name_fault, parse_address
    from zcluster.keys import fingerprint
    from zcluster.workers.joining import default_name, request

    wish = name or default_name(role)
    for fault in filter(None, map(name_fault, (wish, cluster))):
        raise UsageError(fault)
    for address in master:
        parse_address(address)
    path = out or _made_place(home_of(state), wish)
    made = request(path, wish, role, cluster, master_key, master)
    mark = fingerprint(made.pair.public)
    item = {"name": wish, "role": role, "file": str(path), "fingerprint": mark, "public": made.pair.public}
    emit_object(item, state.output, lines=pairs(list(item.items())[:4]))
    start = f"zcluster worker --key {path}" if role == "worker" else f"zcluster keys join --out {path}"
    say(f"start it with: {start}; it waits until, on the master: zcluster keys accept {wish} --fingerprint {mark} --role {role}")


@click.command()
@click.argument("token", required=False)
@join_file_option
@click.option("--out", type=FILE, metavar="FILE", help="The key file to write. [default: keys/ROLE.key in the home]")
@click.option("--name", metavar="NAME", help="The name that it would like. [default: the machine's]")
@output_option
@common_options
@click.pass_obj
def join(state: State, token: str | None, join_file: Path | None, out: Path | None, name: str | None) -> None:
    """Join with a token, or wait to be accepted: makes a key here, has it admitted, and writes its key file.

    "-" reads the token from stdin, and ZCLUSTER_JOIN may hold it. Without one, --out FILE is what `keys request` made. A worker
    joins by itself: `zcluster worker --join TOKEN`.
    """
    from zcluster.config import name_fault
    from zcluster.workers.joining import Joining, joined

    fault = name_fault(name) if name is not None else ""
    if fault:  # the file is named after it
        raise UsageError(fault)
    given = token_of(token, join_file)
    if given is None and out is None:
        raise UsageError("no token was given", hint="zcluster keys join TOKEN, or --out FILE of a key that waits to be accepted")
    path = out or _made_place(home_of(state), name or (given.role if given is not None else ""))
    done: KeyFile = joined(Joining(path, given, name or "", say=say))
    item: dict[str, Any] = {"name": done.name, "role": done.role, "cluster": done.cluster, "file": str(path)}
    emit_object(item, state.output, lines=pairs(list(item.items())))
    if done.role != "worker" and state.output is None:
        say(f"use it with: --key {shlex.quote(str(path))}, or ZCLUSTER_KEY")


def _waiting(home: Home, ring: Ring) -> list[Stranger]:
    from zcluster.keys.pending import read_pending, waiting

    return waiting(read_pending(home), ring)


def _made_place(home: Home, name: str) -> Path:
    """``keys/NAME.key`` in ``home``, whose directories are made."""
    from zcluster.keys import make_private_dir

    for path in (home.path, home.keys_dir):
        if not path.is_dir():
            make_private_dir(path)
    return home.key_file(name)
