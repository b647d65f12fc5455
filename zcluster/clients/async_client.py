"""AsyncClient: requests to a cluster from asyncio.

    async with zcluster.AsyncClient(home="...") as c:
        await c.call("math.add", {"a": 1, "b": 2}, target="worker-1", timeout=5.0)   # -> 3, or raises
        await c.call_result("node.info", target="agent:7001")                         # Result(node, True, value, ...)
        async for r in c.fan_out("node.info"): ...                                    # Result(node, ok, value, ...)
        async for line in c.stream("log.tail", {"lines": 10}, target="worker-1"): ...
        await c.nodes()
        await (await c.submit("report.build", {"day": "2026-11-19"})).result()        # a durable job: jobs.py

Rules kept here:
- every call returns or raises by its deadline; a timeout does not say that nothing ran;
- cancelling the awaiting task cancels the request where it is;
- one client may be shared by any number of tasks of one event loop; it reconnects by itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from zcluster.clients.checks import (
    check_idempotent,
    check_priority,
    checked_address,
    checked_addresses,
    checked_path,
    checked_target,
    checked_text,
    checked_timeout,
    not_json,
    refuse_not_finite,
)
from zcluster.clients.facades import ClusterCalls
from zcluster.clients.followed import FollowedCalls
from zcluster.clients.jobs import JobCalls
from zcluster.clients.link import ClientLink
from zcluster.clients.messages import Messages, checked_keep
from zcluster.clients.result import Result
from zcluster.clients.sinkqueue import SinkQueue
from zcluster.config import Home, default_home
from zcluster.core.calls import Call, decode_error
from zcluster.core.doors import Candidate, candidates, of_master
from zcluster.core.link import LinkPolicy
from zcluster.errors import TimedOut, UsageError
from zcluster.keys import KeyFile
from zcluster.keys.ringfile import iso
from zcluster.keys.rotation import DEFAULT_OVERLAP_S, OwnKey, check_overlap, rotated_row
from zcluster.wire import Status
from zcluster.wire.messages import RequestFlag

DEFAULT_TIMEOUT_S = 30.0
DEFAULT_PRIORITY = 5
CLIENT_ROLES = ("client", "admin")
"""The roles whose keys a client may use."""
NULL = b"null"
N, U = b"nu"
_logger = logging.getLogger("zcluster.client")


class AsyncClient(ClusterCalls, FollowedCalls, JobCalls):
    """A client of one cluster; use it with ``async with``, or ``await connect()`` and ``close()``.

    Args:
        home: a master's home on this machine; its admin key is used.
        key: a key file (as ``zcluster keys new`` writes it); it holds all that is needed.
        master: address or addresses of masters or of workers' doors, instead of those in the key file; ``NAME@tcp://HOST:PORT``
            names the node. An empty list counts as none given.
        timeout: default deadline of calls, in seconds.

    With neither home nor key: ``ZCLUSTER_KEY``, else ``ZCLUSTER_HOME`` or the default home.

    Raises:
        UsageError: an argument has a wrong type, or the timeout is out of range.
    """

    def __init__(
        self,
        home: str | Path | None = None,
        key: str | Path | None = None,
        master: str | Sequence[str] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        self._timeout_s = checked_timeout(timeout)
        self._home, self._key = checked_path("home", home), checked_path("key", key)
        self._masters = checked_addresses(master)
        self._link: ClientLink | None = None
        self.own: OwnKey | None = None
        """The key that it uses, once it is connected."""

    async def __aenter__(self) -> AsyncClient:
        await self.connect()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def connect(self) -> None:
        """Connect and be admitted.

        Raises:
            InvalidKey: no usable key file. NotAllowed: it is a node's key (nothing was connected then), or the master
                refuses it. Unreachable: no answer in time.
        """
        if self._link is not None:
            return
        path = _key_path(self._home, self._key)
        key_file = KeyFile.read(path)
        key_file.check_user(path, "client", CLIENT_ROLES)
        self.own = OwnKey(key_file, path)
        self._link = link = ClientLink(self.own, self._places, LinkPolicy(), _logger)
        try:
            await link.opened(self._timeout_s)
        except BaseException:
            await self.close()
            raise

    @property
    def key_file(self) -> KeyFile | None:
        """What the key file says; None before the first connection."""
        return None if self.own is None else self.own.key_file

    async def rotate_key(self, overlap_s: float = DEFAULT_OVERLAP_S) -> dict[str, Any]:
        """Have another key in place of the one that this client uses: {name, state, old, new, until}.

        It is made here, written to the key file and then admitted by the master; the session moves to it, and what is under way
        goes on. The older one is admitted for ``overlap_s`` more. Only with the key file's owner's rights, and connected to the
        master itself.

        Raises:
            ZClusterError: the file cannot be written, or the master does not take it; the key is the same then.
        """
        link, own = self.open_link(), self.own
        assert own is not None
        check_overlap(overlap_s)
        old = own.current.public
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await link.rotate(overlap_s)
        except TimeoutError:
            raise TimedOut(
                f"no answer in {self._timeout_s:g} s", hint="what was begun is in the key file, and goes on with its next session"
            ) from None
        return rotated_row(own.key_file.name, old, answer.public, iso(time.time() + answer.overlap_s))

    async def close(self) -> None:
        """Leave the cluster; open calls end with Unreachable."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    @property
    def session(self) -> int:
        """The number of the current session (the first part of request ids)."""
        return self.open_link().session

    async def call(
        self,
        function: str,
        args: Mapping[str, Any] | None = None,
        *,
        target: str = "any",
        timeout: float | None = None,
        priority: int = DEFAULT_PRIORITY,
        idempotent: bool | None = None,
    ) -> Any:
        """Call ``function`` on one node and return its value.

        Args:
            function: its name. args: its arguments by name; JSON values.
            target: ``any``, ``master`` or a node's name.
            timeout: the deadline in seconds from now; default: the client's.
            priority: 0 to 9; 9 is served first.
            idempotent: whether it may be run again when its node or the master is lost; default: as the function is declared.

        Raises:
            ZClusterError: any error of zcluster.errors; see docs/reference/errors.md.
        """
        link = self._link
        if (
            link is None or idempotent is not None or priority != DEFAULT_PRIORITY or timeout is not None
            or type(function) is not str or type(target) is not str
        ):  # fmt: skip
            link = self.open_link()
            call = self._open_call(link, function, args, target, timeout, priority, idempotent, 0)
        else:
            # The common case of _open_call, without the call.
            try:
                body = orjson.dumps(args) if args else b""
            except (orjson.JSONEncodeError, TypeError) as error:
                raise not_json(function, error) from None
            if N in body and U in body and body.find(NULL) >= 0:  # a byte is found in a tenth of the time of a word
                refuse_not_finite(function, args)
            call = link.calls.open(function, target, body, link.time(), self._timeout_s)
        call.sink = future = link.loop.create_future()
        link.submit()
        try:
            body = await future
        except asyncio.CancelledError:
            link.calls.cancel(call)
            link.wake()
            raise
        return orjson.loads(body) if body else None

    async def call_result(
        self, function: str, args: Mapping[str, Any] | None = None, *, target: str = "any", timeout: float | None = None,
        priority: int = DEFAULT_PRIORITY,
    ) -> Result:  # fmt: skip
        """As :meth:`call`, but the value comes as a :class:`Result`: with the node that answered, and how long it took."""
        link = self.open_link()
        began_s = link.loop.time()
        call = self._open_call(link, function, args, target, timeout, priority, None, 0)
        call.sink = sink = SinkQueue()
        link.submit()
        try:
            status, node, _, body = await sink.get()
        finally:
            link.calls.cancel(call)
            link.wake()
        if status != Status.VALUE:
            raise link.error(call, status, node, body)
        return Result(node, True, orjson.loads(body), None, link.loop.time() - began_s)

    async def stream(
        self, function: str, args: Mapping[str, Any] | None = None, *, target: str = "any", timeout: float | None = None,
        priority: int = DEFAULT_PRIORITY,
    ) -> AsyncIterator[Any]:  # fmt: skip
        """Call a generator function and yield its items as they arrive (a plain function yields its one value).

        The generator is held back while its items are not taken. Leaving the loop cancels it.
        """
        link = self.open_link()
        call = self._open_call(link, function, args, target, timeout, priority, None, 0)
        call.sink = sink = SinkQueue()
        link.submit()
        try:
            while True:
                status, node, leg, body = await sink.get()
                if status == Status.ITEM:
                    link.calls.consumed(call, leg)
                    link.wake()
                    yield orjson.loads(body)
                elif status == Status.ERROR:
                    raise decode_error(body, node)
                else:
                    if status == Status.VALUE:
                        yield orjson.loads(body)
                    return
        finally:
            link.calls.cancel(call)
            link.wake()

    async def fan_out(
        self, function: str, args: Mapping[str, Any] | None = None, *, target: str = "all", timeout: float | None = None,
        priority: int = DEFAULT_PRIORITY,
    ) -> AsyncIterator[Result]:  # fmt: skip
        """Call ``function`` on every node that ``target`` means and yield a :class:`Result` per node, as they arrive.

        Nodes that are silent or dead come first, with the reason; it ends when every other node has answered, or at the
        deadline, when those that have not answered yield TimedOut.

        Raises:
            NoSuchNode: the target matches nothing. ZClusterError: the call as a whole was refused.
        """
        link = self.open_link()
        began_s = link.loop.time()
        call = self._open_call(link, function, args, target, timeout, priority, None, RequestFlag.FAN_OUT)
        call.sink = sink = SinkQueue()
        link.submit()
        items: dict[int, list[Any]] = {}
        try:
            while True:
                status, node, leg, body = await sink.get()
                elapsed_s = link.loop.time() - began_s
                if status == Status.ITEM:
                    items.setdefault(leg, []).append(orjson.loads(body))
                    link.calls.consumed(call, leg)
                    link.wake()
                elif status == Status.VALUE:
                    yield Result(node, True, orjson.loads(body), None, elapsed_s)
                elif status == Status.END:
                    yield Result(node, True, items.pop(leg, []), None, elapsed_s)
                elif status == Status.ERROR:
                    error = decode_error(body, node)
                    if not node:
                        raise error
                    yield Result(node, False, None, error, elapsed_s)
                else:
                    return
        finally:
            link.calls.cancel(call)
            link.wake()

    @property
    def timeout_s(self) -> float:
        """The default deadline of calls."""
        return self._timeout_s

    @property
    def link(self) -> ClientLink | None:
        """What keeps its session; None while it is closed."""
        return self._link

    def messages(self, as_name: str = "") -> Messages:
        """What other clients send to ``as_name`` (default: the name of the key), as Message; a newer one ends the older."""
        return Messages(self.open_link, checked_text("as_name", as_name))

    async def send(self, to: str, text: str, *, keep_s: float = 0.0, as_name: str = "", timeout: float | None = None) -> int:
        """Send ``text`` to whoever listens as ``to`` ("all": to everybody else); returns how many sessions got it.

        Args:
            keep_s: let it wait for so long when nobody listens (the answer is 0 then); otherwise that is NoSuchClient.
            as_name: the sender's name; default: the one under which this client listens, or that of its key.
        """
        listening = self.open_link().notes
        sender = checked_text("as_name", as_name) or (listening.name if listening is not None else "")
        args = {"to": checked_text("to", to), "text": checked_text("text", text), "keep_s": checked_keep(keep_s)}
        return int(await self.call("notes.send", {**args, "as_name": sender}, target="master", timeout=timeout))

    async def subscribe_nodes(self) -> AsyncIterator[dict[str, Any]]:
        """Changes of nodes' states as the master publishes them: node, role, state, reason, sequence, at_s.

        A gap in ``sequence`` means that some were lost (a slow reader); ask :meth:`nodes` then.
        """
        from zcluster.clients.subscription import Subscription

        own = self.own
        if own is None:
            raise UsageError("the client is not connected", hint="use it with `async with`")
        async with Subscription(own, b"nodes") as subscription:
            async for event in subscription:
                yield event

    # -- inside -----------------------------------------------------------------------------------------------------

    def _places(self, key_file: KeyFile) -> list[Candidate]:
        given = [checked_address(text) for text in self._masters]
        return candidates(given, key_file.known) if given else of_master(key_file.addresses, key_file.known)

    def open_link(self) -> ClientLink:
        """What keeps its session; raises UsageError while it is closed."""
        if self._link is None:
            raise UsageError("the client is not connected", hint="use it with `async with`, or await connect() first")
        return self._link

    def _open_call(
        self, link: ClientLink, function: str, args: Mapping[str, Any] | None, target: str, timeout: float | None,
        priority: int, idempotent: bool | None, flags: int,
    ) -> Call:  # fmt: skip
        function = checked_text("function", function, "the function's name, such as 'node.info'")
        target = checked_target(target)
        check_priority(priority)
        check_idempotent(idempotent)
        timeout_s = self._timeout_s if timeout is None else checked_timeout(timeout)
        try:
            body = orjson.dumps(args) if args else b""
        except (orjson.JSONEncodeError, TypeError) as error:
            raise not_json(function, error) from None
        if NULL in body:
            refuse_not_finite(function, args)
        if idempotent:
            flags |= RequestFlag.IDEMPOTENT
        call = link.calls.open(function, target, body, link.time(), timeout_s, priority, flags)
        if idempotent is not None:
            call.resendable = idempotent
        return call


def _key_path(home: Path | None, key: Path | None) -> Path:
    if key is not None:
        return key
    from_environment = os.environ.get("ZCLUSTER_KEY")
    if home is None and from_environment:
        return Path(from_environment)
    return Home.of(default_home() if home is None else home).admin_key
