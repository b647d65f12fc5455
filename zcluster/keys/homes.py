"""What a master's home holds before its first start, and new keys made in it.

Rules kept here:
- each step of :func:`init_home` looks first whether it is done: killed anywhere, the next start completes it, and two
  that start at once make one home;
- a key file is written before its key is admitted here, so that no admitted key is without its file;
- what an operator removed or revoked is not made again behind their back;
- :func:`new_key` leaves a key and its file, or neither.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zcluster.config import Home, ipc_path, name_fault, template
from zcluster.core.doors import MAX_NODES, KnownNode
from zcluster.errors import InvalidKey, NoSuchKey
from zcluster.keys.keyfile import KeyFile
from zcluster.keys.pair import generate
from zcluster.keys.private import locked, make_private_dir, sweep, write_new
from zcluster.keys.rights import check_role, of_configuration
from zcluster.keys.ring import NewKey, Ring
from zcluster.keys.ringfile import Entry

ADMIN = "admin"
"""Name and role of the key that local commands use."""

DEFAULT_MASTER_NAME = "master"

DOOR_ROLES = ("admin", "client", "agent")
"""The roles whose keys may be used at a worker's door: their files know the workers' keys."""


@dataclass(frozen=True)
class InitialisedHome:
    """A home that is ready for its master.

    Attributes:
        home: where.
        master: the master's key file, with the addresses that are true now.
        created: the files that this call made, in their order.
        updated: the key files that got other addresses.
    """

    home: Home
    master: KeyFile
    created: tuple[Path, ...]
    updated: tuple[Path, ...]

    @property
    def first_start(self) -> bool:
        """Whether the master's key was made by this call."""
        return self.home.master_key in self.created


def init_home(
    home: Home | Path,
    cluster_name: str,
    node_name: str = "",
    addresses: Sequence[str] = (),
    publish: Sequence[str] = (),
    local: str = "",
) -> InitialisedHome:
    """Make a master's home, or complete it: directories, configuration, master and admin keys, ring.

    Args:
        home: the home.
        cluster_name: the cluster's name, for the configuration and the key files.
        node_name: the master's name; empty keeps the one it has ("master" at first).
        addresses, publish: where the master can be reached; written into its key files. Empty keeps what they have.
        local: its address of a Unix socket, which only the home's own admin key gets, before the others.

    Raises:
        InvalidKey: the home cannot be made, or its keys and its ring do not fit together.
        Busy: another process has been changing the home for too long.
    """
    home = Home.of(home)
    for name in filter(None, (cluster_name, node_name)):
        fault = name_fault(name)
        if fault:
            raise InvalidKey(fault)
    made = make_private_dir(home.path) if not home.path.is_dir() else False
    created = [home.path] if made else []
    created += [path for path in (home.keys_dir, home.data_dir, home.run_dir) if make_private_dir(path)]
    with locked(home.keys_dir / "home.lock"):
        sweep(home.keys_dir, time.time())
        created += _make_config(home, cluster_name)
        ring = Ring(home.ring_file)
        master, new_files = _make_master(home, ring, cluster_name, node_name, addresses, publish)
        created += new_files
        created += _make_admin(home, ring, master)
        master, updated = _refresh(home, master, cluster_name, addresses, publish, local)
    return InitialisedHome(home, master, tuple(created), tuple(updated))


def new_key(home: Home | Path, name: str, role: str, out: Path | None = None) -> tuple[KeyFile, Path]:
    """Make a key pair, admit it, and write its key file; returns the key file and where it is.

    Args:
        home: the master's home.
        name: the new key's name.
        role: its role.
        out: the file to write; None takes keys/NAME.key below the home.

    Raises:
        InvalidKey: the home has no master key, the name or role is not possible or taken, or the file exists or cannot be
            written; nothing is admitted then.
        Busy: another process kept the ring locked.
    """
    home = Home.of(home)
    master = _read_master(home)
    check_role(role)
    fault = name_fault(name)
    if fault:
        raise InvalidKey(fault)
    path = home.key_file(name) if out is None else out
    if path.is_symlink() or path.exists():
        raise InvalidKey(f"{path} exists already", hint="move it away or choose another file; nothing was changed")
    ring = Ring(home.ring_file)
    nodes = known_workers(ring) if role in DOOR_ROLES or of_configuration(role) else ()
    key_file = master.for_other(name, role, generate(), nodes)
    entry = ring.add(name, role, key_file.pair.public)
    try:
        key_file.write(path)
    except BaseException:
        # whatever stopped it, an interrupt too: a key that nobody has must not be admitted
        ring.take_back(entry)
        raise
    return key_file, path


