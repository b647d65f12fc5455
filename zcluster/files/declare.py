"""From the configuration's trees to what the machines know of them.

Rules kept here: a tree that workers bring up is named by BLAKE2b, bounded in files and bytes, and has no symbolic links; what
a worker may not decide is never asked of it. What workers may have of their own in a ``down`` tree (extra_valid) implies a tree
``TREE.extra`` that they bring up: of the same place, with just these files, kept for each worker in the master's data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from zcluster.config.sync import EXTRA
from zcluster.core.sync.blocks import CHUNK_BYTES
from zcluster.core.sync.declared import Declared
from zcluster.wire.trees import TreeInfo

FRAME_ROOM_BYTES = 65_536
MIN_CHUNK_BYTES = 16_384


def chunk_bytes(frame_bytes: int) -> int:
    """The most content of one piece, so that its frame is at most ``frame_bytes``."""
    return min(CHUNK_BYTES, max(MIN_CHUNK_BYTES, (frame_bytes - FRAME_ROOM_BYTES) // MIN_CHUNK_BYTES * MIN_CHUNK_BYTES))


def declare(tree: Mapping[str, Any], sync: Mapping[str, Any]) -> Declared:
    """A tree of the configuration.

    Args:
        tree: the fields of TreeSettings. sync: the other settings of [sync].
    """
    direction: Literal["down", "up"] = "up" if tree["direction"] == "up" else "down"
    worker = _info(tree, sync, direction, str(tree["worker_path"]))
    local = _info(tree, sync, direction, str(tree["path"]))
    return Declared(info=worker, workers=str(tree["workers"]), local=local, keep=tree["keep"])


def declare_all(trees: Iterable[Mapping[str, Any]], sync: Mapping[str, Any], extra: Path) -> dict[str, Declared]:
    """All trees of the configuration, and those that they imply, by name.

    Args:
        extra: the master's directory for workers' own files among those of ``down`` trees.
    """
    found = {}
    for tree in trees:
        found[tree["name"]] = declare(tree, sync)
        if tree["extra_valid"] and tree["direction"] == "down":
            name = tree["name"] + EXTRA
            implied = {
                **tree, "name": name, "direction": "up", "path": str(extra / tree["name"]), "include": tree["extra_valid"],
                "extra_valid": (), "mode": "keep", "owner": "", "on_change": (), "on_change_failure": "report",
            }  # fmt: skip
            found[name] = declare(implied, sync)
    return found


def _info(tree: Mapping[str, Any], sync: Mapping[str, Any], direction: Literal["down", "up"], path: str) -> TreeInfo:
    up = direction == "up"
    return TreeInfo(
        tree=tree["name"],
        direction=direction,
        path=path,
        include=list(tree["include"]),
        exclude=list(tree["exclude"]),
        extra_valid=list(tree["extra_valid"]),
        mode=-1 if tree["mode"] == "keep" else int(tree["mode"], 8),
        owner=tree["owner"],
        delete=tree["delete"],
        delete_share=tree["delete_share"],
        symlinks="refuse" if up else tree["symlinks"],
        max_file_bytes=tree["max_file_bytes"],
        max_files=min(tree["max_files"], sync["up_files"]) if up else tree["max_files"],
        max_bytes=sync["up_bytes"] if up else 0,
        hash="blake2b_256" if up else "xxh3_128",
        on_change=list(tree["on_change"]),
        on_change_timeout_s=tree["on_change_timeout_s"],
        rollback=tree["on_change_failure"] == "rollback",
    )
