"""The node's side of agents' sessions: who is there, what they say, and what they are told.

Rules kept here:
- an agent is its key: its id is the key's name, whatever it says of itself;
- what an agent says goes into the row when it changes; metrics are kept here, and go into the row at most each METRICS_EVERY_S;
- a KEEP that is beyond a bound is refused as a whole and is an event; the agent is still alive;
- settings are told after WELCOME and when they change, changes that come together once;
- a shared file is given only to an agent whose settings name it, one piece for each GRAB: a slow agent holds up nobody.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from zcluster.config import Loaded
from zcluster.core.agents.filter import Both, Compare, Either
from zcluster.core.agents.keeping import DEFAULT_INTERVAL_S, MIN_INTERVAL_S
from zcluster.core.agents.orders import ends
from zcluster.core.agents.presence import Presence, State
from zcluster.core.agents.said import fields_of, said_fault
from zcluster.core.agents.turning import IN_ORDER
from zcluster.core.peers import Event, Peer
from zcluster.core.roster import AGENT_ROLE
from zcluster.dapi.function import Function
from zcluster.errors import PeerError, SessionReplaced, ZClusterError
from zcluster.net.reader import Alarm
from zcluster.nodes.agentrows import AgentRows
from zcluster.nodes.agentstatus import StatusEvents
from zcluster.nodes.desk import Desk
from zcluster.nodes.tasks import keep_running
from zcluster.wire import Hello, Message, Sealed, encode
from zcluster.wire.agents import AgentOrder, Door, Doors, Grab, Keep, Settings, Shared

METRICS_EVERY_S = 60.0
REFUSED_EVERY_S = 10.0
"""How often it is told that what an agent says of itself is refused."""
PIECE_BYTES = 65_536
DOORS_EVERY_S = 1.0
"""How old the frame may be that tells of the doors: agents that join at once get the same."""
TURN = 64
"""Agents that are told their settings before everybody else gets a turn."""
RETRY_S = 1.0
PAGE = 1000


class AgentSettings(Protocol):
    """What agents are to have, by groups and live configuration."""

    async def of(self, agent: str, /) -> Settings:
        """The settings of one agent, whose changes are told from now on."""

    async def file(self, digest: str, /) -> bytes | None:
        """A shared file of any group."""

    def on_change(self, callback: Callable[[Sequence[str] | None], None], /) -> None:
        """Call it with the ids of agents whose settings may be others now, None for all."""

    def forget(self, agent: str, /) -> None:
        """The agent has left: nothing more is told of it."""


class _Session:
    __slots__ = ("epoch", "files", "go", "interval_s", "metrics", "metrics_due_s", "peer", "refused_due_s", "told")

    def __init__(self, peer: Peer, epoch: int) -> None:
        self.peer = peer
        self.epoch = epoch
        self.go = ""
        """The node that it is to be told to go to once that node's door is known."""
        self.interval_s = DEFAULT_INTERVAL_S
        self.metrics: dict[str, Any] = {}
        self.metrics_due_s = self.refused_due_s = 0.0
        self.told: str | None = None
        """Digest of the settings that it was told."""
        self.files: dict[str, int] = {}
        """Digest and size of the shared files that it may fetch."""


