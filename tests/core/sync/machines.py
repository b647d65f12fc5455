"""Machines of file sync without disks and sockets: what they want done is taken as effects, and ended by hand."""

from __future__ import annotations

from typing import Any, TypeVar

from msgspec.structs import replace
from treemodel import file, manifest, tree

from zcluster.core.sync.effects import Do, Effects, Looked, Opened, Say, Tell
from zcluster.core.sync.entry import Manifest, content_digest, listing_digest
from zcluster.errors import ZClusterError

A = TypeVar("A")
PLACE = ("t", "")


class Bench:
    """Effects of one machine: what it said, told and wants done since the last look."""

    def __init__(self) -> None:
        self.effects = Effects()
        self.said: list[Say] = []
        self.told: list[Tell] = []
        self.open: list[Do] = []

    def take(self) -> None:
        for effect in self.effects.take():
            match effect:
                case Say():
                    self.said.append(effect)
                case Tell():
                    self.told.append(effect)
                case Do():
                    self.open.append(effect)

    def messages(self) -> list[Any]:
        """What was said since the last call."""
        self.take()
        said, self.said = self.said, []
        return [say.message for say in said]

    def last(self, kind: type[A]) -> A:
        """The newest message of this kind; everything that was said is forgotten."""
        return next(message for message in reversed(self.messages()) if isinstance(message, kind))

    def events(self) -> list[str]:
        self.take()
        told, self.told = self.told, []
        return [event.name for event in told]

    def actions(self) -> list[Any]:
        """What is being done."""
        self.take()
        return [do.action for do in self.open]

    def end(self, kind: type[A], result: object, now: float = 0.0) -> A:
        """End the oldest action of this kind."""
        self.take()
        do = next(do for do in self.open if isinstance(do.action, kind))
        self.open.remove(do)
        self.effects.done(do.job, result, now)
        assert isinstance(do.action, kind)
        return do.action


def looked(files: dict[str, str], **fields: Any) -> Looked:
    """A look at a tree of these files."""
    digests = {path: content_digest("xxh3_128", content.encode()) for path, content in files.items()}
    entries = ((path, replace(file(path, content), digest=digests[path])) for path, content in files.items())
    mine: Manifest = manifest(tree(*entries))
    size = sum(map(len, files.values()))
    defaults: dict[str, Any] = {"complete": True, "marker_ok": True}
    return Looked(mine=mine, root=listing_digest(mine[""]), files=len(files), bytes=size, **defaults | fields)


def opened(files: dict[str, str], version: int = 0, **fields: Any) -> Opened:
    """A place with these files, of which ``version`` is known (that of these very files)."""
    look = looked(files)
    known: dict[str, Any] = {"version": version, "root": look.root if version else b"", "files_before": len(files)}
    return Opened(looked=look, **known | fields)


BROKEN = ZClusterError("the disk is gone")
