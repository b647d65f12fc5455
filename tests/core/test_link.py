"""One end of a session."""

from __future__ import annotations

import msgspec
import pytest

from zcluster.core.link import Connect, Down, Ended, Link, LinkPolicy, Say, Up
from zcluster.errors import SessionReplaced, Unreachable, UnsupportedVersion
from zcluster.wire import Beat, Bye, Hello, Refusal, Replies, Welcome

HELLO = Hello(versions=[1], instance="me")
WELCOME = Welcome(
    version=1, session=3, name="w1", role="worker", cluster="c", master="m", epoch=1, heartbeat_s=1.0, lease_heartbeats=3,
    body_bytes=1, inline_bytes=1, chunk_bytes=1024, window_bytes=1024,
)  # fmt: skip
POLICY = LinkPolicy(hello_timeout_s=5.0, reconnect_base_s=0.1, reconnect_max_s=1.0)


def up(addresses: tuple[str, ...] = ("a",)) -> Link:
    """A link that is up since 0."""
    link = Link(HELLO, addresses, POLICY)
    link.start(0.0)
    assert link.received(WELCOME, 0.0, 0.5) == [Up(WELCOME)]
    return link


def test_it_connects_and_greets() -> None:
    link = Link(HELLO, ["a"], POLICY)
    assert link.next_deadline() is None
    assert link.start(10.0) == [Connect("a"), Say(HELLO)]
    assert (link.state, link.next_deadline()) == ("greeting", 15.0)


def test_no_answer_to_hello_is_a_failed_attempt_at_its_time() -> None:
    link = Link(HELLO, ["a", "b"], POLICY)
    link.start(0.0)
    assert link.handle_deadline(4.999, 0.5) == []
    [down] = link.handle_deadline(5.0, 0.5)
    assert isinstance(down, Down)
    assert (down.was_up, down.retry_s, type(down.error)) == (False, 0.05, Unreachable)
    assert "stopped or overloaded" in down.error.hint
    assert link.handle_deadline(5.049, 0.5) == []
    assert link.handle_deadline(5.05, 0.5) == [Connect("b"), Say(HELLO)]


def test_waits_grow_with_full_jitter_up_to_the_ceiling() -> None:
    link, now, waits = Link(HELLO, ["a"], POLICY), 0.0, []
    link.start(now)
    for _ in range(30):
        [down] = link.disconnected(Unreachable("no"), now, 1.0)
        assert isinstance(down, Down)
        waits.append(down.retry_s)
        now = link.next_deadline() or 0.0
        link.handle_deadline(now, 1.0)
    assert waits[:5] == [0.1, 0.2, 0.4, 0.8, 1.0]
    assert waits[-1] == 1.0
    [down] = link.disconnected(Unreachable("no"), now, 0.0)
    assert isinstance(down, Down)
    assert down.retry_s == 0.0


def test_a_session_resets_the_waits() -> None:
    link = Link(HELLO, ["a"], POLICY)
    link.start(0.0)
    for _ in range(5):
        link.disconnected(Unreachable("no"), 0.0, 0.0)
        link.handle_deadline(0.0, 0.0)
    link.received(WELCOME, 0.0, 1.0)
    [down] = link.disconnected(Unreachable("no"), 1.0, 1.0)
    assert isinstance(down, Down)
    assert (down.was_up, down.retry_s) == (True, 0.1)


def test_it_beats_once_an_interval() -> None:
    link = up()
    assert link.next_deadline() == 1.0
    assert link.handle_deadline(0.99, 0.5) == []
    assert link.handle_deadline(1.0, 0.5) == [Say(Beat())]
    link.received(Beat(), 1.0, 0.5)
    assert link.next_deadline() == 2.0


def test_a_silent_master_is_lost_after_a_lease() -> None:
    link = up()
    for now in (1.0, 2.0, 2.99):
        link.handle_deadline(now, 0.5)
    assert link.state == "up"
    [down] = link.handle_deadline(3.0, 0.5)
    assert isinstance(down, Down)
    assert down.was_up
    assert down.error.message == "the master was silent for 3.0 s"


