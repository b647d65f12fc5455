"""File sync from Python: ``AsyncClient.sync`` and ``Client.sync``.

    async with zcluster.AsyncClient(home="...") as c:
        await c.sync.now(wait=True)                     # every reachable worker has what the master has now
        for row in await c.sync.status():               # worker, tree, state, version, files_behind, reason, ...
            print(row["worker"], row["tree"], row["state"], row["reason"])

Rules kept here:
- each method is one call of the cluster's function of that name, with the same arguments and the same answer;
- a tree that is not named means the only one, or all where the answer tells them apart; what concerns exactly one tree
  (show, rollback) is a UsageError that lists the trees when there are several;
- waiting ends: when nothing more will change by itself, or at its deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from zcluster.clients.caller import Caller
from zcluster.clients.checks import checked_text, checked_timeout
from zcluster.core.targets import ANY, is_single
from zcluster.errors import TimedOut, UsageError

T = TypeVar("T")
Row = dict[str, Any]

WAIT_S = 3600.0
"""How long waiting for the workers may take when no timeout is given."""
LOOK_FIRST_S = 0.05
LOOK_MAX_S = 1.0
"""Waiting looks again after pauses that grow from the one to the other."""
WATCH_S = 1.0
"""How often :meth:`AsyncSync.watch` looks."""
MAX_VERSION = 2**53 - 1

SETTLED = ("held", "paused", "away")
"""States besides "current" that do not end by waiting."""
TOLD = ("state", "version", "target", "reason", "error")
"""What of a row is a change for a watcher; its counts change all the time."""


class AsyncSync:
    """The trees of a cluster. Every method raises what any call may raise (docs/reference/errors.md)."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def status(self, tree: str = "", worker: str = "", *, timeout: float | None = None) -> list[Row]:
        """A row for each worker and tree: worker, tree, direction, state, version, target, files_behind, bytes_behind,
        behind_since_s (Unix time, or None), reason, bytes_per_s, error, root, applied_at_s.

        ``state`` is current, waiting, pulling, applying, held, paused, failed or away.
        """
        found: list[Row] = await self._master("status", {"tree": tree, "worker": worker}, timeout)
        return found

    async def trees(self, *, timeout: float | None = None) -> list[Row]:
        """A row for each tree: name, direction, path, workers, version, epoch, root, files, bytes, held, paused, refused
        (path and reason), refused_count, errors, conflicts (of a merged tree: path, worker, owner, at), conflict_count, watching,
        scanned_at_s. Of an up tree, paths of refused and errors begin with the worker's name."""
        found: list[Row] = await self._master("trees", {}, timeout)
        return found

    async def diff(self, worker: str, tree: str = "", *, timeout: float | None = None) -> Row:
        """What ``worker`` has otherwise than the source: {"worker", "trees": [{"tree", "version", "missing", "shared", "extra",
        "extra_valid", "more"}]}.

        The four are lists of files with path, size, mtime_s (at the source) and copy_size, copy_mtime_s (of the copy), None
        where a side has no such file; ``more`` counts what was left out of them.
        """
        found: Row = await self._worker("diff", worker, tree, timeout)
        return found

    async def verify(self, worker: str, tree: str = "", *, timeout: float | None = None) -> Row:
        """Have ``worker`` read every byte of its copy: {"trees": [{"tree", "files", "bytes", "wrong": [{"path", "reason"}]}]}.

        It takes as long as the disk needs; the default timeout is WAIT_S.
        """
        found: Row = await self._worker("verify", worker, tree, WAIT_S if timeout is None else timeout)
        return found

    async def now(self, tree: str = "", *, wait: bool = False, timeout: float | None = None) -> Row:
        """Look for changes now, everywhere: {"trees": [names]}. It answers when the master itself has looked.

        Args:
            tree: which one; empty: all.
            wait: return only when every worker that can be reached is current, or is held or paused; the answer then has
                their rows too, as "workers".
            timeout: with ``wait`` for all of it, by default WAIT_S.

        Raises:
            TimedOut: some worker was not current in time; the message says which, and why.
        """
        if not wait:
            found: Row = await self._master("now", {"tree": tree}, timeout)
            return found
        rows: list[Row] = []
        async for seen in self.settling(tree, timeout=timeout):
            rows = seen
        return {"trees": sorted({str(row["tree"]) for row in rows}), "workers": rows}

    async def settling(self, tree: str = "", *, timeout: float | None = None) -> AsyncIterator[list[Row]]:
        """As ``now(wait=True)``, but yields the rows each time it has looked, for a display of what goes on."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + (WAIT_S if timeout is None else checked_timeout(timeout))
        await self._master("now", {"tree": tree}, deadline_s - loop.time())
        versions = {row["name"]: row["version"] for row in await self.trees() if row["direction"] == "down"}
        pause_s = LOOK_FIRST_S
        while True:
            rows = await self.status(tree)
            yield rows
            late, left_s = unsettled(rows, versions), deadline_s - loop.time()
            if not late:
                return
            if left_s <= 0:
                break
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 1.5, LOOK_MAX_S)
        told = "; ".join(f"{row['worker']} {row['tree']}: {row['state']}, {why(row) or 'no reason given'}" for row in late[:3])
        raise TimedOut(
            f"{len(late)} of {len(rows)} are not current in time: {told}", hint="`zcluster sync status` lists all of them"
        )

    async def pause(self, tree: str = "", worker: str = "", *, timeout: float | None = None) -> Row:
        """Let no version begin to go to ``worker`` (empty: to all) until :meth:`resume`: {"trees": [names]}.

        What is on its way arrives still; a pause lasts over restarts. For admin keys.
        """
        found: Row = await self._master("pause", {"tree": tree, "worker": worker}, timeout)
        return found

    async def resume(self, tree: str = "", worker: str = "", *, timeout: float | None = None) -> Row:
        """The end of :meth:`pause`: {"trees": [names]}. For admin keys."""
        found: Row = await self._master("resume", {"tree": tree, "worker": worker}, timeout)
        return found

    async def confirm(self, tree: str, worker: str = "", *, timeout: float | None = None) -> Row:
        """Let a held tree go on although a guard stopped it, deletions included: {"trees": [names]}. For admin keys."""
        if not checked_text("tree", tree):
            raise UsageError("confirm needs the name of a tree", hint="`zcluster sync status` says which one is held, and why")
        found: Row = await self._master("confirm", {"tree": tree, "worker": worker}, timeout)
        return found

    async def history(self, tree: str = "", *, timeout: float | None = None) -> list[Row]:
        """The versions, a row each: tree, version, epoch, root, at_s, cause, of, files, bytes, added, changed, removed, kept
        (whether :meth:`rollback` can go back to it), reason (why it is not kept)."""
        found: list[Row] = await self._master("history", {"tree": tree}, timeout)
        return found

    async def show(self, version: int, tree: str = "", *, timeout: float | None = None) -> Row:
        """One version: as in :meth:`history`, and changes: [{"path", "change", "kind", "size", "old_size"}], more (how many were
        left out)."""
        found: Row = await self._master("show", {"version": checked_version(version), "tree": tree}, timeout)
        return found

    async def rollback(self, version: int, tree: str = "", *, timeout: float | None = None) -> Row:
        """Make the content of ``version`` the newest version: {"tree", "version", "of"}. For admin keys."""
        found: Row = await self._master("rollback", {"version": checked_version(version), "tree": tree}, timeout)
        return found

    async def watch(self, tree: str = "", worker: str = "") -> AsyncIterator[Row]:
        """The rows of :meth:`status`, first all of them, then each that changed in one of TOLD, as long as it is iterated.

        A row that is no longer listed comes once more, with the state "gone".
        """
        known: dict[tuple[str, str], Row] = {}
        while True:
            for row in news(await self.status(tree, worker), known):
                yield row
            await asyncio.sleep(WATCH_S)

    async def _master(self, name: str, args: dict[str, Any], timeout: float | None) -> Any:
        for key in ("tree", "worker"):
            if key in args:
                args[key] = checked_text(key, args[key], "its name, or '' for all")
        return await self._caller.call(f"sync.{name}", args, target="master", timeout=timeout)

    async def _worker(self, name: str, worker: str, tree: str, timeout: float | None) -> Any:
        args = {"tree": checked_text("tree", tree)}
        return await self._caller.call(f"sync.{name}", args, target=checked_worker(name, worker), timeout=timeout)


class Sync:
    """AsyncSync for programs without an event loop: the same methods, blocking."""

    def __init__(
        self,
        calls: AsyncSync,
        run: Callable[[Coroutine[Any, Any, Any]], Any],
        iterate: Callable[[AsyncIterator[Any]], Iterator[Any]],
    ) -> None:
        self._calls, self._run, self._iterate = calls, run, iterate

    def status(self, tree: str = "", worker: str = "", *, timeout: float | None = None) -> list[Row]:
        """See AsyncSync.status."""
        found: list[Row] = self._run(self._calls.status(tree, worker, timeout=timeout))
        return found

    def trees(self, *, timeout: float | None = None) -> list[Row]:
        """See AsyncSync.trees."""
        found: list[Row] = self._run(self._calls.trees(timeout=timeout))
        return found

    def diff(self, worker: str, tree: str = "", *, timeout: float | None = None) -> Row:
        """See AsyncSync.diff."""
        found: Row = self._run(self._calls.diff(worker, tree, timeout=timeout))
        return found

    def verify(self, worker: str, tree: str = "", *, timeout: float | None = None) -> Row:
        """See AsyncSync.verify."""
        found: Row = self._run(self._calls.verify(worker, tree, timeout=timeout))
        return found

    def now(self, tree: str = "", *, wait: bool = False, timeout: float | None = None) -> Row:
        """See AsyncSync.now."""
        found: Row = self._run(self._calls.now(tree, wait=wait, timeout=timeout))
        return found

    def settling(self, tree: str = "", *, timeout: float | None = None) -> Iterator[list[Row]]:
        """See AsyncSync.settling."""
        return self._iterate(self._calls.settling(tree, timeout=timeout))

    def pause(self, tree: str = "", worker: str = "", *, timeout: float | None = None) -> Row:
        """See AsyncSync.pause."""
        found: Row = self._run(self._calls.pause(tree, worker, timeout=timeout))
        return found

    def resume(self, tree: str = "", worker: str = "", *, timeout: float | None = None) -> Row:
        """See AsyncSync.resume."""
        found: Row = self._run(self._calls.resume(tree, worker, timeout=timeout))
        return found

    def confirm(self, tree: str, worker: str = "", *, timeout: float | None = None) -> Row:
        """See AsyncSync.confirm."""
        found: Row = self._run(self._calls.confirm(tree, worker, timeout=timeout))
        return found

    def history(self, tree: str = "", *, timeout: float | None = None) -> list[Row]:
        """See AsyncSync.history."""
        found: list[Row] = self._run(self._calls.history(tree, timeout=timeout))
        return found

    def show(self, version: int, tree: str = "", *, timeout: float | None = None) -> Row:
        """See AsyncSync.show."""
        found: Row = self._run(self._calls.show(version, tree, timeout=timeout))
        return found

    def rollback(self, version: int, tree: str = "", *, timeout: float | None = None) -> Row:
        """See AsyncSync.rollback."""
        found: Row = self._run(self._calls.rollback(version, tree, timeout=timeout))
        return found

    def watch(self, tree: str = "", worker: str = "") -> Iterator[Row]:
        """See AsyncSync.watch."""
        return self._iterate(self._calls.watch(tree, worker))


def unsettled(rows: Sequence[Row], versions: Mapping[str, int]) -> list[Row]:
    """The rows that waiting may still help: not current with the version of its tree in ``versions``, and nobody's to decide."""
    return [
        row
        for row in rows
        if row["state"] not in SETTLED and not (row["state"] == "current" and row["version"] >= versions.get(row["tree"], 0))
    ]


