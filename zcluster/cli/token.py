"""``zcluster token``: make, list and revoke join tokens, on the master's machine.

Rules kept here:
- the secret of a token is printed or written once, when it is made, and never again;
- the home is worked on as it is on disk: a token is good whether the master runs now or starts later.
"""

from __future__ import annotations

import shlex
import time
from pathlib import Path

import click

from zcluster.cli.connect import settings
from zcluster.cli.groups import Group
from zcluster.cli.keyhome import applied, check_known_role, home_of, ring_of, role_option, told_applied
from zcluster.cli.options import DURATION, FILE, State, common_options, completes, output_option
from zcluster.cli.output import Column, emit_list, emit_object, pairs, say
from zcluster.keys.rights import ROLES

HOUR_S = 3600.0

COLUMNS = (
    Column("id", "ID"),
    Column("role", "ROLE"),
    Column("name", "NAME"),
    Column("state", "STATE"),
    Column("uses_left", "USES LEFT"),
    Column("expires_at", "EXPIRES"),
    Column("creator", "CREATOR"),
    Column("created_at", "CREATED", wide=True),
)


@click.group(cls=Group)
def token() -> None:
    """Make, list and revoke join tokens, which let new machines in."""


@token.command()
@role_option(help="What the keys that join by it may do.")
@click.option("--name", metavar="NAME", help="Name of the one key that may join by it. [default: the joiner may wish]")
@click.option("--ttl", type=DURATION, default=HOUR_S, metavar="DURATION", help="How long it is valid, at most 30d. [default: 1h]")
@click.option("--uses", type=int, default=1, metavar="N", help="How many keys may join by it. [default: 1]")
@click.option("--out", type=FILE, metavar="FILE", help="Write it into this new file (mode 0600) instead of printing it.")
@click.option("--force", is_flag=True, help="Also a token for administrators.")
@output_option
@common_options
@click.pass_obj
def create(state: State, role: str, name: str | None, ttl: float, uses: int, out: Path | None, force: bool) -> None:
    """Make a join token, and print the whole line to paste on the new machine.

    The token is a secret: who has it may join until it has expired or is used up. On a command line others can read it;
    --out FILE here and --join-file FILE there keep it out of sight.
    """
    from zcluster.keys import KeyFile
    from zcluster.keys.private import write_new
    from zcluster.keys.rows import token_row
    from zcluster.keys.tokens import TokenText, addresses_of, create_token, forget_token

    home = home_of(state)
    ring = ring_of(home)
    check_known_role(state, role)
    bases = {} if role in ROLES else {each.name: each.base for each in settings(state).settings.roles.role}
    master = KeyFile.read(home.master_key)
    addresses = addresses_of((), master.addresses)
    made, pair = create_token(ring, role, name=name or "", ttl_s=ttl, uses=uses, force=force, bases=bases)
    text = TokenText(pair, master.pair.public, master.cluster, addresses, role, name or "").text
    if out is not None:
        try:
            write_new(out, f"{text}\n".encode())
        except BaseException:
            # whatever stopped it: a token that nobody has must not be valid
            forget_token(ring, made.id)
            raise
    line = join_line(role, text, out)
    item = {**token_row(made, ring, time.time()), "file": None if out is None else str(out), "line": line}
    if out is None:
        item["token"] = text
    emit_object(item, state.output, lines=[line], name_key="id")
    if state.output is None:
        what = f"a secret, token {made.id}: it lets {uses} {role} key{'s' * (uses != 1)} in until {made.expires_at}"
        say(f"{what}; --out FILE and --join-file FILE keep it off command lines")


def join_line(role: str, text: str, file: Path | None) -> str:
    """What is to be run on the new machine."""
    command = "zcluster worker" if role == "worker" else "zcluster keys join"
    if file is not None:
        return f"{command} --join-file {shlex.quote(str(file))}"
    return f"{command} {'--join ' if role == 'worker' else ''}{text}"


@token.command("ls")
@output_option
@common_options
@click.pass_obj
def list_tokens(state: State) -> None:
    """List the join tokens, those that are over among them."""
    from zcluster.keys.rows import token_row

    ring, now_s = ring_of(home_of(state)), time.time()
    tokens = sorted(ring.tokens.values(), key=lambda each: (each.created_at, each.id))
    emit_list([token_row(each, ring, now_s) for each in tokens], COLUMNS, state.output, name_key="id")


@token.command()
@click.argument("id", shell_complete=completes("token_ids"))
@output_option
@common_options
@click.pass_obj
def revoke(state: State, id: str) -> int:
    """Let the join token ID admit nobody any more; who joined by it stays admitted.

    Exit code 3 when the running master has not applied it within 2 s.
    """
    from zcluster.keys.rows import token_row
    from zcluster.keys.tokens import revoke_token

    home = home_of(state)
    ring = ring_of(home)
    item = {**token_row(revoke_token(ring, id), ring, time.time()), "applied": applied(home, ring)}
    emit_object(item, state.output, lines=pairs(list(item.items())), name_key="id")
    return told_applied(item["applied"])
