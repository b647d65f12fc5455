"""Commits batches of jobs until it is killed: run by test_jobs_crash.py in a process of its own.

``python killed_jobs.py PATH ROUNDS``: each round inserts jobs (plain ones, one with a key, one of a sequence, one with large
arguments, a fan-out), then leases them, then ends them. What was acknowledged is printed, a line for each commit:
``STEP FIRST LAST``.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import msgspec

from zcluster.core.queue.job import Job, State, Step
from zcluster.store.jobs import Batch
from zcluster.store.jobs_opening import open_jobs

LARGE = b"x" * 5000
PER_ROUND = 12


def made(number: int, round_: int) -> list[Job]:
    """The jobs of a round."""
    jobs = [
        Job(number + at, "f", "any", "any:f", 5, "key", "laptop", b"{}", 1.0, steps=[Step(State.QUEUED, 1.0)]) for at in range(12)
    ]
    jobs[6].idempotency_key = f"key {round_}"
    jobs[7].body = LARGE
    jobs[8].sequence = f"s{round_}"
    jobs[9].parts, jobs[9].lane = 2, ""
    for part in jobs[10:]:
        part.parent, part.lane = jobs[9].number, "node:w1"
    return jobs


async def main(path: Path, rounds: int) -> None:
    store = await open_jobs(path, file_bytes=1000)
    number = (await store.opened()).last_number + 1
    for round_ in range(number, number + rounds * PER_ROUND, PER_ROUND):
        jobs = made(round_, round_)
        size = sum(job.size for job in jobs)

        def told(step: str, first: int = round_) -> None:
            os.write(1, f"{step} {first} {first + PER_ROUND - 1}\n".encode())

        await store.commit(Batch(insert=jobs, counts={0: PER_ROUND}, usage={"key": (PER_ROUND, size)}))
        told("accepted")
        leased = [msgspec.structs.replace(job, state=State.LEASED, attempt=1, node="w1") for job in jobs if not job.parts]
        await store.commit(Batch(update=leased, counts={0: -len(leased), 1: len(leased)}))
        told("leased")
        ended = [msgspec.structs.replace(job, state=State.DONE, result=job.body, ended=2.0) for job in jobs]
        counts = {0: -1, 1: -len(leased), 3: PER_ROUND}
        await store.commit(Batch(update=ended, counts=counts, usage={"key": (-PER_ROUND, -size)}))
        told("ended")
    await store.close()


asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
