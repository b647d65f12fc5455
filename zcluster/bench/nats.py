"""NATS as a measure: nats-server with nats-py, request/reply, without encryption.

Rules kept here:
- the server is Debian's nats-server as it comes, but for the greatest body;
- the client is driven by the same loops as zcluster's (:mod:`zcluster.bench.loops`), the worker sends each request back;
- what is not installed is an error that says what to install.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import sys
from functools import partial
from typing import Any

import msgspec

from zcluster.bench.child import Ready, read_line, say_line
from zcluster.bench.loops import first_answer, run_loop, serve_rounds
from zcluster.errors import UsageError

MAX_BODY_BYTES = 64 * 1024 * 1024
PENDING_BYTES = 1024 * 1024 * 1024
TIMEOUT_S = 30.0


class NatsConfig(msgspec.Struct, frozen=True):
    """The first line that a client or a worker gets."""

    port: int
    subject: str
    size_bytes: int = 0
    open_loop: bool = False


def server_path() -> str:
    """The path of nats-server; raises UsageError that says what to install when it or nats-py is missing."""
    path = shutil.which("nats-server", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/bin")))
    if path is None:
        raise UsageError("nats-server is not installed", hint="apt-get install nats-server")
    if importlib.util.find_spec("nats") is None:
        raise UsageError("nats-py is not installed", hint="pip install 'zcluster[bench]'")
    return path


def server_config(port: int) -> str:
    """The configuration file of the server."""
    return f'listen: "127.0.0.1:{port}"\nmax_payload: {MAX_BODY_BYTES}\nmax_pending: {PENDING_BYTES}\n'


async def _connect(port: int) -> Any:
    import nats  # not a dependency of zcluster: only this contender's processes need it

    return await nats.connect(
        f"nats://127.0.0.1:{port}",
        allow_reconnect=False,
        max_reconnect_attempts=0,
        pending_size=PENDING_BYTES,
        flusher_queue_size=65536,
    )


async def _worker(config: NatsConfig) -> None:
    connection = await _connect(config.port)

    async def answer(message: Any) -> None:
        await message.respond(message.data)

    await connection.subscribe(config.subject, cb=answer, pending_bytes_limit=PENDING_BYTES)
    await connection.flush()
    say_line(Ready())
    await asyncio.to_thread(sys.stdin.buffer.readline)
    await connection.close()


async def _client(config: NatsConfig) -> None:
    from nats.errors import Error

    connection = await _connect(config.port)
    body = b"x" * config.size_bytes

    def right(message: Any) -> bool:
        return bool(message.data == body)

    request = partial(connection.request, config.subject, body, timeout=TIMEOUT_S)
    failures = (Error, TimeoutError)
    await first_answer(request, right, failures)
    await serve_rounds(request, right, failures)
    await connection.close()


def main() -> None:
    """``python -m zcluster.bench.nats worker|client``."""
    config = read_line(NatsConfig)
    if config is not None:
        run_loop(partial({"worker": _worker, "client": _client}[sys.argv[1]], config), open_loop=config.open_loop)


if __name__ == "__main__":
    main()
