"""The machines of file sync that talk to each other, on simulated disks, and the talk as readable text.

Rules kept here:
- every message goes through the codec, as on the wire; an action's end comes at once, and no time passes but by
  :meth:`TreeConversation.wait`;
- a line per message: who to whom, the kind, then its fields; progress reports are left out, changes of state are not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from zcluster.core.sync import bodies
from zcluster.core.sync.declared import Declared
from zcluster.core.sync.effects import Do, Effects, Place, Say, Tell
from zcluster.core.sync.hub import Hub
from zcluster.core.sync.member import MASTER, Member
from zcluster.core.sync.sink import SinkLimits
from zcluster.core.sync.source import SourceLimits
from zcluster.errors import ZClusterError
from zcluster.sim.trees_disk import Node, SimTree
from zcluster.sim.trees_process import Process, Store, Trouble, Watch
from zcluster.sim.world import World
from zcluster.wire import WireLimits, decode, encode
from zcluster.wire.trees import Blocks, Fetch, Go, List, Listing, Report, TreeInfo, TreeMessage, Trees

CHUNK_BYTES, WINDOW_BYTES, SCAN_S = 16_384, 65_536, 1000.0
TREE: Place = ("code", "")
SESSION = 1


class End:
    """A node's machine and its disks."""

    def __init__(self, name: str, machine: Hub | Member, store: Store) -> None:
        self.name, self.machine, self.store = name, machine, store
        self.disks = Process(
            World(0), name, store, machine, Trouble(), Watch(), lambda session, frame, bulk: None, lambda held: None
        )

    @property
    def tree(self) -> SimTree:
        """Its directory."""
        return self.store.tree(TREE)


