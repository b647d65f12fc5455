"""One agent: its session with a node, and what it says and does in it.

Rules kept here:
- an agent always has a node, or is on its way to one; only another process with its key ends it;
- each session has a larger number than the one before (HELLO.epoch), so that whoever has two sessions of it knows the newer;
- it wakes once an interval: for a beat and a KEEP together;
- a node that is shutting down, or that sends it elsewhere, is left at once.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import zmq

from zcluster import __version__
from zcluster.agents.host import own_address
from zcluster.agents.orders import Orders
from zcluster.agents.shared import SharedFiles
from zcluster.agents.state import AgentState
from zcluster.core.agents.keeping import LEASE_BEATS, Facts, Keeper, NodeChoice, beats_of, next_epoch
from zcluster.core.batch import Outgoing
from zcluster.core.link import Link, LinkPolicy
from zcluster.errors import ZClusterError
from zcluster.keys.rotation import OwnKey
from zcluster.net.context import Socket
from zcluster.net.link import LinkDriver
from zcluster.net.rekeying import Rekeying
from zcluster.nodes.sampling import Sampler
from zcluster.wire import VERSIONS, Beat, Bye, Hello, Message, Refusal, Welcome
from zcluster.wire.agents import Doors, Grab, Settings, Shared
from zcluster.wire.rotation import NextKey, Rotate, Rotated

_random = secrets.SystemRandom()


@dataclass
class Surroundings:
    """What the agents of one process share."""

    context: zmq.Context[Socket]
    sampler: Sampler
    logger: logging.Logger
    policy: LinkPolicy
    system: dict[str, object]
    ended: Callable[[str, ZClusterError], None]
    """An agent has ended for good: its name and why."""
    level: Callable[[str], None]
    """Set the level of the log; empty sets it back."""
    changed: Callable[[], None] = lambda: None
    """An agent joined or lost its node."""
    draw: Callable[[], float] = _random.random
    monitored: bool = True


@dataclass(frozen=True)
class Told:
    """What one agent was told when it was started."""

    nodes: Sequence[str]
    """Addresses of nodes; empty: the key file's."""
    name: str
    """What it says its host is called."""
    labels: dict[str, str] = field(default_factory=dict)


