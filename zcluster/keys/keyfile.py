"""The key file: all that its owner needs to join a cluster, in one private TOML file.

Rules kept here:
- a key file that other users may read is refused, with the command that repairs it;
- the pair must fit: the public key is the secret's own;
- who uses a key is checked against its role before a connection is opened;
- no message quotes the content of a key file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zcluster.config import TomlFault, name_fault, nearest, parse_address, parse_toml, reachable, toml_value
from zcluster.config.addresses import MAX_ADDRESSES
from zcluster.core.doors import MAX_NODES, KnownKeys, KnownNode
from zcluster.errors import ConfigError, InvalidKey, NotAllowed
from zcluster.keys.pair import KeyPair, check_public, public_of
from zcluster.keys.private import read_private, replace, write_new
from zcluster.keys.rights import check_role, of_configuration

SCHEMA = 1
MAX_KEY_FILE_BYTES = 64 << 10

_FIELDS = ("schema", "name", "role", "cluster", "public", "secret", "master", "nodes", "next", "joining")
_MASTER_FIELDS = ("public", "addresses", "publish", "next")
_NODE_FIELDS = ("public", "addresses", "next")
_NEXT_FIELDS = ("public", "secret")


@dataclass(frozen=True)
class KeyFile:
    """The content of a key file.

    Attributes:
        name: the key's name in the ring.
        role: its role there.
        cluster: the cluster's name.
        pair: its own key pair; the repr hides the secret.
        master_public: the public key of the master, which proves that it is the right one.
        addresses: where the master takes requests, the preferred one first.
        publish: where it publishes.
        nodes: workers whose doors may be used with this key, at most MAX_NODES of them.
        next: the pair that is to follow, while the key is being rotated.
        master_next: the key that proves the master too, or soon will, while its key is being rotated; empty: none is known.
        joining: its owner does not know yet whether the master admits it, and under which name: the name and role are wishes.
    """

    name: str
    role: str
    cluster: str
    pair: KeyPair
    master_public: str
    addresses: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    nodes: tuple[KnownNode, ...] = ()
    next: KeyPair | None = None
    master_next: str = ""
    joining: bool = False

    @property
    def known(self) -> KnownKeys:
        """The keys that prove to this key's owner who answers."""
        return KnownKeys(self.master_public, self.nodes, self.master_next)

    def for_other(self, name: str, role: str, pair: KeyPair, nodes: tuple[KnownNode, ...] = ()) -> KeyFile:
        """The key file of another key of this cluster; this one is the master's own. No secret of this one is in it."""
        following = "" if self.next is None else self.next.public
        return KeyFile(name, role, self.cluster, pair, self.pair.public, self.addresses, self.publish, nodes, None, following)

    @classmethod
    def read(cls, path: Path) -> KeyFile:
        """The key file at ``path``.

        Raises:
            InvalidKey: it is missing, open to other users, or malformed; the message says which part.
        """
        try:
            data, _found = read_private(path, MAX_KEY_FILE_BYTES, forbid=0o077)
        except FileNotFoundError:
            raise InvalidKey(
                f"there is no key file {path}", hint="make one on the master: zcluster keys new NAME --role ROLE"
            ) from None
        return _read_document(path, data)

    @classmethod
    def parse(cls, path: Path, data: bytes) -> KeyFile:
        """The key file with the content ``data``; ``path`` is what messages call it.

        Raises:
            InvalidKey: it is malformed; the message says which part.
        """
        return _read_document(path, data)

    def check_user(self, path: Path, user: str, roles: tuple[str, ...]) -> None:
        """Nothing when ``user`` ("client", "worker") may open a session with this key, which was read from ``path``. A role of
        the configuration is a client's.

        A node's key has one session: another process that opened one with it would end the node's own.

        Raises:
            NotAllowed: the key's role is none of ``roles``.
        """
        if self.role not in roles and not (user == "client" and of_configuration(self.role)):
            raise NotAllowed(
                f"{path} is the key of {_with_article(self.role)}: "
                f"{_with_article(user)} needs a key of role {' or '.join(roles)}",
                hint=f"make one on the master: zcluster keys new NAME --role {roles[0]}",
            )

    def write(self, path: Path) -> None:
        """Write the file ``path``, mode 0600; it must not exist.

        Raises:
            InvalidKey: it exists already, or cannot be written.
        """
        write_new(path, self.text().encode())

    def rewrite(self, path: Path) -> None:
        """Write the file ``path`` in place of an older one, in one step; where ``path`` is a link, the file that it leads to.

        Raises:
            InvalidKey: it cannot be written; the older one is still there.
        """
        replace(Path(os.path.realpath(path)), self.text().encode())

    def text(self) -> str:
        """The content of the file, with the secret in it."""
        return "\n".join(
            [
                f"# zcluster key of {self.name}. It holds a secret: keep it private (mode 0600), never send it in the clear.",
                f"schema = {SCHEMA}",
                f"name = {toml_value(self.name)}",
                f"role = {toml_value(self.role)}",
                f"cluster = {toml_value(self.cluster)}",
                f"public = {toml_value(self.pair.public)}",
                f"secret = {toml_value(self.pair.secret)}",
                *(["joining = true"] if self.joining else []),
                "",
                "[master]",
                f"public = {toml_value(self.master_public)}",
                f"addresses = {toml_value(self.addresses)}",
                f"publish = {toml_value(self.publish)}",
                *([f"next = {toml_value(self.master_next)}"] if self.master_next else []),
                "",
                *_next_lines(self.next),
                *(line for node in self.nodes for line in _node_lines(node)),
            ]
        )


