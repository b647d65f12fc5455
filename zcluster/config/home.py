"""Where a cluster's files are.

Rules kept here:
- one directory holds everything (configuration, keys, data, run files), with one exception: the system home
  /var/lib/zcluster has its configuration in /etc/zcluster and its run files in /run/zcluster;
- the same path always means the same layout, whoever asks;
- nothing is created or read here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zcluster.errors import ConfigError

SYSTEM_HOME = Path("/var/lib/zcluster")
SYSTEM_CONFIG_DIR = Path("/etc/zcluster")
SYSTEM_RUN_DIR = Path("/run/zcluster")


@dataclass(frozen=True)
class Home:
    """The files below one home directory."""

    path: Path

    @classmethod
    def of(cls, home: Home | Path | str) -> Home:
        """``home`` as a Home, its path made absolute ("~" is expanded)."""
        return home if isinstance(home, Home) else cls(absolute(home))

    @property
    def config_file(self) -> Path:
        """The settings, zcluster.toml."""
        return (SYSTEM_CONFIG_DIR if self.path == SYSTEM_HOME else self.path) / "zcluster.toml"

    @property
    def keys_dir(self) -> Path:
        """Key files and the ring; 0700."""
        return self.path / "keys"

    @property
    def ring_file(self) -> Path:
        """The ring of admitted keys."""
        return self.keys_dir / "ring.json"

    @property
    def master_key(self) -> Path:
        """The master's own key file."""
        return self.key_file("master")

    @property
    def admin_key(self) -> Path:
        """The key file that local commands use."""
        return self.key_file("admin")

    @property
    def data_dir(self) -> Path:
        """What a node has to keep over a restart; 0700."""
        return self.path / "data"

    @property
    def run_dir(self) -> Path:
        """What ends with the process: sockets, pid files; 0700."""
        return SYSTEM_RUN_DIR if self.path == SYSTEM_HOME else self.path / "run"

    @property
    def bus_socket(self) -> Path:
        """Where programs on this machine reach the master without a network (setting master.ipc)."""
        return self.run_dir / "bus.sock"

    def key_file(self, name: str) -> Path:
        """Where ``keys new NAME`` writes its file."""
        return self.keys_dir / f"{name}.key"


def default_home(environ: Mapping[str, str] | None = None, *, root: bool | None = None) -> Path:
    """The home when none is given: ZCLUSTER_HOME, else the system home for root, else the user's XDG data directory.

    Args:
        environ: the environment; None takes the process's own.
        root: whether the user is root; None asks the system.

    Raises:
        ConfigError: no home directory of the user is known.
    """
    environ = os.environ if environ is None else environ
    if environ.get("ZCLUSTER_HOME"):
        return absolute(environ["ZCLUSTER_HOME"])
    if os.geteuid() == 0 if root is None else root:
        return SYSTEM_HOME
    # the XDG specification: a relative XDG_DATA_HOME is to be ignored
    data_home = environ.get("XDG_DATA_HOME", "")
    if data_home.startswith("/"):
        return Path(data_home) / "zcluster"
    return absolute(environ.get("HOME") or "~") / ".local" / "share" / "zcluster"


def absolute(path: Path | str, base: Path | None = None) -> Path:
    """``path`` made absolute: "~" expanded, then below ``base`` (the working directory when None); links are kept.

    Raises:
        ConfigError: "~" cannot be expanded because the user has no home directory.
    """
    try:
        expanded = Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"no home directory is known for {str(path)!r}", hint="set ZCLUSTER_HOME or give --home") from None
    return Path(os.path.normpath(expanded if base is None else base / expanded)).absolute()
