"""``AsyncClient.keys``: each method is the call that it says it is, and the blocking one is the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any

import pytest

from zcluster.clients.keys import HOUR_S, AsyncKeys, Keys
from zcluster.errors import UsageError


class Cluster:
    """Stands in for the client: tells what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any, str, float | None]] = []

    async def call(
        self, function: str, args: Mapping[str, Any] | None = None, *, target: str = "any", timeout: float | None = None
    ) -> Any:
        self.asked.append((function, args, target, timeout))
        return {"a": 1}

    def stream(
        self, function: str, args: Mapping[str, Any] | None = None, *, target: str = "any", timeout: float | None = None
    ) -> AsyncIterator[Any]:
        raise AssertionError("no method streams")


Ask = Callable[[Any], Any]
TOKEN = {"role": "worker", "name": "", "ttl_s": HOUR_S, "uses": 1, "force": False}
CALLS: list[tuple[Ask, str, dict[str, Any]]] = [
    (lambda k: k(timeout=2.0), "keys.ls", {}),
    (lambda k: k.pending(timeout=2.0), "keys.pending", {}),
    (lambda k: k.accept("w", "SHA256:x", timeout=2.0), "keys.accept", {"name": "w", "fingerprint": "SHA256:x", "role": "worker"}),
    (lambda k: k.reject("SHA256:x", timeout=2.0), "keys.reject", {"fingerprint": "SHA256:x"}),
    (lambda k: k.revoke("w", force=True, timeout=2.0), "keys.revoke", {"name": "w", "force": True}),
    (lambda k: k.rotate("w", overlap_s=5, timeout=2.0), "keys.rotate", {"name": "w", "overlap_s": 5.0, "now": False}),
    (lambda k: k.tokens(timeout=2.0), "token.ls", {}),
    (lambda k: k.create_token("worker", timeout=2.0), "token.create", TOKEN),
    (lambda k: k.create_token("worker", uses=3, ttl_s=9, name="w", timeout=2.0), "token.create",
     TOKEN | {"uses": 3, "ttl_s": 9.0, "name": "w"}),
    (lambda k: k.revoke_token("0a", timeout=2.0), "token.revoke", {"id": "0a"}),
]  # fmt: skip


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize(("ask", "function", "args"), CALLS)
def test_each_method_is_one_call(ask: Ask, function: str, args: dict[str, Any], blocking: bool) -> None:
    cluster = Cluster()
    keys = AsyncKeys(cluster)

    def run(made: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run(made)

    found = ask(Keys(keys, run)) if blocking else run(ask(keys))
    assert found == {"a": 1}
    assert cluster.asked == [(function, args, "master", 2.0)]


@pytest.mark.parametrize(
    "ask",
    [
        lambda k: k.accept(5, "x"),
        lambda k: k.reject(None),
        lambda k: k.revoke("w", force=1),
        lambda k: k.rotate("w", now="yes"),
        lambda k: k.rotate("w", overlap_s=0),
        lambda k: k.create_token("worker", uses=True),
        lambda k: k.create_token("worker", uses=1.5),
        lambda k: k.create_token("worker", ttl_s="1h"),
        lambda k: k.revoke_token(5),
    ],
)
def test_a_wrong_argument_is_told_before_anything_is_asked(ask: Ask) -> None:
    cluster = Cluster()
    with pytest.raises(UsageError):
        asyncio.run(ask(AsyncKeys(cluster)))
    assert cluster.asked == []
