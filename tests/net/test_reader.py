"""A socket in the loop through its edge-triggered descriptor: no message waits for the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import zmq

from zcluster.net.context import Socket, new_context
from zcluster.net.reader import Alarm, Reader
from zcluster.process.loop import new_loop

Told = type[Any]


def pair_of(context: zmq.Context[Socket], hwm: int = 1000) -> tuple[Socket, Socket]:
    """Two connected sockets."""
    left, right = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    for socket in (left, right):
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, hwm)
        socket.setsockopt(zmq.RCVHWM, hwm)
    left.bind("inproc://pair")
    right.connect("inproc://pair")
    return left, right


def reading(socket: Socket, told: Any, at_once: int) -> Callable[[], bool]:
    """A turn that reads at most ``at_once`` messages."""

    def turn() -> bool:
        for _ in range(at_once):
            try:
                told.add(socket.recv(zmq.NOBLOCK))
            except zmq.Again:
                return False
        return True

    return turn


def test_what_was_there_before_the_reader_is_read(told: Told) -> None:
    async def main() -> None:
        context = new_context()
        left, right = pair_of(context)
        right.send(b"early")
        got = told()
        reader = Reader(asyncio.get_running_loop(), left, reading(left, got, 10))
        assert await got.next() == b"early"
        reader.close()
        right.close()
        context.term()

    asyncio.run(main())


def test_a_bounded_turn_goes_on_until_everything_is_read_and_others_get_their_turn(told: Told) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        context = new_context()
        left, right = pair_of(context)
        got = told()
        between: list[int] = []
        reader = Reader(loop, left, reading(left, got, 10))

        def look() -> None:
            between.append(len(got.items))
            if len(got.items) < 100:
                loop.call_soon(look)

        for index in range(100):
            right.send(b"%d" % index)
        loop.call_soon(look)
        await got.until(lambda items: len(items) == 100)
        assert got.items == [b"%d" % index for index in range(100)]
        assert {10, 20, 30} <= set(between), "the loop did not come round between the turns"
        reader.close()
        right.close()
        context.term()

    asyncio.run(main())


def test_a_message_whose_edge_a_send_swallowed_is_found_by_looking_again(told: Told) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        context = new_context()
        left, right = pair_of(context)
        got = told()
        reader = Reader(loop, left, reading(left, got, 10))
        right.send(b"first")
        assert await got.next() == b"first"
        for index in range(200):
            right.send(b"%d" % index)
            left.send(b"answer")  # handles the command that announced the message: its edge is gone
            reader.look_again()
            assert await got.next() == b"%d" % index
            assert right.recv() == b"answer"
        reader.close()
        right.close()
        context.term()

    asyncio.run(main())


def test_the_owner_is_told_when_a_full_socket_has_room_again(told: Told) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        context = new_context()
        left, right = pair_of(context, hwm=4)
        room, got = told(), told()
        reader = Reader(loop, left, reading(left, got, 10), lambda: room.add(True))
        sent = 0
        while True:
            try:
                left.send(b"x", zmq.NOBLOCK)
            except zmq.Again:
                break
            sent += 1
        await asyncio.sleep(0)
        room.items.clear()
        for _ in range(sent):
            right.recv()
        await room.next()
        left.send(b"y", zmq.NOBLOCK)
        reader.close()
        right.close()
        context.term()

    asyncio.run(main())


def test_a_closed_reader_is_silent_even_when_its_turn_was_already_due(told: Told) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        context = new_context()
        left, right = pair_of(context)
        right.send(b"never read")
        got = told()
        reader = Reader(loop, left, reading(left, got, 10))  # schedules a turn
        reader.close()
        reader.close()
        reader.look_again()
        for _ in range(5):
            await asyncio.sleep(0)
        assert got.items == []
        assert left.closed
        right.close()
        context.term()

    asyncio.run(main())


def test_a_turn_may_close_its_own_reader(told: Told) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        context = new_context()
        left, right = pair_of(context)
        got = told()

        def turn() -> bool:
            got.add(left.recv(zmq.NOBLOCK))
            reader.close()
            return True

        reader = Reader(loop, left, turn)
        right.send(b"last")
        right.send(b"too late")
        assert await got.next() == b"last"
        for _ in range(5):
            await asyncio.sleep(0)
        assert got.items == []
        right.close()
        context.term()

    asyncio.run(main())


class Clock:
    """Stands in for a loop: the test moves its time."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self._timers: list[_Timer] = []

    def call_at(self, when_s: float, fire: Callable[[], None]) -> _Timer:
        timer = _Timer(when_s, fire)
        self._timers.append(timer)
        return timer

    def move(self, now_s: float) -> None:
        self.now_s = now_s
        due = [timer for timer in self._timers if timer.when_s <= now_s and not timer.cancelled]
        self._timers = [timer for timer in self._timers if timer.when_s > now_s]
        for timer in due:
            timer.fire()


class _Timer:
    def __init__(self, when_s: float, fire: Callable[[], None]) -> None:
        self.when_s = when_s
        self.fire = fire
        self.cancelled = False

    def when(self) -> float:
        return self.when_s

    def cancel(self) -> None:
        self.cancelled = True


def test_an_alarm_fires_once_at_the_earliest_time_that_was_asked_for() -> None:
    clock: Any = Clock()
    fired: list[float] = []
    alarm = Alarm(clock, lambda: fired.append(clock.now_s))
    alarm.set(109.0)
    alarm.set(None)
    alarm.set(102.0)
    alarm.set(105.0)
    clock.move(101.0)
    assert fired == []
    clock.move(103.0)
    clock.move(120.0)
    assert fired == [103.0]
    alarm.set(121.0)
    alarm.cancel()
    alarm.cancel()
    clock.move(130.0)
    assert fired == [103.0]
    alarm.set(131.0)
    clock.move(131.0)
    assert fired == [103.0, 131.0]


def test_an_alarm_that_is_due_already_can_be_set_again_on_any_loop() -> None:
    """uvloop's handle of what is due at once has no time to ask for."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        fired = asyncio.Event()
        alarm = Alarm(loop, fired.set)
        alarm.set(loop.time())
        alarm.set(loop.time() - 1.0)
        alarm.set(loop.time() + 100.0)
        await fired.wait()

    for make in (asyncio.new_event_loop, new_loop):
        loop = make()
        try:
            loop.run_until_complete(main())
        finally:
            loop.close()
