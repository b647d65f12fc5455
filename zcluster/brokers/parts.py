"""The parts of a master beside requests and file sync, put together.

Rules kept here:
- the order of the list is the order of their start; they close the other way round;
- what one part needs of another is given to it here, by its constructor: parts do not look for each other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from zcluster.brokers.admission import Admission
from zcluster.brokers.agent_queries import AgentQueries
from zcluster.brokers.agents import MasterAgents
from zcluster.brokers.audit import Audit
from zcluster.brokers.doors import MasterDoors, RingTable
from zcluster.brokers.events import Events
from zcluster.brokers.groups import MasterGroups
from zcluster.brokers.liveconfig import MasterLiveConfig
from zcluster.brokers.masterkey import MasterKey
from zcluster.brokers.metrics import MasterMetrics
from zcluster.brokers.nodes import MasterNodes
from zcluster.brokers.notes import Notes
from zcluster.brokers.queue import MasterQueue, open_path
from zcluster.brokers.queue_functions import QueuePart
from zcluster.brokers.queueviews import Views
from zcluster.brokers.roles import MasterRoles
from zcluster.brokers.rotation import Rotation
from zcluster.brokers.tables import MasterTables
from zcluster.brokers.workerevents import EventsOfWorkers
from zcluster.core.eventnames import Names
from zcluster.core.master import Master
from zcluster.core.peers import Event, Route
from zcluster.keys import KeyPair, Ring
from zcluster.keys.rotation import OwnKey
from zcluster.nodes.agentdoor import AgentDoor
from zcluster.nodes.agentreports import AgentReports
from zcluster.nodes.agentsettings import StoredSettings
from zcluster.nodes.desk import Desk, Part
from zcluster.nodes.liveconfig import LiveConfig
from zcluster.nodes.logs import Logs
from zcluster.nodes.sampling import Sampler
from zcluster.nodes.turnedaway import UnknownKey
from zcluster.nodes.watchedstore import WatchedStore
from zcluster.store.jobs_opening import open_jobs
from zcluster.store.linelog import LineLog
from zcluster.wire.agents import AgentOrder

DIGESTED = ("groups/", "config/", "ring/")
"""Prefixes of the store that are tables: workers have copies of them."""


@dataclass(frozen=True)
class MasterSide:
    """What only a master's parts get."""

    machine: Master
    ring: Ring
    publish: Callable[[bytes, bytes], None]
    """Publish a frame under a topic, to everyone who subscribed."""
    own: OwnKey
    """The master's key."""
    rekey: Callable[[KeyPair], None]
    """Listen with this pair."""
    locate: Callable[[str], Awaitable[list[str]]]
    """The nodes that ``agent:ID`` or ``group:G`` means."""
    look: Callable[[], None] = lambda: None
    """Look at the ring now: it was changed here."""
    address_of: Callable[[Route], str] = lambda _route: ""
    """Where a connection comes from, as far as it is known."""
    on_ring_change: list[Callable[[], None]] = field(default_factory=list)
    """Called when the ring is another."""
    on_unknown: list[UnknownKey] = field(default_factory=list)
    """Called with each unknown public key that tried to connect, within bounds."""
    on_event: list[Callable[[Event], None]] = field(default_factory=list)
    """Called with each event of the master."""
    before_turn: list[Callable[[float], None]] = field(default_factory=list)
    """Called before the machine's turn, with the loop's time."""
    on_turn: list[Callable[[], None]] = field(default_factory=list)
    """Called when the machine's turn is over, before its events are told."""


