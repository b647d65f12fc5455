"""Golden conversations: what the machines say to each other, as text to be read.

Each test drives the core's machines and compares the whole exchange with the .txt file of its name. When a change of the
conversation is wanted, write the files again and read the difference like code::

    ZCLUSTER_WRITE_TRACES=1 pytest tests/traces && git diff tests/traces
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zcluster.wire.messages import RequestFlag

Talk = Callable[[str], Any]
Golden = Callable[[Any], None]


def test_call(talk: Talk, golden: Golden) -> None:
    t = talk("A client calls echo on a worker; three calls of one turn are one message.")
    w1, c1 = t.worker("w1", "echo"), t.client("c1")
    for number in (b"1", b"22", b"333"):
        t.call(c1, "echo", "w1", number)
    t.pump()
    for body in (b"1", b"22", b"333"):
        w1.work.finished(min(w1.jobs), True, body)
        del w1.jobs[min(w1.jobs)]
    t.pump()
    golden(t)


def test_errors(talk: Talk, golden: Golden) -> None:
    t = talk("What cannot be served is said at once: no such node, no such function, several nodes in a call, no right.")
    t.worker("w1", "echo")
    c1 = t.client("c1")
    for function, target in (("echo", "w9"), ("nope", "any"), ("pay", "w1"), ("echo", "w*"), ("echo", "")):
        t.call(c1, function, target)
        t.pump()
    golden(t)


def test_fan_out(talk: Talk, golden: Golden) -> None:
    t = talk("A fan-out: the dead node is told as missing at once, with the reason; the living ones answer.")
    w1, w2, w3, c1 = t.worker("w1", "echo"), t.worker("w2", "echo"), t.worker("w3", "echo"), t.client("c1")
    t.disconnects(w3)
    t.call(c1, "echo", "w*", b"hi", flags=RequestFlag.FAN_OUT)
    t.pump()
    t.finish(w2, True, b"hi")
    t.finish(w1, False, b'{"code":"function_failed","message":"ValueError: no"}')
    golden(t)


def test_worker_lost(talk: Talk, golden: Golden) -> None:
    t = talk("A worker falls silent with two requests: the idempotent one moves, the other ends with NodeLost, once.")
    w1, c1 = t.worker("w1", "echo", "pay"), t.client("c1")
    t.call(c1, "echo", "any", b"safe")
    t.call(c1, "pay", "any", b"once")
    t.call(c1, "echo", "w1", b"only w1")
    t.pump()
    w2 = t.worker("w2", "echo", "pay")
    t.leaves(w1, "falls silent")
    t.wait(3.0)
    t.finish(w2, True, b"safe")
    golden(t)


def test_large_argument(talk: Talk, golden: Golden) -> None:
    t = talk("A large argument goes in chunks against the worker's credit; the master stores none of it.")
    w1, c1 = t.worker("w1", "echo"), t.client("c1")
    t.call(c1, "echo", "w1", b"a" * 5000)
    t.pump()
    t.finish(w1, True, b"5000")
    golden(t)


def test_large_value(talk: Talk, golden: Golden) -> None:
    t = talk("A large value goes in chunks against the client's credit.")
    w1, c1 = t.worker("w1", "blob"), t.client("c1")
    t.call(c1, "blob", "any")
    t.pump()
    t.finish(w1, True, b"v" * 5000)
    golden(t)


def test_stream(talk: Talk, golden: Golden) -> None:
    t = talk("A stream: items against credit. The first 16 need none; the reader grants more as it reads.")
    w1, c1 = t.worker("w1", "lines"), t.client("c1")
    t.call(c1, "lines", "w1")
    t.pump()
    leg = min(w1.jobs)
    for index in range(18):
        w1.work.item(leg, b"line %d" % index)
        if index % 6 == 5:
            t.pump()
    t.finish(w1, True, b"")
    golden(t)


def test_session_replaced(talk: Talk, golden: Golden) -> None:
    t = talk("A second process with the same key: the newer session replaces the older, which is told so.")
    t.worker("w1", "pay")
    c1 = t.client("c1")
    t.call(c1, "pay", "any")
    t.pump()
    t.worker("w1", "pay", instance="two")
    golden(t)


def test_reconnect(talk: Talk, golden: Golden) -> None:
    t = talk("A worker comes back before the end of its old connection is noticed: what waited for it still waits.")
    t.worker("w1", "pay", slots=2)
    c1 = t.client("c1")
    t.call(c1, "pay", "w1", b"runs")
    t.call(c1, "pay", "w1", b"waits")
    t.pump()
    w1 = t.worker("w1", "pay", slots=2)
    t.finish(w1, True, b"paid")
    golden(t)


def test_master_drains(talk: Talk, golden: Golden) -> None:
    t = talk("The master shuts down: new requests are refused, running ones may end, the rest ends with an error.")
    w1, c1 = t.worker("w1", "echo"), t.client("c1")
    t.call(c1, "echo", "w1", b"in time")
    t.call(c1, "echo", "w1", b"too slow")
    t.pump()
    t.note("the master drains")
    t.master.drain()
    t.pump()
    t.call(c1, "echo", "w1", b"too late")
    t.pump()
    t.finish(w1, True, b"in time")
    t.note("the master ends")
    t.master.close(t.now)
    t.pump()
    golden(t)


def test_worker_drains(talk: Talk, golden: Golden) -> None:
    t = talk("A worker shuts down: it gets nothing new, what waits for it ends, what runs may end.")
    from zcluster.wire import Bye

    w1, c1 = t.worker("w1", "echo", slots=2), t.client("c1")  # one caller gets half of the slots
    t.call(c1, "echo", "w1", b"runs")
    t.call(c1, "echo", "w1", b"waits")
    t.pump()
    t.note("w1 drains")
    t.master.receive(w1.route, w1.identity, Bye(draining=True), b"", 0, t.now)
    t.pump()
    t.call(c1, "echo", "w1", b"too late")
    t.call(c1, "echo", "w*", b"all", flags=RequestFlag.FAN_OUT)
    t.pump()
    t.finish(w1, True, b"runs")
    golden(t)


def test_cancel(talk: Talk, golden: Golden) -> None:
    t = talk("Cancelled: before it was sent, while it waits, while it runs. No answer comes.")
    t.worker("w1", "pay", slots=2)
    c1 = t.client("c1")
    first, second = t.call(c1, "pay", "w1", b"runs"), t.call(c1, "pay", "w1", b"waits")
    t.pump()
    third = t.call(c1, "pay", "w1", b"never left")
    for call in (third, second, first):
        t.note(f"c1 cancels call {call.id}")
        c1.calls.cancel(call)
        t.pump()
    assert t.master.dispatch.running == t.master.dispatch.waiting == 0
    golden(t)


def test_deadline(talk: Talk, golden: Golden) -> None:
    t = talk("Deadlines: of a request that waits and of one that runs. The caller hears in time, the worker is told to stop.")
    t.worker("w1", "pay", slots=1)
    c1 = t.client("c1")
    t.call(c1, "pay", "w1", b"runs", timeout_s=1.0)
    t.call(c1, "pay", "w1", b"waits", timeout_s=1.0)
    t.pump()
    c1.calls.handle_deadline = lambda now: []  # the master's own deadline is to be seen
    t.wait(1.5)
    golden(t)
