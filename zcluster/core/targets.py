"""What a target means.

Rules kept here:
- ``master``, ``any`` and ``all`` are words; everything else is a node's name, a glob, or a comma list of these;
- what matches nothing is NoSuchNode, never everyone;
- each part of a list has to match something, so that a typing error in a list is not silently a smaller list;
- globs are bounded in length and number: they cost time for each node there is, and 8 KiB of "[!" takes a second to
  prepare. A master that one caller's targets keep busy hears no heartbeats.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from zcluster.errors import NoSuchNode, UsageError

ANY = "any"
ALL = "all"
MASTER = "master"
MAX_PARTS = 1000
MAX_GLOB_CHARS = 128
MAX_GLOBS = 32
"""In one target."""
_GLOB = frozenset("*?[")


def is_single(target: str) -> bool:
    """Whether ``target`` means exactly one node: ``any``, ``master``, ``agent:ID`` or a plain name."""
    return target != ALL and "," not in target and not _is_glob(target) and not target.startswith("group:")


def select(target: str, names: Iterable[str], master: str) -> list[str]:
    """The node names that ``target`` means, each once, in the order of ``names``.

    Args:
        target: anything but ``any``.
        names: all nodes there are.
        master: the name of the master, which the word ``master`` means.

    Raises:
        NoSuchNode: the target, or one part of its list, matches nothing.
        UsageError: the list has more than MAX_PARTS parts or MAX_GLOBS globs, or a glob is longer than MAX_GLOB_CHARS.
    """
    known = dict.fromkeys(names)
    if target == ALL:
        return list(known)
    parts = [part.strip() for part in target.split(",")]
    if len(parts) > MAX_PARTS:
        raise UsageError(f"a target of {len(parts)} parts, at most {MAX_PARTS} are allowed", hint="use a glob or 'all'")
    globs = [part for part in parts if _is_glob(part)]
    if len(globs) > MAX_GLOBS or any(len(glob) > MAX_GLOB_CHARS for glob in globs):
        limits = f"at most {MAX_GLOBS} globs of at most {MAX_GLOB_CHARS} characters"
        raise UsageError(f"a target has {limits}", hint="name the nodes, or use 'all'")
    chosen: set[str] = set()
    for part in parts:
        matched = _match(part, known, master)
        if not matched:
            raise NoSuchNode(
                f"no node matches {part!r}" if part else "an empty target matches no node",
                hint="`zcluster nodes` lists the nodes; a target is any, master, all, agent:ID, group:G, a name, a glob, a list",
            )
        chosen.update(matched)
    return [name for name in known if name in chosen]


def globs_in(target: str) -> int:
    """How many parts of ``target`` are globs."""
    return sum(map(_is_glob, target.split(","))) if _is_glob(target) else 0


def _is_glob(part: str) -> bool:
    return not _GLOB.isdisjoint(part)


def _match(part: str, names: Mapping[str, None], master: str) -> Iterable[str]:
    if part == MASTER:
        return [master]
    if part == ALL:
        return names
    if _is_glob(part):
        return [name for name in names if fnmatchcase(name, part)]
    return [part] if part in names else []
