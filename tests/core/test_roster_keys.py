"""A node is its key: one of the same name with another key has nothing of the one before."""

from __future__ import annotations

from zcluster.core.limits import MasterLimits
from zcluster.core.master import Master
from zcluster.core.peers import Identity
from zcluster.keys import may_call, may_send
from zcluster.wire import Beat, Bye, FunctionInfo, Hello

OLD, NEW = Identity("old key", "w1", "worker"), Identity("new key", "w1", "worker")


def master() -> Master:
    return Master("m", "c", 1, MasterLimits(), may_send, may_call, 0.0)


def hello(instance: str, *functions: str) -> Hello:
    infos = [FunctionInfo(name=name, timeout_s=1.0) for name in functions]
    return Hello(versions=[1], instance=instance, slots=4, functions=infos)


def test_a_new_key_of_the_same_name_inherits_nothing_although_nobody_looked_in_between() -> None:
    machine = master()
    machine.receive(b"1", OLD, hello("a", "f"), b"", 0, 0.0)
    machine.receive(b"1", OLD, Beat(cpu_percent=50.0, agents=7), b"", 0, 0.0)
    before = machine.roster.nodes["w1"]
    before.drained = True
    # revoked and made anew between two looks at the ring: its name is still known
    machine.keys_changed(lambda identity: identity != OLD, 1.0)
    machine.forget_nodes(lambda name: name == "w1")
    machine.receive(b"2", NEW, hello("b"), b"", 0, 2.0)
    node = machine.roster.nodes["w1"]
    assert node is not before
    assert (node.key, node.state, node.functions, node.agents, node.cpu_percent, node.drained) == (
        "new key",
        "ready",
        {},
        0,
        0.0,
        False,
    )
    assert machine.roster.peers[b"2"].node is node
    assert machine.dispatch.functions.providers.get("f") is None


def test_the_same_key_comes_back_to_its_node() -> None:
    machine = master()
    machine.receive(b"1", OLD, hello("a"), b"", 0, 0.0)
    before = machine.roster.nodes["w1"]
    machine.receive(b"1", OLD, Bye(), b"", 0, 1.0)
    machine.receive(b"2", OLD, hello("b"), b"", 0, 2.0)
    assert machine.roster.nodes["w1"] is before


def test_a_node_that_is_expected_back_is_whoever_comes_by_its_name() -> None:
    machine = Master("m", "c", 1, MasterLimits(), may_send, may_call, 0.0, expected={"w1": "worker"})
    before = machine.roster.nodes["w1"]
    machine.receive(b"1", NEW, hello("a"), b"", 0, 1.0)
    assert machine.roster.nodes["w1"] is before
    assert before.key == "new key"
