"""The loading process of zcluster: the loops of :mod:`zcluster.bench.loops` over ``AsyncClient``.

Rules kept here:
- only the public client is used, as a user would use it: one ``call`` or ``fan_out`` a request;
- the answer of an echo is compared with what was sent, each time.

``python -m zcluster.bench.load`` speaks the lines of :mod:`zcluster.bench.child`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from zcluster.bench.child import read_line
from zcluster.bench.loops import Check, Start, first_answer, run_loop, serve_rounds
from zcluster.clients import AsyncClient


class LoadConfig(msgspec.Struct, frozen=True):
    """The first line that a loading process of zcluster gets."""

    key: str
    """Path of the key file."""
    function: str
    arguments: dict[str, Any] | None
    """None: ``{"value": "xx…"}`` of ``size_bytes``, and the answer has to be that value."""
    size_bytes: int
    target: str
    timeout_s: float
    master: str = ""
    """The master's address; empty: as the key file says."""
    answers: int = 0
    """0: one call a request; otherwise a fan-out a request, which has to bring so many good answers."""
    open_loop: bool = False


def request_of(client: AsyncClient, config: LoadConfig) -> tuple[Start, Check]:
    """What one request of ``config`` is, and how its answer is checked."""
    arguments = {"value": "x" * config.size_bytes} if config.arguments is None else config.arguments
    if config.answers:
        return partial(_fan_out, client, config, arguments), config.answers.__eq__
    start = partial(client.call, config.function, arguments, target=config.target, timeout=config.timeout_s)
    if config.arguments is None:
        return start, arguments["value"].__eq__
    return start, lambda _answer: True


async def _fan_out(client: AsyncClient, config: LoadConfig, arguments: dict[str, Any]) -> int:
    good = 0
    async for result in client.fan_out(config.function, arguments, target=config.target, timeout=config.timeout_s):
        good += result.ok
    return good


async def _main(config: LoadConfig) -> None:
    master = config.master or None
    async with AsyncClient(key=Path(config.key), master=master, timeout=config.timeout_s) as client:
        start, check = request_of(client, config)
        await first_answer(start, check)
        await serve_rounds(start, check)


def main() -> None:
    """The loading process of zcluster."""
    config = read_line(LoadConfig)
    if config is not None:
        run_loop(partial(_main, config), open_loop=config.open_loop)


if __name__ == "__main__":
    main()