def new_keys(home: Home | Path, prefix: str, count: int, role: str, directory: Path) -> list[Path]:
    """Make ``count`` keys called PREFIX00001 and so on, admit them in one change, and write their key files into ``directory``.

    Raises:
        InvalidKey: as of :func:`new_key`; no key is admitted then, and no file is left.
        Busy: another process kept the ring locked.
    """
    home = Home.of(home)
    master = _read_master(home)
    check_role(role)
    names = [f"{prefix}{number:05d}" for number in range(1, count + 1)]
    fault = next(filter(None, map(name_fault, names)), "")
    if fault:
        raise InvalidKey(fault)
    make_private_dir(directory)
    made = {directory / f"{name}.key": master.for_other(name, role, generate()) for name in names}
    written: list[Path] = []
    try:
        for path, key_file in made.items():
            key_file.write(path)
            written.append(path)
        Ring(home.ring_file).add_many([NewKey(key.name, role, key.pair.public) for key in made.values()])
    except BaseException:
        # a file whose key is not admitted is worth nothing
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return written


def known_workers(ring: Ring) -> tuple[KnownNode, ...]:
    """The workers whose keys are admitted, by name: any of them may have a door."""
    names = sorted(name for name, entry in ring.entries.items() if entry.role == "worker")
    doors = [(name, *ring.entries[name].door) for name in names[:MAX_NODES]]
    return tuple(KnownNode(name, public, (), following) for name, public, following in doors)


def own_key(home: Home | Path, entry: Entry) -> Path | None:
    """The home's own key file (its master's, its administrator's) that holds the key of ``entry``, or None.

    A file that cannot be read counts as holding the key of its name; a master's name may be any.
    """
    home = Home.of(home)
    for path in (home.master_key, home.admin_key):
        try:
            key_file = KeyFile.read(path)
            if {key_file.pair.public, *([key_file.next.public] if key_file.next else [])} & set(entry.publics):
                return path
        except InvalidKey:
            if path.exists() and (entry.name == path.stem or entry.role == path.stem == "master"):
                return path
    return None


def worker_key_path(home: Home | Path, name: str = "") -> Path:
    """The key file of a worker that was given none: keys/NAME.key, or without a name the only worker key of the home.

    Raises:
        NoSuchKey: there is none, or without a name there are several.
    """
    home = Home.of(home)
    hint = "give --key FILE, or make one on the master: zcluster keys new NAME --role worker"
    if name:
        if not home.key_file(name).exists():
            raise NoSuchKey(f"there is no key file {home.key_file(name)}", hint=hint)
        return home.key_file(name)
    found = [path for path in sorted(home.keys_dir.glob("*.key")) if KeyFile.read(path).role == "worker"]
    if len(found) != 1:
        names = ", ".join(path.stem for path in found[:5])
        what = f"several worker keys ({names})" if found else "no worker key"
        raise NoSuchKey(f"{home.keys_dir} has {what}", hint="give --name or --key" if found else hint)
    return found[0]


def joining_key_path(home: Home | Path, name: str = "") -> Path:
    """The key file of a worker that joins with a token: as :func:`worker_key_path`, and keys/worker.key where there is none yet.

    Raises:
        NoSuchKey: without a name, there are several.
    """
    home = Home.of(home)
    if name:
        return home.key_file(name)
    if not any(KeyFile.read(path).role == "worker" for path in home.keys_dir.glob("*.key")):
        return home.key_file("worker")
    return worker_key_path(home)


