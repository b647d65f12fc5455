"""What ``zcluster doctor`` looks at on this machine.

Rules kept here:
- nothing is changed: whether the disk takes a file is asked with one that has no name;
- a home is not needed by who has a key file.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zcluster.cli.connect import Reach
from zcluster.cli.findings import Finding, State
from zcluster.cli.sync_views import size
from zcluster.config import Home, default_home, load
from zcluster.errors import ZClusterError
from zcluster.net.probe import aside

if TYPE_CHECKING:
    from zcluster.keys import KeyFile

CLOCK_STEP_S = 0.5
LOW_PERCENT = 5.0
LEAST_PERCENT = 1.0
"""Free space of the home's file system: a warning, a fault."""
MIN_FILES = 4096
NO_WRITING = {
    errno.EROFS: "a node needs to write there: mount it for writing, or give a home elsewhere",
    errno.EACCES: "a node needs to write there: run it as the user who owns it",
    errno.EPERM: "a node needs to write there: run it as the user who owns it",
    errno.ENOSPC: "free some space, or i-nodes (df -i): jobs, events and files need it",
    errno.EDQUOT: "free some space, or raise the quota: jobs, events and files need it",
}
"""What to do when nothing can be written."""


@dataclass(frozen=True)
class Clocks:
    """This machine's clocks at one moment."""

    wall_s: float
    steady_s: float

    @classmethod
    def now(cls) -> Clocks:
        """They are read one after the other; what is compared is far longer."""
        return cls(time.time(), time.monotonic())


def home_of(reach: Reach) -> Home:
    """The home that is meant."""
    return Home.of(reach.home if reach.home is not None else default_home())


def key_path_of(reach: Reach, home: Home) -> Path:
    """The key file that commands would take; without an administrator's the one of the worker of this home."""
    from zcluster.keys import worker_key_path

    if reach.key is not None:
        return reach.key
    given = os.environ.get("ZCLUSTER_KEY")
    if reach.home is None and given:
        return Path(given)
    if not home.admin_key.exists():
        try:
            told = load(reach.home).settings.worker.key
            return Path(told) if told else worker_key_path(home)
        except ZClusterError:
            return home.admin_key  # that it is not there is then said of the one that commands would take
    return home.admin_key


def look_at_home(reach: Reach, home: Home) -> Finding:
    """Whether the home is there, and its configuration can be read."""
    try:
        loaded = load(reach.home)
    except ZClusterError as error:
        return Finding("home", "FAIL", error.message, error.hint)
    if not home.path.is_dir():
        if reach.key is not None:
            return Finding("home", "skip", f"there is no home {home.path}; the key file is enough")
        hint = "give --key FILE or --home DIR; `zcluster keys init` makes a master's"
        return Finding("home", "FAIL", f"there is no home {home.path}", hint)
    if not _readable(home.path):
        return Finding("home", "FAIL", f"{home.path} cannot be read", "run it as the user who owns it")
    return Finding("home", "ok", f"{home.path}, cluster {loaded.settings.cluster.name}")


def _readable(path: Path) -> bool:
    try:
        next(path.iterdir(), None)
    except OSError:
        return False
    return True


def look_at_key(path: Path) -> tuple[Finding, KeyFile | None]:
    """Whether the key file is there, private and whole."""
    from zcluster.keys import KeyFile, fingerprint

    try:
        key_file = KeyFile.read(path)
    except ZClusterError as error:
        return Finding("key", "FAIL", error.message, error.hint), None
    what = f"{path}: {key_file.name} ({key_file.role}) of {key_file.cluster}, {fingerprint(key_file.pair.public)}"
    return Finding("key", "ok", what), key_file


async def look_at_disk(home: Home, key: Path, timeout_s: float) -> Finding:
    """Room and the right to write, where the home is (or, without one, the key file)."""
    try:
        return await aside(lambda: disk_finding(home.path if home.path.is_dir() else key.absolute().parent), timeout_s)
    except TimeoutError:
        return Finding("disk", "FAIL", f"{home.path}: no answer in {timeout_s:g} s", "the file system hangs: look at its mounts")


def disk_finding(place: Path) -> Finding:
    """As :func:`look_at_disk`, of one directory."""
    try:
        usage = shutil.disk_usage(place)
    except OSError as error:
        return Finding("disk", "warn", f"{place}: {error.strerror or error}", "is the file system mounted?")
    usable = usage.used + usage.free  # not the total: a part of it may be kept for root, and df and the nodes leave it out too
    percent = 100.0 * usage.free / usable if usable else 0.0
    room = f"{place}: {size(usage.free)} free ({percent:.0f} %)"
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        said = f"{room}, nothing can be written: {error.strerror or error}"
        return Finding("disk", "warn", said, NO_WRITING.get(error.errno or 0, "a node needs to write there"))
    state: State = "FAIL" if percent < LEAST_PERCENT else "warn" if percent < LOW_PERCENT else "ok"
    return Finding("disk", state, room, "" if state == "ok" else "free some space: jobs, events and files need it")


def look_at_files() -> Finding:
    """How many descriptors a process may have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < MIN_FILES:
        hint = f"a master needs two for each connection: `ulimit -n {MIN_FILES}`, or LimitNOFILE= of its unit"
        return Finding("files", "warn", f"a process may open {hard} files", hint)
    return Finding("files", "ok", f"a process may open {'any number of' if hard == resource.RLIM_INFINITY else hard} files")


def look_at_steps(began: Clocks, ended: Clocks) -> Finding:
    """Whether this machine's clock was set meanwhile."""
    step_s = (ended.wall_s - began.wall_s) - (ended.steady_s - began.steady_s)
    if abs(step_s) > CLOCK_STEP_S:
        return Finding("clock steps", "warn", f"the clock was set by {step_s:+.1f} s meanwhile", "let NTP slew it")
    return Finding("clock steps", "ok", "the clock was not set meanwhile")
