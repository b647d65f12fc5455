"""Starting a process: beside the loop, and no call is lost whatever comes meanwhile. The pools are the test's own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from zcluster.dapi import child, function
from zcluster.dapi import processes as module
from zcluster.errors import Cancelled, FunctionFailed

MakeRig = Callable[..., Any]
PATIENCE_S = 60.0


@function("answer", pool="process")
def answer() -> int:
    return 42


class Pools:
    """Makes pools that have no process. A pool starts when the gate is open, and answers its call at once."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.error: BaseException | None = None
        self.threads: list[str] = []
        self.made: list[Pool] = []

    def new(self, modules: object, entry_points: bool) -> Pool:
        self.made.append(Pool(self))
        return self.made[-1]


class Pool:
    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        self.started = False
        self.calls: list[str] = []

    @property
    def active(self) -> bool:
        return self.calls[-1:] != ["join"]

    def schedule(self, call: object, args: tuple[child.Order]) -> Future[tuple[bool, bytes, str]]:
        if not self.started:
            self.started = True
            self._pools.threads.append(threading.current_thread().name)
            self._pools.entered.set()
            assert self._pools.gate.wait(PATIENCE_S)
            if self._pools.error is not None:
                raise self._pools.error
        self.calls.append(args[0].name)
        future: Future[tuple[bool, bytes, str]] = Future()
        future.set_result((True, b"42", ""))
        return future

    def stop(self) -> None:
        self.calls.append("stop")

    def join(self) -> None:
        self.calls.append("join")


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> Pools:
    made = Pools()
    monkeypatch.setattr(module, "_new_pool", made.new)
    return made


def test_the_loop_goes_on_while_a_process_starts_and_the_process_is_kept(make_rig: MakeRig, pools: Pools) -> None:
    async def main() -> None:
        rig = make_rig(answer)
        first, second = rig.start("answer"), rig.start("answer")
        assert await asyncio.to_thread(pools.entered.wait, PATIENCE_S)
        assert rig.ended == []
        pools.gate.set()
        assert [await rig.end(each) for each in (first, second)] == [42, 42]
        assert pools.threads == ["zcluster-spawn"]
        assert [pool.calls for pool in pools.made] == [["answer", "answer"]]

    asyncio.run(main())


def test_a_call_stopped_while_its_process_starts_takes_it_along(make_rig: MakeRig, pools: Pools) -> None:
    async def main() -> None:
        rig = make_rig(answer)
        stopped, next_one = rig.start("answer"), rig.start("answer")
        assert await asyncio.to_thread(pools.entered.wait, PATIENCE_S)
        rig.runner.cancel(stopped, Cancelled("enough"))
        assert isinstance(rig.error(stopped), Cancelled)
        assert rig.runner.abandoned == 1, "its place is not free before its process is gone"
        pools.gate.set()
        assert await rig.end(next_one) == 42
        await rig.settled()
        assert [pool.calls for pool in pools.made] == [["answer", "stop", "join"], ["answer"]]

    asyncio.run(main())


@pytest.mark.parametrize("error", [OSError("no memory"), RuntimeError("no thread"), MemoryError("no memory")])
def test_a_process_that_cannot_start_fails_its_call_alone(make_rig: MakeRig, pools: Pools, error: BaseException) -> None:
    async def main() -> None:
        rig = make_rig(answer)
        pools.error = error
        pools.gate.set()
        with pytest.raises(FunctionFailed, match=f"no process could be started for it: {error}"):
            await rig.end(rig.start("answer"))
        pools.error = None
        assert await rig.end(rig.start("answer")) == 42
        assert [pool.calls for pool in pools.made] == [["stop", "join"], ["answer"]]

    asyncio.run(main())


def test_a_call_stopped_while_its_process_fails_to_start_frees_its_place(make_rig: MakeRig, pools: Pools) -> None:
    async def main() -> None:
        rig = make_rig(answer)
        pools.error = OSError("no memory")
        stopped = rig.start("answer")
        assert await asyncio.to_thread(pools.entered.wait, PATIENCE_S)
        rig.runner.cancel(stopped, Cancelled("enough"))
        pools.gate.set()
        await rig.settled()
        pools.error = None
        assert await rig.end(rig.start("answer")) == 42

    asyncio.run(main())


def test_a_node_without_a_thread_fails_the_call_alone(make_rig: MakeRig, pools: Pools, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        rig = make_rig(answer)
        pools.gate.set()

        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            refused = rig.start("answer")
        with pytest.raises(FunctionFailed, match="no process could be started for it: can't start new thread"):
            await rig.end(refused)
        assert await rig.end(rig.start("answer")) == 42
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            rig.runner.close()
        assert pools.made[0].calls == ["answer", "stop", "join"], "it is killed even so"

    asyncio.run(main())
