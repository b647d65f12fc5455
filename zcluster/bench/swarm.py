"""Many simulated workers in one process: real sessions over real sockets, and nothing behind them.

Each has its own key, connection, heartbeats and way of reconnecting, by the same Link and LinkDriver as a worker; it
offers no function, so that no request comes to it.

Rules kept here:
- the parent says which keys to hold, then asks when all are up; times are of the machine-wide monotonic clock;
- a swarm ends at the end of its input, each of its sessions with a BYE.

``python -m zcluster.bench.swarm`` speaks the lines of :mod:`zcluster.bench.child`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time

import msgspec

from zcluster import __version__
from zcluster.bench.child import Ready, read_line, say_line
from zcluster.core.batch import Outgoing
from zcluster.core.link import Link, LinkPolicy
from zcluster.errors import ZClusterError
from zcluster.net.context import new_context
from zcluster.net.link import LinkDriver
from zcluster.wire import VERSIONS, Beat, Hello, Message, Welcome

_random = secrets.SystemRandom()
_logger = logging.getLogger("zcluster.bench.swarm")


class SwarmConfig(msgspec.Struct, frozen=True):
    """The first line that a swarm gets."""

    address: str
    master_public: str
    pairs: list[tuple[str, str]]
    """Public and secret key of each worker."""


class SwarmOrder(msgspec.Struct, frozen=True):
    """Asks for one SwarmUp, once every worker is up in a session that was opened after ``after_s``."""

    after_s: float


class SwarmUp(msgspec.Struct, frozen=True):
    """When each worker's session was opened, the earliest first."""

    up_at_s: list[float]


class SimulatedWorker:
    """The owner of one link: it remembers since when it is up, and says nothing but heartbeats."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self.up_at_s = 0.0
        """When the present session was opened; 0 while there is none."""

    def link_up(self, welcome: Welcome) -> None:
        """The session is open."""
        self.up_at_s = time.monotonic()
        self._swarm.changed()

    def link_down(self, error: ZClusterError, was_up: bool, retry_s: float) -> None:
        """The link tries again by itself."""
        self.up_at_s = 0.0

    def link_ended(self, error: ZClusterError) -> None:
        """It is not tried again: the swarm can never be complete."""
        self._swarm.failed(error)

    def link_message(self, message: Message, data: bytes, offset: int) -> None:
        """Nothing is asked of a worker without functions; what the master tells all is not needed."""

    def link_beat(self) -> Beat:
        """Idle."""
        return Beat()

    def link_take(self) -> list[Outgoing]:
        """It has nothing to say."""
        return []


class Swarm:
    """The workers of one process."""

    def __init__(self, config: SwarmConfig) -> None:
        self._context = new_context()
        self.workers: list[SimulatedWorker] = []
        self._drivers: list[LinkDriver] = []
        self._waiting: tuple[float, asyncio.Future[SwarmUp]] | None = None
        for public, secret in config.pairs:
            hello = Hello(versions=list(VERSIONS), software=__version__, instance=secrets.token_hex(8), slots=1)
            worker = SimulatedWorker(self)
            self.workers.append(worker)
            self._drivers.append(
                LinkDriver(
                    self._context, Link(hello, [config.address], LinkPolicy()), worker, public=public, secret=secret,
                    master_public=config.master_public, jitter=_random.random, logger=_logger,
                )
            )  # fmt: skip

    def start(self) -> None:
        """Begins to connect, all at once."""
        for driver in self._drivers:
            driver.start()

    def close(self) -> None:
        """Says BYE for all, and ends."""
        for driver in self._drivers:
            driver.close()
        self._context.term()

    async def all_up(self, after_s: float) -> SwarmUp:
        """Waits until every worker is up in a session opened after ``after_s``; raises what ended a link for good."""
        self._waiting = (after_s, asyncio.get_running_loop().create_future())
        self.changed()
        return await self._waiting[1]

    def changed(self) -> None:
        """A worker came up."""
        if self._waiting is None or self._waiting[1].done():
            return
        after_s, future = self._waiting
        times_s = [worker.up_at_s for worker in self.workers]
        if min(times_s, default=after_s) > after_s:
            future.set_result(SwarmUp(sorted(times_s)))

    def failed(self, error: ZClusterError) -> None:
        """A link ended for good."""
        if self._waiting is not None and not self._waiting[1].done():
            self._waiting[1].set_exception(error)


async def _main(config: SwarmConfig) -> None:
    swarm = Swarm(config)
    swarm.start()
    await swarm.all_up(0.0)
    say_line(Ready())
    while (order := await asyncio.to_thread(read_line, SwarmOrder)) is not None:
        say_line(await swarm.all_up(order.after_s))
    swarm.close()


def main() -> None:
    """The process of a swarm."""
    config = read_line(SwarmConfig)
    if config is not None:
        logging.basicConfig(level=logging.ERROR)
        asyncio.run(_main(config))


if __name__ == "__main__":
    main()
