"""Addresses: their form, and what a master tells others to connect to.

Rules kept here:
- an address is tcp://HOST:PORT: an IPv4 address, an IPv6 address in brackets, or a host name; port 1 to 65535;
- whoever is on the same machine may connect to a Unix socket instead: ipc:///PATH, at most MAX_IPC_PATH_BYTES;
- only an address to bind may be a wildcard: host ``*``, ``0.0.0.0`` or ``[::]``, port ``*`` (the system chooses);
- the text is kept as written: nothing is resolved here, no network is used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from zcluster.errors import ConfigError

WILDCARD_HOSTS = frozenset({"*", "0.0.0.0", "[::]"})
MAX_ADDRESSES = 16
"""The most addresses that a list of them may have."""

IPC = "ipc://"
MAX_IPC_PATH_BYTES = 107
"""What the kernel takes (sun_path of unix(7), without its NUL)."""

_FORM = re.compile(r"tcp://(\[[^\[\]\s]+\]|[^\[\]:/\s]+):(\*|[0-9]{1,5})")
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?")


class Address(NamedTuple):
    """One address, taken apart.

    ``host`` is as written (IPv6 with its brackets); ``port`` is None for ``*``.
    """

    host: str
    port: int | None

    @property
    def text(self) -> str:
        """The address as tcp://HOST:PORT."""
        return f"tcp://{self.host}:{'*' if self.port is None else self.port}"


class Advertised(NamedTuple):
    """What others connect to: ``addresses`` for requests, ``publish`` for the published stream, in order of preference."""

    addresses: tuple[str, ...]
    publish: tuple[str, ...]


def parse_address(text: str, *, bind: bool = False) -> Address:
    """``text`` taken apart.

    Args:
        text: tcp://HOST:PORT.
        bind: the address is one to bind, so wildcards are allowed.

    Raises:
        ConfigError: what is wrong with it.
    """
    hint = "write it like tcp://192.0.2.1:7570, tcp://[2001:db8::1]:7570 or tcp://host.example:7570"
    form = _FORM.fullmatch(text)
    if form is None:
        raise ConfigError(f"expected an address tcp://HOST:PORT, got {text[:120]!r}", hint=hint)
    host, port_text = form[1], form[2]
    if port_text != "*" and not 1 <= int(port_text) <= 65535:
        raise ConfigError(f"expected a port from 1 to 65535, got {port_text} in {text[:120]!r}", hint=hint)
    if not bind and (host in WILDCARD_HOSTS or port_text == "*"):
        raise ConfigError(f"{text[:120]!r} is a wildcard: nothing can connect to it", hint=hint)
    fault = "" if host in WILDCARD_HOSTS else _host_fault(host)
    if fault:
        raise ConfigError(f"{fault} in {text[:120]!r}", hint=hint)
    return Address(host, None if port_text == "*" else int(port_text))


def reachable(text: str) -> str:
    """``text``, an address to connect to, as it is written.

    Raises:
        ConfigError: it is neither tcp://HOST:PORT nor ipc:///PATH.
    """
    return text if ipc_path(text) else parse_address(text).text


def ipc_path(text: str) -> str:
    """The path of an address ipc:///PATH; empty when ``text`` is no such address.

    Raises:
        ConfigError: it is one, and its path is relative, too long or no text.
    """
    if not text.startswith(IPC):
        return ""
    path = text.removeprefix(IPC)
    hint = "write it like ipc:///run/zcluster/bus.sock"
    if not path.startswith("/") or not path.isprintable():
        raise ConfigError(f"expected an absolute path in {text[:120]!r}", hint=hint)
    if len(path.encode(errors="surrogateescape")) > MAX_IPC_PATH_BYTES:
        raise ConfigError(f"the path in {text[:120]!r} is longer than {MAX_IPC_PATH_BYTES} bytes", hint=hint)
    return path


def local_address(path: Path) -> str:
    """The address of the Unix socket ``path``; empty when the path cannot be one."""
    address = f"{IPC}{path}"
    try:
        return address if ipc_path(address) else ""
    except ConfigError:
        return ""


def advertised(bind: str, publish: str, advertise: Sequence[str], hostname: str) -> Advertised:
    """The addresses that key files carry.

    Args:
        bind: the address bound for requests; its port must be known (give the bound one when it was ``*``).
        publish: the address bound for the published stream, likewise.
        advertise: addresses that the operator configured; when there are any, they replace those derived from ``bind``.
        hostname: this machine's name; with a wildcard host it comes first and loopback comes last, for local programs.

    Raises:
        ConfigError: an address is malformed, or a port is still ``*``.
    """
    bound, published = parse_address(bind, bind=True), parse_address(publish, bind=True)
    if bound.port is None or published.port is None:
        raise ConfigError("the port is not chosen yet: there is nothing to advertise", hint="give the bound addresses")
    targets = [parse_address(text) for text in advertise]
    if not targets:
        targets = [Address(host, bound.port) for host in _hosts(bound.host, hostname)]
    publishers = [Address(target.host, published.port) for target in targets]
    if not advertise and published.host not in WILDCARD_HOSTS:
        publishers = [published]
    return Advertised(tuple(_unique(targets)), tuple(_unique(publishers)))


def advertised_door(bind: str, port: int, advertise: Sequence[str], hostname: str) -> tuple[str, ...]:
    """The addresses of a worker's door that others are told.

    Args:
        bind: the address bound. port: the port that was bound.
        advertise: addresses that the operator configured, instead of those derived from ``bind``.
        hostname: this machine's name.

    Raises:
        ConfigError: an address is malformed.
    """
    targets = [parse_address(text) for text in advertise]
    return tuple(_unique(targets or [Address(host, port) for host in _hosts(parse_address(bind, bind=True).host, hostname)]))


def _hosts(host: str, hostname: str) -> list[str]:
    if host not in WILDCARD_HOSTS:
        return [host]
    loopback = "[::1]" if host == "[::]" else "127.0.0.1"
    return [hostname, loopback] if hostname and hostname != "localhost" and not _host_fault(hostname) else [loopback]


def _unique(addresses: Sequence[Address]) -> list[str]:
    return list(dict.fromkeys(address.text for address in addresses))


def _host_fault(host: str) -> str:
    import ipaddress  # not needed to read a configuration that has defaults only

    try:
        if host.startswith("["):
            ipaddress.IPv6Address(host[1:-1])
        elif re.fullmatch(r"[0-9.]+", host):
            ipaddress.IPv4Address(host)
        elif _HOST.fullmatch(host) is None:
            return f"{host[:80]!r} is not a host name"
    except ValueError:
        return f"{host[:80]!r} is not an IP address"
    return ""
