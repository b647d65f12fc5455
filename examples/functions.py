"""Functions that a worker offers: one of each kind.

    zcluster demo --functions examples/functions.py
    zcluster worker --key worker-1.key --functions examples/functions.py

Then, with ZCLUSTER_HOME set as the demo prints it:

    zcluster dapi ls
    zcluster dapi call math.add a=1 b=2 --target worker-1
    zcluster dapi call count.up to=5
    zcluster dapi submit report.build day=2026-11-19 --wait
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Iterator
from pathlib import Path

import zcluster


@zcluster.function("math.add", timeout_s=5, idempotent=True)
def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b


@zcluster.function("file.sha256", timeout_s=60, idempotent=True)
def sha256(path: str) -> str:
    """The SHA-256 of a file of the node; it blocks, so it runs in a thread."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@zcluster.function("port.open", timeout_s=10, idempotent=True)
async def port_open(host: str, port: int) -> bool:
    """Whether a TCP port answers, as the node sees it; it waits without a thread."""
    try:
        async with asyncio.timeout(3):
            _reader, writer = await asyncio.open_connection(host, port)
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True


@zcluster.function("count.up")
def count_up(to: int, start: int = 1) -> Iterator[int]:
    """The numbers from ``start`` to ``to``, one item each."""
    yield from range(start, to + 1)


@zcluster.function("text.sign", idempotent=True)
def sign(text: str, key: zcluster.Secret) -> str:
    """The HMAC-SHA-256 of a text, by a key that no log and no error shows."""
    return hmac.new(key.reveal().encode(), text.encode(), "sha256").hexdigest()


@zcluster.function("request.about")
def about(context: zcluster.Context) -> dict[str, object]:
    """What a function may know of the request that it serves."""
    return {
        "caller": context.caller,
        "role": context.role,
        "node": context.node,
        "request_id": context.request_id,
        "remaining_s": round(context.remaining_s(), 3),
    }


@zcluster.function("report.build", timeout_s=60)
def build_report(day: str, context: zcluster.Context) -> dict[str, object]:
    """A report whose data is not there at once: the first attempt of a job asks for another one, a little later."""
    if context.attempt == 1:
        raise zcluster.Retry(f"the data of {day} is not there yet", after_s=0.2)
    return {"day": day, "node": context.node, "attempt": context.attempt}
