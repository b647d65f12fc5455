"""``zcluster doctor``: what is wrong between this machine and the master, or with one node, and what to do.

Rules kept here:
- it looks in the order in which a node gets further, and says the first thing that is wrong;
- every step ends within ``--timeout``; what cannot be looked at is said, never raised;
- nothing is changed: no session of a node is opened (it would end the node's own), no file stays.
"""

from __future__ import annotations

from pathlib import Path

import click

from zcluster.cli.connect import connection, reach, run_async
from zcluster.cli.findings import emit_findings
from zcluster.cli.options import (
    DURATION,
    State,
    common_options,
    completes,
    connection_options,
    output_option,
)

STEP_S = 3.0


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
    found = reach(state, connection(key, master))
    if node is None:
        from zcluster.cli.doctor_way import look

        return emit_findings(run_async(look(found, timeout)), state.output)
    from zcluster.cli.doctor_node import look_at_node

    return emit_findings(run_async(look_at_node(found, node, timeout)), state.output)
