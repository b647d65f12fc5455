"""The parts of a worker beside requests and file sync, put together.

Rules kept here:
- the order of the list is the order of their start; they close the other way round;
- what one part needs of another is given to it here, by its constructor: parts do not look for each other.
"""

from __future__ import annotations

from dataclasses import replace

from zcluster.keys.rotation import OwnKey
from zcluster.nodes.agentdoor import AgentDoor
from zcluster.nodes.agentreports import AgentReports
from zcluster.nodes.agentsettings import StoredSettings
from zcluster.nodes.desk import Desk, Part
from zcluster.nodes.liveconfig import LiveConfig
from zcluster.nodes.logs import Logs
from zcluster.nodes.sampling import Sampler
from zcluster.nodes.watchedbook import WatchedBook
from zcluster.nodes.watchedstore import WatchedStore
from zcluster.workers.agents import WorkerAgents
from zcluster.workers.door import Door
from zcluster.workers.door_ring import RingCopy
from zcluster.workers.groups import WorkerGroups
from zcluster.workers.metrics import WorkerMetrics
from zcluster.workers.tables import WorkerTables
from zcluster.workers.uplink import Uplink

DIGESTED = ("groups/", "config/", "ring/")
"""Prefixes of the store that are copies of the master's tables."""


def worker_parts(desk: Desk, uplink: Uplink, door: Door, own: OwnKey) -> list[Part]:
    """All parts of a worker."""
    # What anyone writes into the book is to go up.
    book = WatchedBook(desk.book, lambda: rows.poke())
    desk = replace(desk, book=book, store=WatchedStore(desk.store, desk.name, desk.note))
    open_door = bool(desk.loaded().settings.worker.door)
    settings = StoredSettings(desk)
    live = LiveConfig(desk)
    tables = WorkerTables(desk, uplink, own, ("groups", "config", "ring") if open_door else ("groups", "config"))
    agents = AgentDoor(desk, settings, door.directory.doors)
    rows = WorkerAgents(desk, uplink, agents.perform)
    door.directory.on_change(agents.tell_doors)
    parts: list[Part] = [
        Logs(desk), tables, live, settings, WorkerMetrics(desk, uplink, live, Sampler(desk.home.path)),
        WorkerGroups(desk, tables), rows, agents,
        AgentReports(desk, lambda: frozenset({desk.name}), lambda id_: agents.live(id_) is not None),
    ]  # fmt: skip
    if open_door:
        parts.append(RingCopy(desk.store, door.ring_is, desk.logger, desk.wall_s))
    return parts