def _node_lines(node: KnownNode) -> list[str]:
    addresses = [f"addresses = {toml_value(node.addresses)}"] if node.addresses else []
    following = [f"next = {toml_value(node.next)}"] if node.next else []
    return [f"[nodes.{toml_value(node.name)}]", f"public = {toml_value(node.public)}", *addresses, *following, ""]


def _next_lines(pair: KeyPair | None) -> list[str]:
    return [] if pair is None else ["[next]", f"public = {toml_value(pair.public)}", f"secret = {toml_value(pair.secret)}", ""]


def _with_article(role: str) -> str:
    return f"{'an' if role[0] in 'aeiou' else 'a'} {role}"


def _read_document(path: Path, data: bytes) -> KeyFile:
    try:
        document = parse_toml(data)
    except TomlFault as fault:
        line = f":{fault.line}" if fault.line else ""
        raise InvalidKey(f"{path}{line}: not a key file (not valid TOML)", hint="restore it, or make a new key") from None
    try:
        return _read_fields(document)
    except (InvalidKey, ConfigError) as error:
        raise InvalidKey(f"{path}: {error.message}", hint=error.hint or "restore it, or make a new key") from None


def _read_fields(document: dict[str, Any]) -> KeyFile:
    schema = document.get("schema", SCHEMA)
    if schema != SCHEMA or isinstance(schema, bool):
        raise InvalidKey("the key file is of another version", hint="use the zcluster that made it, or make a new key")
    master = document.get("master", {})
    if not isinstance(master, dict):
        raise InvalidKey("master must be a table")
    _only_known(document, _FIELDS)
    _only_known(master, _MASTER_FIELDS)
    name, cluster = _text(document, "name"), _text(document, "cluster")
    for each in (name, cluster):
        fault = name_fault(each)
        if fault:
            raise InvalidKey(fault)
    role = check_role(_text(document, "role"))
    following = document.get("next")
    if following is not None and not isinstance(following, dict):
        raise InvalidKey("next must be a table")
    _only_known(following or {}, _NEXT_FIELDS)
    return KeyFile(
        name,
        role,
        cluster,
        _pair(document, ""),
        check_public(_text(master, "public", "master.")),
        _addresses(master, "addresses", "master."),
        _addresses(master, "publish", "master."),
        _nodes(document.get("nodes", {})),
        _pair(following, "next.") if following is not None else None,
        _public_or_none(master, "master."),
        _joining(document),
    )


def _pair(table: dict[str, Any], where: str) -> KeyPair:
    pair = KeyPair(check_public(_text(table, "public", where)), _text(table, "secret", where))
    if public_of(pair.secret) != pair.public:
        which = "next public key" if where else "public key"
        raise InvalidKey(f"the {which} does not belong to the secret key")
    return pair


def _public_or_none(table: dict[str, Any], where: str) -> str:
    return check_public(_text(table, "next", where)) if "next" in table else ""


def _joining(document: dict[str, Any]) -> bool:
    joining = document.get("joining", False)
    if not isinstance(joining, bool):
        raise InvalidKey("joining is neither true nor false")
    return joining


def _nodes(table: object) -> tuple[KnownNode, ...]:
    if not isinstance(table, dict) or not all(isinstance(node, dict) for node in table.values()):
        raise InvalidKey("nodes must be tables: [nodes.NAME]")
    if len(table) > MAX_NODES:
        raise InvalidKey(f"the key file knows {len(table)} nodes, at most {MAX_NODES} are allowed", hint="leave some out")
    found = []
    for name, node in table.items():
        fault = name_fault(name)
        if fault:
            raise InvalidKey(fault)
        _only_known(node, _NODE_FIELDS)
        where = f"nodes.{name}."
        public, following = check_public(_text(node, "public", where)), _public_or_none(node, where)
        found.append(KnownNode(name, public, _addresses(node, "addresses", where), following))
    return tuple(found)


def _only_known(table: dict[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            near = nearest(key, known)
            raise InvalidKey("the key file has an unknown field", hint=f"did you mean {near!r}?" if near else "")


def _text(table: dict[str, Any], key: str, where: str = "") -> str:
    value = table.get(key)
    if not isinstance(value, str):
        raise InvalidKey(f"{where}{key} is {'missing' if value is None else 'not a text'}")
    return value


def _addresses(table: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = table.get(key, [])
    if not isinstance(value, list) or len(value) > MAX_ADDRESSES or not all(isinstance(item, str) for item in value):
        raise InvalidKey(f"{where}{key} must be a list of at most {MAX_ADDRESSES} addresses")
    for item in value:
        if key == "publish":
            parse_address(item)
        else:
            reachable(item)
    return tuple(value)
