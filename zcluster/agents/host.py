"""What an agent says of its host. Asked once a session: nothing here changes from minute to minute.

Rules kept here:
- nothing is looked up in the network and no packet is sent;
- what the host does not tell is left out.
"""

from __future__ import annotations

import platform
import socket
import sys

ELSEWHERE = ("192.0.2.1", 9)
"""An address for documentation (RFC 5737): a datagram socket that is connected there has the address of the default route."""


def own_address() -> str:
    """The address that this host uses towards others."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(ELSEWHERE)
        except OSError:
            return "127.0.0.1"  # no route: a host of its own
        return str(probe.getsockname()[0])


def host_name() -> str:
    """The host's own name."""
    return socket.gethostname()[:256]


def system() -> dict[str, object]:
    """``platform``, ``version``, ``arch`` and ``kernel``, as the system says them."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    found = {
        "platform": release.get("ID", sys.platform), "version": release.get("VERSION_ID", ""), "arch": platform.machine(),
        "kernel": platform.release(),
    }  # fmt: skip
    return {name: value[:128] for name, value in found.items() if value}
