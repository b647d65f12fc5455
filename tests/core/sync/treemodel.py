"""A tree as a plain mapping from paths to entries, and what the words of sync mean on it: slow, naive, and easy to believe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from zcluster.core.sync.entry import DIRECTORY, FILE, LINK, Entry, decode_listing, encode_listing, join, listing_digest, parent
from zcluster.core.sync.plan import Plan

Tree = dict[str, Entry]


def file(path: str, content: str = "x", *, mode: int = 0o644, mtime_ns: int = 0) -> Entry:
    """A file; its content is its digest, and its size the content's."""
    return Entry(path.rpartition("/")[2], FILE, len(content), mtime_ns, mode, content.encode())


def directory(path: str, *, mode: int = 0o755) -> Entry:
    """A directory; its digest is not part of a model."""
    return Entry(path.rpartition("/")[2], DIRECTORY, 0, 0, mode, b"")


def link(path: str, target: str) -> Entry:
    return Entry(path.rpartition("/")[2], LINK, 0, 0, 0, b"", target)


def tree(*entries: tuple[str, Entry]) -> Tree:
    """A tree with these, and the directories above them."""
    out: Tree = {}
    for path, entry in entries:
        out[path] = entry
        above = parent(path)
        while above and above not in out:
            out[above] = directory(above)
            above = parent(above)
    return out


def manifest(model: Mapping[str, Entry]) -> dict[str, bytes]:
    """The manifest of a model, with the digests of its directories."""
    inside: dict[str, list[Entry]] = {"": []}
    for path, entry in model.items():
        if entry.kind == DIRECTORY:
            inside.setdefault(path, [])
    out: dict[str, bytes] = {}
    for path in sorted(model, reverse=True):
        entry = model[path]
        if entry.kind == DIRECTORY:
            out[path] = encode_listing(inside[path])
            entry = Entry(entry.name, entry.kind, 0, 0, entry.mode, listing_digest(out[path]))
        inside[parent(path)].append(entry)
    out[""] = encode_listing(inside[""])
    return out


def model_of(listings: Mapping[str, bytes]) -> Tree:
    """The model of a complete manifest."""
    out: Tree = {}
    for path, listing in listings.items():
        for entry in decode_listing(listing):
            name = join(path, entry.name)
            out[name] = directory(name, mode=entry.mode) if entry.kind == DIRECTORY else entry
    return out


def applied(plan: Plan, mine: Tree, hidden: Iterable[str] = ()) -> Tree:
    """What carrying out ``plan`` on ``mine`` leads to; ``hidden`` are directories that hold more than the model shows.

    Raises:
        AssertionError: a step is not possible, as it would not be on a disk.
    """
    out, hidden = dict(mine), set(hidden)
    staged = dict((*plan.fetch, *plan.link))
    for path, entry, source in plan.copies:
        assert out[source].kind == FILE
        assert (out[source].digest, out[source].size) == (entry.digest, entry.size)
        staged[path] = entry
    deletes = set(plan.delete_files)
    away = {path for path in plan.move_away if out[path].kind == DIRECTORY}
    for path in plan.move_away:
        assert (path in staged) if path in away else (path in dict(plan.make_dirs))
        if path not in away:
            del out[path]
    for path, mode in plan.make_dirs:
        assert path not in out
        _assert_directory(out, parent(path))
        out[path] = directory(path, mode=mode)
    for top in away:
        for path in [path for path in out if path.startswith(f"{top}/")]:
            assert path in deletes or path in plan.delete_dirs
            del out[path]
        assert top not in hidden
        del out[top]
    for path, entry in staged.items():
        _assert_directory(out, parent(path))
        assert path not in out or out[path].kind != DIRECTORY
        out[path] = entry
    for path, entry in plan.touch:
        assert out[path].kind == entry.kind
        assert entry.kind == DIRECTORY or out[path].digest == entry.digest
        out[path] = directory(path, mode=entry.mode) if entry.kind == DIRECTORY else entry
    for path in plan.delete_files:
        gone = out.pop(path, None)
        assert (gone is not None and gone.kind != DIRECTORY) or path.startswith(tuple(f"{top}/" for top in away))
    for path in plan.delete_dirs:
        if path.startswith(tuple(f"{top}/" for top in away)):
            continue
        assert out[path].kind == DIRECTORY
        if path in hidden:
            continue  # as a disk would have it
        assert not any(other.startswith(f"{path}/") for other in out), f"{path} is not empty"
        del out[path]
    return out


def _assert_directory(model: Tree, path: str) -> None:
    assert not path or model[path].kind == DIRECTORY, f"{path} is no directory"