def news(rows: Sequence[Row], known: dict[tuple[str, str], Row]) -> list[Row]:
    """The rows that are new or changed since ``known``, and the ones that are gone; ``known`` is brought up to date."""
    found = []
    now_there = {(str(row["worker"]), str(row["tree"])): row for row in rows}
    for key, row in now_there.items():
        before = known.get(key)
        if before is None or any(before.get(name) != row.get(name) for name in TOLD):
            found.append(row)
    found += [{**row, "state": "gone", "reason": "no longer listed"} for key, row in known.items() if key not in now_there]
    known.clear()
    known.update(now_there)
    return found


def why(row: Mapping[str, Any]) -> str:
    """The reason of a row and its last error, in one text."""
    reason, error = str(row.get("reason") or ""), str(row.get("error") or "")
    return f"{reason}; last error: {error}" if reason and error and error != reason else reason or error


def checked_worker(what: str, value: object) -> str:
    """``value`` as the name of one worker; raises UsageError when it may mean several, or any."""
    worker = checked_text("worker", value, "a worker's name")
    if not worker or worker == ANY or not is_single(worker):
        raise UsageError(f"{what} is for one worker, not {worker[:80]!r}", hint="`zcluster nodes` lists the workers")
    return worker


def checked_version(value: object) -> int:
    """``value`` as the number of a version; raises UsageError when it is none."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_VERSION:
        raise UsageError(
            f"version is a whole number from 1 on, not {str(value)[:40]!r}", hint="`zcluster sync history` lists them"
        )
    return value
