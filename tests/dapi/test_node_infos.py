"""What a node tells the master of its functions always fits in one HELLO."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from zcluster.config import LimitSettings
from zcluster.dapi import Function, ResourceSampler, function
from zcluster.dapi.node import MAX_INFOS_BYTES, NodeEnd
from zcluster.errors import ConfigError
from zcluster.keys import may_call
from zcluster.wire import FunctionInfo


def declared(name: str, doc: str) -> Function:
    def plain(value: int) -> int:
        return value

    plain.__doc__ = doc
    call: Callable[..., Any] = function(name)(plain)
    return Function(call)


def infos(functions: list[Function]) -> list[FunctionInfo]:
    async def ask() -> list[FunctionInfo]:
        node = NodeEnd(
            "worker-1", {each.name: each for each in functions}, may_call, LimitSettings(), slots=1, processes=1, modules=[],
            clock=asyncio.get_running_loop().time, wake=lambda: None, sampler=ResourceSampler(Path("/")),
            logger=logging.getLogger("test"),
        )  # fmt: skip
        try:
            return node.infos()
        finally:
            node.close()

    return asyncio.run(ask())


def test_few_functions_are_told_in_full() -> None:
    (info,) = infos([declared("f", "What it does.")])
    assert info.doc == "What it does."
    assert "value" in info.parameters


@pytest.mark.parametrize(("count", "doc_chars"), [(200, 200), (2000, 0)])
def test_many_functions_are_told_shortly(count: int, doc_chars: int) -> None:
    told = infos([declared(f"f{number}", "x" * 4000) for number in range(count)])
    assert {len(info.doc) for info in told} == {doc_chars}
    assert len(told) == count
    assert len(msgspec.json.encode(told)) <= MAX_INFOS_BYTES


def test_too_many_functions_are_an_error_that_says_so() -> None:
    with pytest.raises(ConfigError, match="4096 functions are too many"):
        infos([declared(f"f{number:04}" + "n" * 110, "") for number in range(4096)])
