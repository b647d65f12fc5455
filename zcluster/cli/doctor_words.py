"""What ``zcluster doctor`` says of a step towards the master, and what it says to do.

Rule kept here: each fault that can be told from another has words of its own, and one thing to do next.
"""

from __future__ import annotations

from zcluster.cli.findings import Finding
from zcluster.net.probe import Found, Step

FINE = {
    "resolve": "{address} is {more}",
    "socket": "{address} is a Unix socket of this machine",
    "tcp": "{address} takes connections",
    "local": "{address} takes connections",
    "server": "a ZeroMQ server with CURVE answers there",
    "handshake": "it has the key that the key file names, and admits {more}",
}
WRONG = {
    ("resolve", Found.UNKNOWN_NAME): (
        "the name in {address} is not known here: {detail}",
        "add it to DNS or /etc/hosts, or go by the IP address: --master tcp://IP:PORT",
    ),
    ("resolve", Found.TIMED_OUT): ("{address}: {detail}", "look at /etc/resolv.conf, or go by the IP address: --master tcp://IP:PORT"),
    ("socket", Found.UNKNOWN_NAME): (
        "the Unix socket {address} cannot be used: {detail}",
        "is the master of that home running on this machine, with master.ipc = true?",
    ),
    ("local", Found.REFUSED): ("nobody listens at {address}", "is the master of that home running on this machine?"),
    ("local", Found.UNREACHABLE): ("{address} cannot be reached: {detail}", "run it as the user who owns the master's home"),
    ("local", Found.TIMED_OUT): (
        "{address} does not answer: {detail}",
        "the master is stopped or stuck: look at its process and its log",
    ),
    ("tcp", Found.REFUSED): (
        "nobody listens at {address}",
        "is the master running, and at this port (master.bind in its zcluster.toml)?",
    ),
    ("tcp", Found.UNREACHABLE): ("{address} cannot be reached: {detail}", "look at the route and the network of this machine"),
    ("tcp", Found.TIMED_OUT): ("{address} does not answer: {detail}", "a firewall is between, or the machine is off"),
    ("server", Found.SILENT): (
        "{address}: {detail}",
        "it is no zcluster master, or one that is stopped or stuck: look at its process and its log",
    ),
    ("server", Found.STRANGER): (
        "no zcluster master listens at {address}: {detail}",
        "the port belongs to another program: compare it with master.bind",
    ),
    ("server", Found.NOT_CURVE): (
        "no zcluster master listens at {address}: {detail}",
        "the port belongs to another ZeroMQ program: compare it with master.bind",
    ),
    ("handshake", Found.WRONG_SERVER): (
        "the server at {address} has another key than the key file names",
        "it is another cluster's master, its home was made anew (get a new key file), or this is not the port of master.bind",
    ),
    ("handshake", Found.KEY_REFUSED): (
        "the master at {address} refuses the key of {more}",
        "it was revoked, has expired or was never admitted: the master's log says which, and `zcluster doctor {more}` there",
    ),
    ("handshake", Found.TIMED_OUT): ("{address}: {detail}", "the master is overloaded or stuck: look at its log"),
}


def said(check: str, step: Step, address: str, more: str = "", words_of: str = "") -> Finding:
    """The finding of one step; ``more`` is what it found, or whose key it was; ``words_of`` has other words for this check."""
    words, of = {"address": address, "detail": step.detail, "more": more}, words_of or check
    if step.found is Found.OK:
        return Finding(check, "ok", FINE[of].format(**words))
    message, hint = WRONG.get((of, step.found), ("{address}: {detail}", "look at the master's log"))
    return Finding(check, "FAIL", message.format(**words), hint.format(**words))
