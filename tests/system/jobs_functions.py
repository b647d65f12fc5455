"""Functions of the jobs that test_jobs.py submits."""

from __future__ import annotations

import zcluster


@zcluster.function("sum.of")
def add(a: int, b: int) -> int:
    """The sum."""
    return a + b


@zcluster.function("only.here")
def only_here(node: str, context: zcluster.Context) -> str:
    """Fails on every node but one."""
    if context.node != node:
        raise zcluster.Reject(f"not on {context.node}")
    return context.node
