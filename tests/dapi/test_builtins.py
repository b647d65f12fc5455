"""The functions that every node has."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from zcluster.dapi import Function, is_reserved, node_functions
from zcluster.dapi.builtins import MAX_SLEEP_S, ResourceSampler
from zcluster.errors import InvalidArguments

NODE = node_functions("worker-1", "worker", version="1.2.3")


def result(name: str, body: bytes = b"") -> Any:
    return orjson.loads(NODE[name].run(body))


def test_their_names_are_reserved_and_all_may_be_repeated() -> None:
    assert sorted(NODE) == ["echo", "node.info", "node.resources", "node.sleep", "node.time"]
    for name, found in NODE.items():
        assert is_reserved(name)
        assert found.idempotent
        assert found.role == "client"
        assert found.doc


def test_echo_gives_the_value_back() -> None:
    assert NODE["echo"].pool == "inline"
    value = {"a": [1, None, "x"]}
    assert result("echo", orjson.dumps({"value": value})) == value
    with pytest.raises(InvalidArguments, match="missing argument 'value'"):
        NODE["echo"].run(b"")


def test_node_info_says_what_the_node_is() -> None:
    info = result("node.info")
    assert (info["name"], info["role"], info["version"], info["pid"]) == ("worker-1", "worker", "1.2.3", os.getpid())
    assert set(info) == {
        "name", "role", "version", "python", "pid", "platform", "hostname", "cpu_count", "started_s", "uptime_s",
    }  # fmt: skip
    assert info["uptime_s"] >= 0


def test_node_resources_are_numbers_with_their_units(tmp_path: Path) -> None:
    found = node_functions("n", "worker", home=tmp_path)["node.resources"]
    assert found.pool == "thread", "a disk may be slow to answer"
    sample = orjson.loads(found.run(b""))
    assert sample["disk"]["path"] == str(tmp_path)
    assert 0 < sample["memory"]["available_bytes"] <= sample["memory"]["total_bytes"]
    assert len(sample["load"]) == 3
    assert sample["process"]["rss_bytes"] > 0
    assert sample["process"]["threads"] >= 1
    assert sample["process"]["open_files"] >= 1
    assert sample["network"]["received_bytes"] >= 0
    assert 0 <= sample["cpu_percent"] <= 100


def test_looks_in_quick_succession_see_the_same_percentages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = [100.0]
    percentages = iter([0.0, 25.0, 75.0])
    monkeypatch.setattr("zcluster.dapi.builtins.time.monotonic", lambda: now[0])
    monkeypatch.setattr("zcluster.dapi.builtins.psutil.cpu_percent", lambda interval: next(percentages))
    sampler = ResourceSampler(tmp_path)
    now[0] = 101.0
    assert sampler.cpu_percent()[0] == 25.0
    now[0] = 101.4
    assert sampler.cpu_percent()[0] == 25.0
    now[0] = 101.5
    assert sampler.cpu_percent()[0] == 75.0


def test_node_sleep_gives_its_seconds_back() -> None:
    found = NODE["node.sleep"]
    assert found.kind == "async"

    async def main() -> None:
        assert await found.call(found.decode(b'{"seconds":0}')) == 0

    asyncio.run(main())


@pytest.mark.parametrize("seconds", [-0.001, MAX_SLEEP_S + 1, '"1"', "null"])
def test_node_sleep_refuses_what_is_no_time(seconds: object) -> None:
    with pytest.raises(InvalidArguments, match="argument 'seconds'"):
        NODE["node.sleep"].decode(b'{"seconds":' + str(seconds).encode() + b"}")


def test_node_sleep_takes_its_limit() -> None:
    decode: Callable[[bytes], tuple[Any, ...]] = NODE["node.sleep"].decode
    assert decode(b'{"seconds":%d}' % MAX_SLEEP_S) == (MAX_SLEEP_S,)


def test_each_node_has_its_own() -> None:
    other = node_functions("worker-2", "worker")
    assert isinstance(other["node.info"], Function)
    assert orjson.loads(other["node.info"].run(b""))["name"] == "worker-2"
    assert result("node.info")["name"] == "worker-1"


def test_without_a_descriptor_the_percentages_are_those_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptor(*_: object, **__: object) -> float:
        raise OSError(errno.EMFILE, "Too many open files")

    sampler = ResourceSampler(tmp_path)
    memory_percent = sampler.memory_percent()
    assert memory_percent > 0
    monkeypatch.setattr("zcluster.dapi.builtins.MIN_SAMPLE_S", 0.0)
    for name in ("cpu_percent", "virtual_memory"):
        monkeypatch.setattr(f"psutil.{name}", no_descriptor)
    assert sampler.cpu_percent() == (0.0, 0.0)
    assert sampler.memory_percent() == memory_percent
