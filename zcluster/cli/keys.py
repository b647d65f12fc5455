"""``zcluster keys``: make, admit, show and revoke keys.

Rules kept here:
- a secret is written to its key file and nowhere else: no command prints one;
- all but ``init`` work on a home that a broken zcluster.toml keeps from starting: keys can always be revoked.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from zcluster.cli.connect import settings
from zcluster.cli.groups import Group
from zcluster.cli.keyhome import applied, check_known_role, home_of, ring_of, role_option, told_applied
from zcluster.cli.keys_admit import accept, join, pending, reject, request
from zcluster.cli.keys_backup import export_keys, import_keys
from zcluster.cli.keys_rotate import rotate
from zcluster.cli.options import State, common_options, completes, output_option
from zcluster.cli.output import Column, emit_list, emit_object, pairs, say
from zcluster.errors import UsageError

if TYPE_CHECKING:
    from zcluster.config import Home
    from zcluster.keys import Entry

COLUMNS = (
    Column("name", "NAME"),
    Column("role", "ROLE"),
    Column("fingerprint", "FINGERPRINT"),
    Column("created_at", "CREATED"),
    Column("rotating", "ROTATING"),
    Column("token", "TOKEN", wide=True),
    Column("public", "PUBLIC", wide=True),
)

ANY_FILE = click.Path(path_type=Path)


class PublicKeyCommand(click.Command):
    """A command with a public key among its arguments; one that begins with '-' is still no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does it, after a word that looks like a public key was put behind the ``--``."""
        options = tuple(f"{name}=" for param in self.params for name in param.opts)
        if "--" not in args:
            keys = [word for word in args if word.startswith("-") and len(word) == 40 and not word.startswith(options)]
            args = [*(word for word in args if word not in keys), "--", *keys]
        return super().parse_args(ctx, args)


@click.group(cls=Group)
def keys() -> None:
    """Make, admit, show and revoke keys."""


@keys.command()
@click.option("--cluster", metavar="NAME", help="Name of the cluster.")
@click.option("--name", metavar="NAME", help="Name of the master. [default: master]")
@output_option
@common_options
@click.pass_obj
def init(state: State, cluster: str | None, name: str | None) -> None:
    """Make the home of a new cluster: its configuration, its ring, the keys of its master and its administrator.

    What is there already stays; the addresses in the home's own key files become those of the configuration. `zcluster
    master` does the same at each start; while it runs, its home is not touched.
    """
    from zcluster.cli.daemons import prepare_home
    from zcluster.keys import fingerprint

    made = prepare_home(settings(state, {"cluster.name": cluster, "node.name": name}))
    item = {
        "name": made.master.name,
        "cluster": made.master.cluster,
        "home": str(made.home.path),
        "fingerprint": fingerprint(made.master.master_public),
        "addresses": list(made.master.addresses),
        "created": [str(path) for path in made.created],
    }
    emit_object(item, state.output, lines=pairs([*list(item.items())[:4], ("addresses", ", ".join(made.master.addresses))]))


@keys.command()
@click.argument("name", required=False)
@role_option()
@click.option(
    "--out", type=ANY_FILE, metavar="FILE",
    help="The key file to write; with --count the directory. [default: keys/NAME.key in the home]",
)  # fmt: skip
@click.option(
    "--count", type=click.IntRange(1, 50_000), metavar="N",
    help="Make N keys at once, called PREFIX00001 and so on (for simulated agents).",
)  # fmt: skip
@click.option("--prefix", metavar="PREFIX", help="With --count: what their names begin with.")
@output_option
@common_options
@click.pass_obj
def new(state: State, name: str | None, role: str, out: Path | None, count: int | None, prefix: str | None) -> None:
    """Make the key NAME, admit it, and write its key file.

    The file holds all its owner needs (its pair, the master's public key, the addresses) and has mode 0600.
    A running master admits the key at once.
    """
    from zcluster.keys import fingerprint, new_key

    check_known_role(state, role)
    if count is not None or prefix is not None:
        _new_many(state, name, role, out, count, prefix)
        return
    if name is None:
        raise UsageError("missing argument 'NAME'", hint="zcluster keys new NAME --role ROLE")
    key_file, path = new_key(home_of(state), name, role, out)
    public = key_file.pair.public
    item = {"name": name, "role": role, "file": str(path), "fingerprint": fingerprint(public), "public": public}
    emit_object(item, state.output, lines=pairs(list(item.items())[:4]))
    if role == "worker":
        say(f"start it with: zcluster worker --key {path}")


def _new_many(state: State, name: str | None, role: str, out: Path | None, count: int | None, prefix: str | None) -> None:
    from zcluster.keys import new_keys

    if name is not None or out is None or not count or not prefix:
        raise UsageError("many keys need --count, --prefix and --out, and no NAME", hint="--count 100 --prefix sim- --out DIR")
    files = new_keys(home_of(state), prefix, count, role, out)
    item = {"count": len(files), "role": role, "first": files[0].stem, "last": files[-1].stem, "directory": str(out)}
    emit_object(item, state.output, lines=pairs(list(item.items())))


@keys.command(cls=PublicKeyCommand)
@click.argument("name")
@click.argument("public_key", metavar="PUBLIC-KEY")
@role_option()
@output_option
@common_options
@click.pass_obj
def add(state: State, name: str, public_key: str, role: str) -> None:
    """Admit PUBLIC-KEY, whose secret is elsewhere, under NAME.

    PUBLIC-KEY is 40 characters of Z85; quote it for the shell. It may begin with '-'.
    """
    from zcluster.keys.rows import key_row

    item = key_row(ring_of(home_of(state)).add(name, check_known_role(state, role), public_key))
    emit_object(item, state.output, lines=pairs(list(item.items())))


@keys.command("ls")
@output_option
@common_options
@click.pass_obj
def list_keys(state: State) -> None:
    """List the admitted keys."""
    from zcluster.keys.rows import key_row

    entries = ring_of(home_of(state)).entries.values()
    emit_list([key_row(entry) for entry in sorted(entries, key=lambda entry: entry.name)], COLUMNS, state.output)


@keys.command()
@click.argument("name", shell_complete=completes("key_names"))
@output_option
@common_options
@click.pass_obj
def show(state: State, name: str) -> None:
    """Show the admitted key NAME; never its secret."""
    from zcluster.keys.rows import key_row

    home = home_of(state)
    item = key_row(ring_of(home).get(name))
    path = home.key_file(name)
    item["file"] = str(path) if path.exists() else None
    emit_object(item, state.output, lines=pairs(list(item.items())))


@keys.command()
@click.argument("name", shell_complete=completes("key_names"))
@click.option("--force", is_flag=True, help="Also when it is the home's own key, of its master or its administrator.")
@output_option
@common_options
@click.pass_obj
def revoke(state: State, name: str, force: bool) -> int:
    """Admit the key NAME no longer; a running master refuses it at once, and for good.

    Its connections are cut. The tokens that it made, the one by which it joined and those for its name are revoked with it. The
    two keys of the home itself need --force. Exit code 3 when the running master has not applied it within 2 s.
    """
    from zcluster.keys.rows import revoked_row

    home = home_of(state)
    ring = ring_of(home)
    if not force:
        _check_not_own(home, ring.get(name))
    before = sum(not each.revoked_at for each in ring.tokens.values())
    record = ring.revoke(name)
    tokens = before - sum(not each.revoked_at for each in ring.tokens.values())
    item = {**revoked_row(record, tokens), "applied": applied(home, ring)}
    emit_object(item, state.output, lines=pairs(list(item.items())))
    return told_applied(item["applied"])


for _command in (rotate, pending, accept, reject, request, join, export_keys, import_keys):
    keys.add_command(_command)


def _check_not_own(home: Home, entry: Entry) -> None:
    """Raises UsageError when ``entry`` is the key of the home's master or administrator."""
    from zcluster.keys import own_key

    path = own_key(home, entry)
    if path is None:
        return
    if path == home.master_key:
        means = "this home's master cannot start again, and every key file that names it is worthless"
        recover = f"to start anew afterwards: move {home.keys_dir} away and make every key again"
    else:
        means = "the commands on this machine are let in with it, and will be refused"
        recover = f"afterwards: move {path} away, then zcluster keys new {entry.name} --role {entry.role}"
    raise UsageError(f"{entry.name!r} is this home's own {path.stem} key: {means}", hint=f"--force revokes it; {recover}")
