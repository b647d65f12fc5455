"""``zcluster doctor NODE``: one node as the master sees it.

Rules kept here:
- it asks the master, so it needs one that answers: if none does, that is the finding, with how to look at the way there;
- what the asker may not see is said as not looked at; it is no fault of the node.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from zcluster.cli.connect import Reach
from zcluster.cli.doctor_way import clock_finding, clock_of
from zcluster.cli.events import details, moment
from zcluster.cli.findings import Finding
from zcluster.cli.output import counted, seconds
from zcluster.cli.sync_views import is_behind, with_reasons
from zcluster.clients import AsyncClient
from zcluster.errors import NoSuchNode, ZClusterError

LOW_PERCENT = 90.0
FULL_PERCENT = 98.0
"""Of a node's disk in use: a warning, a fault."""
DENIALS = ("key_refused", "key_pending", "key_revoked", "right_denied", "connection_cut", "hello_refused")
"""Events that say why a node does not get in."""
LOOKED_AT = 1000
STALE_S = 120.0
"""Metrics older than this say nothing."""

Row = Mapping[str, Any]


async def look_at_node(reach: Reach, node: str, timeout_s: float) -> list[Finding]:
    """Everything, in order."""
    client = AsyncClient(reach.home, reach.key, list(reach.masters) or None, timeout=timeout_s)
    try:
        async with client as c:
            return await _looked(c, node, timeout_s)
    except NoSuchNode as error:
        return [Finding("key", "FAIL", error.message, error.hint or "`zcluster keys ls` lists the keys there are")]
    except ZClusterError as error:
        return [Finding("master", "FAIL", error.message, "`zcluster doctor` (without a node) looks at the way to the master")]


async def _looked(c: AsyncClient, node: str, timeout_s: float) -> list[Finding]:
    row = await c.nodes.describe(node, timeout=timeout_s)
    status = await c.status()
    found = [Finding("master", "ok", f"{status['master']} of {status['cluster']} answers"), key_finding(row)]
    if not row.get("key"):
        found += await _waiting(c, node, timeout_s)
    found += session_findings(row, time.time())
    live = (row.get("session") is not None or row.get("role") == "master") and row.get("state") == "ready"
    if live:
        found.append(version_finding(row, str(status["version"])))
        found.append(await _clock(c, str(row["name"])))
        found += metric_findings(row)
    found += tree_findings(row)
    denial = await _last_denial(c, node, timeout_s)
    return [*found, denial] if denial is not None else found


def key_finding(row: Row) -> Finding:
    """Whether the ring has its key."""
    key, name = row.get("key"), row["name"]
    if key:
        rotating = f", {len(key['previous'])} older still admitted" if key.get("previous") else ""
        return Finding("key", "ok", f"{name} is admitted as {key['role']}: {key['fingerprint']}{rotating}")
    gone = row.get("revoked") or ()
    if gone:
        last = gone[-1]
        hint = f"make it a new one: zcluster keys new {name} --role worker, or zcluster token create (move its old key file away)"
        return Finding("key", "FAIL", f"the key of {name} was revoked at {last['at']}: {last['fingerprint']}", hint)
    return Finding("key", "FAIL", f"{name} has no key in the ring", f"zcluster keys new {name} --role worker")


async def _waiting(c: AsyncClient, node: str, timeout_s: float) -> list[Finding]:
    """Keys that ask to be admitted: one of them may be its new one."""
    try:
        rows = await c.call("keys.pending", target="master", timeout=timeout_s)
    except ZClusterError as error:
        return [Finding("pending", "skip", f"the keys that wait could not be asked: {error.message}")]
    if not rows:
        return [Finding("pending", "ok", "no key waits to be accepted")]
    last = rows[-1]
    said = f"{counted(len(rows), 'key')} waiting to be accepted, the last to try is {last['fingerprint']} from {last['address']}"
    return [Finding("pending", "warn", said, f"if it is its: zcluster keys accept {node} --fingerprint {last['fingerprint']}")]


