"""docs/reference/functions.md from the built-in functions.

Rules kept here: every built-in function is listed, with what it says of itself to callers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any, cast

from zcluster.brokers.cluster_functions import cluster_functions
from zcluster.core.master import Master
from zcluster.dapi import node_functions

HEAD = """# Built-in functions

Every node has those of the first part; those of the second answer on the master. `zcluster dapi ls` lists them together with your
own and the nodes that have each. All are called by name: `zcluster dapi call node.sleep seconds=1 --target worker-1`.
"""


def render() -> str:
    """The page."""
    node = [function.describe() for function in node_functions("node", "worker").values()]
    # They are described, not called: the master that they would ask is not needed.
    master = [function.describe() for function in cluster_functions(cast(Master, None), time.monotonic, 0.0).values()]
    return "\n".join([HEAD, "## On every node\n", *sections(node), "## On the master\n", *sections(master)])


def sections(functions: Iterable[dict[str, Any]]) -> list[str]:
    """One section for each of ``functions`` (descriptions), by name."""
    return [section(found) for found in sorted(functions, key=lambda found: str(found["name"]))]


def section(found: dict[str, Any]) -> str:
    """One function: what it does, its arguments, and what it promises."""
    schema = found["parameters"]
    lines = [f"### `{found['name']}`", "", found["doc"], ""]
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
