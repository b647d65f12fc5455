"""A node's main process and its sync process: started, spoken with, started again.

Rules kept here:
- the sync process is a program of its own (exec, never a bare fork: a ZeroMQ context does not survive one); the kernel ends
  it when the main process ends, however that happens;
- frames pass unopened in both directions; a question is answered by its number, with an error when the process ends first;
- what waits for a sync process that does not read is bounded: beyond that frames are dropped, which file sync survives;
- a sync process that ends by itself is started again after a pause that grows; nothing is lost, because everything that it
  acknowledged is on the disk and the sessions are told anew.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Protocol

from zcluster.errors import Unreachable, error_from_dict
from zcluster.files.channel import Channel
from zcluster.files.slots import Slots, make_shared
from zcluster.wire import Frame

FIRST_PAUSE_S = 0.2
MAX_PAUSE_S = 10.0
END_S = 2.0
MAX_QUESTIONS = 1024
MAX_BACKLOG_BYTES = 256 * 1024 * 1024
"""Of frames that wait for the sync process: sixteen windows of the default size, twice."""


class Owner(Protocol):
    """Who has the sync process."""

    def sync_started(self) -> None: ...
    def sync_frame(self, session: int, frame: memoryview) -> None: ...
    def sync_held(self, digest: str) -> None: ...
    def sync_event(self, name: str, fields: dict[str, Any], level: str) -> None: ...


class SyncProcess:
    """The sync process of this node, as its main process sees it.

    Args:
        owner: is told what comes.
        setup: what the process is to know at its start, as JSON values; asked at each start.
    """

    def __init__(self, owner: Owner, setup: Callable[[], dict[str, Any]], logger: logging.Logger) -> None:
        self._loop = asyncio.get_running_loop()
        self._owner, self._setup, self._logger = owner, setup, logger
        self._process: subprocess.Popen[bytes] | None = None
        self._ending: list[subprocess.Popen[bytes]] = []
        self._channel: Channel | None = None
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._last_question = 0
        self._failures = 0
        self._dropping = False
        self._closing = False
        self._again: asyncio.TimerHandle | None = None

    @property
    def running(self) -> bool:
        """Whether there is a process to talk to."""
        return self._channel is not None

    @property
    def pid(self) -> int:
        """Of the sync process; 0 without one."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Start it, if it does not run."""
        if self._channel is not None or self._closing:
            return
        ours, theirs = socket.socketpair()
        shared = make_shared()
        handed = [theirs.fileno(), shared]
        command = [sys.executable, "-m", "zcluster.files", *map(str, handed), str(os.getpid())]
        try:
            self._process = subprocess.Popen(command, pass_fds=handed, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        except OSError as error:
            # No memory or no process left: the node goes on without, for now.
            ours.close()
            os.close(shared)
            self._start_later(f"the sync process cannot be started ({error.strerror}), it is tried again", {})
            return
        finally:
            theirs.close()
        self._channel = Channel(ours, Slots(shared, first=True), self._noted, self._owner.sync_frame, self._ended)
        os.close(shared)
        self._channel.note(kind="setup", **self._setup())
        self._owner.sync_started()

    def restart(self) -> None:
        """Start it anew, with what setup says now. The old one ends by itself meanwhile; it holds the trees until then."""
        self.stop()
        self._failures = 0
        self.start()

    def stop(self) -> None:
        """Let it end; :meth:`start` starts another one."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._ending.append(self._process)
            self._process = None
        self._ending = [process for process in self._ending if process.poll() is None]
        self._fail_questions()

    def close(self) -> None:
        """End it for good, and wait for its end."""
        self._closing = True
        self.stop()
        for process in self._ending:
            _end(process)

    # -- speaking -------------------------------------------------------------------------------------------------------

    def session_up(self, session: int, name: str) -> None:
        """A session of a worker (on a worker: of its master) was opened."""
        self._note(kind="up", session=session, name=name)

    def session_down(self, session: int, reason: str = "") -> None:
        """It has ended."""
        self._note(kind="down", session=session, reason=reason)

    def held(self, session: int, digest: str) -> None:
        """A BEAT told what a worker holds. The next one says it again, so this one need not wait for long."""
        if not self._lags():
            self._note(kind="held", session=session, digest=digest)

    def nodes(self, names: list[str]) -> None:
        """The workers that have a key."""
        self._note(kind="nodes", names=names)

    def frame(self, session: int, frame: Frame) -> None:
        """A frame of file sync came on ``session``."""
        if self._channel is not None and not self._lags():
            self._channel.frame(session, frame)

    async def ask(self, op: str, **arguments: Any) -> Any:
        """Ask the sync process; returns its answer.

        Raises:
            Unreachable: it does not run, or ended before it answered.
            ZClusterError: what it answered.
        """
        if self._channel is None:
            raise Unreachable("the sync process does not run", hint="its node starts it again; see its log")
        if len(self._asked) >= MAX_QUESTIONS:
            raise Unreachable(f"{MAX_QUESTIONS} questions wait for the sync process", hint="call again later", retry_after_s=1.0)
        self._last_question += 1
        number = self._last_question
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._asked[number] = answer
        self._channel.note(kind="ask", number=number, op=op, arguments=arguments)
        try:
            return await answer
        finally:
            self._asked.pop(number, None)

    def _lags(self) -> bool:
        """Whether too much waits for the sync process; told once, until it has caught up."""
        channel = self._channel
        if channel is None or channel.backlog_bytes <= MAX_BACKLOG_BYTES:
            self._dropping = self._dropping and channel is not None and channel.backlog_bytes > MAX_BACKLOG_BYTES // 2
            return False
        if not self._dropping:
            self._dropping = True
            fields = {"waiting_bytes": channel.backlog_bytes}
            self._logger.error("the sync process does not read, frames are dropped until it does", extra={"fields": fields})
        return True

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _note(self, **fields: Any) -> None:
        if self._channel is not None:
            self._channel.note(**fields)

    def _noted(self, note: dict[str, Any]) -> None:
        match note["kind"]:
            case "answer":
                answer = self._asked.get(note["number"])
                if answer is None or answer.done():
                    return
                if "error" in note:
                    answer.set_exception(error_from_dict(note["error"]))
                else:
                    answer.set_result(note["value"])
            case "held":
                self._failures = 0
                self._owner.sync_held(note["digest"])
            case "event":
                self._owner.sync_event(note["name"], note["fields"], note["level"])

    def _ended(self) -> None:
        self._channel = None
        code = self._wait()
        self._fail_questions()
        if self._closing:
            return
        self._start_later("the sync process has ended, it is started again", {"code": code})

    def _start_later(self, what: str, fields: dict[str, Any]) -> None:
        pause_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self._failures, 8))
        self._failures += 1
        self._logger.error(what, extra={"fields": {**fields, "pause_s": pause_s}})
        if self._again is not None:
            self._again.cancel()
        self._again = self._loop.call_later(pause_s, self.start)

    def _wait(self) -> int | None:
        """Its exit code, when the line has ended: it is ending, or broken and is ended. What it was doing to the disk is made
        whole at its next start."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        return process.wait()

    def _fail_questions(self) -> None:
        asked, self._asked = self._asked, {}
        for answer in asked.values():
            if not answer.done():
                answer.set_exception(Unreachable("the sync process ended before it answered", hint="call again"))


def _end(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
