"""One end of a session: how a worker, client or agent gets to the master and notices when it has lost it.

Rules kept here:
- the link is up from WELCOME to the first of: BYE, a broken connection, silence of the master for a lease;
- a beat leaves each heartbeat interval while the link is up: the master's, or the pace that the owner set;
- reconnection is ours: after the n-th failure in a row it waits between 0 and min(max, base * 2^n) seconds
  (full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), so a herd spreads out;
- an address may be a master's or a node's: while its key is not known, the next of the possible ones is tried at once;
- a session moves to a second connection only while it is up (moving.py says how); while the first is being left nothing is said,
  no beat either, and an end of one of the two is the end of the session;
- two answers end it for good: a newer session of this key (``session_replaced``) and an unsupported version.
  A refused key does not: the key may be admitted in a moment.

Effects, in the order in which they are to be done: Connect (a fresh connection to this address, dropping the old
ones), Say (send this message), Up, Down (with the reason), Ended (for good, with the error). Of a move: Dial (a second
connection), SayThere (on it), Leave (say what is left, then this, on the first; from then on hold what there is to say),
Switch (the second is the connection now), Stayed (the second is dropped, and why).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from zcluster.core.doors import Candidate, Places
from zcluster.core.moving import MOVED, is_moved
from zcluster.errors import SessionReplaced, Unreachable, UnsupportedVersion, ZClusterError, error_from_dict
from zcluster.wire import Beat, Bye, Hello, Message, Refusal, Welcome

SESSION_KINDS = frozenset({Welcome.kind, Bye.kind, Refusal.kind})
"""The messages that have effects here; of all others it is enough that they were heard."""
FINAL_CODES = frozenset({SessionReplaced.code, UnsupportedVersion.code})
MAX_DOUBLINGS = 16
STOPPED = "it may be stopped or overloaded: look at its process and its log"
"""What to do about a node that takes connections and says nothing."""


@dataclass(frozen=True)
class LinkPolicy:
    """Times of a link, in seconds."""

    hello_timeout_s: float = 5.0
    reconnect_base_s: float = 0.1
    reconnect_max_s: float = 1.0


@dataclass(frozen=True)
class Connect:
    """Make a fresh connection to ``address``; drop the old one. ``public`` is the key expected there, empty for the master's."""

    address: str
    public: str = ""


@dataclass(frozen=True)
class Say:
    """Send ``message`` on the current connection."""

    message: Message


@dataclass(frozen=True)
class Up:
    """The session is open."""

    welcome: Welcome


@dataclass(frozen=True)
class Down:
    """The session, or the attempt to open one, has ended; another attempt follows after ``retry_s``."""

    error: ZClusterError
    was_up: bool
    retry_s: float


@dataclass(frozen=True)
class Ended:
    """The session has ended and is not tried again."""

    error: ZClusterError


@dataclass(frozen=True)
class Dial:
    """Make a second connection, beside the first."""

    address: str
    public: str = ""


@dataclass(frozen=True)
class SayThere:
    """Send ``message`` on the second connection."""

    message: Message


@dataclass(frozen=True)
class Leave:
    """Send ``message`` as the last on the first connection, behind what waits for it; hold everything else."""

    message: Message


@dataclass(frozen=True)
class Switch:
    """Drop the first connection and go on with the second; what was held may leave."""


@dataclass(frozen=True)
class Stayed:
    """The session did not move: drop the second connection."""

    error: ZClusterError


Effect = Connect | Say | Up | Down | Ended | Dial | SayThere | Leave | Switch | Stayed


