"""Questions where agents are, taken to the book."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from zcluster.brokers.locate import Locator
from zcluster.core.agents.row import Row
from zcluster.core.locating import Locate
from zcluster.core.master import Master
from zcluster.errors import NoSuchAgent, ZClusterError
from zcluster.store.book_limits import MAX_ROWS
from zcluster.store.book_memory import MemoryBook
from zcluster.store.memory import MemoryStore

PATIENCE_S = 30.0
Answer = list[str] | ZClusterError


class Machine:
    """Stands in for the master's machine: the questions, and what they were answered."""

    def __init__(self) -> None:
        self.parking = SimpleNamespace(questions=[])
        self.admission = self
        self.answers: dict[str, Answer] = {}

    def located(self, locate: Locate, answer: Answer) -> None:
        self.answers[locate.target] = answer

    def ask(self, *targets: str) -> None:
        self.parking.questions += [Locate(target, []) for target in targets]


async def answered(machine: Machine, book: MemoryBook) -> dict[str, Answer]:
    done = asyncio.Event()
    asked = len(machine.parking.questions)

    def woken() -> None:
        if len(machine.answers) == asked:
            done.set()

    locator = Locator(cast(Master, machine), cast(Any, book), MemoryStore(), woken)
    locator.ask()
    async with asyncio.timeout(PATIENCE_S):
        await done.wait()
    await locator.close()
    return machine.answers


def test_more_agents_than_the_book_looks_up_at_once_are_all_found() -> None:
    async def main() -> None:
        book, machine = MemoryBook(), Machine()
        await book.put([Row(id="first", node="w1"), Row(id="last", node="w2")])
        machine.ask("agent:first", *(f"agent:a{number}" for number in range(MAX_ROWS)), "agent:last")
        answers = await answered(machine, book)
        assert (answers["agent:first"], answers["agent:last"]) == (["w1"], ["w2"])
        assert isinstance(answers["agent:a1"], NoSuchAgent)

    asyncio.run(main())