def master_parts(desk: Desk, master: MasterSide) -> list[Part]:
    """All parts of a master."""
    desk = replace(desk, store=WatchedStore(desk.store, desk.name, desk.note))
    names = Names(name for name in master.machine.roster.nodes if name != desk.name)
    events = Events(desk, names, lambda: master.ring.entries, lambda: LineLog.open(desk.home.data_dir / "events"))
    master.on_event.append(events.heard)
    roles = MasterRoles(desk, master.machine, master.ring, master.look)
    ring = RingTable(desk, master.ring, master.machine.rights)
    master.on_ring_change.extend((events.ring_changed, ring.ring_changed))
    admission = Admission(desk, master.machine, master.ring, master.look, master.address_of)
    own = MasterKey(desk, master.machine, master.ring, admission.decide, master.own, master.rekey)
    rotation = Rotation(desk, master.machine, master.ring, admission.decide, own, lambda name, node: agents.bring(name, node))
    master.on_ring_change.append(rotation.ring_changed)
    doors = MasterDoors(desk, master.machine, master.ring, own.keys)
    master.on_ring_change.append(admission.ring_changed)
    master.on_unknown.append(admission.denied)
    nodes = MasterNodes(desk, master.machine, master.ring, master.look, master.address_of)
    master.on_ring_change.append(nodes.ring_changed)
    settings = desk.loaded().settings.audit
    audit = Audit(
        desk, master.machine, master.ring,
        lambda: LineLog.open(desk.home.data_dir / "audit", segment_bytes=settings.segment_bytes, segments=settings.segments),
    )  # fmt: skip
    master.on_turn.append(audit.turn_over)
    master.on_event.append(audit.heard)
    queue = _queue(desk, master, audit)
    told: list[Part] = [roles, events, audit, queue, EventsOfWorkers(desk), ring, admission, rotation, nodes, doors]
    others, agents = _agents(desk, master, doors)
    return [Logs(desk), *told, *_shared(desk, master), *others, agents]


def _queue(desk: Desk, master: MasterSide, audit: Audit) -> Part:
    """Durable jobs. What has ended is audited: so the queue begins after the audit log, and ends before it."""
    queue = MasterQueue(desk, master.machine, master.ring, audit, lambda: open_jobs(open_path(desk.home.data_dir)), master.locate)
    master.on_ring_change.append(queue.ring_changed)
    master.before_turn.append(queue.turn)
    master.on_turn.append(queue.turn_over)

    def name_of(id_: str) -> str:
        entry = master.ring.by_id(id_)
        return "" if entry is None else entry.name

    return QueuePart(queue, Views(queue, audit.shown, name_of))


def _shared(desk: Desk, master: MasterSide) -> list[Part]:
    """What workers have copies of, and what clients say to one another."""
    machine, ring = master.machine, master.ring
    live = LiveConfig(desk)
    scopes = MasterLiveConfig(desk, lambda: {machine.name, *(name for name, key in ring.entries.items() if key.role == "worker")})
    master.on_event.append(scopes.heard)
    return [
        MasterTables(desk, master.publish),
        live,
        scopes,
        MasterMetrics(desk, lambda: machine.roster.nodes[machine.name], live, Sampler(desk.home.path)),
        Notes(desk, machine.epoch, lambda name: name in ring.entries, machine.counters.add),
    ]


def _agents(desk: Desk, master: MasterSide, doors: MasterDoors) -> tuple[list[Part], AgentQueries]:
    """What concerns agents, those of the master's own door among them; what answers about them last."""
    settings = StoredSettings(desk)
    groups = MasterGroups(desk)
    rows = MasterAgents(desk, lambda order: door.perform(order), master.machine.counters)
    door = AgentDoor(desk, settings, doors.directory.doors, rows.taken_here)
    doors.directory.on_change(door.tell_doors)
    nodes = master.machine.roster.nodes

    def state_of(name: str) -> str | None:
        node = nodes.get(name)
        return None if node is None else node.state

    def has_door(name: str) -> bool:
        return name == desk.name or bool(nodes[name].door)

    def alive() -> frozenset[str]:
        return frozenset(name for name, node in nodes.items() if node.peer is not None)

    def order(node: str, orders: list[AgentOrder]) -> None:
        rows.order(node, orders)

    reports = AgentReports(desk, alive, lambda id_: door.live(id_) is not None, order)
    return [settings, groups, rows, door, reports], AgentQueries(desk, order, state_of, has_door)
