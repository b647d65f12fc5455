"""The loading process of zcluster's queue: the loop of :mod:`zcluster.bench.queueloops` over ``AsyncClient.submit``.

Rules kept here:
- only the public client is used, as a user would use it: ``job = await submit(...)``, then ``await job.result()``;
- the value is compared with what was submitted, each time.

``python -m zcluster.bench.queueload`` speaks the lines of :mod:`zcluster.bench.child`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec

from zcluster.bench.child import read_line
from zcluster.bench.loops import first_answer, run_loop
from zcluster.bench.queueloops import Wait, serve_jobs
from zcluster.clients import AsyncClient

FUNCTION = "echo"


class QueueLoadConfig(msgspec.Struct, frozen=True):
    """The first line that a loading process gets."""

    key: str
    """Path of the key file."""
    size_bytes: int
    timeout_s: float
    target: str = "any"


async def _main(config: QueueLoadConfig) -> None:
    arguments = {"value": "x" * config.size_bytes}
    async with AsyncClient(key=Path(config.key), timeout=config.timeout_s) as client:

        async def submit() -> Wait:
            job = await client.submit(FUNCTION, arguments, target=config.target, timeout=config.timeout_s)
            return partial(job.result, timeout=config.timeout_s)

        async def whole() -> object:
            return await (await submit())()

        await first_answer(whole, arguments["value"].__eq__)
        await serve_jobs(submit, arguments["value"].__eq__)


def main() -> None:
    """The loading process of zcluster."""
    config = read_line(QueueLoadConfig)
    if config is not None:
        run_loop(partial(_main, config), open_loop=False)


if __name__ == "__main__":
    main()