class Link:
    """The machine. Call :meth:`start`, then feed it; each call returns the effects to perform.

    Args:
        addresses: where to go, at least one; :func:`zcluster.core.doors.candidates` makes them when they may be of several nodes.
    """

    def __init__(self, hello: Hello, addresses: Sequence[str | Candidate], policy: LinkPolicy) -> None:
        self.hello = hello
        self.state = "down"
        """``down``, ``greeting`` (connecting, HELLO sent), ``up`` or ``ended``."""
        self.moving = ""
        """``greeting`` (on a second connection), ``leaving`` (the first is being left), or empty. Only while it is up."""
        self.welcome: Welcome | None = None
        self.beat = Beat()
        """What the next heartbeat says; the owner keeps it current."""
        self.places = Places(addresses)
        """Where it is, or goes."""
        self._later: Places | None = None
        self._policy = policy
        self._failures = 0
        self._deadline_s: float | None = None
        self._moving_end_s = 0.0
        self._keys_left: list[str] = []
        """Keys that the second connection's other end may have too."""
        self._beat_due_s = 0.0
        self._heartbeat_s = 0.0
        self._lease_s = 0.0
        self._last_seen_s = 0.0

    def start(self, now: float) -> list[Effect]:
        """Begin: connect and greet."""
        return self._connect(now)

    def heard(self, now: float) -> None:
        """A message of another kind than SESSION_KINDS came: a sign of life."""
        self._last_seen_s = now

    def received(self, message: Message, now: float, jitter: float) -> list[Effect]:
        """A message from the master. Any message is a sign of life; only session messages have effects here."""
        if self.state not in ("greeting", "up"):
            return []
        self._last_seen_s = now
        match message:
            case Welcome() if self.state == "greeting":
                return self._welcomed(message, now)
            case Bye() if is_moved(message) and self.moving == "leaving":
                self.moving = ""
                self._beat_due_s = now  # it may have been due while nothing was said
                return [Switch()]
            case Bye(draining=False) | Refusal(code="unsupported_version"):
                error = _error_of(message)
                if message.code in FINAL_CODES:
                    return self._end(error)
                return self._lost(error, now, jitter)
        return []

    def rekey(self, now: float) -> list[Effect]:
        """Move the session to a connection with another key of its owner; nothing when there is no session, or it moves."""
        if self.state != "up" or self.moving or self.welcome is None:
            return []
        address, public = self.places.now
        learnt = [] if self._later is None else self._later.keys_of(address)
        self._keys_left = [other for other in dict.fromkeys([*self.places.keys_of(address), *learnt]) if other != public]
        return self._dial(self.places.now, now)

    def received_there(self, message: Message, now: float, jitter: float) -> list[Effect]:
        """A message on the second connection, before the session is there."""
        if self.moving != "greeting":
            return []
        match message:
            case Welcome() if self.welcome is not None and message.session == self.welcome.session:
                self.moving = "leaving"
                return [Leave(MOVED)]
            case Bye() | Refusal():
                return self._stay(_error_of(message))
        return []

    def disconnected_there(self, error: ZClusterError, now: float, jitter: float, *, stranger: bool = False) -> list[Effect]:
        """The second connection broke, or could not be made; see :meth:`disconnected`."""
        if self.moving == "leaving":
            return self._lost(error, now, jitter)
        if self.moving == "greeting":
            if stranger and self._keys_left:
                return self._dial(Candidate(self.places.now.address, self._keys_left.pop(0)), now)
            return self._stay(error)
        return []

    def disconnected(self, error: ZClusterError, now: float, jitter: float, *, stranger: bool = False) -> list[Effect]:
        """The connection broke, or could not be made. ``stranger``: the other side's key may be another than the expected."""
        if self.state == "greeting" and stranger and self.places.another_key():
            return self._connect(now)
        if self.state in ("greeting", "up"):
            return self._lost(error, now, jitter)
        return []

    def pace(self, heartbeat_s: float, lease_heartbeats: int, first_s: float, now: float) -> None:
        """Beat at this pace in the session that is open, the first time in ``first_s``; silence of so many beats ends it."""
        self._heartbeat_s, self._lease_s = heartbeat_s, heartbeat_s * lease_heartbeats
        self._beat_due_s = now + first_s

    def redirect(self, addresses: Sequence[str | Candidate]) -> None:
        """Attempts from now on go to these addresses, the first one first."""
        self._later = Places(addresses)

    def move(self, now: float) -> list[Effect]:
        """Leave the session or the attempt that there is, and connect at once; nothing once it has ended."""
        return [] if self.state == "ended" else self._connect(now)

    def close(self) -> list[Effect]:
        """Leave: says BYE when there is someone to say it to."""
        was_up, self.state, self._deadline_s, self.moving = self.state == "up", "ended", None, ""
        return [Say(Bye())] if was_up else []

    def next_deadline(self) -> float | None:
        """When :meth:`handle_deadline` has to be called."""
        if self.state == "up":
            if self.moving == "leaving":
                return min(self._moving_end_s, self._lease_end_s())
            due_s = min(self._beat_due_s, self._lease_end_s())
            return min(due_s, self._moving_end_s) if self.moving else due_s
        return self._deadline_s

    def handle_deadline(self, now: float, jitter: float) -> list[Effect]:
        """Beat, give up a silent master, or try again, whichever is due."""
        if self.state == "up":
            return self._handle_up(now, jitter)
        if self._deadline_s is None or now < self._deadline_s:
            return []
        if self.state == "greeting":
            address = self.places.now.address
            silent = Unreachable(f"no answer from {address} in {self._policy.hello_timeout_s:g} s", hint=STOPPED)
            return self._lost(silent, now, jitter)
        return self._connect(now)

    def _connect(self, now: float) -> list[Effect]:
        if self._later is not None:
            self.places, self._later = self._later, None
        self.state, self.moving = "greeting", ""
        self._deadline_s = now + self._policy.hello_timeout_s
        return [Connect(*self.places.now), Say(self.hello)]

    def _welcomed(self, welcome: Welcome, now: float) -> list[Effect]:
        self.state, self.welcome, self._deadline_s, self._failures = "up", welcome, None, 0
        self.places.worked()
        self.pace(welcome.heartbeat_s, welcome.lease_heartbeats, welcome.heartbeat_s, now)
        return [Up(welcome)]

    def _handle_up(self, now: float, jitter: float) -> list[Effect]:
        if now >= self._lease_end_s():
            other = "the node" if self.welcome is not None and self.welcome.role == "agent" else "the master"
            silence = f"{other} was silent for {now - self._last_seen_s:.1f} s"
            return self._lost(Unreachable(silence), now, jitter)
        if self.moving and now >= self._moving_end_s:
            error = Unreachable(f"no answer from {self.places.now.address} while the session moved")
            return self._stay(error) if self.moving == "greeting" else self._lost(error, now, jitter)
        if now >= self._beat_due_s and self.moving != "leaving":
            self._beat_due_s = now + self._heartbeat_s
            return [Say(self.beat)]
        return []

    def _lease_end_s(self) -> float:
        return self._last_seen_s + self._lease_s

    def _lost(self, error: ZClusterError, now: float, jitter: float) -> list[Effect]:
        was_up, self.state, self.moving = self.state == "up", "down", ""
        ceiling_s = min(self._policy.reconnect_max_s, self._policy.reconnect_base_s * 2 ** min(self._failures, MAX_DOUBLINGS))
        retry_s = jitter * ceiling_s
        self._failures += 1
        if self._later is None:
            self.places.next()
        self._deadline_s = now + retry_s
        return [Down(error, was_up, retry_s)]

    def _end(self, error: ZClusterError) -> list[Effect]:
        self.state, self._deadline_s, self.moving = "ended", None, ""
        return [Ended(error)]

    def _dial(self, place: Candidate, now: float) -> list[Effect]:
        assert self.welcome is not None
        self.moving, self._moving_end_s = "greeting", now + self._policy.hello_timeout_s
        return [Dial(*place), SayThere(msgspec.structs.replace(self.hello, moves=self.welcome.session))]

    def _stay(self, error: ZClusterError) -> list[Effect]:
        self.moving = ""
        return [Stayed(error)]


def _error_of(message: Bye | Refusal) -> ZClusterError:
    return error_from_dict({"code": message.code, "message": message.message, "hint": message.hint})
