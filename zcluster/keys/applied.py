"""Which state of the ring a running master goes by: its note for those who have changed the ring.

Rules kept here:
- the note is written when the change holds: from then on nothing of a revoked key is accepted;
- it is a hint and no record: it is replaced in one step and not synced, and it ends with the master;
- who waits for it waits for a bounded time, and not at all when no master runs.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

POLL_S = 0.005
MAX_BYTES = 200


def note_applied(run_dir: Path, version: int) -> None:
    """Note that this process goes by the ring of ``version`` (Ring.version).

    Raises:
        OSError: it cannot be written.
    """
    temporary = run_dir / f".ring.applied.{os.getpid()}.tmp"
    temporary.unlink(missing_ok=True)  # of a process before that had this id
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, json.dumps({"pid": os.getpid(), "version": version}).encode())
    finally:
        os.close(fd)
    os.replace(temporary, _path(run_dir))


def forget_applied(run_dir: Path) -> None:
    """This process goes by no ring any more."""
    _path(run_dir).unlink(missing_ok=True)


def is_applied(run_dir: Path, version: int) -> bool | None:
    """Whether the running master goes by ``version`` or a later one; None: there is no running master."""
    try:
        with open(_path(run_dir), "rb") as file:
            found = json.loads(file.read(MAX_BYTES))
        pid, applied = int(found["pid"]), int(found["version"])
        os.kill(pid, 0)
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    return applied >= version


def wait_applied(run_dir: Path, version: int, timeout_s: float) -> bool | None:
    """Wait until the running master goes by ``version``; false: it did not in time, None: there is no running master."""
    deadline_s = time.monotonic() + timeout_s
    while (applied := is_applied(run_dir, version)) is False and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    return applied


def _path(run_dir: Path) -> Path:
    return run_dir / "ring.applied"
