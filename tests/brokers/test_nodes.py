"""What the master does with its nodes: describe, drain, resume, remove."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from zcluster.brokers.nodes import PREFIX, MasterNodes
from zcluster.core.limits import MasterLimits
from zcluster.core.master import Master
from zcluster.core.peers import Event, Identity
from zcluster.dapi.context import Context
from zcluster.errors import Conflict, NoSuchNode, StoreFailed, UsageError, ZClusterError
from zcluster.keys import Ring, generate, may_call, may_send
from zcluster.nodes.desk import Desk
from zcluster.store.memory import MemoryStore
from zcluster.wire import Bye, Hello

PATIENCE_S = 30.0


class Rig:
    """A master with workers, whose ring is a real file."""

    def __init__(self, directory: Path, store: MemoryStore, *workers: str) -> None:
        self.ring = Ring(directory / "ring.json")
        for name in workers:
            if name not in self.ring.entries:
                self.ring.add(name, "worker", generate().public)
        self.machine = Master("master", "c", 1, MasterLimits(), may_send, may_call, 0.0)
        for name in workers:
            self.join(name)
        self.events: list[Event] = []
        desk = SimpleNamespace(
            store=store, name="master", logger=logging.getLogger("test"), clock=lambda: 5.0, wall_s=lambda: 1005.0,
            wake=lambda: None, note=self.events.append,
        )  # fmt: skip
        self.part = MasterNodes(cast(Desk, desk), self.machine, self.ring, self.look, lambda route: "10.0.0.7")

    def identity(self, name: str) -> Identity:
        entry = self.ring.get(name)
        return Identity(entry.id, entry.name, entry.role)

    def join(self, name: str) -> None:
        self.machine.receive(name.encode(), self.identity(name), Hello(versions=[1], instance="i", slots=4), b"", 0, 0.0)

    def leave(self, name: str) -> None:
        self.machine.receive(name.encode(), self.identity(name), Bye(), b"", 0, 1.0)

    def look(self) -> None:
        """What the master's process does when the ring is another."""
        self.ring.reload_if_changed()
        self.machine.keys_changed(lambda identity: self.ring.by_id(identity.key) is not None or identity.role == "master", 5.0)
        self.machine.forget_nodes(lambda name: name == "master" or name in self.ring.entries)
        self.part.ring_changed()

    async def call(self, name: str, /, **args: Any) -> Any:
        function = self.part.functions()[name]
        context = Context(caller="root", role="admin", node="master", request_id="1.1", deadline_s=9.0, clock=lambda: 0.0)
        return await function.call(function.decode(orjson.dumps(args)), context)

    def drained(self) -> list[str]:
        return [name for name, node in self.machine.roster.nodes.items() if node.drained]

    def told(self) -> list[tuple[str, str]]:
        return [(event.name, event.fields["name"]) for event in self.events]


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await body()

    asyncio.run(main())


async def stored(store: MemoryStore) -> int:
    return len((await store.scan(PREFIX)).entries)


def test_drained_is_on_disk_before_it_holds_and_survives_a_restart(tmp_path: Path) -> None:
    async def body() -> None:
        store = MemoryStore()
        rig = Rig(tmp_path, store, "w1", "w2")
        rows = await rig.call("nodes.drain", target="w1")
        assert [(row["name"], row["drained"]) for row in rows] == [("w1", True)]
        assert (rig.drained(), await stored(store), rig.told()) == (["w1"], 1, [("node_drained", "w1")])
        await rig.call("nodes.drain", target="w*")
        assert (rig.drained(), rig.told()[1:]) == (["w1", "w2"], [("node_drained", "w2")]), "the first was told already"
        again = Rig(tmp_path, store, "w1", "w2")
        assert again.drained() == []
        await again.part.start()
        assert again.drained() == ["w1", "w2"]
        rows = await again.call("nodes.resume", target="w1,w2")
        assert ([row["drained"] for row in rows], again.drained(), await stored(store)) == ([False, False], [], 0)
        await again.call("nodes.resume", target="w1")
        assert again.told() == [("node_resumed", "w1"), ("node_resumed", "w2")]

    run(body)


def test_a_disk_that_takes_nothing_drains_nobody(tmp_path: Path) -> None:
    async def body() -> None:
        store = MemoryStore()
        rig = Rig(tmp_path, store, "w1")

        async def full(*_: Any, **__: Any) -> int:
            raise StoreFailed("the disk is full")

        store.apply = full  # type: ignore[method-assign]
        with pytest.raises(StoreFailed):
            await rig.call("nodes.drain", target="w1")
        assert (rig.drained(), rig.told()) == ([], [])

    run(body)


@pytest.mark.parametrize("target", ["master", "w1,master", " master "])
def test_the_master_is_never_drained(tmp_path: Path, target: str) -> None:
    async def body() -> None:
        rig = Rig(tmp_path, MemoryStore(), "w1")
        with pytest.raises(UsageError, match="neither drained nor removed"):
            await rig.call("nodes.drain", target=target)
        await rig.call("nodes.drain", target="all")
        await rig.call("nodes.drain", target="*")
        assert rig.drained() == ["w1"]

    run(body)


def test_a_new_key_of_the_name_inherits_nothing_and_what_was_kept_goes(tmp_path: Path) -> None:
    async def body() -> None:
        store = MemoryStore()
        rig = Rig(tmp_path, store, "w1")
        await rig.call("nodes.drain", target="w1")
        rig.ring.revoke("w1")
        rig.ring.add("w1", "worker", generate().public)
        rig.look()
        rig.join("w1")
        assert rig.drained() == []
        await rig.part.close()
        assert await stored(store) == 0

    run(body)