def session_findings(row: Row, now_s: float) -> list[Finding]:
    """Whether it is here, and takes requests."""
    state, name = row.get("state"), row["name"]
    if state is None:
        return [
            Finding("session", "FAIL", f"{name} has no session: it was not here since the master's start, or was removed",
                    "run `zcluster doctor --key FILE` with its key file on its machine")
        ]  # fmt: skip
    since = f" for {seconds(max(0.0, now_s - row['since_s']))}" if row.get("since_s") else ""
    reason = f": {row['reason']}" if row.get("reason") else ""
    if state != "ready":
        hint = "look at its process and its log; on its machine: zcluster doctor --key FILE"
        return [Finding("session", "FAIL", f"{name} is {state}{since}{reason}", hint)]
    session = row.get("session") or {}
    address = f" from {session['address']}" if session.get("address") else ""
    found = [Finding("session", "ok", f"ready{since}, session {session.get('no', '-')}{address}")]
    if row.get("drained"):
        said = f"{name} is drained, by {row.get('drained_by')} at {moment(row.get('drained_at_s'))}"
        found.append(Finding("drained", "warn", said, f"zcluster nodes resume {name}"))
    if row["slots"] and row["in_flight"] >= row["slots"]:
        said = f"{row['in_flight']} of {counted(row['slots'], 'slot')} in use, {counted(row['waiting'], 'request')} waiting"
        found.append(Finding("slots", "warn", said, "raise worker.slots, or add nodes"))
    return found


def version_finding(row: Row, master: str) -> Finding:
    """Whether it is as old as the master."""
    if row["version"] != master:
        return Finding("version", "warn", f"it is {row['version']}, the master {master}", "upgrade the older one")
    return Finding("version", "ok", str(row["version"]))


async def _clock(c: AsyncClient, name: str) -> Finding:
    """Its clock against the master's: both are asked, this machine's own is nobody's measure."""
    try:
        node_s, node_doubt_s = await clock_of(c, name)
        master_s, master_doubt_s = await clock_of(c, "master")
    except ZClusterError as error:
        return Finding("clock", "warn", f"it does not tell its clock: {error.message}", error.hint)
    return clock_finding("its", node_s - master_s, node_doubt_s + master_doubt_s, "the master's")


def metric_findings(row: Row) -> list[Finding]:
    """Its disk, as it measured it last."""
    metrics, age_s = row.get("metrics") or {}, row.get("metrics_age_s")
    disk = metrics.get("disk")
    if not disk or age_s is None or age_s > STALE_S:
        return [Finding("disk", "skip", "it has not measured its disk of late")]
    percent = float(disk.get("percent", 0.0))
    message = f"its home's disk is {percent:.0f} % full, {seconds(age_s)} ago"
    if percent < LOW_PERCENT:
        return [Finding("disk", "ok", message)]
    return [Finding("disk", "FAIL" if percent >= FULL_PERCENT else "warn", message, "free some space there")]


def tree_findings(row: Row) -> list[Finding]:
    """Its trees that are behind."""
    trees: Sequence[Row] = row.get("trees") or ()
    bad = [each for each in with_reasons(trees) if is_behind(each)]
    if not bad:
        return [Finding("trees", "ok", f"{counted(len(trees), 'tree')}, none behind")] if trees else []
    what = "; ".join(f"{each['tree']}: {each.get('why') or each.get('state')}" for each in bad[:5])
    return [Finding("trees", "warn", f"{len(bad)} of {len(trees)} trees are behind: {what}", "zcluster sync status")]


async def _last_denial(c: AsyncClient, node: str, timeout_s: float) -> Finding | None:
    """The last time that it, or its key, was turned away."""
    args = {"limit": LOOKED_AT, "names": list(DENIALS)}
    try:
        page = await c.call("events.since", args, target="master", timeout=timeout_s)
    except ZClusterError:
        return Finding("denials", "skip", "the events could not be asked")
    mine = [event for event in page["events"] if event["fields"].get("name") == node]
    if not mine:
        return Finding("denials", "ok", "no event tells of it being turned away")
    last = mine[-1]
    return Finding("denials", "ok", f"last turned away at {moment(last['at_s'])}: {last['name']} {details(last)}")