def test_an_agent_s_other_side_is_a_node() -> None:
    link = Link(HELLO, ["a"], POLICY)
    link.start(0.0)
    link.received(msgspec.structs.replace(WELCOME, role="agent"), 0.0, 0.5)
    [down] = link.handle_deadline(3.0, 0.5)
    assert isinstance(down, Down)
    assert down.error.message == "the node was silent for 3.0 s"


@pytest.mark.parametrize("heard", [Replies([]), Beat()])
def test_any_message_is_a_sign_of_life(heard: Replies | Beat) -> None:
    link = up()
    assert link.received(heard, 2.9, 0.5) == []
    link.handle_deadline(5.8, 0.5)
    assert link.state == "up"
    link.handle_deadline(5.9, 0.5)
    assert link.state == "down"


def test_what_is_only_heard_is_a_sign_of_life_too() -> None:
    link = up()
    link.heard(2.9)
    link.handle_deadline(5.8, 0.5)
    assert link.state == "up"


@pytest.mark.parametrize(
    ("last", "error"),
    [
        (Bye(code="session_replaced", message="newer"), SessionReplaced),
        (Bye(code="unsupported_version", message="old"), UnsupportedVersion),
        (Refusal(code="unsupported_version", message="old", versions=[2]), UnsupportedVersion),
    ],
)
def test_two_answers_end_it_for_good(last: Bye | Refusal, error: type[Exception]) -> None:
    link = up()
    [ended] = link.received(last, 1.0, 0.5)
    assert isinstance(ended, Ended)
    assert type(ended.error) is error
    assert (link.state, link.next_deadline(), link.handle_deadline(99.0, 0.5)) == ("ended", None, [])


@pytest.mark.parametrize("code", ["not_allowed", "busy", "no_session", "unreachable", ""])
def test_every_other_bye_is_tried_again(code: str) -> None:
    link = up()
    [down] = link.received(Bye(code=code, message="no"), 1.0, 0.5)
    assert isinstance(down, Down)
    assert down.error.message == "no"
    assert link.handle_deadline(link.next_deadline() or 0.0, 0.5) == [Connect("a"), Say(HELLO)]


@pytest.mark.parametrize("harmless", [Bye(draining=True), Refusal(code="not_allowed"), WELCOME])
def test_a_draining_master_a_refusal_and_a_second_welcome_change_nothing(harmless: Bye | Refusal | Welcome) -> None:
    link = up()
    assert link.received(harmless, 1.0, 0.5) == []
    assert link.state == "up"


def test_closing_says_bye_to_someone_who_is_there() -> None:
    assert up().close() == [Say(Bye())]
    link = Link(HELLO, ["a"], POLICY)
    link.start(0.0)
    assert link.close() == []


@pytest.mark.parametrize("late", [Bye(code="unreachable"), WELCOME, Beat()])
def test_what_reaches_a_closed_link_is_ignored(late: Bye | Welcome | Beat) -> None:
    link = up()
    link.close()
    assert link.received(late, 1.0, 0.5) == []
    assert link.disconnected(Unreachable("x"), 1.0, 0.5) == []
    assert (link.state, link.next_deadline()) == ("ended", None)


def test_the_owner_may_set_another_pace_for_the_session_that_is_open() -> None:
    link = up()
    link.pace(10.0, 2, 4.0, 0.0)
    assert link.next_deadline() == 4.0
    assert link.handle_deadline(4.0, 0.5) == [Say(Beat())]
    assert link.next_deadline() == 14.0
    link.heard(14.0)
    assert link.handle_deadline(14.0, 0.5) == [Say(Beat())]
    link.handle_deadline(24.0, 0.5)
    [down] = link.handle_deadline(34.0, 0.5)
    assert isinstance(down, Down)
    link.handle_deadline(100.0, 0.5)
    link.received(WELCOME, 100.0, 0.5)
    assert link.next_deadline() == 101.0


def test_it_goes_where_it_is_redirected_to() -> None:
    link = up(("a", "b"))
    link.redirect(["c"])
    assert link.move(5.0) == [Connect("c"), Say(HELLO)]
    assert link.state == "greeting"
    link.disconnected(Unreachable("no"), 5.0, 0.0)
    assert link.handle_deadline(5.0, 0.0) == [Connect("c"), Say(HELLO)]
    link.close()
    assert link.move(6.0) == []
