"""Client: AsyncClient for programs without an event loop. Its loop runs in a thread of its own.

Rules kept here:
- every method is AsyncClient's, blocking; iterators yield as answers arrive;
- a client may be used from several threads, but not from its own loop's thread, which would wait for itself;
- leaving an iterator waits for nothing: it may be the garbage collector that leaves it, on any thread and under any lock.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from zcluster.clients.agents import Agents
from zcluster.clients.async_client import DEFAULT_TIMEOUT_S, AsyncClient
from zcluster.clients.groups import Groups
from zcluster.clients.jobs_blocking import Job, Queue
from zcluster.clients.keys import Keys
from zcluster.clients.liveconfig import Config
from zcluster.clients.messages import Message
from zcluster.clients.nodes import Nodes
from zcluster.clients.result import Result
from zcluster.clients.rights import Rights
from zcluster.clients.sync import Sync
from zcluster.errors import UsageError
from zcluster.keys.rotation import DEFAULT_OVERLAP_S
from zcluster.process.loop import new_loop

T = TypeVar("T")
_END = object()


class Client:
    """The blocking client; see :class:`AsyncClient` for the arguments. Use it with ``with``."""

    def __init__(
        self,
        home: str | Path | None = None,
        key: str | Path | None = None,
        master: str | Sequence[str] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        self._client = AsyncClient(home, key, master, timeout=timeout)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Client:
        self.connect()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def connect(self) -> None:
        """Connect and be admitted; see AsyncClient.connect."""
        if self._loop is not None:
            return
        self._loop = new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="zcluster-client", daemon=True)
        self._thread.start()
        try:
            self._run(self._client.connect())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave the cluster."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        self._run(self._client.close())
        self._run(loop.shutdown_asyncgens())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        self._loop = self._thread = None

    def rotate_key(self, overlap_s: float = DEFAULT_OVERLAP_S) -> dict[str, Any]:
        """See AsyncClient.rotate_key."""
        return self._run(self._client.rotate_key(overlap_s))

    def call(
        self,
        function: str,
        args: Mapping[str, Any] | None = None,
        *,
        target: str = "any",
        timeout: float | None = None,
        priority: int = 5,
        idempotent: bool | None = None,
    ) -> Any:
        """See AsyncClient.call."""
        return self._run(
            self._client.call(function, args, target=target, timeout=timeout, priority=priority, idempotent=idempotent)
        )

    def call_result(
        self, function: str, args: Mapping[str, Any] | None = None, *, target: str = "any", timeout: float | None = None,
        priority: int = 5,
    ) -> Result:  # fmt: skip
        """See AsyncClient.call_result."""
        return self._run(self._client.call_result(function, args, target=target, timeout=timeout, priority=priority))

    def stream(
        self,
        function: str,
        args: Mapping[str, Any] | None = None,
        *,
        target: str = "any",
        timeout: float | None = None,
        priority: int = 5,
    ) -> Iterator[Any]:
        """See AsyncClient.stream."""
        return self._iterate(self._client.stream(function, args, target=target, timeout=timeout, priority=priority))

    def fan_out(
        self,
        function: str,
        args: Mapping[str, Any] | None = None,
        *,
        target: str = "all",
        timeout: float | None = None,
        priority: int = 5,
    ) -> Iterator[Result]:
        """See AsyncClient.fan_out."""
        return self._iterate(self._client.fan_out(function, args, target=target, timeout=timeout, priority=priority))

    @property
    def nodes(self) -> Nodes:
        """See AsyncClient.nodes."""
        return Nodes(self._client.nodes, self._run)

    def functions(self) -> list[dict[str, Any]]:
        """See AsyncClient.functions."""
        return self._run(self._client.functions())

    def status(self) -> dict[str, Any]:
        """See AsyncClient.status."""
        return self._run(self._client.status())

    @property
    def sync(self) -> Sync:
        """See AsyncClient.sync."""
        return Sync(self._client.sync, self._run, self._iterate)

    @property
    def agents(self) -> Agents:
        """See AsyncClient.agents."""
        return Agents(self._client.agents, self._run, self._iterate)

    @property
    def groups(self) -> Groups:
        """See AsyncClient.groups."""
        return Groups(self._client.groups, self._run)

    @property
    def config(self) -> Config:
        """See AsyncClient.config."""
        return Config(self._client.config, self._run, self._iterate)

    @property
    def keys(self) -> Keys:
        """See AsyncClient.keys."""
        return Keys(self._client.keys, self._run)

    @property
    def rights(self) -> Rights:
        """See AsyncClient.rights."""
        return Rights(self._client.rights, self._run)

    @property
    def queue(self) -> Queue:
        """See AsyncClient.queue."""
        return Queue(self._client.queue, self._run, self._iterate)

    def submit(
        self, function: str, args: Mapping[str, Any] | None = None, *, target: str = "any", priority: int = 5,
        delay_s: float = 0.0, at_s: float | None = None, expires_s: float | None = None, retries: int = 3,
        attempt_timeout_s: float | None = None, retention_s: float | None = None, sequence: str = "", idempotency_key: str = "",
        timeout: float | None = None,
    ) -> Job:  # fmt: skip
        """See AsyncClient.submit."""
        work = self._client.submit(
            function, args, target=target, priority=priority, delay_s=delay_s, at_s=at_s, expires_s=expires_s, retries=retries,
            attempt_timeout_s=attempt_timeout_s, retention_s=retention_s, sequence=sequence, idempotency_key=idempotency_key,
            timeout=timeout,
        )  # fmt: skip
        return Job(self._run(work), self._run, self._iterate)

    def job(self, id: str) -> Job:
        """See AsyncClient.job."""
        return Job(self._client.job(id), self._run, self._iterate)

    def audit(
        self, since_s: float = 0.0, key: str = "", *, limit: int = 10_000, timeout: float | None = None
    ) -> list[dict[str, Any]]:
        """See AsyncClient.audit."""
        return self._run(self._client.audit(since_s, key, limit=limit, timeout=timeout))

    def events(
        self, after: int | None = None, *, names: Sequence[str] | str = (), since_s: float | None = None, follow: bool = True,
        limit: int | None = None,
    ) -> Iterator[dict[str, Any]]:  # fmt: skip
        """See AsyncClient.events."""
        return self._iterate(self._client.events(after, names=names, since_s=since_s, follow=follow, limit=limit))

    def logs(
        self, target: str = "master", *, lines: int = 100, level: str = "debug", follow: bool = False
    ) -> Iterator[dict[str, Any]]:
        """See AsyncClient.logs."""
        return self._iterate(self._client.logs(target, lines=lines, level=level, follow=follow))

    def messages(self, as_name: str = "") -> Iterator[Message]:
        """See AsyncClient.messages; the name is taken with the first ``next``."""
        return self._iterate(self._client.messages(as_name))

    def send(self, to: str, text: str, *, keep_s: float = 0.0, as_name: str = "", timeout: float | None = None) -> int:
        """See AsyncClient.send."""
        return self._run(self._client.send(to, text, keep_s=keep_s, as_name=as_name, timeout=timeout))

    def subscribe_nodes(self) -> Iterator[dict[str, Any]]:
        """See AsyncClient.subscribe_nodes."""
        return self._iterate(self._client.subscribe_nodes())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            work.close()
            raise UsageError("the client is not connected", hint="use it with `with`, or call connect() first")
        if threading.current_thread() is self._thread:
            work.close()
            raise UsageError("the client was used on its own loop's thread", hint="use AsyncClient in callbacks and finalizers")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def _iterate(self, source: AsyncIterator[T]) -> Iterator[T]:
        async def step() -> Any:
            return await anext(source, _END)

        try:
            while (item := self._run(step())) is not _END:
                yield item
        finally:
            self._leave(source)

    def _leave(self, source: AsyncIterator[Any]) -> None:
        async def end() -> None:
            await source.aclose()  # type: ignore[attr-defined]

        loop = self._loop
        if loop is None:
            return  # close() has ended it
        work = end()
        try:
            asyncio.run_coroutine_threadsafe(work, loop)
        except RuntimeError:
            work.close()  # the loop was closed just now, and ended it
