"""A session moves to another connection: both ends, message by message, in every order, with connections that end anywhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec
import pytest

from zcluster.core.carrying import Via
from zcluster.core.greeting import LOCAL
from zcluster.core.link import Connect, Dial, Down, Effect, Leave, Link, LinkPolicy, Say, SayThere, Stayed, Switch, Up
from zcluster.core.master import Master, MasterLimits
from zcluster.core.moving import MOVED
from zcluster.core.peers import Identity, Peer
from zcluster.errors import Unreachable
from zcluster.keys import may_call, may_send
from zcluster.wire import Beat, Bye, Hello, Message, Refusal, Welcome
from zcluster.wire.agents import Listen, Note

HELLO = Hello(versions=[1], instance="i")
OWNER = Identity("key-c", "c", "client")
POLICY = LinkPolicy(hello_timeout_s=5.0)
FIRST, SECOND = "first", "second"
SAID = 2
"""Messages that each end says in a run."""


class Ears:
    """A part of the master that writes down what is said to it."""

    kinds = frozenset({Listen.kind})

    def __init__(self) -> None:
        self.heard: list[str] = []

    def opened(self, peer: Peer, hello: Hello, now: float) -> None: ...

    def closed(self, peer: Peer, reason: str, now: float) -> None: ...

    def received(self, peer: Peer, message: Message, data: bytes, offset: int, now: float) -> None:
        assert isinstance(message, Listen)
        self.heard.append(message.name)


class Run:
    """A peer with a session, the master, and what is on its way between them; time stands still."""

    def __init__(self) -> None:
        self.now = 100.0
        self.master = Master("m", "test", 1, MasterLimits(), may_send, may_call, self.now)
        self.ears = Ears()
        self.master.attach(self.ears)
        self.link = Link(HELLO, ["a"], POLICY)
        self.up: dict[str, deque[Message]] = {FIRST: deque(), SECOND: deque()}
        self.down: dict[str, deque[Message]] = {FIRST: deque(), SECOND: deque()}
        self.ends: deque[str] = deque()
        """Connections whose end one of the two has yet to notice: ``peer first`` and so on."""
        self.alive = {FIRST: True, SECOND: False}
        self.at: str | None = FIRST
        """The connection that the peer has its session on."""
        self.holding = False
        self.held: list[Message] = []
        self.said = self.told = 0
        self.heard: list[int] = []
        self.outcome = ""
        self.perform(self.link.start(self.now))
        while self.up[FIRST] or self.down[FIRST]:
            self.deliver_up(FIRST) if self.up[FIRST] else self.deliver_down(FIRST)
        self.session = next(iter(self.master.roster.peers.values()))
        self.master.events.clear()
        self.perform(self.link.rekey(self.now))

    # -- what may happen next ---------------------------------------------------------------------------------------

    def choices(self) -> list[str]:
        """All that may happen now."""
        found = [f"up {line}" for line in (FIRST, SECOND) if self.up[line]]
        found += [f"down {line}" for line in (FIRST, SECOND) if self.down[line] and self.reads(line)]
        found += [f"end {end}" for end in self.ends]
        if self.said < SAID and self.link.state == "up":
            found.append("say")
        if self.told < SAID and self.master.roster.peers:
            found.append("tell")
        if not self.ends and self.alive_all:
            found += [f"break {line}" for line in (FIRST, SECOND) if self.alive[line]]
        return found

    alive_all = True
    """Whether no connection was broken yet: one is, in a run."""

    def do(self, choice: str) -> None:
        """Let it happen."""
        what, _, which = choice.partition(" ")
        match what:
            case "up":
                self.deliver_up(which)
            case "down":
                self.deliver_down(which)
            case "end":
                self.ends.remove(which)
                self.notice(*which.split())
            case "say":
                self.said += 1
                self.send(Listen(name=str(self.said)))
            case "tell":
                self.told += 1
                peer = next(iter(self.master.roster.peers.values()))
                note = Note(id=self.told, sender="s", key="k", to="c", text="", at_s=0.0)
                self.master.tell(peer, note)
                self.turn()
            case "break":
                self.alive_all = False
                self.close(which)
                self.ends.append(f"peer {which}")

    def reads(self, line: str) -> bool:
        return self.alive[line] and (line == self.at or self.link.moving == "greeting")

    def signature(self) -> object:
        """What there is to tell this run from others."""
        queues = [tuple(map(repr, queue)) for way in (self.up, self.down) for queue in way.values()]
        return (
            *queues, tuple(self.ends), tuple(self.alive.items()), self.at, self.holding, tuple(map(repr, self.held)), self.said,
            self.told, tuple(self.heard), tuple(self.ears.heard), self.outcome, self.link.state, self.link.moving,
            tuple(self.master.roster.peers), self.alive_all,
        )  # fmt: skip

    # -- the network ------------------------------------------------------------------------------------------------

    def close(self, line: str) -> None:
        """One end closed it, or it broke; what was on its way is lost."""
        if self.alive[line]:
            self.alive[line] = False
            self.up[line].clear()
            self.down[line].clear()
            self.ends.append(f"master {line}")

    def deliver_up(self, line: str) -> None:
        message = self.up[line].popleft()
        self.master.receive(line, OWNER, message, b"", 0, self.now)
        self.turn()

    def deliver_down(self, line: str) -> None:
        message = self.down[line].popleft()
        if line != self.at:
            self.perform(self.link.received_there(message, self.now, 0.5))
            return
        self.perform(self.link.received(message, self.now, 0.5))
        if isinstance(message, Note):
            self.heard.append(message.id)

    def notice(self, end: str, line: str) -> None:
        if end == "master":
            self.master.disconnected(line, self.now)
            self.turn()
        else:
            gone = self.link.disconnected if line == self.at else self.link.disconnected_there
            self.perform(gone(Unreachable("broke"), self.now, 0.5))

    def turn(self) -> None:
        for route, outgoing in self.master.take(self.now):
            for message, _ in outgoing:
                whole: Message = message
                if message.kind == Note.kind:
                    whole = Note(id=self.told, sender="s", key="k", to="c", text="", at_s=0.0)
                if self.alive[str(route)]:
                    self.down[str(route)].append(whole)

    # -- the driver -------------------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        if self.holding:
            self.held.append(message)
        elif self.at is not None and self.alive[self.at]:
            self.up[self.at].append(message)

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Connect() | Up():
                    pass
                case Say():
                    self.send(effect.message)
                case Dial():
                    self.alive[SECOND] = True
                case SayThere():
                    self.up[SECOND].append(effect.message)
                case Leave():
                    self.send(effect.message)
                    self.holding = True
                case Switch():
                    self.close(FIRST)
                    self.at, self.holding, self.outcome = SECOND, False, "moved"
                    for message in self.held:
                        self.send(message)
                    self.held = []
                case Stayed():
                    self.close(SECOND)
                    self.outcome = "stayed"
                case Down():
                    self.close(FIRST)
                    self.close(SECOND)
                    self.at, self.outcome = None, "down"


def runs(check: Callable[[Run], None]) -> int:
    """Go through all that can happen, and ``check`` where nothing can happen any more; returns how many states there are."""
    seen: set[object] = set()
    paths: list[tuple[str, ...]] = [()]
    while paths:
        path = paths.pop()
        run = Run()
        for choice in path:
            run.do(choice)
        signature = run.signature()
        if signature in seen:
            continue
        seen.add(signature)
        choices = run.choices()
        if [choice for choice in choices if not choice.startswith("break")] == []:
            check(run)
        paths += [(*path, choice) for choice in choices]
    return len(seen)


def test_whatever_the_order_and_whatever_breaks() -> None:
    ends: dict[str, int] = {}

    def check(run: Run) -> None:
        ends[run.outcome] = ends.get(run.outcome, 0) + 1
        everything = [str(number + 1) for number in range(SAID)]
        names = {event.name for event in run.master.events}
        peers = list(run.master.roster.peers.values())
        if run.outcome in ("moved", "stayed") and run.link.state == "up":
            line = SECOND if run.outcome == "moved" else FIRST
            assert run.at == line
            assert [peer.route for peer in peers] == [line]
            assert peers == [run.session] or peers[0].no == run.session.no
            assert (run.ears.heard, [str(number) for number in run.heard]) == (everything, everything)
            assert names == set(), "nobody else hears of it"
        else:
            assert (run.link.state, peers) == ("down", []), "a session that is over is over at both ends"
            assert run.ears.heard == everything[: len(run.ears.heard)], "what arrived was in order"
            assert [str(number) for number in run.heard] == everything[: len(run.heard)]

    assert runs(check) > 500
    assert set(ends) == {"moved", "stayed", "down"}


# -- the master's end, step by step --------------------------------------------------------------------------------------


def greet(run: Run, route: object, hello: Hello, identity: Identity = OWNER) -> list[Message]:
    """HELLO on ``route``; what is answered there."""
    run.master.receive(route, identity, hello, b"", 0, run.now)
    return [message for to, outgoing in run.master.take(run.now) for message, _ in outgoing if to == route]


def moves(run: Run, **fields: object) -> Hello:
    """A HELLO of the session, moving."""
    return msgspec.structs.replace(HELLO, **{"moves": run.session.no, **fields})


@pytest.mark.parametrize(
    ("fields", "identity", "route"),
    [
        ({"moves": 77}, OWNER, SECOND),
        ({"instance": "another"}, OWNER, SECOND),
        ({}, Identity("key-d", "c", "client"), SECOND),
        ({}, Identity("key-c", "c", "admin"), SECOND),
        ({}, OWNER, Via(3, 1)),
    ],
    ids=["no such session", "another process", "another key", "another role", "through a door"],
)
def test_who_is_not_the_session_s_owner_is_refused(fields: dict[str, object], identity: Identity, route: object) -> None:
    run = Run()
    [bye] = greet(run, route, moves(run, **fields), identity)
    assert isinstance(bye, Bye)
    assert bye.code == "not_allowed"
    assert [event.name for event in run.master.events] == ["hello_refused"]
    assert list(run.master.roster.peers) == [FIRST]


def test_a_session_that_is_carried_stays() -> None:
    run = Run()
    run.master.roster.reroute(run.session, Via(3, 1))
    [bye] = greet(run, SECOND, moves(run))
    assert isinstance(bye, Bye)
    assert "carried" in bye.message


def test_a_greeting_is_answered_again_before_and_after_the_move() -> None:
    run = Run()
    for _ in range(2):
        [welcome] = greet(run, SECOND, moves(run))
        assert isinstance(welcome, Welcome)
        assert welcome.session == run.session.no
    run.master.receive(FIRST, OWNER, MOVED, b"", 0, run.now)
    assert (run.session.route, list(run.master.roster.peers)) == (SECOND, [SECOND])
    [welcome] = greet(run, SECOND, moves(run))
    assert isinstance(welcome, Welcome)


def test_the_newer_greeting_counts() -> None:
    run = Run()
    greet(run, SECOND, moves(run))
    greet(run, "third", moves(run))
    run.master.disconnected(SECOND, run.now)
    run.master.receive(FIRST, OWNER, MOVED, b"", 0, run.now)
    assert list(run.master.roster.peers) == ["third"]


def test_a_second_connection_with_a_session_of_its_own_is_refused() -> None:
    run = Run()
    greet(run, "other", msgspec.structs.replace(HELLO, instance="other"))
    [bye] = greet(run, "other", moves(run))
    assert isinstance(bye, Bye)


def test_two_sessions_of_a_key_do_not_move_to_one_connection() -> None:
    run = Run()
    greet(run, "other", msgspec.structs.replace(HELLO, instance="other"))
    beside = run.master.roster.peers["other"]
    greet(run, SECOND, moves(run))
    [bye] = greet(run, SECOND, msgspec.structs.replace(HELLO, instance="other", moves=beside.no))
    assert isinstance(bye, Bye)
    run.master.receive("other", OWNER, MOVED, b"", 0, run.now)
    run.master.receive(FIRST, OWNER, MOVED, b"", 0, run.now)
    run.master.disconnected(SECOND, run.now)
    assert run.master.roster.sessions(OWNER.key) == [], "no session is left behind that nobody can end"


def test_a_connection_that_begins_a_session_of_its_own_is_none_to_move_to() -> None:
    run = Run()
    greet(run, SECOND, moves(run))
    greet(run, SECOND, msgspec.structs.replace(HELLO, instance="other"))
    beside = run.master.roster.peers[SECOND]
    run.master.receive(FIRST, OWNER, MOVED, b"", 0, run.now)
    assert run.master.roster.sessions(OWNER.key) == [beside]
    run.master.disconnected(SECOND, run.now)
    assert run.master.roster.sessions(OWNER.key) == []


def test_nothing_is_taken_on_the_second_connection_before() -> None:
    run = Run()
    greet(run, SECOND, moves(run))
    run.master.receive(SECOND, OWNER, Beat(), b"", 0, run.now)
    [(route, [(bye, _)])] = run.master.take(run.now)
    assert (route, isinstance(bye, Bye)) == (SECOND, True)


def test_a_pipe_that_is_full_is_emptied_first() -> None:
    run = Run()
    greet(run, SECOND, moves(run))
    run.master.tell(run.session, Note(id=1, sender="s", key="k", to="c", text="", at_s=0.0))
    [(_, outgoing)] = run.master.take(run.now)
    run.master.block(FIRST, outgoing)
    run.master.receive(FIRST, OWNER, MOVED, b"", 0, run.now)
    assert run.master.take(run.now) == [], "not moved: what is stuck belongs to the first connection"
    [bye] = greet(run, "third", moves(run))
    assert isinstance(bye, Bye), "it has said its last word"
    run.master.unblock(FIRST)
    taken = {route: [message for message, _ in outgoing] for route, outgoing in run.master.take(run.now)}
    assert taken[FIRST] == [MOVED]
    assert [message.kind for message in taken[SECOND]] == [Note.kind]


def test_a_last_word_without_a_second_connection_ends_the_session() -> None:
    run = Run()
    run.master.receive(FIRST, OWNER, MOVED, b"", 0, run.now)
    assert run.master.roster.peers == {}


def test_a_node_that_moves_is_a_node_all_the_time() -> None:
    run = Run()
    node = Identity("key-w", "w", "worker")
    run.master.receive("w1", node, msgspec.structs.replace(HELLO, slots=4), b"", 0, run.now)
    run.master.events.clear()
    session = run.master.roster.peers["w1"]
    greet(run, "w2", msgspec.structs.replace(HELLO, moves=session.no, slots=4), node)
    run.master.receive("w1", node, MOVED, b"", 0, run.now)
    run.master.disconnected("w1", run.now)
    assert run.master.events == []
    assert run.master.roster.nodes["w"].peer is session
    assert (session.route, run.master.roster.nodes["w"].state) == ("w2", "ready")
    run.master.disconnected("w2", run.now)
    assert run.master.roster.nodes["w"].state == "dead"


def test_the_master_s_own_node_does_not_move() -> None:
    run = Run()
    [bye] = greet(run, SECOND, Hello(versions=[1], instance="i", moves=1), Identity("key-m", "m", "master"))
    assert isinstance(bye, Bye)
    assert LOCAL not in run.master.roster.peers


# -- the peer's end ------------------------------------------------------------------------------------------------------


def moving_link(state: str = "greeting") -> Link:
    """A link that moves since 100."""
    run = Run()
    if state == "leaving":
        run.deliver_up(SECOND)
        run.deliver_down(SECOND)
    assert run.link.moving == state
    return run.link


def test_only_a_session_that_is_up_and_stays_can_move() -> None:
    link = Link(HELLO, ["a"], POLICY)
    assert link.rekey(0.0) == []
    link.start(0.0)
    assert link.rekey(0.0) == []
    assert moving_link().rekey(100.0) == []


def test_it_stays_when_nobody_answers_on_the_second() -> None:
    link = moving_link()
    link.heard(104.9)
    assert not any(isinstance(effect, Stayed) for effect in link.handle_deadline(104.99, 0.5))
    link.heard(105.0)
    [stayed] = link.handle_deadline(105.0, 0.5)
    assert isinstance(stayed, Stayed)
    assert (link.state, link.moving) == ("up", "")


@pytest.mark.parametrize("no", [Bye(code="not_allowed", message="no"), Refusal(code="bad_message", message="no")])
def test_it_stays_when_it_is_refused_there(no: Message) -> None:
    link = moving_link()
    [stayed] = link.received_there(no, 100.0, 0.5)
    assert isinstance(stayed, Stayed)
    assert (stayed.error.message, link.state) == ("no", "up")


def test_another_session_s_welcome_is_none_of_its() -> None:
    link = moving_link()
    assert link.welcome is not None
    assert link.received_there(msgspec.structs.replace(link.welcome, session=9), 100.0, 0.5) == []
    assert link.moving == "greeting"


def test_it_says_nothing_while_it_leaves_and_beats_behind() -> None:
    link = moving_link("leaving")
    assert link.handle_deadline(101.5, 0.5) == []
    assert link.next_deadline() == 103.0
    assert link.received(MOVED, 101.6, 0.5) == [Switch()]
    assert link.next_deadline() == 101.6
    assert link.handle_deadline(101.6, 0.5) == [Say(Beat())]


def test_a_master_that_never_lets_it_go_is_lost() -> None:
    link = moving_link("leaving")
    for now in (102.0, 104.0):
        link.heard(now)
    [down] = link.handle_deadline(105.0, 0.5)
    assert isinstance(down, Down)
    assert (down.was_up, link.moving) == (True, "")


def test_the_keys_of_the_address_are_tried_in_turn() -> None:
    link = Link(HELLO, ["a", "b"], POLICY)
    link.places = type(link.places)([("a", "K1"), ("a", "K2"), ("b", "K3")])  # type: ignore[list-item]
    link.start(0.0)
    run = Run()
    assert run.link.welcome is not None
    link.received(run.link.welcome, 0.0, 0.5)
    first, _ = link.rekey(0.0)
    assert first == Dial("a", "K1")
    second, hello = link.disconnected_there(Unreachable("no"), 0.0, 0.5, stranger=True)
    assert second == Dial("a", "K2")
    assert isinstance(hello, SayThere)
    [stayed] = link.disconnected_there(Unreachable("no"), 0.0, 0.5, stranger=True)
    assert isinstance(stayed, Stayed)


def test_a_move_that_was_not_asked_for_is_the_end_of_a_session() -> None:
    run = Run()
    link = run.link
    link.disconnected_there(Unreachable("no"), 100.0, 0.5)
    [down] = link.received(MOVED, 100.0, 0.5)
    assert isinstance(down, Down)
    assert link.received_there(MOVED, 100.0, 0.5) == []
    assert link.disconnected_there(Unreachable("no"), 100.0, 0.5) == []


def test_a_link_that_closes_while_it_moves_says_bye() -> None:
    assert moving_link("leaving").close() == [Say(Bye())]
