"""``zcluster master`` and ``zcluster worker``: the two that run until they are told to stop.

Rules kept here:
- flags become settings (flag > environment > file > default); nothing is decided here that a setting does not say;
- the account that a master prints at its start is for a person and goes to stdout; the log goes where logs go;
- a master that is refused has changed nothing: its home is locked before a file of it is written;
- every line that can be pasted is exact: it names the real home, the real key file.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zcluster.cli.connect import settings
from zcluster.cli.joining import Offer, join_file_option, offered
from zcluster.cli.options import FILE, State, common_options
from zcluster.cli.output import pairs, put, say
from zcluster.errors import InvalidKey, NotAllowed, UsageError

if TYPE_CHECKING:
    from zcluster.config import Loaded
    from zcluster.keys import InitialisedHome, KeyFile
    from zcluster.keys.rotation import OwnKey


@click.command()
@click.option("--name", metavar="NAME", help="Name of this node. [default: master]")
@click.option("--cluster", metavar="NAME", help="Name of the cluster, used when the home is made.")
@click.option(
    "--bind", metavar="tcp://HOST:PORT", help="Where to take requests, nodes and clients. [default: tcp://0.0.0.0:7570]"
)
@click.option("--publish", metavar="tcp://HOST:PORT", help="Where to publish to the nodes. [default: tcp://0.0.0.0:7571]")
@click.option("--functions", multiple=True, metavar="MODULE", help="Module or .py file with functions (may be repeated).")
@common_options
@click.pass_obj
def master(
    state: State, name: str | None, cluster: str | None, bind: str | None, publish: str | None, functions: tuple[str, ...]
) -> int:
    """Run the master of a cluster; the first start makes its home.

    SIGTERM drains and ends it, SIGHUP reads the configuration again.
    """
    from zcluster.brokers.master import serve

    flags = {
        "node.name": name,
        "cluster.name": cluster,
        "master.bind": bind,
        "master.publish": publish,
        "functions.modules": functions,
    }
    loaded = settings(state, flags)
    prepare_home(loaded)
    # serve() takes the lock again for the process's life. Between the two another master may have had it and written its
    # own addresses: so they are made true once more when the lock is this process's for good.
    return serve(loaded, ready=lambda _info: put("\n".join(account(loaded, complete_home(loaded).master))))


@click.command()
@click.option("--key", type=FILE, metavar="FILE", help="Key file of this worker. [default: worker.key, or the one in the home]")
@click.option("--name", metavar="NAME", help="Name of this node; without --key it also says which key: keys/NAME.key.")
@click.option("--master", multiple=True, metavar="tcp://HOST:PORT", help="Address of a master, instead of the key file's.")
@click.option("--door", metavar="tcp://HOST:PORT", help="Where to take agents and clients. [default: no door]")
@click.option("--functions", multiple=True, metavar="MODULE", help="Module or .py file with functions (may be repeated).")
@click.option("--join", metavar="TOKEN", help="Join with this token first; '-' reads it from stdin. [env: ZCLUSTER_JOIN]")
@join_file_option
@common_options
@click.pass_obj
def worker(
    state: State, key: Path | None, name: str | None, master: tuple[str, ...], door: str | None, functions: tuple[str, ...],
    join: str | None, join_file: Path | None,
) -> int:  # fmt: skip
    """Run a worker with its key file, or let it join with a token first.

    With a token (`zcluster token create`) it makes a key of its own and is admitted; from then on it needs no token, and one that
    is given is not looked at. SIGTERM drains and ends it, SIGHUP reads the configuration again.
    """
    from zcluster.workers.worker import serve

    flags = {
        "node.name": name, "worker.key": key, "worker.master": master, "worker.door": door, "functions.modules": functions,
    }  # fmt: skip
    loaded = settings(state, flags)
    return serve(loaded, worker_key(loaded, offered(join, join_file)))


def worker_key(loaded: Loaded, offer: Offer) -> OwnKey:
    """The key, and its file, of a worker, which has joined: with the token on ``offer``, or when somebody accepts it, where it
    has not yet. Where it has, no token is looked at: it may be gone from its file, or be a used-up one.

    Raises:
        InvalidKey: there is no key file that it could be, or it is another node's. NotAllowed: it is no worker's, or the token is
            refused. Unreachable: no master answers a joiner.
    """
    from zcluster.config import Home
    from zcluster.keys import KeyFile, joining_key_path, make_private_dir, worker_key_path
    from zcluster.keys.rotation import OwnKey
    from zcluster.workers.joining import Joining, joined

    home, wanted, given = Home.of(loaded.home), loaded.settings.node.name, loaded.settings.worker.key
    find = joining_key_path if offer.there else worker_key_path
    path = Path(given) if given else find(home, wanted)
    key_file = KeyFile.read(path) if path.exists() or not offer.there else None
    if key_file is not None and not key_file.joining:
        if wanted and wanted != key_file.name and given:
            raise InvalidKey(f"{path} is the key of {key_file.name!r}, not of {wanted!r}", hint="a node's name is its key's name")
        if offer.there:
            say(f"{path} has joined already: the token is not used (to join anew, move that file away)")
    else:
        token = offer.read()
        if token is not None and token.role != "worker":
            raise NotAllowed(f"the token is for a key of role {token.role}", hint="zcluster keys join takes it")
        for directory in () if given else (home.path, home.keys_dir):
            if not directory.is_dir():
                make_private_dir(directory)
        key_file = joined(Joining(path, token, wanted, loaded.settings.worker.master, say))
    key_file.check_user(path, "worker", ("worker",))
    return OwnKey(key_file, path)


def prepare_home(loaded: Loaded) -> InitialisedHome:
    """As :func:`complete_home`, with the home locked meanwhile against a master that runs there.

    Raises:
        UsageError: a master runs in this home; nothing was changed.
    """
    from zcluster.config import Home
    from zcluster.keys import make_private_dir
    from zcluster.process import OneProcess

    check_ports(loaded)
    home = Home(loaded.home)
    made = tuple(path for path in (home.path, home.run_dir) if not path.is_dir() and make_private_dir(path))
    lock = OneProcess(home.run_dir / "master.lock")
    try:
        done = complete_home(loaded)
    finally:
        lock.close()
    return replace(done, created=(*made, *done.created))


def check_ports(loaded: Loaded) -> None:
    """Raises UsageError when a port of the master is left to the system: key files have to name it."""
    from zcluster.config import parse_address

    told = loaded.settings.master
    for setting, address in (("master.bind", told.bind), ("master.publish", told.publish)):
        if parse_address(address, bind=True).port is None:
            raise UsageError(
                f"a master needs a fixed port: other machines have to know it ({setting} is {address})",
                hint="name one, such as 7570 for requests and 7571 for what is published",
            )


def complete_home(loaded: Loaded) -> InitialisedHome:
    """Make the home's directories, keys and configuration where they are missing, with the addresses that are true now."""
    import socket

    from zcluster.config import Home, advertised, local_address
    from zcluster.keys import init_home

    told = loaded.settings.master
    known = advertised(told.bind, told.publish, told.advertise, socket.gethostname())
    settings = loaded.settings
    local = local_address(Home.of(loaded.home).bus_socket) if settings.master.ipc else ""
    return init_home(loaded.home, settings.cluster.name, settings.node.name, known.addresses, known.publish, local)


def account(loaded: Loaded, key_file: KeyFile) -> list[str]:
    """What a master says when it is ready: what it is, and how to add a worker."""
    from zcluster.config import Home
    from zcluster.keys import Ring, fingerprint

    paths = Home(loaded.home)
    taken = Ring(paths.ring_file).entries
    name = next(name for number in count(1) if (name := f"worker-{number}") not in taken)
    home, target = shlex.quote(str(loaded.home)), shlex.quote(str(paths.key_file(name)))
    facts = [
        ("cluster", key_file.cluster),
        ("master", key_file.name),
        ("home", str(loaded.home)),
        ("listens on", f"{loaded.settings.master.bind} and {loaded.settings.master.publish}"),
        ("reached at", ", ".join(key_file.addresses)),
        ("key", fingerprint(key_file.master_public)),
    ]
    return [
        *pairs(facts),
        "",
        "to add a worker:",
        f"  zcluster keys new {name} --role worker --home {home}",
        f"  zcluster worker --key {target}",
        "to add one on another machine, make the line to paste there:",
        f"  zcluster token create --role worker --home {home}",
        f"to call it: zcluster dapi call node.info --home {home}",
    ]
