"""What cluster.functions tells of functions whose nodes say odd things of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from zcluster.brokers import cluster_functions as module
from zcluster.brokers.cluster_functions import SPARE_LEVELS, cluster_functions
from zcluster.core.master import Master, MasterLimits
from zcluster.core.peers import Identity
from zcluster.keys import may_call, may_send
from zcluster.wire import FunctionInfo, Hello

WRITABLE_LEVELS = 254
"""How deep orjson writes."""


def master(*functions: FunctionInfo) -> Master:
    """A master with one worker that has these functions."""
    made = Master("m", "c", 1, MasterLimits(), may_send, may_call, 0.0)
    join(made, "first", *functions)
    return made


def join(machine: Master, instance: str, *functions: FunctionInfo) -> None:
    """Let worker-1 join, in place of itself."""
    hello = Hello(versions=[1], instance=instance, slots=8, functions=list(functions))
    machine.receive(instance.encode(), Identity("key of worker-1", "worker-1", "worker"), hello, b"", 0, 0.0)


def asker(machine: Master) -> Callable[[], list[dict[str, Any]]]:
    functions = cluster_functions(machine, lambda: 0.0, 0.0)

    def ask() -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = orjson.loads(functions["cluster.functions"].run(b"", None))
        return told

    return ask


def nested(levels: int) -> str:
    """A schema of that many levels."""
    return '{"x":' + "[" * (levels - 1) + "]" * (levels - 1) + "}"


@pytest.mark.parametrize(
    "text", ["", "no JSON", "[]", "true", "null", '"text"', "[" * 600 + "]" * 600, nested(600), nested(2000)]
)
def test_a_schema_that_is_none_spoils_nothing(text: str) -> None:
    odd = FunctionInfo(name="odd", parameters=text, returns=text)
    good = FunctionInfo(name="good", parameters='{"type": "object"}', returns='{"type": "integer"}')
    told = {row["name"]: (row["parameters"], row["returns"]) for row in asker(master(odd, good))()}
    assert told == {"odd": ({}, {}), "good": ({"type": "object"}, {"type": "integer"})}


def test_a_schema_is_told_as_deep_as_it_can_be_written_in_something_else() -> None:
    deepest = WRITABLE_LEVELS - SPARE_LEVELS
    fits, deeper = (FunctionInfo(name=name, parameters=nested(levels)) for name, levels in (("a", deepest), ("b", deepest + 1)))
    first, second = asker(master(fits, deeper))()
    assert first["parameters"] == orjson.loads(fits.parameters)
    assert second["parameters"] == {}
    orjson.dumps({"answer": [first]})


def test_schemas_are_read_once_and_kept_as_long_as_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    checked = module._checked

    def counted(text: str) -> orjson.Fragment:
        read.append(text)
        return checked(text)

    monkeypatch.setattr(module, "_checked", counted)
    machine = master(*(FunctionInfo(name=name, parameters='{"a":1}', returns="{}") for name in ("f", "g")))
    ask = asker(machine)
    assert ask() == ask()
    assert read == ['{"a":1}', "{}"]
    join(machine, "second", FunctionInfo(name="f", parameters='{"a":2}', returns="{}"))
    (row,) = ask()
    assert row["parameters"] == {"a": 2}
    assert read == ['{"a":1}', "{}", '{"a":2}']
    join(machine, "third", FunctionInfo(name="f", parameters='{"a":1}', returns="{}"))
    ask()
    assert read[-1] == '{"a":1}', "what is told no longer is kept no longer"
