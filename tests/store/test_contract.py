"""The contract of the store over all its backends, and SQLite compared with the reference step by step."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from contract import PREFIXES, Contract, Place, assert_digests
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from zcluster.errors import ZClusterError
from zcluster.store.interface import Delete, Expect, Put, Store
from zcluster.store.memory import MemoryStore
from zcluster.store.sqlite import SqliteStore

T = TypeVar("T")


async def in_memory(path: Path, **more: Any) -> Store:
    return MemoryStore(**more)


async def in_sqlite(path: Path, **more: Any) -> Store:
    return await SqliteStore.open(path, **more)


@pytest.fixture(params=[in_memory, in_sqlite])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(request.param, tmp_path / "data" / "store.db")


class TestBackends(Contract):
    """Every backend keeps the contract."""


KEYS = st.sampled_from(["groups/a", "groups/b", "groups/of/é", "config/x", "config/\U0010ffff", "notes/1", "z"])
LEASES = st.integers(0, 4)
OPS = st.lists(
    st.one_of(
        st.builds(Delete, KEYS), st.builds(Put, KEYS, st.binary(max_size=3)), st.builds(Put, KEYS, st.binary(max_size=3), LEASES)
    ),
    max_size=5,
)
EXPECT = st.lists(st.builds(Expect, KEYS, st.integers(0, 6)), max_size=2)
QUESTIONS: list[Callable[[Store], Coroutine[Any, Any, Any]]] = [
    lambda store: store.revision(),
    lambda store: store.scan(""),
    lambda store: store.scan("groups/", limit=2),
    lambda store: store.changes("", 0),
    lambda store: store.changes("groups/", 3, limit=1),
    lambda store: store.digests("groups/"),
    lambda store: store.get("groups/a"),
]


class Compared(RuleBasedStateMachine):
    """The same calls to the reference and to SQLite have the same results, through any number of restarts."""

    @initialize()
    def open(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.directory = tempfile.TemporaryDirectory()
        self.now_s = 0.0
        self.reference: Store = MemoryStore(PREFIXES, clock=lambda: self.now_s)
        self.store = self.do(self.opened())

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    async def opened(self) -> Store:
        return await SqliteStore.open(Path(self.directory.name, "store.db"), digests=PREFIXES, clock=lambda: self.now_s)

    def both(self, call: Callable[[Store], Awaitable[Any]]) -> None:
        async def result(store: Store) -> Any:
            try:
                return await call(store)
            except ZClusterError as error:
                return error.to_dict()

        assert self.do(result(self.store)) == self.do(result(self.reference))

    @rule(ops=OPS, expect=EXPECT)
    def apply(self, ops: list[Put | Delete], expect: list[Expect]) -> None:
        self.both(lambda store: store.apply(ops, expect=expect))

    @rule(calls=st.lists(OPS, min_size=2, max_size=4))
    def apply_together(self, calls: list[list[Put | Delete]]) -> None:
        async def together(store: Store) -> list[int]:
            results = await asyncio.gather(*(store.apply(ops) for ops in calls), return_exceptions=True)
            return [result for result in results if isinstance(result, int)]

        self.both(together)

    @rule(ttl_s=st.sampled_from([1.0, 5.0]))
    def grant(self, ttl_s: float) -> None:
        self.both(lambda store: store.grant(ttl_s))

    @rule(lease=LEASES)
    def keep_alive(self, lease: int) -> None:
        self.both(lambda store: store.keep_alive(lease))

    @rule(lease=LEASES)
    def revoke(self, lease: int) -> None:
        self.both(lambda store: store.revoke(lease))

    @rule(by_s=st.sampled_from([0.5, 2.0, 5.0]))
    def pass_time(self, by_s: float) -> None:
        self.now_s += by_s
        self.both(lambda store: store.expire())

    @rule(keep=st.integers(0, 5))
    def compact(self, keep: int) -> None:
        self.both(lambda store: store.compact(keep))

    @rule()
    def restart(self) -> None:
        """Leases last their time again: so the reference keeps them all alive now."""
        self.both(lambda store: store.expire())
        self.do(self.store.close())
        for lease in range(5):
            try:
                self.do(self.reference.keep_alive(lease))
            except ZClusterError:
                continue
        self.store = self.do(self.opened())

    @invariant()
    def same(self) -> None:
        for question in QUESTIONS:
            self.both(question)

    def teardown(self) -> None:
        self.do(assert_digests(self.store))
        self.do(self.store.close())
        self.do(self.reference.close())
        self.do(self.loop.shutdown_default_executor())
        self.loop.close()
        self.directory.cleanup()


TestCompared = Compared.TestCase
TestCompared.settings = settings(max_examples=12, stateful_step_count=20, deadline=None)