class AgentDoor:
    """A part of a node, and an attachment of its sessions.

    Args:
        doors: the doors that there are, with their loads.
        taken: told the agents that were another node's: id, that node, the epoch that took them.
    """

    kinds = frozenset({Keep.kind, Grab.kind})

    def __init__(
        self, desk: Desk, settings: AgentSettings, doors: Callable[[], Sequence[Door]],
        taken: Callable[[str, str, int], None] = lambda _id, _node, _epoch: None,
    ) -> None:  # fmt: skip
        self._desk = desk
        self._settings = settings
        self._taken = taken
        self._doors = doors
        self._doors_frame: tuple[float, Sealed] | None = None
        self._sessions: dict[str, _Session] = {}
        self._presence = Presence()
        self.status = StatusEvents(desk.name, desk.clock, desk.note)
        self._rows = AgentRows(desk.book, desk.name, desk.wall_s, desk.note, self._numbered, self._late)
        self._unsettled: dict[str, None] = {}
        self._grabs: OrderedDict[str, Grab] = OrderedDict()
        self._wanted = asyncio.Event()
        self._grabbed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._alarm: Alarm | None = None

    # -- a part -----------------------------------------------------------------------------------------------------

    def functions(self) -> dict[str, Function]:
        """None: what may be asked of agents is asked of the book."""
        return {}

    async def start(self) -> None:
        """Listen to agents. Those that were here before are silent until they are heard."""
        self._alarm = Alarm(asyncio.get_running_loop(), self.handle_deadline)
        self.status.start()
        await self._expect_back()
        self._settings.on_change(self._settings_changed)
        self._desk.sessions.attach(self)
        for work in (self._rows.run, self._tell_settings, self._give_files):
            self._tasks.append(asyncio.ensure_future(keep_running(work, self._desk.logger, "work for agents")))

    def apply(self, loaded: Loaded) -> None:
        """Nothing of the configuration file is used here."""

    async def close(self) -> None:
        """Stop; what was heard is written."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._alarm is not None:
            self._alarm.cancel()
        self.status.close()
        await self.flush()

    async def flush(self) -> bool:
        """Write what was heard so far; false when the book could not."""
        return await self._rows.flush()

    # -- for the other parts ----------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many agents have a session here."""
        return len(self._sessions)

    def live(self, agent_id: str) -> dict[str, Any] | None:
        """The newest metrics of an agent that has a session here."""
        session = self._sessions.get(agent_id)
        return None if session is None else session.metrics

    def last_seen_s_ago(self, agent_id: str) -> float | None:
        """How long ago an agent that has a session here said something."""
        session = self._sessions.get(agent_id)
        return None if session is None else max(0.0, self._desk.clock() - session.peer.last_seen_s)

    def perform(self, order: AgentOrder) -> bool:
        """Do to the agent's session what ``order`` says (workers/agents.py): ``drop`` and ``remove`` end it, ``move`` tells it to
        go. False when the session is newer than the order: then nothing is done, and the row stays."""
        session = self._sessions.get(order.id)
        match order.op:
            case "move":
                self.move(order.id, order.node)
            case "drop" | "remove":
                if session is not None and not ends(session.epoch, order):
                    return False
                reason = f"it has a newer session at {order.node}" if order.op == "drop" else "it was removed"
                self.end_session(order.id, reason, elsewhere=order.op == "drop")
        return True

    def end_session(self, agent_id: str, reason: str, *, elsewhere: bool = False) -> bool:
        """End the agent's session, and forget it here; whether it had one. ``elsewhere``: a newer session of its key is at
        another node, so this process is not to come back."""
        self._presence.ended(agent_id)
        self._rows.forget(agent_id)
        session = self._sessions.pop(agent_id, None)
        if session is None:
            return False
        error = SessionReplaced(reason) if elsewhere else ZClusterError(reason)
        self._desk.sessions.end(session.peer, error, self._desk.clock())
        self._desk.wake()
        return True

    def move(self, agent_id: str, node: str) -> bool:
        """Tell the agent to go to ``node``; false when it has no session here. Where the node's door is not known yet, the agent
        is told as soon as it is."""
        session = self._sessions.get(agent_id)
        if session is None:
            return False
        doors = [door for door in self._doors() if door.node == node]
        session.go = "" if doors else node
        if doors:
            self._desk.sessions.tell(session.peer, Doors(doors=doors, go=node))
            self._desk.wake()
        return True

    def tell_doors(self) -> None:
        """The doors are others now: tell every agent."""
        self._doors_frame = None
        for id_, session in self._sessions.items():
            self._desk.sessions.tell(session.peer, self._doors_now())
            if session.go:
                self.move(id_, session.go)
        self._desk.wake()

    # -- an attachment ----------------------------------------------------------------------------------------------

    def opened(self, peer: Peer, hello: Hello, now: float) -> None:
        """A session: its agent is active, and belongs to this node."""
        if peer.identity.role != AGENT_ROLE:
            return
        id_ = peer.identity.name
        session = self._sessions[id_] = _Session(peer, self._rows.joined(id_, hello.epoch))
        if self._presence.heard(id_, session.interval_s, now):
            self.status.turned(id_, "active")
        self._want(id_)
        self._desk.sessions.tell(peer, self._doors_now())
        self._watch()

    def closed(self, peer: Peer, reason: str, now: float) -> None:
        """A session is over: its agent is waited for, unless it left or was put out."""
        id_ = peer.identity.name
        session = self._sessions.get(id_)
        if session is None or session.peer is not peer:
            return
        del self._sessions[id_]
        self._settings.forget(id_)
        heard = {"last_seen": self._desk.wall_s() - max(0.0, now - peer.last_seen_s)}
        self._rows.set(id_, {**heard, "metrics": session.metrics} if session.metrics else heard, seen=False)
        if reason in IN_ORDER:
            if self._presence.ended(id_):
                self._turned(id_, "disconnected", reason)
        else:
            self._presence.broke(id_, reason, now)
            self._watch()

    def received(self, peer: Peer, message: Message, data: bytes, offset: int, now: float) -> None:
        """KEEP and GRAB."""
        session = self._sessions.get(peer.identity.name)
        if session is None or session.peer is not peer:
            return
        match message:
            case Keep():
                self._keep(peer.identity.name, session, message, now)
            case Grab():
                self._grabs[peer.identity.name] = message
                self._grabbed.set()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _keep(self, id_: str, session: _Session, keep: Keep, now: float) -> None:
        if keep.interval_s is not None:
            session.interval_s = max(MIN_INTERVAL_S, keep.interval_s)
        if self._presence.heard(id_, session.interval_s, now):
            self._rows.set(id_, {"status": "active"}, seen=True)
            self.status.turned(id_, "active")
            self._watch()
        elif keep.interval_s is not None:
            self._watch()
        fields = fields_of(keep)
        fault = said_fault(fields)
        if fault is not None:
            if now >= session.refused_due_s:
                session.refused_due_s = now + REFUSED_EVERY_S
                fields = {"agent": id_, "node": self._desk.name, "reason": fault.message}
                self._desk.note(Event("agent_refused", fields, "warning"))
            raise PeerError(f"what {id_} says of itself was not taken: {fault.message}")
        metrics = fields.pop("metrics", None)
        if metrics is not None:
            session.metrics = metrics
        if fields or now >= session.metrics_due_s:
            session.metrics_due_s = now + METRICS_EVERY_S
            self._rows.set(id_, {**fields, "metrics": session.metrics}, seen=True)

    def _numbered(self, id_: str, node: str, epoch: int) -> None:
        """The session of ``id_`` is in the book, with this number; ``node`` had the agent until now."""
        session = self._sessions.get(id_)
        if session is not None:
            session.epoch = epoch
        if node not in ("", self._desk.name):
            self._taken(id_, node, epoch)

    def _late(self, id_: str, node: str, epoch: int) -> None:
        session = self._sessions.get(id_)
        if session is not None and session.epoch <= epoch:
            self.end_session(id_, f"it has a newer session at {node}", elsewhere=True)

    def handle_deadline(self) -> None:
        """Agents that have been quiet for too long are silent or disconnected from now on. The door's own timer calls it."""
        for turned in self._presence.due(self._desk.clock()):
            self._turned(turned.id, turned.state, turned.reason)
        self._watch()

    def _turned(self, id_: str, state: State, reason: str) -> None:
        ago_s = self.last_seen_s_ago(id_)  # a row says each minute when its agent was heard: from here on it is said exactly
        heard = {} if ago_s is None else {"last_seen": self._desk.wall_s() - ago_s}
        self._rows.set(id_, {"status": state, **heard}, seen=False)
        self.status.turned(id_, state, reason)

    def _watch(self) -> None:
        if self._alarm is not None:
            self._alarm.set(self._presence.next_deadline())

    def _doors_now(self) -> Sealed:
        now = self._desk.clock()
        if self._doors_frame is None or now >= self._doors_frame[0]:
            self._doors_frame = (now + DOORS_EVERY_S, Sealed(encode(Doors(doors=list(self._doors())))))
        return self._doors_frame[1]

    async def _expect_back(self) -> None:
        mine = Compare("node", "=", self._desk.name)
        here = Either((Compare("status", "=", "active"), Compare("status", "=", "silent")))
        where, cursor = Both((mine, here, Compare("held", "=", "session"))), ""
        while True:
            found = await self._desk.book.find(where, select=["id"], limit=PAGE, cursor=cursor)
            for row in found.rows:
                self._presence.expect(row["id"], DEFAULT_INTERVAL_S, self._desk.clock())
                self._rows.set(row["id"], {"status": "silent"}, seen=False)
            if found.next is None:
                break
            cursor = found.next
        self._watch()

    # -- settings and files -----------------------------------------------------------------------------------------

    def _settings_changed(self, ids: Sequence[str] | None) -> None:
        for id_ in list(self._sessions) if ids is None else ids:
            if id_ in self._sessions:
                self._want(id_)

    def _want(self, id_: str) -> None:
        self._unsettled[id_] = None
        self._wanted.set()

    async def _tell_settings(self) -> None:
        while True:
            if not self._unsettled:
                await self._wanted.wait()
            self._wanted.clear()
            while self._unsettled:
                for id_ in list(self._unsettled)[:TURN]:
                    del self._unsettled[id_]
                    await self._tell_one(id_)
                self._desk.wake()
                await asyncio.sleep(0)

    async def _tell_one(self, id_: str) -> None:
        try:
            settings = await self._settings.of(id_)
        except ZClusterError as error:
            self._desk.logger.warning("settings of %s: %s", id_, error)
            asyncio.get_running_loop().call_later(RETRY_S, self._want, id_)
            return
        session = self._sessions.get(id_)
        if session is None:
            self._settings.forget(id_)
            return
        if session.told == settings.digest:
            return
        session.told, session.files = settings.digest, {file.digest: file.size for file in settings.files}
        self._desk.sessions.tell(session.peer, settings)

    async def _give_files(self) -> None:
        while True:
            if not self._grabs:
                await self._grabbed.wait()
            self._grabbed.clear()
            while self._grabs:
                id_, grab = self._grabs.popitem(last=False)
                await self._give(id_, grab)

    async def _give(self, id_: str, grab: Grab) -> None:
        data = await self._file(grab.digest) if self._may_have(id_, grab.digest) else None
        session = self._sessions.get(id_)
        if session is None or session.peer.lanes.waiting_bytes > 2 * PIECE_BYTES:
            return  # it asks for more than it reads
        if data is None:
            self._desk.sessions.tell(session.peer, Shared(digest=grab.digest, offset=0, size=0, code="no_such_file"))
        else:
            piece = data[grab.offset : grab.offset + PIECE_BYTES]
            told = Shared(digest=grab.digest, offset=min(grab.offset, len(data)), size=len(data))
            self._desk.sessions.tell(session.peer, told, piece)
        self._desk.wake()
        await asyncio.sleep(0)

    def _may_have(self, id_: str, digest: str) -> bool:
        session = self._sessions.get(id_)
        return session is not None and digest in session.files

    async def _file(self, digest: str) -> bytes | None:
        try:
            return await self._settings.file(digest)
        except ZClusterError as error:
            self._desk.logger.warning("a shared file cannot be read: %s", error)
            return None
