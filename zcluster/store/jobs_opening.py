"""Opening a store of jobs: the one place that knows which backend it is."""

from __future__ import annotations

from pathlib import Path

from zcluster.store.jobs import FILE_BYTES, JobStore
from zcluster.store.jobs_sqlite import SqliteJobs


async def open_jobs(path: Path, *, file_bytes: int = FILE_BYTES) -> JobStore:
    """The store at ``path``, made when there is none; arguments and results above ``file_bytes`` are files beside it.

    Raises:
        StoreFailed: it cannot be read or made.
        Busy: another process has it open.
    """
    return await SqliteJobs.open(path, file_bytes=file_bytes)
