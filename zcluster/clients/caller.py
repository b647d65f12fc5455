"""What the parts of a client ask of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol


class Caller(Protocol):
    """What makes calls: an AsyncClient."""

    async def call(
        self, function: str, args: Mapping[str, Any] | None = None, *, target: str = "any", timeout: float | None = None
    ) -> Any: ...


class Streaming(Caller, Protocol):
    """What makes calls, of streams too."""

    def stream(
        self, function: str, args: Mapping[str, Any] | None = None, *, target: str = "any", timeout: float | None = None
    ) -> AsyncIterator[Any]: ...