class TreeConversation:
    """A master and one worker with the tree ``code``."""

    def __init__(self, title: str) -> None:
        self.now = 0.0
        self.lines = [f"# {title}"]
        self.hold_fetches = False
        self._held: deque[tuple[TreeMessage, bytes]] = deque()
        info = TreeInfo(tree="code")
        limits = SourceLimits(1, WINDOW_BYTES, CHUNK_BYTES, SCAN_S)
        sinks = SinkLimits(WINDOW_BYTES, CHUNK_BYTES, SCAN_S)
        hub = Hub({"code": Declared(info, "w1", info)}, Effects(), sinks, limits, 4, "m", 0.0)
        self.master = End("m", hub, Store())
        self.worker_store = Store()
        self.worker: End | None = None
        self._reported: tuple[Any, ...] = ()

    # -- what is done ---------------------------------------------------------------------------------------------------

    def write(self, path: str, data: bytes, at: End | None = None) -> None:
        """Somebody writes a file, here at the master."""
        end = at or self.master
        self.note(f"{end.name}'s {path} is written: {len(data)} bytes")
        end.tree.put(path, self.node(data), self.now - 1.0)
        self._hint(end)

    def node(self, data: bytes) -> Node:
        """A file as somebody writes it now."""
        return Node("f", 0o644, data, int(self.now * 1e9))

    def remove(self, *paths: str) -> None:
        """Somebody removes files at the master."""
        self.note(f"m's {', '.join(paths)} {'is' if len(paths) == 1 else 'are'} removed")
        for path in paths:
            self.master.tree.remove(path)
        self._hint(self.master)

    def joins(self) -> None:
        """The worker, with what is on its disk, has a session."""
        limits = SourceLimits(0, WINDOW_BYTES, CHUNK_BYTES, SCAN_S)
        member = Member(Effects(), SinkLimits(WINDOW_BYTES, CHUNK_BYTES, SCAN_S), limits, commands=True)
        self.worker = End("w1", member, self.worker_store)
        self.note("w1 joins")
        self.worker.machine.session_up(MASTER, "m", self.now)
        self.master.machine.session_up(SESSION, "w1", self.now)
        self.pump()

    def leaves(self) -> None:
        """The worker is gone, with all that it has not committed."""
        self.note("w1 is gone")
        assert self.worker is not None
        self.worker.disks.die()
        self.worker = None
        self._held.clear()
        self._reported = ()
        self.master.machine.session_down(SESSION, self.now)
        self.pump()

    def confirm(self) -> None:
        """Somebody says that what is held is right."""
        self.note("`zcluster sync confirm code`")
        assert isinstance(self.master.machine, Hub)
        self.master.machine.confirm("code", "", self.now)
        self.pump()

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.note(f"{seconds:g} s pass")
        self.now = round(self.now + seconds, 3)
        for end in self._ends():
            end.machine.handle_deadline(self.now)
        self.pump()

    def release(self) -> None:
        """The FETCHes that were kept back come."""
        self.hold_fetches = False
        held, self._held = self._held, deque()
        for message, body in held:
            self.master.machine.receive(SESSION, message, body, self.now)
        self.pump()

    def note(self, text: str) -> None:
        """A remark in the trace."""
        self.lines.append(f"{self.now:6.2f}  -- {text}")

    @property
    def text(self) -> str:
        """The conversation so far."""
        return "\n".join(self.lines) + "\n"

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _ends(self) -> list[End]:
        return [self.master, self.worker] if self.worker is not None else [self.master]

    def _hint(self, end: End) -> None:
        end.disks.world.now = self.now
        end.machine.hint(TREE, None, self.now)
        self.pump()

    def pump(self) -> None:
        """Do everything that is decided, until nothing is."""
        busy = True
        while busy:
            busy = False
            for end in self._ends():
                end.machine.settle(self.now)
                for effect in end.machine.effects.take():
                    busy = True
                    match effect:
                        case Say():
                            self._say(end, effect)
                        case Do():
                            self._do(end, effect)
                        case Tell():
                            self._tell(end, effect)

    def _do(self, end: End, effect: Do) -> None:
        end.disks.world.now = self.now
        try:
            result = end.disks.work(effect.action)
        except ZClusterError as error:
            result = error
        end.machine.effects.done(effect.job, result, self.now)

    def _tell(self, end: End, effect: Tell) -> None:
        words = " ".join(f"{name}={value}" for name, value in effect.fields.items() if name not in ("tree", "root", "worker"))
        self.note(f"{end.name}: {effect.name} {words}")

    def _say(self, end: End, effect: Say) -> None:
        message, start = decode(frame := encode(effect.message, [effect.body]), WireLimits())
        assert isinstance(message, TreeMessage)
        body = frame[start:]
        other = self.worker if end is self.master else self.master
        if isinstance(message, Report):
            told = (message.state, message.version, message.reason, message.error)
            if told != self._reported:
                self._reported = told
                self._line(end, message, body)
        else:
            self._line(end, message, body)
        if other is None:
            return
        if self.hold_fetches and isinstance(message, Fetch):
            self._held.append((message, body))
            return
        other.machine.receive(SESSION if other is self.master else MASTER, message, body, self.now)

    def _line(self, end: End, message: TreeMessage, body: bytes) -> None:
        other = "w1" if end is self.master else "m"
        self.lines.append(f"{self.now:6.2f}  {end.name:>3} > {other:<3} {describe(message, body)}")


def describe(message: TreeMessage, body: bytes) -> str:
    """``message`` in words."""
    fields = {name: value for name, value in msgspec.structs.asdict(message).items() if value}
    for name in ("tree", "epoch", "chunk_bytes", "window_bytes", "trees", "age_s", "bytes_per_s", "raw_bytes", "bytes_done"):
        fields.pop(name, None)
    for name in ("root", "have_root", "digest"):
        if name in fields:
            fields[name] = fields[name][:8]
    if isinstance(message, Trees):
        fields["trees"] = ",".join(info.tree for info in message.trees)
    words = " ".join([type(message).__name__.upper(), *(f"{name}={value}" for name, value in fields.items())])
    told = _content(message, body)
    return f"{words}: {told}" if told else words


def _content(message: TreeMessage, body: bytes) -> str:
    match message:
        case List():
            return " ".join(path or "(root)" for path in bodies.read_paths(body))
        case Listing(id=0):
            signs: Callable[[Any], str] = lambda change: "+" if change.old is None else "-" if change.new is None else "~"  # noqa: E731
            return " ".join(f"{signs(change)}{change.path}" for change in bodies.read_changes(body))
        case Listing():
            return " ".join(path or "(root)" for path, _ in bodies.read_listings(body))
        case Fetch():
            return " ".join(f"{piece.path}[{piece.offset}+{piece.size}]" for piece in bodies.read_pieces(body))
        case Go() | Blocks():
            return ""
        case _:
            return f"{len(body)} bytes" if body else ""
