"""The functions that the benches add to a worker, for ``zcluster worker --functions zcluster.bench.functions``."""

from __future__ import annotations

import time

from zcluster.dapi import function


@function("bench.sleep", timeout_s=30.0)
def sleep(seconds: float) -> float:
    """Blocks its thread for ``seconds``, as a function that waits for a disk or a database does."""
    time.sleep(seconds)
    return seconds
