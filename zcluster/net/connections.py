"""The connections of one server socket: each that was accepted, whose it is, and which of them have to end.

Rules kept here:
- nothing is done here: times, ends and first messages come in, connections to cut go out, each once and with its reason;
- a connection is nobody's until its first message: until then it is a newcomer, whether it has authenticated or not;
- newcomers are bounded, in all and for each address. One too many of an address costs one of its own; one too many in all costs
  one of the new one's address where that has more than its share, and else one of all;
- it costs the oldest that has sent no more than a greeting: going on needs our public key, which strangers have not. Only when
  there is none, it costs the oldest;
- a newcomer has NEWCOMER_S to say something; who has said something and has no session is cut after SESSION_S.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from zcluster.net.descriptors import LOCAL

NEWCOMER_S = 4.0
"""From its accept to its first message, the handshake included. Shorter than the 5 s of the protocol: it may have waited for its
accept, and looking takes time."""
SESSION_S = 4.5
"""How long a connection may be without a session."""
EXPECTED_S = 10.0
"""After this a connection that was let in has spoken or was cut."""
GREETING_BYTES = 64
"""The first bytes of a connection (ZMTP 3.1, RFC 23)."""
MAX_NEWCOMERS = 4096
MAX_NEWCOMERS_PER_ADDRESS = 2048
"""A fleet behind one address may come back at once: 500 workers, and as many who subscribe."""

REVOKED = "revoked"
NO_SESSION = "no_session"
FAULTS = "faults"
TURNED_AWAY = "turned_away"
CROWD = "crowd"
STALLED = "stalled"
SUBSCRIPTIONS = "subscriptions"
DESCRIPTORS = "descriptors"
REASONS = {
    REVOKED: "its key is no longer admitted",
    NO_SESSION: "it has no session",
    FAULTS: "too many messages of its key were refused",
    TURNED_AWAY: "the master turned it away",
    CROWD: "too many connections that have said nothing yet",
    STALLED: "it sends bytes that become no message",
    SUBSCRIPTIONS: "too many subscriptions, or too long ones",
    DESCRIPTORS: "the process has no file descriptors left",
}
"""Why a connection is cut: the reason, and what is said of it."""


@dataclass(slots=True)
class Mark:
    """What the last look at a connection's bytes saw (see stalled.py)."""

    delivered_bytes: int = 0
    junk_bytes: int = 0
    """What came and becomes no message: the handshake, libzmq's own heartbeats."""
    suspected_at: int | None = None
    """How many messages had been read of all connections when it was first suspected."""
    resident_bytes: int = 0
    """The process's memory when a Unix socket was first seen to have unread bytes."""
    unread_looks: int = 0
    """At how many looks a Unix socket had unread bytes since its last message."""


@dataclass(slots=True, eq=False)
class Connection:
    """One connection."""

    fd: int
    inode: int
    address: str
    since_s: float
    public: str = ""
    """Whose it is, from its first message on."""
    route: bytes = b""
    delivered_bytes: int = 0
    """What its messages took on the wire."""
    count: int = 0
    """At a publisher: how often it subscribed."""
    topic_bytes: int = 0
    """And how long its topics were, all together."""
    idle_since_s: float | None = None
    """Since when it has no session; None: it had one when last looked at."""
    cut: bool = False
    unheard: bool = False
    """Whether what still comes by it is dropped."""
    mark: Mark = field(default_factory=Mark)
    """What was seen of its bytes."""

    @property
    def local(self) -> bool:
        """Whether it came by a Unix socket."""
        return self.address == LOCAL


