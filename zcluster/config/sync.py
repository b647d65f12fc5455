"""The settings of file sync: the table [sync], and each tree that a [[sync.tree]] declares.

Rules kept here:
- a tree is declared in the master's file only: neither a flag nor the environment can, and a worker needs none;
- a tree's settings are declared as all others are: doc, kind, range and default, at the field itself;
- all of it is live: SIGHUP applies it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from types import MappingProxyType

from zcluster.config.spec import SPEC_KEY, Declared, about
from zcluster.config.units import GIB, MIB

EXTRA = ".extra"
"""How the name of the tree ends that brings up workers' own files in a down tree, those of its extra_valid."""
MAX_TREES = 64
"""The most trees that a file may declare."""
MAX_TEXT_BYTES = 200_000
"""Of the patterns, commands, owners and worker paths of all trees together: one message tells a worker of all of them."""
ONLY_IN_FILE = "a tree can be declared in zcluster.toml only"
TREE_FORM = 'write a table [[sync.tree]] for each, with name = "..." and path = "..."'


@dataclass(frozen=True)
class TreeSettings:
    """One tree: a directory of the master that workers hold copies of, or files of workers that the master collects."""

    name: str = field(metadata=about("name", "Name of the tree, unique (upper and lower case count as the same).", live=True))
    path: str = field(
        metadata=about(
            "path",
            "The directory at the master, absolute or relative to the home. Of an up tree: where the workers' files are put.",
            live=True,
        )
    )
    worker_path: str = field(
        default="",
        metadata=about(
            "worker path",
            "The directory on the worker, absolute or relative to the worker's home; it must be beneath the worker's "
            "worker.tree_roots. Empty: trees/NODE/TREE in the worker's home.",
            live=True,
            optional=True,
        ),
    )
    direction: str = field(
        default="down",
        metadata=about(
            "choice",
            "down: the master's files go to the workers. up: each worker's own files go to the master.",
            choices=("down", "up"),
            live=True,
        ),
    )
    workers: str = field(
        default="all",
        metadata=about("target", "Which workers have the tree: all, a name, a glob, or a comma list of these.", live=True),
    )
    include: tuple[str, ...] = field(
        default=(),
        metadata=about("patterns", "gitignore patterns of the files that belong to the tree. Empty: all files.", live=True),
    )
    exclude: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "patterns", "gitignore patterns of files that do not belong to it, on either side; it wins over include.", live=True
        ),
    )
    extra_valid: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "patterns",
            "gitignore patterns of files that a copy may have of its own: neither sent, nor replaced, nor deleted. Those of a "
            "down tree are brought up to the master, as the tree NAME.extra.",
            live=True,
        ),
    )
    mode: str = field(
        default="keep",
        metadata=about(
            "mode",
            "Permission bits of the copied files, octal such as '0640' (directories get x where they have r). "
            "keep: those of the source.",
            live=True,
        ),
    )
    owner: str = field(
        default="",
        metadata=about(
            "owner",
            "Owner of the copied files, as 'user' or 'user:group'; the process that copies needs the right to set it. "
            "Empty: whoever runs that process.",
            optional=True,
            live=True,
        ),
    )
    delete: bool = field(
        default=True,
        metadata=about("boolean", "Whether files that the source no longer has are deleted from the copies.", live=True),
    )
    delete_share: float = field(
        default=0.5,
        metadata=about(
            "share",
            "A change that takes 10 files or more away, and more than this share of the tree's files, is held until "
            "`zcluster sync confirm`.",
            low=0,
            high=1,
            live=True,
        ),
    )
    symlinks: str = field(
        default="refuse",
        metadata=about(
            "choice",
            "refuse: a symbolic link is left out and reported. copy: it is copied as a link when it is relative "
            "and stays in the tree.",
            choices=("refuse", "copy"),
            live=True,
        ),
    )
    max_file_bytes: int = field(
        default=16 * GIB,
        metadata=about("bytes", "Largest file of the tree.", unit="bytes", low=1, high=30 * GIB, live=True),
    )
    max_files: int = field(
        default=2_000_000,
        metadata=about("integer", "Most files and directories of the tree.", unit="entries", low=1, high=10_000_000, live=True),
    )
    on_change: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "command",
            "Command to run where the copy is, once for each version that changed it: a list of program and arguments, no "
            "shell. A worker runs it only when its own worker.on_change is 'allow'.",
            live=True,
        ),
    )
    on_change_timeout_s: float = field(
        default=60.0,
        metadata=about(
            "duration", "How long that command may take before it is killed.", unit="seconds", low=0.1, high=3600, live=True
        ),
    )
    on_change_failure: str = field(
        default="report",
        metadata=about(
            "choice",
            "What becomes of a version whose command fails. report: it stays, status shows the error. rollback: it is undone.",
            choices=("report", "rollback"),
            live=True,
        ),
    )
    keep: str = field(
        default="per-worker",
        metadata=about(
            "choice",
            "Of an up tree. per-worker: each worker's files in PATH/WORKER. merged: all workers' files together in PATH.",
            choices=("per-worker", "merged"),
            live=True,
        ),
    )
    place: str = field(default="", compare=False)
    """Where it is declared ("zcluster.toml:12"); no setting."""

    @property
    def mode_bits(self) -> int:
        """``mode`` as a number, -1 for keep."""
        return -1 if self.mode == "keep" else int(self.mode, 8)