class Agent:
    """One agent in the current event loop."""

    def __init__(self, around: Surroundings, own: OwnKey, told: Told, state: AgentState, files: SharedFiles | None) -> None:
        key_file = own.key_file
        self.name = key_file.name
        self.node = ""
        """The node that it has its session with; empty without one."""
        self._around = around
        self._told = told
        self._state = state
        self._loop = asyncio.get_running_loop()
        self._keeper = Keeper()
        self._orders = Orders(files, state, around.logger, self._grab, self._say_now)
        keys = key_file.known
        given = list(told.nodes) or list(key_file.addresses)
        self._choice = NodeChoice(given, keys, key_file.addresses, around.draw, state.kept.doors)
        self._address = ""
        self._beats = self._beats_a_keep = 1
        self._outgoing: list[Outgoing] = []
        self._moving = False
        self._instance = secrets.token_hex(8)
        self._link = Link(self._hello(), [self._choice.next()], around.policy)
        self._driver = LinkDriver(
            around.context, self._link, self, public=own.current.public, secret=own.current.secret,
            master_public=key_file.master_public, jitter=around.draw, logger=around.logger, monitored=around.monitored,
        )  # fmt: skip
        self._rekeying = Rekeying(own, self._driver, lambda now: self._choice.know(now.known), around.logger)

    def start(self, held: dict[str, str] | None = None) -> None:
        """Begin; ``held`` are the shared files that are here."""
        self._orders.held = dict(held or {})
        self._driver.start()

    def close(self) -> None:
        """Say BYE and end."""
        self._orders.stop()
        self._rekeying.close()
        self._driver.close()

    async def finished(self) -> None:
        """Wait until nothing is being written any more."""
        await self._orders.finished()

    # -- the link's owner -------------------------------------------------------------------------------------------

    def link_up(self, welcome: Welcome) -> None:
        self.node = welcome.master
        fields = {"at": welcome.master, "address": self._link.places.now.address, "session": welcome.session}
        self._around.logger.info("joined", extra={"fields": fields})
        self._choice.joined(welcome.master)
        self._rekeying.link_up()
        self._address = own_address()
        self._keeper.forget()
        self._pace(self._around.draw())
        self._say_now()
        self._around.changed()

    def link_down(self, error: ZClusterError, was_up: bool, retry_s: float) -> None:
        quiet = logging.DEBUG if self._choice.guessing else logging.INFO  # a key of several that its node might have
        level = logging.WARNING if was_up else quiet
        fields = {"at": self.node, "retry_s": round(retry_s, 3)}
        self._around.logger.log(level, "lost: %s" if was_up else "%s", error, extra={"fields": fields})
        self._rekeying.link_down(error)
        self._left()
        self._aim()

    def link_ended(self, error: ZClusterError) -> None:
        self._around.logger.error(str(error))
        self._left()
        self._around.ended(self.name, error)

    def link_message(self, message: Message, data: bytes, offset: int) -> None:
        match message:
            case Settings():
                before = self._orders.live
                self._orders.take(message)
                if self._orders.live.log_level != before.log_level:
                    self._around.level(self._orders.live.log_level)
                if self._orders.live.interval != before.interval:
                    self._pace(1.0)
            case Doors():
                self._doors(message)
            case Shared():
                self._orders.shared(message, data[offset:])
            case Bye(draining=True):
                self._around.logger.info("the node is shutting down", extra={"fields": {"at": self.node}})
                self._move_soon(self._choice.leave(self.node))
            case Rotate() | Rotated() | NextKey():
                self._rekeying.receive(message)
            case Refusal():
                self._rekeying.receive(message)
                self._around.logger.warning("the node refused a message: %s", message.message)

    def link_beat(self) -> Beat:
        self._beats += 1
        if self._beats >= self._beats_a_keep:
            self._beats = 0
            self._keep()
        return Beat()

    def link_take(self) -> list[Outgoing]:
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    # -- inside -----------------------------------------------------------------------------------------------------

    def _pace(self, first: float) -> None:
        """Beat at the pace of the interval; the first beat comes after this share of it, so that many agents are not in step."""
        welcome = self._link.welcome
        if welcome is not None and self._driver.up:
            beat_s, self._beats_a_keep = beats_of(self._orders.live.interval, welcome.heartbeat_s)
            self._beats = 0
            self._driver.pace(beat_s, LEASE_BEATS, first * beat_s)

    def _keep(self) -> None:
        live = self._orders.live
        facts = Facts(
            name=self._told.name, address=self._address, version=__version__, os=self._around.system, labels=self._told.labels,
            metrics=self._around.sampler.sample(live.metrics), config=self._orders.digest, tree=self._orders.tree,
        )  # fmt: skip
        self._outgoing.append((self._keeper.keep(facts, live.interval), []))

    def _say_now(self) -> None:
        """A KEEP beside the beats: something changed that its node should know."""
        if self.node:
            self._keep()
            self._loop.call_soon(self._driver.flush)

    def _grab(self, grab: Grab) -> None:
        if self.node:
            self._outgoing.append((grab, []))
            self._loop.call_soon(self._driver.flush)

    def _doors(self, message: Doors) -> None:
        if message.go:
            self._choice.add(message.doors)
            self._around.logger.info("told to go elsewhere", extra={"fields": {"to": message.go}})
            self._move_soon(self._choice.go(message.go))
            return
        self._choice.learn(message.doors)
        self._state.kept.doors = self._choice.doors
        self._state.touch()
        self._move_soon(self._choice.settle(self.node))

    def _move_soon(self, wanted: bool) -> None:
        """Leave this node for the one that is chosen next; not within the turn of the socket that is left."""
        if wanted and not self._moving:
            self._moving = True
            self._loop.call_soon(self._move)

    def _move(self) -> None:
        self._moving = False
        if self._link.state == "ended":
            return
        self._around.logger.info("moving", extra={"fields": {"from": self.node}})
        self._orders.stop()
        self.node = ""
        self._outgoing = []
        self._link.hello = self._hello()
        self._driver.redirect([self._choice.next()])
        self._driver.move()
        self._around.changed()

    def _left(self) -> None:
        if self.node:
            self._choice.leave(self.node)
        self.node = ""
        self._outgoing = []
        self._orders.stop()
        self._around.changed()

    def _aim(self) -> None:
        self._link.hello = self._hello()
        self._driver.redirect([self._choice.next()])

    def _hello(self) -> Hello:
        """A new number for each attempt: whichever of them becomes a session, it is the newest."""
        kept = self._state.kept
        kept.epoch = next_epoch(kept.epoch, int(time.time() * 1000))
        self._state.touch()
        return Hello(versions=list(VERSIONS), software=__version__, instance=self._instance, epoch=kept.epoch)