class Connections:
    """The connections of one server socket.

    Args:
        received: how many bytes have come by a descriptor, where that is known.
        newcomers: how many there may be in all. per_address: and of one address.
    """

    def __init__(
        self, received: Callable[[int], int | None], newcomers: int = MAX_NEWCOMERS, per_address: int = MAX_NEWCOMERS_PER_ADDRESS
    ) -> None:
        self.by_fd: dict[int, Connection] = {}
        self._received = received
        self._most, self._most_per_address, self._fair_share = newcomers, per_address, per_address // 8
        self._newcomers = _Newcomers()
        self._of_key: Counter[str] = Counter()
        self._of_address: dict[str, _Newcomers] = {}

    def __iter__(self) -> Iterator[Connection]:
        return iter(self.by_fd.values())

    def __len__(self) -> int:
        return len(self.by_fd)

    @property
    def newcomers(self) -> int:
        """How many have said nothing yet."""
        return len(self._newcomers.all)

    def accepted(self, fd: int, inode: int, address: str, now: float) -> list[Connection]:
        """There is a new connection; returns those that are too many, already marked as cut."""
        self.ended(fd)
        connection = self.by_fd[fd] = Connection(fd, inode, address, now, idle_since_s=now)
        mine = self._of_address.setdefault(group(address), _Newcomers())
        for those in (self._newcomers, mine):
            those.all[connection] = those.idle[connection] = None
        if len(mine.all) > self._most_per_address:
            return [self._too_many(mine)]
        if len(self._newcomers.all) > self._most:
            return [self._too_many(mine if len(mine.all) > self._fair_share else self._newcomers)]
        return []

    def ended(self, fd: int) -> Connection | None:
        """The connection behind ``fd`` is over; returns what it was."""
        connection = self.by_fd.pop(fd, None)
        if connection is not None:
            self._no_newcomer(connection)
            self._belongs(connection, "")
        return connection

    def spoke(self, fd: int, public: str, route: bytes = b"") -> Connection | None:
        """The first message has come by ``fd``; None: nothing is known of such a connection."""
        connection = self.by_fd.get(fd)
        if connection is not None:
            self._no_newcomer(connection)
            self._belongs(connection, public)
            connection.route = route
        return connection

    def of_key(self, public: str) -> int:
        """How many connections ``public`` has that have said something."""
        return self._of_key[public]

    def oldest(self, count: int) -> list[Connection]:
        """The ``count`` oldest newcomers, now marked as cut."""
        return [self._mark(each) for each, _ in zip(list(self._newcomers.all), range(count), strict=False)]

    def of_other_keys(self, admitted: Callable[[str], bool], newcomers: bool) -> list[Connection]:
        """Those whose key is not ``admitted``, now marked as cut; all ``newcomers`` too, where one of them may be such a one."""
        known = {connection.public for connection in self.by_fd.values()}
        gone = {public for public in known if public and not admitted(public)}
        if newcomers:
            gone.add("")
        return [self._mark(each) for each in self.by_fd.values() if each.public in gone and not each.cut]

    def silent(self, now: float) -> list[Connection]:
        """Newcomers whose time is over, now marked as cut."""
        due = []
        for connection in self._newcomers.all:
            if now - connection.since_s < NEWCOMER_S:
                break
            due.append(connection)
        return [self._mark(each) for each in due]

    def without_session(self, has_session: Callable[[bytes], bool], now: float) -> list[Connection]:
        """Those that said something and have had no session for SESSION_S, now marked as cut. To be asked now and then."""
        due = []
        for connection in self.by_fd.values():
            if not connection.public or connection.cut:
                continue
            if has_session(connection.route):
                connection.idle_since_s = None
            elif connection.idle_since_s is None:
                connection.idle_since_s = now
            elif now - connection.idle_since_s >= SESSION_S:
                due.append(connection)
        return [self._mark(each) for each in due]

    def _too_many(self, those: _Newcomers) -> Connection:
        while those.idle:
            connection = next(iter(those.idle))
            if (self._received(connection.fd) or 0) <= GREETING_BYTES:
                return self._mark(connection)
            for each in (self._newcomers, self._of_address[group(connection.address)]):
                del each.idle[connection]
        return self._mark(next(iter(those.all)))

    def _mark(self, connection: Connection) -> Connection:
        self._no_newcomer(connection)
        connection.cut = True
        return connection

    def _belongs(self, connection: Connection, public: str) -> None:
        """``connection`` is of the key ``public`` from now on; empty: of nobody."""
        self._of_key[connection.public] -= 1
        if self._of_key[connection.public] <= 0:
            del self._of_key[connection.public]
        connection.public = public
        if public:
            self._of_key[public] += 1

    def _no_newcomer(self, connection: Connection) -> None:
        if connection in self._newcomers.all:
            where = group(connection.address)
            mine = self._of_address[where]
            for those in (self._newcomers, mine):
                del those.all[connection]
                those.idle.pop(connection, None)
            if not mine.all:
                del self._of_address[where]


class _Newcomers:
    """Some connections that have said nothing, the oldest first."""

    __slots__ = ("all", "idle")

    def __init__(self) -> None:
        self.all: dict[Connection, None] = {}
        self.idle: dict[Connection, None] = {}
        """Those that are not known to have sent more than a greeting."""


def group(address: str) -> str:
    """Whose the address is: of IPv6 the network of 64 bits, which is what one host may choose its addresses from."""
    if ":" not in address:
        return address
    head, short, _ = address.partition("%")[0].partition("::")
    parts = head.split(":")[:4]
    return ":".join(parts + ["0"] * (4 - len(parts)) if short else parts)


class Expected:
    """Keys that were let in lately and have said nothing yet: one of the newcomers belongs to each."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[int, float]] = {}

    def admitted(self, public: str, now: float) -> None:
        """ZAP has let in ``public``."""
        count, _ = self._waiting.get(public, (0, now))
        self._waiting[public] = (count + 1, now)

    def spoke(self, public: str) -> None:
        """A connection of ``public`` has said its first word."""
        count, at_s = self._waiting.pop(public, (0, 0.0))
        if count > 1:
            self._waiting[public] = (count - 1, at_s)

    def any_other(self, admitted: Callable[[str], bool], now: float) -> bool:
        """Whether a newcomer may be of a key that is not ``admitted`` any more."""
        self._waiting = {public: each for public, each in self._waiting.items() if now - each[1] < EXPECTED_S}
        return any(not admitted(public) for public in self._waiting)
