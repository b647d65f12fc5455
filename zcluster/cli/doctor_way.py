"""``zcluster doctor`` without a node: from this machine to the master, step by step.

Rules kept here:
- a step is looked at only when those before it let it be; the others are told as skipped;
- of several addresses the one counts that gets furthest, as a node takes it; those that do not answer are named;
- the master's Unix socket does not stand in for its port: both are looked at;
- a node's key opens no session: it would end that of the node that runs with it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zcluster import __version__
from zcluster.cli.connect import Reach
from zcluster.cli.doctor_here import (
    Clocks,
    home_of,
    key_path_of,
    look_at_disk,
    look_at_files,
    look_at_home,
    look_at_key,
    look_at_steps,
)
from zcluster.cli.doctor_words import said
from zcluster.cli.findings import Finding
from zcluster.cli.output import seconds
from zcluster.clients import AsyncClient
from zcluster.clients.async_client import CLIENT_ROLES
from zcluster.config import ipc_path, parse_address
from zcluster.core.doors import Candidate, candidates
from zcluster.errors import ZClusterError
from zcluster.keys.rights import of_configuration
from zcluster.net.probe import Found, Step, greet, greet_local, look_up, resolve, shake_hands

if TYPE_CHECKING:
    from zcluster.keys import KeyFile

CLOCK_OFF_S = 2.0
"""How far this clock may be from the master's: lifetimes of tokens and keys, and times in logs, are compared."""
STEPS = ("resolve", "tcp", "server", "handshake", "session", "version", "clock", "publish")
MAX_ADDRESSES = 8
"""As many are tried: each may cost the time of a step."""


async def look(reach: Reach, timeout_s: float) -> list[Finding]:
    """Everything, in order."""
    began, home = Clocks.now(), home_of(reach)
    path = key_path_of(reach, home)
    key, key_file = look_at_key(path)
    found = [look_at_home(reach, home), key, await look_at_disk(home, path, timeout_s), look_at_files()]
    if key_file is None:
        return found + [_skipped(step, "a key file comes first") for step in STEPS]
    found += await _way(reach, path, key_file, timeout_s)
    return [*found, look_at_steps(began, Clocks.now())]


async def _way(reach: Reach, path: Path, key_file: KeyFile, timeout_s: float) -> list[Finding]:
    try:
        known = candidates(reach.masters or key_file.addresses, key_file.known)
    except ZClusterError as error:
        return [Finding("resolve", "FAIL", error.message, error.hint)]
    by_address: dict[str, list[str]] = {}
    for choice in known:
        by_address.setdefault(choice.address, []).append(choice.public or key_file.master_public)
    if not by_address:
        hint = "--master tcp://HOST:PORT, or make the key file anew on a master that runs"
        return [Finding("resolve", "FAIL", f"{path} names no address of a master", hint)]
    tried: dict[str, list[Finding]] = {}
    through: set[bool] = set()
    for address, publics in list(by_address.items())[:MAX_ADDRESSES]:
        local = bool(ipc_path(address))
        if local in through:
            continue
        tried[address] = await (_connected_local if local else _connected)(address, publics, key_file, timeout_s)
        through |= {local} if _all_ok(tried[address]) else set()
    best = max(tried, key=lambda address: (sum(finding.state == "ok" for finding in tried[address]), not ipc_path(address)))
    found = tried[best]
    if not _all_ok(found):
        return found + [_skipped(step, "the steps before come first") for step in STEPS[len(found) :]]
    found += _others(best, tried)
    found += await _session(Candidate(best, ""), path, key_file, timeout_s)
    return [*found, await _published(key_file, timeout_s)]


async def _connected(address: str, publics: Sequence[str], key_file: KeyFile, timeout_s: float) -> list[Finding]:
    """From the name to the handshake, until a step fails."""
    place = parse_address(address)
    host, port = place.host.strip("[]"), place.port or 0
    resolved = await resolve(host, port, timeout_s)
    found = [said("resolve", resolved.step, address, ", ".join(resolved.hosts[:4]))]
    step = Step(Found.UNREACHABLE)
    for ip in resolved.hosts:
        step = await greet(ip, port, timeout_s)
        if step.found is Found.OK:
            break
    if not resolved.hosts:
        return found
    found += _answered(step, address, "tcp")
    return [*found, await _shaken(address, publics, key_file, timeout_s)] if _all_ok(found) else found


async def _connected_local(address: str, publics: Sequence[str], key_file: KeyFile, timeout_s: float) -> list[Finding]:
    """As :func:`_connected`, at a Unix socket of this machine."""
    resolved = look_up(ipc_path(address))
    found = [said("resolve", resolved.step, address, words_of="socket")]
    if not resolved.hosts:
        return found
    found += _answered(await greet_local(resolved.hosts[0], timeout_s), address, "local")
    return [*found, await _shaken(address, publics, key_file, timeout_s)] if _all_ok(found) else found


