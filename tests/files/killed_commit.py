"""Commits that are killed: run by test_staging.py in a process of its own.

``python killed_commit.py PLACE STEP ROUNDS [RECOVERY_STEP]`` makes PLACE/0, PLACE/1 ... in each of which a commit was ended by
SIGKILL: at the first, second ... time that it came to STEP (a step that is reached once: always there). With RECOVERY_STEP the
recoveries that follow are killed there three times.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

from zcluster.core.sync.entry import FILE, LINK, Entry, content_digest
from zcluster.files import durable
from zcluster.files.staging import Staging
from zcluster.files.treedir import TreeDir

OLD: dict[str, bytes] = {f"sub/f{number:02}": b"old %d" % number for number in range(24)} | {
    "becomes_dir": b"old file",
    "becomes_file/covered": b"old",
    "gone/deep/file": b"old",
    "kept/uncovered": b"mine",
    "kept/covered": b"old",
    "same": b"same",
    "big": b"o" * 40_000,
}
NEW: dict[str, bytes] = {f"sub/f{number:02}": b"new content %d" % number for number in range(24)} | {
    "becomes_dir/f": b"new in dir",
    "becomes_file": b"new file",
    "kept/uncovered": b"mine",
    "same": b"same",
    "fresh/a/b": b"new",
    "big": b"n" * 50_000,
}
LINK_PATH = "fresh/link"


@dataclass
class Steps:
    make_dirs: list[tuple[str, int]] = field(default_factory=list)
    fetch: list[tuple[str, Entry]] = field(default_factory=list)
    link: list[tuple[str, Entry]] = field(default_factory=list)
    touch: list[tuple[str, Entry]] = field(default_factory=list)
    move_away: list[str] = field(default_factory=list)
    delete_files: list[str] = field(default_factory=list)
    delete_dirs: list[str] = field(default_factory=list)


def entry_of(path: str, data: bytes) -> Entry:
    return Entry(path.rpartition("/")[2], FILE, len(data), 10**18, 0o640, content_digest("xxh3_128", data))


def commit(treedir: TreeDir) -> None:
    """Go from OLD to NEW."""
    staging = Staging(treedir, 2, "xxh3_128")
    plan = Steps(
        make_dirs=[("becomes_dir", 0o755), ("fresh", 0o755), ("fresh/a", 0o700)],
        touch=[("same", entry_of("same", NEW["same"]))],
        move_away=["becomes_dir", "becomes_file"],
        delete_files=["becomes_file/covered", "gone/deep/file", "kept/covered"],
        delete_dirs=["gone/deep", "gone", "kept"],
    )
    for path, data in NEW.items():
        if path not in ("same", "kept/uncovered", "big"):
            staging.put(path, entry_of(path, data), data)
            plan.fetch.append((path, entry_of(path, data)))
    patch = staging.begin("big", entry_of("big", NEW["big"]))
    patch.write(0, NEW["big"])
    patch.finish()
    plan.fetch.append(("big", patch.entry))
    link = Entry("link", LINK, 0, 0, 0, b"", "a/b")
    staging.put_link(LINK_PATH, link)
    plan.link.append((LINK_PATH, link))
    staging.commit(plan, b"version 2")


def first(root: Path) -> None:
    for path, data in OLD.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)


def killed(root: Path, step: str, times: int, *, recovery: bool) -> bool:
    """Commit, or recover, in a child that is killed when it comes to ``step`` for the ``times``-th time; whether it was."""
    child = os.fork()
    if child:
        _pid, status = os.waitpid(child, 0)
        return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    left = times

    def reach(reached: str) -> None:
        nonlocal left
        left -= reached == step
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    treedir = TreeDir(root, "t", create=True)
    if recovery:
        durable.crash_point = reach
        treedir.recover()
    else:
        treedir.recover()
        durable.crash_point = reach
        commit(treedir)
    os._exit(0)


def main(place: Path, step: str, rounds: int, recovery_step: str = "") -> None:
    for number in range(rounds):
        root = place / str(number)
        first(root)
        if not killed(root, step, number + 1 if step == "renaming" else 1, recovery=False):
            sys.exit(f"round {number} was not killed at {step}")
        for again in range(3 if recovery_step else 0):
            times = number + again + 1 if recovery_step == "renaming" else 1
            if not killed(root, recovery_step, times, recovery=True):
                sys.exit(f"recovery {again} of round {number} was not killed at {recovery_step}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
