"""``zcluster keys export | import``: a backup of the ring and of the home's key files.

Rules kept here:
- a backup with secrets goes into a private file, never to stdout;
- while a master runs in the home, nothing is imported there;
- what would be lost is said before it is: without --force it stays.
"""

from __future__ import annotations

from pathlib import Path

import click

from zcluster.cli.keyhome import home_of, ring_of
from zcluster.cli.options import FILE, State, common_options, output_option
from zcluster.cli.output import emit_object, pairs, put, say
from zcluster.errors import UsageError


@click.command("export")
@click.option("--out", type=FILE, metavar="FILE", help="The new file to write, mode 0600. [default: stdout]")
@click.option("--secrets", is_flag=True, help="With the home's key files, and so with their secrets; needs --out.")
@output_option
@common_options
@click.pass_obj
def export_keys(state: State, out: Path | None, secrets: bool) -> None:
    """Write a backup of the ring: which keys are admitted, and which were revoked.

    With --secrets the key files in the home are in it too, its master's and its administrator's among them: with such a backup
    the master can be set up anew on another machine, and every key file in the cluster stays good.
    """
    from zcluster.keys.backup import export
    from zcluster.keys.private import write_new

    if secrets and out is None:
        raise UsageError("a backup with secrets is not printed", hint="give --out FILE; it gets mode 0600")
    home = home_of(state)
    keys = len(ring_of(home).entries)
    data = export(home, secrets)
    if out is None:
        put(data.decode())
        return
    write_new(out, data)
    item = {"file": str(out), "keys": keys, "secrets": secrets}
    emit_object(item, state.output, lines=pairs(list(item.items())), name_key="file")


@click.command("import")
@click.argument("file", type=FILE)
@click.option("--force", is_flag=True, help="Also when keys or key files that are there now are lost by it.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@output_option
@common_options
@click.pass_obj
def import_keys(state: State, file: Path, force: bool, dry_run: bool) -> None:
    """Restore the ring, and the key files that are in it, from the backup FILE.

    A key that was revoked since stays revoked, one that was rotated since keeps its newer key, and join tokens are not restored.
    The home's master must not run.
    """
    from zcluster.keys import make_private_dir
    from zcluster.keys.backup import carry_out, plan, read_backup
    from zcluster.process import OneProcess

    home = home_of(state)
    backup = read_backup(file)
    for directory in (home.path, home.run_dir):
        if not directory.is_dir() and not dry_run:
            make_private_dir(directory)
    lock = OneProcess(home.run_dir / "master.lock") if not dry_run else None
    try:
        planned = plan(home, backup)
        if planned.loses and not force and not dry_run:
            lost = ", ".join((*planned.removed, *planned.changed, *(f"{name}.key" for name in planned.replaced))[:5])
            raise UsageError(f"the import would lose what is there now: {lost}", hint="--dry-run shows it all, --force does it")
        if not dry_run:
            carry_out(home, planned)
    finally:
        if lock is not None:
            lock.close()
    item = {
        "file": str(file), "made_at": backup.made_at, "done": not dry_run, "added": list(planned.added),
        "removed": list(planned.removed), "changed": list(planned.changed), "left_out": list(planned.left_out),
        "files": sorted(planned.files), "replaced": list(planned.replaced),
    }  # fmt: skip
    shown = [(name, ", ".join(value) if isinstance(value, list) else value) for name, value in item.items()]
    emit_object(item, state.output, lines=pairs(shown), name_key="file")
    if planned.left_out and state.output is None:
        say("left out were keys that have been revoked since the backup was made")