@dataclass(frozen=True)
class SyncSettings:
    """File sync: trees between the master and its workers."""

    scan_s: float = field(
        default=300.0,
        metadata=about(
            "duration",
            "Interval of the full pass over every tree, which finds what the file system's events did not tell.",
            unit="seconds",
            low=1,
            high=86400,
            live=True,
        ),
    )
    pulls: int = field(
        default=16,
        metadata=about(
            "integer", "Workers that fetch a tree at the same time; others wait.", unit="workers", low=1, high=4096, live=True
        ),
    )
    window_bytes: int = field(
        default=8 * MIB,
        metadata=about(
            "bytes", "Content that a pull has asked for and not yet received.", unit="bytes", low=MIB, high=GIB, live=True
        ),
    )
    history_versions: int = field(
        default=16,
        metadata=about(
            "integer", "Newest versions of each tree that are kept for rollback.", unit="versions", low=1, high=10000, live=True
        ),
    )
    history_bytes: int = field(
        default=256 * MIB,
        metadata=about(
            "bytes",
            "Disk space for kept versions, of all trees together; a file larger than a quarter of it is not kept.",
            unit="bytes",
            low=0,
            high=1 << 50,
            live=True,
        ),
    )
    up_files: int = field(
        default=100_000,
        metadata=about(
            "integer", "Most files that one worker may have in one up tree.", unit="files", low=1, high=10_000_000, live=True
        ),
    )
    up_bytes: int = field(
        default=GIB,
        metadata=about(
            "bytes", "Most bytes that one worker may have in one up tree.", unit="bytes", low=1, high=1 << 50, live=True
        ),
    )
    up_rate_bytes: int = field(
        default=0,
        metadata=about(
            "bytes",
            "Bytes a second that the master takes from one worker's up trees together; 0: no limit. Less than 1 KiB counts as "
            "1 KiB.",
            unit="bytes", low=0, high=1 << 40, live=True,
        ),
    )  # fmt: skip
    tree: tuple[TreeSettings, ...] = field(
        default=(), metadata=about("trees", f"The trees: a table [[sync.tree]] for each, at most {MAX_TREES}.", live=True)
    )


TREE_KEYS: Mapping[str, Declared] = MappingProxyType(
    {
        key.name: Declared("sync.tree", key.name, None if key.default is MISSING else key.default, key.metadata[SPEC_KEY])
        for key in fields(TreeSettings)
        if SPEC_KEY in key.metadata
    }
)
"""What a [[sync.tree]] may say, by key. A key whose default is None is required."""
