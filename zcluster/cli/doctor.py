"""``zcluster doctor``: what is wrong between this machine and the master, or with one node, and what to do.

Rules kept here:
- it looks in the order in which a node gets further, and says the first thing that is wrong;
- every step ends within ``--timeout``; what cannot be looked at is said, never raised;
- nothing is changed: no session of a node is opened (it would end the node's own), no file stays.
"""

from __future__ import annotations

from pathlib import Path

import click

from zcluster.cli.connect import Reach, connection, reach, run_async
from zcluster.cli.findings import Finding, emit_findings
from zcluster.cli.options import (
    DURATION,
    Connection,
    State,
    common_options,
    completes,
    connection_options,
    output_option,
)
from zcluster.errors import ConfigError, InvalidKey, NoSuchContext, UsageError

STEP_S = 3.0


def look_at_context(state: State, options: Connection) -> tuple[Reach | None, list[Finding]]:
    """Which cluster is meant, None when that cannot be told; and the context that says so, if one does.

    Raises:
        UsageError: the command line contradicts itself.
    """
    try:
        found = reach(state, options)
    except (ConfigError, InvalidKey, NoSuchContext) as error:
        return None, [Finding("context", "FAIL", error.message, error.hint)]
    if not found.context:
        return found, []
    return found, [Finding("context", "ok", f"{found.context}: {found.key or found.home}")]


@click.command()
@click.argument("node", required=False, shell_complete=completes("node_names"))
@click.option("--timeout", type=DURATION, metavar="DURATION", default=STEP_S, help="How long each step may take. [default: 3s]")
@connection_options
@output_option
@common_options
@click.pass_obj
def doctor(state: State, node: str | None, timeout: float, key: Path | None, master: tuple[str, ...]) -> int:
    """Find what is wrong on the way to the master, or with a node.

    It says the first thing that is wrong, and what to do. Without NODE: this machine's home and key file, then name, port,
    handshake, session, version, clock, disk. It also takes a node's key file (--key worker-1.key), on the machine of a node that
    does not join. With NODE: what the master knows of it.

    Exit codes: 0 nothing is wrong, 1 something is, 3 there are warnings only.
    """
    if not timeout:
        raise UsageError("--timeout is 0, which leaves no time to look", hint="--timeout 3s")
    found, contexts = look_at_context(state, connection(key, master))
    if found is None:
        return emit_findings(contexts, state.output)
    if node is None:
        from zcluster.cli.doctor_way import look

        return emit_findings([*contexts, *run_async(look(found, timeout))], state.output)
    from zcluster.cli.doctor_node import look_at_node

    return emit_findings([*contexts, *run_async(look_at_node(found, node, timeout))], state.output)
