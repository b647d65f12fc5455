"""The audit log of a real cluster: what is in it, that no secret is, and that it outlives a killed master."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import pytest
from waiting import eventually, node_is

from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient
from zcluster.config import Home
from zcluster.errors import FunctionFailed, NotAllowed
from zcluster.keys import KeyFile, fingerprint

FUNCTIONS = str(Path(__file__).parent / "audited_functions.py")
SETTINGS = {"session.heartbeat_s": 0.3}
CODES = ("1234", "top-secret-987")


async def records(client: AsyncClient, count: int, **asked: Any) -> list[dict[str, Any]]:
    """The records of ``door.open``, when there are ``count`` of them."""

    async def look() -> list[dict[str, Any]]:
        page = await client.call("audit.since", asked, target="master")
        found = [item for item in page["items"] if item.get("function") == "door.open"]
        return found if len(found) >= count else []

    found: list[dict[str, Any]] = await eventually(look, f"{count} records")
    return found


def test_what_an_admin_does_and_a_client_tries_is_in_the_log() -> None:
    async def body() -> None:
        async with (
            LocalCluster(2, functions=[FUNCTIONS], settings=SETTINGS) as cluster,
            AsyncClient(key=cluster.admin_key) as admin,
            AsyncClient(key=cluster.client_key) as client,
        ):
            assert await admin.call("door.open", {"code": CODES[0], "door": "back"}, target="worker-1") == "back"
            with pytest.raises(FunctionFailed):
                await admin.call("door.open", {"code": CODES[1]}, target="worker-2")
            with pytest.raises(NotAllowed):
                await client.call("door.open", {"code": CODES[1]}, target="worker-1")
            await client.call("echo", {"value": 1}, target="worker-1")
            fan_out = [result.ok async for result in admin.fan_out("door.open", {"code": CODES[0]}, target="worker-*")]
            assert fan_out == [True, True]
            done, failed, refused, wide = await records(admin, 4)
            name = KeyFile.read(cluster.admin_key).name
            assert (done["key"], done["role"], done["nodes"], done["outcome"]) == (name, "admin", ["worker-1"], "done")
            assert done["public"] == fingerprint(KeyFile.read(cluster.admin_key).pair.public)
            assert done["args"] == {"code": "***", "door": "back"}
            assert (failed["nodes"], failed["outcome"], failed["args"]) == (["worker-2"], "function_failed", {"code": "***"})
            assert (refused["key"], refused["nodes"], refused["outcome"]) == ("client", [], "not_allowed")
            assert (sorted(wide["nodes"]), wide["outcome"], wide["target"]) == (["worker-1", "worker-2"], "done", "worker-*")
            assert [item["outcome"] for item in await records(admin, 1, key="client")] == ["not_allowed"]
            with pytest.raises(NotAllowed):
                await client.call("audit.since", target="master")

            directory = Home.of(cluster.home).data_dir / "audit"
            files = list(directory.glob("*.log"))
            assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600]
            text = b"".join(file.read_bytes() for file in files)
            assert not any(code.encode() in text for code in CODES)
            assert b'"function":"echo"' not in text

            cluster.kill("master")
            await eventually(lambda: "master" not in cluster.pids, "the master is gone")
            cluster.start_master()
            await node_is(admin, "worker-1", "ready")
            await admin.call("door.open", {"code": CODES[0]}, target="worker-1")
            numbers = [item["sequence"] for item in await records(admin, 5)]
            assert numbers == sorted(set(numbers))
            assert numbers[:4] == [item["sequence"] for item in (done, failed, refused, wide)]

    asyncio.run(body())