def _answered(step: Step, address: str, words: str) -> list[Finding]:
    """What connecting has shown: whether somebody listens, and whether that is a server of ours."""
    if step.found in (Found.REFUSED, Found.UNREACHABLE, Found.TIMED_OUT):
        return [said("tcp", step, address, words_of=words)]
    return [said("tcp", Step(Found.OK), address, words_of=words), said("server", step, address)]


async def _shaken(address: str, publics: Sequence[str], key_file: KeyFile, timeout_s: float) -> Finding:
    step = Step(Found.WRONG_SERVER)
    for public in publics:
        step = await shake_hands(address, key_file.pair.public, key_file.pair.secret, public, timeout_s)
        if step.found is not Found.WRONG_SERVER:
            break
    return said("handshake", step, address, key_file.name)


async def _session(choice: Candidate, path: Path, key_file: KeyFile, timeout_s: float) -> list[Finding]:
    """HELLO and what it is good for: the version and the clock of the master."""
    if key_file.role not in CLIENT_ROLES and not of_configuration(key_file.role):
        why = f"a session with the key of {key_file.name} would end that of the node that has it"
        return [_skipped(step, why) for step in ("session", "version", "clock")]
    client = AsyncClient(key=path, master=choice.address, timeout=timeout_s)
    try:
        async with client as c:
            link = c.open_link()
            found = [Finding("session", "ok", f"session {link.session} with {link.master} of {link.cluster}")]
            found.append(await _version(c))
            return [*found, await _clock(c)]
    except ZClusterError as error:
        return [
            Finding("session", "FAIL", error.message, error.hint or "the master's log says why"),
            *(_skipped(step, "there is no session") for step in ("version", "clock")),
        ]


async def _version(client: AsyncClient) -> Finding:
    try:
        theirs = str((await client.status())["version"])
    except ZClusterError as error:
        return Finding("version", "warn", f"the master does not tell its version: {error.message}", error.hint)
    if theirs.split(".")[:2] != __version__.split(".")[:2]:
        return Finding("version", "warn", f"the master is {theirs}, this is {__version__}", "upgrade the older one")
    return Finding("version", "ok", theirs)


async def _clock(client: AsyncClient) -> Finding:
    try:
        off_s, doubt_s = await clock_of(client, "master")
    except ZClusterError as error:
        return Finding("clock", "warn", f"the master does not tell its clock: {error.message}", error.hint)
    return clock_finding("the master's", off_s, doubt_s)


async def clock_of(client: AsyncClient, node: str) -> tuple[float, float]:
    """How far the clock of ``node`` is ahead of this machine's, and by how much that may be wrong: half a round trip."""
    began_s, steady_s = time.time(), time.monotonic()
    theirs_s = float(await client.call("node.time", target=node))
    doubt_s = (time.monotonic() - steady_s) / 2
    return theirs_s - (began_s + doubt_s), doubt_s


def clock_finding(whose: str, off_s: float, doubt_s: float, than: str = "this machine's") -> Finding:
    """What is to be said of a clock that is ``off_s`` ahead of another."""
    about = f"{whose} clock is {seconds(abs(off_s))} {'ahead of' if off_s >= 0 else 'behind'} {than} (± {seconds(doubt_s)})"
    if abs(off_s) - doubt_s > CLOCK_OFF_S:
        return Finding("clock", "warn", about, "set the clocks by NTP: tokens, keys and logs go by them")
    return Finding("clock", "ok", about)


async def _published(key_file: KeyFile, timeout_s: float) -> Finding:
    """The other port, at which the master publishes."""
    if not key_file.publish:
        return _skipped("publish", "the key file names no address for it")
    address = key_file.publish[0]
    for address in key_file.publish[:MAX_ADDRESSES]:
        place = parse_address(address)
        resolved = await resolve(place.host.strip("[]"), place.port or 0, timeout_s)
        for ip in resolved.hosts:
            if (await greet(ip, place.port or 0, timeout_s)).found is Found.OK:
                return Finding("publish", "ok", f"{address} answers")
    hint = f"open that port in the firewall too: nodes --watch and the copies of tables need it ({key_file.publish[0]})"
    return Finding("publish", "warn", f"{address}, where the master publishes, does not answer", hint)


def _others(best: str, tried: dict[str, list[Finding]]) -> list[Finding]:
    """Those that do not work, beside the one that does."""
    bad = {address: findings[-1] for address, findings in tried.items() if not _all_ok(findings)}
    if not bad:
        return []
    what = "; ".join(each.message if address in each.message else f"{address}: {each.message}" for address, each in bad.items())
    hint = f"each attempt costs time: name {best} first (master.advertise, or --master)"
    if all(bool(ipc_path(address)) != bool(ipc_path(best)) for address in bad):  # the one does not stand in for the other
        hint = next(iter(bad.values())).hint
    return [Finding("addresses", "warn", what, hint)]


def _all_ok(findings: Sequence[Finding]) -> bool:
    return all(finding.state == "ok" for finding in findings)


def _skipped(step: str, why: str) -> Finding:
    return Finding(step, "skip", why)
