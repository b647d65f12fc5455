"""The fixture ``run_virtual``: an event loop whose time passes only when nothing is left to do."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

T = TypeVar("T")


class _Selector(selectors.SelectSelector):
    """Waits by moving the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found and timeout is None:
            raise RuntimeError("the loop would wait for ever")
        if not found and timeout is not None:
            self.now_s += timeout
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; its ``time`` is virtual."""

    def __init__(self) -> None:
        self.virtual = _Selector()
        super().__init__(self.virtual)

    def time(self) -> float:
        return self.virtual.now_s


def _run_virtual(main: Callable[[Callable[[], float]], Awaitable[T]]) -> T:
    async def run() -> T:
        loop: Any = asyncio.get_running_loop()
        return await main(loop.time)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(run())


@pytest.fixture
def run_virtual() -> Callable[[Callable[[Callable[[], float]], Awaitable[Any]]], Any]:
    """Runs ``main(clock)`` in a virtual loop; ``clock()`` is its time in seconds, from 1000 on."""
    return _run_virtual
