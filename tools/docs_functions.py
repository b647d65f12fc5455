"""docs/reference/functions.md from the built-in functions.

Rules kept here: every function that zcluster itself brings is listed, with what it says of itself to callers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any, cast
from unittest.mock import MagicMock

from zcluster.brokers.admission_functions import KeyFunctions
from zcluster.brokers.agent_queries import AgentQueries
from zcluster.brokers.audit import Audit
from zcluster.brokers.cluster_functions import cluster_functions
from zcluster.brokers.events import Events
from zcluster.brokers.groups import MasterGroups
from zcluster.brokers.liveconfig import MasterLiveConfig
from zcluster.brokers.nodes import MasterNodes
from zcluster.brokers.notes import Notes
from zcluster.brokers.queue_functions import QueuePart
from zcluster.brokers.roles import MasterRoles
from zcluster.brokers.rotation import Rotation
from zcluster.brokers.tables import MasterTables
from zcluster.brokers.trees import MasterTrees
from zcluster.core.master import Master
from zcluster.dapi import node_functions
from zcluster.nodes.agentreports import AgentReports
from zcluster.nodes.liveconfig import LiveConfig
from zcluster.nodes.logs import Logs
from zcluster.workers.groups import WorkerGroups
from zcluster.workers.tables import WorkerTables
from zcluster.workers.trees import WorkerTrees

HEAD = """# Built-in functions

Every node has those of the first part; those of the second answer on the master, those of the third on each worker, about its own
copies. `zcluster dapi ls` lists them together with your own and the nodes that have each. All are called by name:
`zcluster dapi call node.sleep seconds=1 --target worker-1`.
"""
EVERY_NODE = (AgentReports, LiveConfig, Logs)
ON_THE_MASTER = (
    AgentQueries, Audit, Events, KeyFunctions, MasterGroups, MasterLiveConfig, MasterNodes, MasterRoles, MasterTables,
    MasterTrees, Notes, QueuePart, Rotation,
)  # fmt: skip
ON_WORKERS = (WorkerGroups, WorkerTables, WorkerTrees)


def render() -> str:
    """The page."""
    node = [function.describe() for function in node_functions("node", "worker").values()] + described(EVERY_NODE)
    # They are described, not called: the master that they would ask is not needed.
    master = [function.describe() for function in cluster_functions(cast(Master, None), time.monotonic, 0.0).values()]
    master += described(ON_THE_MASTER)
    parts = [HEAD, "## On every node\n", *sections(node), "## On the master\n", *sections(master)]
    return "\n".join([*parts, "## On a worker\n", *sections(described(ON_WORKERS))])


def described(parts: Iterable[type[Any]]) -> list[dict[str, Any]]:
    """What the functions of these parts of a node say of themselves. The parts are not started: nothing is called."""
    found = []
    for part in parts:
        bare: Any = object.__new__(type(part.__name__, (part,), {"__getattr__": lambda self, name: MagicMock()}))
        found += [function.describe() for function in bare.functions().values()]
    return found


def sections(functions: Iterable[dict[str, Any]]) -> list[str]:
    """One section for each of ``functions`` (descriptions), by name."""
    return [section(found) for found in sorted(functions, key=lambda found: str(found["name"]))]


def section(found: dict[str, Any]) -> str:
    """One function: what it does, its arguments, and what it promises."""
    schema = found["parameters"]
    lines = [f"### `{found['name']}`", "", found["doc"].replace("``", "`"), ""]
    names = schema.get("properties", {})
    if names:
        lines += ["| argument | type | default |", "|---|---|---|"]
        for name, kind in names.items():
            default = "required" if name in schema.get("required", ()) else f"`{json.dumps(kind.get('default'))}`"
            lines.append(f"| `{name}` | {type_text(kind)} | {default} |")
        lines.append("")
    facts = [
        f"Returns {type_text(found['returns'])}",
        f"{'may' if found['idempotent'] else 'must not'} be run twice",
        f"for keys of role `{found['role']}`" + (" and `admin`" if found["role"] == "client" else ""),
    ]
    lines += ["; ".join(facts) + ".", ""]
    return "\n".join(lines)


def type_text(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "anyOf" in schema:
        return " or ".join(type_text(one) for one in schema["anyOf"])
    text = str(schema.get("type", "anything"))
    if "items" in schema:
        text += f" of {type_text(schema['items'])}"
    bounds = [f"{word} {schema[key]:g}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in schema]
    return " ".join([text, *bounds])
