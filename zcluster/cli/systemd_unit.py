"""The text of a systemd unit for a daemon, and whether one that is there was changed by hand.

Rules kept here:
- the same for all three daemons: role differences are data (ROLES);
- as little as the daemon needs: no capabilities, no devices, no new privileges, nothing writable but the home, the system
  calls of @system-service, no memory that is writable and executable. What functions or trees need beyond that, a drop-in allows;
- what comes from outside (paths, a user's name) is quoted or refused, never pasted;
- the first line has a digest of the rest: a unit that a person changed is told from one that only another version wrote.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from secrets import compare_digest

from zcluster.config.home import SYSTEM_HOME
from zcluster.errors import UsageError

DEFAULT_USER = "zcluster"
DEFAULT_HOME = SYSTEM_HOME / "home"
UNIT_DIR = Path("/etc/systemd/system")
WATCHDOG_S = 30
STOP_S = 15
"""Longer than the longest drain and the end of what runs (session.drain_s is 4 by default)."""
ROLES = {
    "master": "Its home is made at its first start.",
    "worker": "Its key file is the only worker key in keys/ of its home.",
    "agent": "Its key file is keys/agent.key in its home.",
}
"""What a reader of the unit should know of each."""

_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_PLAIN = re.compile(r"[A-Za-z0-9_./:@=+,-]+")
_HEAD = re.compile(r"# zcluster unit, blake2b ([0-9a-f]{32})\. ")
_HIDDEN_HOMES = ("/home", "/root", "/run/user")
_HIDDEN_TMP = ("/tmp", "/var/tmp")


@dataclass(frozen=True)
class Unit:
    """One unit: which daemon, of whom, with which interpreter.

    Raises:
        UsageError: the role, the user's name or a path cannot be written into a unit.
    """

    role: str
    python: Path
    home: Path = DEFAULT_HOME
    user: str = DEFAULT_USER
    code: tuple[Path, ...] = ()
    """Directories beside the interpreter's from which code comes: they must not be hidden from the daemon."""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise UsageError(f"there is no unit for the role {self.role!r}", hint=f"one of {', '.join(ROLES)}")
        if not _USER.fullmatch(self.user):
            raise UsageError(f"{self.user[:80]!r} is no name of a user", hint="--user zcluster, for example")
        if self.home == SYSTEM_HOME:
            message = f"{self.home} keeps its settings in /etc, where a service may not write"
            raise UsageError(message, hint=f"--home {DEFAULT_HOME}, for example")
        for path in (self.python, self.home):
            if not path.is_absolute() or not str(path).isprintable():
                hint = "an absolute path without control characters"
                raise UsageError(f"{str(path)[:200]!r} cannot be written into a unit", hint=hint)

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"zcluster-{self.role}.service"

    @property
    def key(self) -> Path:
        """The key file that the daemon is to have."""
        return self.home / "keys" / f"{self.role}.key"

    @property
    def text(self) -> str:
        """What is in its file."""
        body = self._body()
        return f"# zcluster unit, blake2b {_digest(body)}. Change it by a drop-in: systemctl edit {self.name}\n{body}"

    def _body(self) -> str:
        words = [str(self.python), "-m", "zcluster", self.role, "--home", str(self.home)]
        if self.role == "agent":
            words += ["--key", str(self.key)]
        return f"""\
# {ROLES[self.role]}
[Unit]
Description=zcluster {self.role}
Wants=network-online.target
After=network-online.target
# However often it has failed it is started again: what it lacks may come back.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
# The event loop says twice in this time that it is alive; one that is stuck is killed and started again.
WatchdogSec={WATCHDOG_S}
User={self.user}
{self._writable()}
UMask=0077
ExecStart={" ".join(quoted(word.replace("$", "$$")) for word in words)}
ExecReload=/bin/kill -HUP $MAINPID
# Only the daemon gets SIGTERM; it ends its own processes.
KillMode=mixed
TimeoutStopSec={STOP_S}
Restart=on-failure
RestartSec=1
# 2: called wrongly or a bad setting. 4: not allowed, or another process with the same key took over.
RestartPreventExitStatus=2 4
LimitNOFILE=65536

NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome={"read-only" if self._needs(_HIDDEN_HOMES) else "yes"}
PrivateTmp={"no" if self._needs(_HIDDEN_TMP) else "yes"}
PrivateDevices=yes
ProtectProc=invisible
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""

    def _writable(self) -> str:
        """What makes the home, and only the home, writable."""
        if self.home.is_relative_to(SYSTEM_HOME):
            return "StateDirectory=zcluster\nStateDirectoryMode=0700"
        return f"ReadWritePaths={quoted(str(self.home))}"

    def _needs(self, roots: tuple[str, ...]) -> bool:
        return any(path.is_relative_to(root) for path in (self.python, self.home, *self.code) for root in roots)


def quoted(word: str) -> str:
    """``word`` as systemd reads it back (systemd.syntax(7)): no specifier, no second word."""
    escaped = word.replace("%", "%%")
    if _PLAIN.fullmatch(escaped):
        return escaped
    return '"' + escaped.replace("\\", "\\\\").replace('"', '\\"') + '"'


def unchanged(text: str) -> bool:
    """Whether ``text`` is a unit as some version of this module wrote it."""
    head, _, body = text.partition("\n")
    found = _HEAD.match(head)
    return found is not None and compare_digest(found[1], _digest(body))


def _digest(body: str) -> str:
    return hashlib.blake2b(body.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
