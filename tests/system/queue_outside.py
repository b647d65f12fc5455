"""What jobs have done, as it was noted outside the cluster, and whether that agrees with what the cluster tells."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from waiting import lines

from zcluster.clients import AsyncClient

FUNCTIONS = str(Path(__file__).with_name("queue_kill_functions.py"))
FINAL = ("done", "failed", "cancelled", "expired", "dead")
MAX_DEATHS = 3
KEPT_STEPS = 200
Row = dict[str, Any]


class Run(NamedTuple):
    """That an attempt began."""

    job: str
    attempt: int
    node: str
    key: str


class Outside:
    """The files in ``directory`` to which the functions write."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with closing(sqlite3.connect(directory / "effects.db")) as effects:
            effects.execute("CREATE TABLE effects (key TEXT PRIMARY KEY, job TEXT, attempt INTEGER)")

    def runs(self) -> list[Run]:
        """All runs, in their order."""
        found = [line.split() for line in lines(self.directory / "runs")]
        return [Run(job, int(attempt), node, key) for job, attempt, node, key in found]

    def effects(self) -> dict[str, str]:
        """By idempotency key: the job whose effect it is."""
        with closing(sqlite3.connect(self.directory / "effects.db")) as effects:
            return dict(effects.execute("SELECT key, job FROM effects").fetchall())


async def all_jobs(client: AsyncClient) -> list[Row]:
    """Every job that the queue has, the oldest first."""
    found: list[Row] = []
    before = ""
    while True:
        page = await client.queue.list(limit=1000, before=before)
        found += page["items"]
        before = page["next"] or ""
        if not before:
            return found[::-1]


def errors(info: Row) -> list[str]:
    """The codes of the errors that its attempts ended with, in order."""
    return [step["error"]["code"] for step in info["steps"] if step["error"]]


def check_steps(info: Row, runs: Sequence[Run]) -> None:
    """``info`` (queue.show) is that of a job with one end, and its steps agree with the runs that were noted outside."""
    steps, words = info["steps"], [step["state"] for step in info["steps"]]
    assert [word for word in words if word in FINAL] == [info["state"]], words
    assert words[-1] == info["state"]
    if len(steps) < KEPT_STEPS:
        leased = [step["attempt"] for step in steps if step["state"] == "leased"]
        assert leased == list(range(1, info["attempt"] + 1)), f"each attempt is given to a node once: {leased}"
    nodes = {step["attempt"]: step["node"] for step in steps if step["state"] == "leased"}
    ran = Counter(run.attempt for run in runs)
    assert all(count == 1 for count in ran.values()), f"an attempt ran twice: {runs}"
    assert all(run.attempt <= info["attempt"] for run in runs), f"an attempt that was never counted: {runs}"
    assert all(nodes.get(run.attempt, run.node) == run.node for run in runs), f"elsewhere than the steps say: {runs}"
    if info["state"] == "done":
        assert ran[steps[-1]["attempt"]] == 1, f"done by an attempt that never ran: {runs}"
    elif info["state"] == "dead":
        deaths = [code for code in errors(info)[:-1] if code == "node_lost"]
        assert info["deaths"] == MAX_DEATHS, info
        assert len(deaths) == MAX_DEATHS - 1, info
        assert steps[-1]["error"]["cause"]["code"] == "node_lost", info


async def check_all(client: AsyncClient, outside: Outside, acknowledged: Mapping[str, str], tried: set[str]) -> Counter[str]:
    """Nothing acknowledged (by key: the job) is lost, nothing is there twice, every job has one end; returns the ends.

    Args:
        tried: the keys that were submitted, acknowledged or not.
    """
    jobs = await all_jobs(client)
    keys = Counter(job["idempotency_key"] for job in jobs)
    assert set(keys) <= tried, "a job that nobody asked for"
    assert all(count == 1 for count in keys.values()), f"a key with two jobs: {keys.most_common(3)}"
    ids = {job["idempotency_key"]: job["id"] for job in jobs}
    lost = {key: id_ for key, id_ in acknowledged.items() if ids.get(key) != id_}
    assert not lost, f"acknowledged, and lost: {lost}"
    runs: dict[str, list[Run]] = defaultdict(list)
    for run in outside.runs():
        runs[run.job].append(run)
        assert ids[run.key] == run.job, f"a run of a job that is not there: {run}"
    effects = outside.effects()
    for job in jobs:
        assert job["state"] in ("done", "dead"), job
        check_steps(await client.queue.show(job["id"]), runs[job["id"]])
        if job["state"] == "done":
            assert effects[job["idempotency_key"]] == job["id"], "done without its effect"
    assert set(effects) <= set(keys)
    report = await client.queue.check()
    assert report["ok"], report
    return Counter(job["state"] for job in jobs)