def _make_config(home: Home, cluster_name: str) -> list[Path]:
    created = [home.config_file.parent] if not home.config_file.parent.is_dir() else []
    if created:
        make_private_dir(home.config_file.parent)
    if home.config_file.exists():
        return created
    write_new(home.config_file, template(cluster_name).encode())
    return [*created, home.config_file]


def _make_master(
    home: Home, ring: Ring, cluster: str, name: str, addresses: Sequence[str], publish: Sequence[str]
) -> tuple[KeyFile, list[Path]]:
    created = []
    if not home.master_key.exists():
        holder = next((entry.name for entry in ring.entries.values() if entry.role == "master"), "")
        if holder:
            raise InvalidKey(
                f"the ring knows the master {holder!r}, but its key file {home.master_key} is gone",
                hint="restore the key file; or move the whole keys directory away and start with new keys",
            )
        pair = generate()
        key = KeyFile(name or DEFAULT_MASTER_NAME, "master", cluster, pair, pair.public, tuple(addresses), tuple(publish))
        key.write(home.master_key)
        created.append(home.master_key)
    master = _read_master(home)
    if name and name != master.name:
        raise InvalidKey(
            f"this home's master is called {master.name!r}, not {name!r}", hint="leave --name out, or use another --home"
        )
    if not ring.path.exists():
        created.append(ring.path)
    following = None if master.next is None else ring.by_public(master.next.public)
    if master.next is not None and following is not None and following.role == "master":
        # it was killed between the two steps of taking its next key: the ring has it already
        master = replace(master, pair=master.next, next=None, master_public=master.next.public)
        master.rewrite(home.master_key)
    _admit(ring, master)
    return master, created


def _make_admin(home: Home, ring: Ring, master: KeyFile) -> list[Path]:
    if home.admin_key.exists():
        admin = KeyFile.read(home.admin_key)
        held = ring.entries.get(admin.name)
        if held is not None and held.id != held.public:
            return []  # it was rotated, perhaps by another copy of the file: there is nothing to admit
        if not any(each.public == admin.pair.public for each in ring.revoked):
            _admit(ring, admin)
        return []
    if ADMIN in ring.entries or ring.revocations(ADMIN):
        return []
    admin = master.for_other(ADMIN, ADMIN, generate())
    admin.write(home.admin_key)
    _admit(ring, admin)
    return [home.admin_key]


def _admit(ring: Ring, key: KeyFile) -> None:
    """Have the ring admit ``key``; nothing when it does already, be it with the pair that is to follow."""
    entry = ring.by_public(key.pair.public) or (None if key.next is None else ring.by_public(key.next.public))
    if entry is None:
        ring.add(key.name, key.role, key.pair.public)
    elif entry.role != key.role:
        # another name is no fault: the ring's name counts, and it may have been changed there
        raise InvalidKey(
            f"the key file of {key.name!r} has role {key.role}, but the ring says {entry.role}",
            hint="restore the key file or the ring from the same backup",
        )


def _read_master(home: Home) -> KeyFile:
    if not home.master_key.exists():
        raise InvalidKey(f"{home.path} has no master key", hint="run `zcluster keys init` there, or give --home")
    master = KeyFile.read(home.master_key)
    if master.role != "master":
        raise InvalidKey(f"{home.master_key} is a key of role {master.role}", hint="restore the master's own key file")
    return master


def _refresh(
    home: Home, master: KeyFile, cluster: str, addresses: Sequence[str], publish: Sequence[str], local: str
) -> tuple[KeyFile, list[Path]]:
    """Bring cluster name and addresses in the home's own key files up to date; their keys stay."""
    updated = []
    for path in (home.master_key, home.admin_key):
        if not path.exists():
            continue
        old = KeyFile.read(path)
        here = (local,) if local and path == home.admin_key else ()
        new = replace(
            old,
            cluster=cluster,
            addresses=(*here, *(addresses or (each for each in old.addresses if not ipc_path(each)))),
            publish=tuple(publish) or old.publish,
        )
        if new != old:
            new.rewrite(path)
            updated.append(path)
        if path == home.master_key:
            master = new
    return master, updated
