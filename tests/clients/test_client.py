"""The blocking client and its loop's thread: nothing that happens there may wait for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from zcluster.clients.client import Client
from zcluster.errors import UsageError

PATIENCE_S = 60.0


class Rig(Client):
    """A client with a running loop and no cluster."""

    def __init__(self) -> None:
        super().__init__(Path("nowhere"))
        self._loop = self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.ended = threading.Event()

    def numbers(self) -> Iterator[int]:
        """An iterator whose source says when it has ended."""

        async def source() -> AsyncIterator[int]:
            try:
                for number in range(10):
                    yield number
            finally:
                self.ended.set()

        return self._iterate(source())

    def on_loop(self, act: Callable[[], Any]) -> Any:
        """Call ``act`` on the loop's thread; what it returned or raised."""
        done = threading.Event()
        found: list[Any] = []

        def run() -> None:
            try:
                found.append(act())
            except UsageError as error:
                found.append(error)
            done.set()

        self.loop.call_soon_threadsafe(run)
        assert done.wait(PATIENCE_S), "the loop's thread waits for itself"
        return found[0]


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


def test_an_iterator_that_is_left_ends_its_source(rig: Rig) -> None:
    for number in rig.numbers():
        if number == 2:
            break
    assert rig.ended.wait(PATIENCE_S)


def test_an_iterator_collected_on_the_loops_thread_ends_its_source_without_waiting(rig: Rig) -> None:
    held = [rig.numbers()]
    assert next(held[0]) == 0
    rig.on_loop(held.clear)
    assert rig.ended.wait(PATIENCE_S)


def test_an_iterator_collected_while_the_loop_is_busy_does_not_wait_for_it(rig: Rig) -> None:
    numbers = rig.numbers()
    assert next(numbers) == 0
    entered, gate = threading.Event(), threading.Event()

    def stand_still() -> None:
        entered.set()
        assert gate.wait(PATIENCE_S)

    rig.loop.call_soon_threadsafe(stand_still)
    assert entered.wait(PATIENCE_S)
    del numbers
    assert not rig.ended.is_set()
    gate.set()
    assert rig.ended.wait(PATIENCE_S)


def test_an_iterator_that_outlives_its_client_is_left_quietly(rig: Rig) -> None:
    numbers = rig.numbers()
    assert next(numbers) == 0
    rig.close()
    assert rig.ended.is_set()
    with pytest.raises(UsageError, match="not connected"):
        next(numbers)


def test_a_call_on_the_loops_own_thread_is_refused(rig: Rig) -> None:
    error = rig.on_loop(rig.nodes)
    assert isinstance(error, UsageError)
    assert "its own loop's thread" in error.message