def test_a_name_that_changes_takes_it_along(tmp_path: Path) -> None:
    async def body() -> None:
        rig = Rig(tmp_path, MemoryStore(), "w1")
        await rig.call("nodes.drain", target="w1")
        rig.leave("w1")
        rig.ring.rename("w1", "w9")
        rig.look()
        rig.join("w9")
        assert rig.drained() == ["w9"]

    run(body)


def test_a_node_that_is_away_is_forgotten(tmp_path: Path) -> None:
    async def body() -> None:
        store = MemoryStore()
        rig = Rig(tmp_path, store, "w1", "w2")
        await rig.call("nodes.drain", target="w1")
        with pytest.raises(Conflict, match="has a session"):
            await rig.call("nodes.remove", name="w1")
        with pytest.raises(Conflict):
            await rig.call("nodes.remove", name="w1", revoke=True)
        rig.leave("w1")
        done = await rig.call("nodes.remove", name="w1")
        assert done == {"name": "w1", "removed": True, "key_revoked": False}
        assert "w1" not in rig.machine.roster.nodes
        assert ("w1" in rig.ring.entries, await stored(store)) == (True, 0)
        with pytest.raises(UsageError):
            await rig.call("nodes.remove", name="master")

    run(body)


def test_a_node_that_is_forgotten_already_is_none(tmp_path: Path) -> None:
    async def body() -> None:
        store = MemoryStore()
        rig = Rig(tmp_path, store, "w1")
        rig.leave("w1")
        await rig.call("nodes.remove", name="w1")
        with pytest.raises(NoSuchNode, match=r"there is no node 'w1'.*--revoke"):
            await rig.call("nodes.remove", name="w1")
        assert rig.told() == [("node_removed", "w1")]
        assert (await rig.call("nodes.remove", name="w1", revoke=True))["key_revoked"] is True
        with pytest.raises(NoSuchNode):
            await rig.call("nodes.remove", name="w1", revoke=True)

    run(body)


def test_a_key_that_is_no_node_is_not_named_as_one(tmp_path: Path) -> None:
    async def body() -> None:
        rig = Rig(tmp_path, MemoryStore(), "worker-1")
        rig.ring.add("anna", "client", generate().public)
        for name, hint in (("anna", "lists the nodes"), ("ann", "lists the nodes"), ("worker-2", "did you mean 'worker-1'")):
            with pytest.raises(NoSuchNode) as caught:
                await rig.call("nodes.remove", name=name)
            assert hint in caught.value.hint

    run(body)


def test_a_drained_node_that_is_not_here_is_removed_once(tmp_path: Path) -> None:
    async def body() -> None:
        store = MemoryStore()
        rig = Rig(tmp_path, store, "w1")
        await rig.call("nodes.drain", target="w1")
        again = Rig(tmp_path, store)  # the master has started anew, and the node has not come yet
        await again.part.start()
        assert (await again.call("nodes.remove", name="w1"))["removed"] is True
        assert await stored(store) == 0
        with pytest.raises(NoSuchNode):
            await again.call("nodes.remove", name="w1")
        await again.part.close()

    run(body)


@pytest.mark.parametrize("here", [True, False])
def test_removal_with_its_key_ends_its_session(tmp_path: Path, here: bool) -> None:
    async def body() -> None:
        rig = Rig(tmp_path, MemoryStore(), "w1")
        if not here:
            rig.leave("w1")
        done = await rig.call("nodes.remove", name="w1", **({"force": True} if here else {"revoke": True}))
        assert done["key_revoked"] is True
        assert "w1" not in rig.machine.roster.nodes
        assert not rig.machine.roster.peers
        assert rig.ring.entries.get("w1") is None
        assert rig.told() == [("node_removed", "w1")]

    run(body)


def test_a_node_is_described_with_its_key_and_session(tmp_path: Path) -> None:
    async def body() -> None:
        rig = Rig(tmp_path, MemoryStore(), "w1")
        await rig.call("nodes.drain", target="w1")
        row = await rig.call("nodes.describe", name="w1")
        assert row["key"]["fingerprint"].startswith("SHA256:")
        assert row["session"] == {"no": 1, "since_s": 1000.0, "address": "10.0.0.7", "instance": "i"}
        assert (row["drained"], row["drained_by"], row["drained_at_s"], row["since_s"]) == (True, "root", 1005.0, 1000.0)
        assert "secret" not in str(row)
        rig.ring.add("w2", "worker", generate().public)
        row = await rig.call("nodes.describe", name="w2")
        assert (row["state"], row["key"]["role"]) == (None, "worker")
        rig.ring.revoke("w2")
        row = await rig.call("nodes.describe", name="w2")
        assert (row["key"], len(row["revoked"])) == (None, 1)
        assert (await rig.call("nodes.describe", name="master"))["role"] == "master"
        rig.ring.add("alice", "client", generate().public)
        for name in ("alice", "nobody", ""):
            with pytest.raises(NoSuchNode):
                await rig.call("nodes.describe", name=name)

    run(body)


@pytest.mark.parametrize("name", ["nodes.drain", "nodes.resume", "nodes.remove"])
def test_what_changes_something_is_for_administrators(tmp_path: Path, name: str) -> None:
    async def body() -> None:
        functions = Rig(tmp_path, MemoryStore()).part.functions()
        assert functions[name].role == "admin"
        assert functions["nodes.describe"].role == "client"
        with pytest.raises(ZClusterError):
            functions[name].decode(b"{}")

    run(body)
