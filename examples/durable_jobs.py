"""Durable jobs: once per idempotency key, tried again, on every node, and found again from another process.

zcluster demo --functions examples/functions.py
ZCLUSTER_HOME=... python examples/durable_jobs.py [ID]
"""

from __future__ import annotations

import subprocess
import sys

import zcluster

DAY = "2026-11-19"


def submit() -> None:
    """Submit jobs and see how they end."""
    with zcluster.Client() as c:
        job = c.submit("report.build", {"day": DAY}, idempotency_key=f"report-{DAY}")
        again = c.submit("report.build", {"day": DAY}, idempotency_key=f"report-{DAY}")
        print("the same job:", again.id == job.id, again.known)
        try:
            c.submit("report.build", {"day": "another"}, idempotency_key=f"report-{DAY}")
        except zcluster.KeyConflict as error:
            print("refused:", error.message)

        # The id is all that is needed, from any process of the same key, after any restart, until the retention ends.
        print("from another process:", subprocess.check_output([sys.executable, __file__, job.id], text=True).strip())
        for step in job.info()["steps"]:
            print(f"  {step['state']:<8} attempt {step['attempt']}  {(step['error'] or {}).get('message', '')}".rstrip())

        # One job, an outcome of each node: each is there as soon as it is, whatever the others do.
        for result in c.submit("report.build", {"day": DAY}, target="worker-*").outcomes():
            print(f"{result.node}: {result.value if result.ok else result.error}")


def look(id: str) -> None:
    """Wait for the job that another process submitted."""
    with zcluster.Client() as c:
        print(c.job(id).result(timeout=60.0))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        look(sys.argv[1])
    else:
        submit()
