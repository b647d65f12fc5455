"""The [[sync.tree]] tables of a file to TreeSettings.

Rules kept here:
- all is known and valid, or nothing is loaded; an error names the file and the line of what it is about;
- all trees together fit the one message that tells a worker of them;
- a file belongs to one tree: no tree is inside another, compared with symbolic links followed as far as they exist;
- no tree holds the home's keys, data, run files or configuration, nor lies in one of them: keys would leave the master, and
  a rollback would undo them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from zcluster.config.check import check_value
from zcluster.config.home import Home
from zcluster.config.names import MAX_NAME_CHARS, nearest
from zcluster.config.sync import EXTRA, MAX_TEXT_BYTES, MAX_TREES, TREE_FORM, TREE_KEYS, TreeSettings
from zcluster.errors import ConfigError

Lines = Mapping[tuple[str | int, ...], int]


def read_trees(raw: object, home: Home, path: Path, lines: Lines) -> tuple[TreeSettings, ...]:
    """The trees that ``raw`` declares.

    Args:
        raw: the value of sync.tree in the file.
        home: relative paths are below it; its own files belong to no tree.
        path: the file, for messages.
        lines: its lines by place (key_lines).

    Raises:
        ConfigError: what is wrong, and in which line.
    """
    first = lines.get(("sync", "tree"), lines.get(("sync",), 0))
    if not isinstance(raw, list) or not all(isinstance(each, dict) for each in raw):
        raise ConfigError(f"{path}:{first}: expected sync.tree to be tables", hint=TREE_FORM)
    if len(raw) > MAX_TREES:
        raise ConfigError(
            f"{path}:{first}: {len(raw)} trees, at most {MAX_TREES} are allowed", hint="one tree may hold many files"
        )
    trees = tuple(_Reader(path, index, lines, first).tree(content, home) for index, content in enumerate(raw))
    _check_names(trees, path)
    _check_size(trees, f"{path}:{first}")
    for tree in trees:
        _check_home(tree, home, path)
    real = {tree.name: _real(tree.path) for tree in trees}
    for one, other in combinations(trees, 2):
        if _overlap(real[one.name], real[other.name]):
            raise _overlapping(one, other, path)
        _check_worker_paths(one, other, path)
    return trees


class _Reader:
    """One table, and where its keys stand in the file."""

    def __init__(self, path: Path, index: int, lines: Lines, first: int) -> None:
        self.path, self.index, self.lines = path, index, lines
        self.line = lines.get(("sync", "tree", index), first)

    def place(self, key: str) -> str:
        return f"{self.path}:{self.lines.get(('sync', 'tree', self.index, key), self.line)}"

    def tree(self, content: Mapping[str, object], home: Home) -> TreeSettings:
        values: dict[str, Any] = {}
        for key, raw in content.items():
            if key not in TREE_KEYS:
                near = nearest(key, TREE_KEYS)
                hint = f"did you mean {f'sync.tree.{near}'!r}?" if near else f"[[sync.tree]] has {', '.join(TREE_KEYS)}"
                raise ConfigError(f"{self.place(key)}: unknown setting {f'sync.tree.{key}'[:120]!r}", hint=hint)
            try:
                values[key] = check_value(TREE_KEYS[key], raw, text=False, base=home.path)
            except ConfigError as error:
                raise ConfigError(f"{self.place(key)}: sync.tree.{key}: {error.message}", hint=error.hint) from None
        for key, declared in TREE_KEYS.items():
            if declared.default is None and key not in values:
                raise ConfigError(f"{self.path}:{self.line}: a [[sync.tree]] has no {key}", hint=TREE_FORM)
        tree = TreeSettings(**values, place=f"{self.path.name}:{self.line}")
        self.check_together(tree)
        return tree

    def check_together(self, tree: TreeSettings) -> None:
        """Refuse what would have no effect: whoever wrote it meant something else."""
        if tree.keep == "merged" and tree.direction == "down":
            raise ConfigError(f"{self.place('keep')}: sync.tree.keep is for trees with direction = 'up'")
        if tree.on_change_failure == "rollback" and not tree.on_change:
            raise ConfigError(f"{self.place('on_change_failure')}: sync.tree.on_change_failure needs an on_change")


def _check_names(trees: tuple[TreeSettings, ...], path: Path) -> None:
    seen: dict[str, TreeSettings] = {}
    for tree in trees:
        if tree.name.lower().endswith(EXTRA):
            raise ConfigError(
                f"{path}:{_line(tree)}: the name {tree.name!r} is reserved for workers' own files in a tree",
                hint=f"choose a name that does not end with {EXTRA!r}",
            )
        if tree.extra_valid and len(tree.name) + len(EXTRA) > MAX_NAME_CHARS:
            raise ConfigError(
                f"{path}:{_line(tree)}: the name of a tree with extra_valid has at most {MAX_NAME_CHARS - len(EXTRA)} characters",
                hint="choose a shorter name",
            )
        before = seen.setdefault(tree.name.lower(), tree)
        if before is not tree:
            raise ConfigError(
                f"{path}:{_line(tree)}: two trees are called {tree.name!r}, the other one in line {_line(before)}",
                hint="give each tree its own name; upper and lower case count as the same",
            )


def _check_size(trees: tuple[TreeSettings, ...], place: str) -> None:
    texts = [
        (*tree.include, *tree.exclude, *tree.extra_valid, *tree.on_change, tree.worker_path, tree.owner) for tree in trees
    ]  # fmt: skip
    # extra_valid implies a tree of its own
    texts += [(*tree.extra_valid, *tree.exclude, tree.worker_path) for tree in trees if tree.extra_valid]
    size = len(json.dumps(texts, ensure_ascii=False, separators=(",", ":")).encode())
    if size > MAX_TEXT_BYTES:
        raise ConfigError(
            f"{place}: the patterns and commands of all trees take {size} bytes, at most {MAX_TEXT_BYTES} are allowed",
            hint="use fewer and shorter patterns; a command may be a script's name",
        )


def _check_home(tree: TreeSettings, home: Home, path: Path) -> None:
    own = home_conflict(tree.path, home)
    if own:
        raise ConfigError(
            f"{path}:{_line(tree)}: {tree.path}, the path of tree {tree.name!r}, overlaps {own}",
            hint="choose a directory of its own, such as files/NAME in the home",
        )


def home_conflict(path: str, home: Home) -> str:
    """Which of the home's own files the absolute ``path`` holds or lies in, in words; empty when it is apart from them all.

    For a worker, too: its tree_roots may be wider than what a master may ever write.
    """
    real = _real(path)
    for what, own in (
        ("keys", home.keys_dir), ("data", home.data_dir), ("run files", home.run_dir), ("configuration", home.config_file),
    ):  # fmt: skip
        if _overlap(real, _real(own)):
            return f"the home's {what} ({own})"
    return ""


def _overlapping(one: TreeSettings, other: TreeSettings, path: Path) -> ConfigError:
    return ConfigError(
        f"{path}:{_line(other)}: {other.path}, the path of tree {other.name!r}, overlaps {one.path} of tree {one.name!r} "
        f"in line {_line(one)}",
        hint="a file belongs to one tree only: choose separate directories, or one tree for both",
    )


def _check_worker_paths(one: TreeSettings, other: TreeSettings, path: Path) -> None:
    """As far as the master can tell: where the worker's links lead, and which names a glob means, the worker knows."""
    if not one.worker_path or not other.worker_path or one.workers != other.workers:
        return
    # relative ones are below a home that is not known here: apart from all absolute ones
    if _overlap(PurePosixPath("/-", one.worker_path), PurePosixPath("/-", other.worker_path)):
        raise ConfigError(
            f"{path}:{_line(other)}: {other.worker_path}, the worker_path of tree {other.name!r}, overlaps {one.worker_path} "
            f"of tree {one.name!r} in line {_line(one)}",
            hint="choose separate directories on the worker",
        )


def _real(path: str | Path) -> Path:
    """``path`` with its links followed as far as they exist."""
    return Path(os.path.realpath(path))


def _overlap(one: PurePath, other: PurePath) -> bool:
    """Whether one of two paths is the other or lies in it."""
    return one.is_relative_to(other) or other.is_relative_to(one)


def _line(tree: TreeSettings) -> str:
    return tree.place.rpartition(":")[2]
