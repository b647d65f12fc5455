"""The peer's side of rotation: makes its next key when it is told to, moves its session to it, and learns the keys of others.

Rules kept here:
- the key file has the next pair before the master hears of it; the older one leaves the file when the session has moved;
- what was begun and not ended is taken up again with the next session: saying ROTATED twice does no harm;
- whenever a connection was refused or lost the key file is read again: another process may have rotated the key that they share;
- a key that was refused is followed by the other one in the file, if there is one;
- disks are waited for in threads;
- only the master itself says what becomes of a key: with a session at a worker's door nothing is begun, ended or given up, and
  the worker says of its own next key only. It could otherwise have a key thrown away, or another taken for the master's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from zcluster.errors import Busy, NotAllowed, Unreachable, ZClusterError, error_from_dict
from zcluster.keys import KeyFile, fingerprint
from zcluster.keys.rotation import OwnKey
from zcluster.net.link import LinkDriver
from zcluster.wire import Message, Refusal
from zcluster.wire.rotation import ROTATION_KINDS, NextKey, Rotate, Rotated

RETRY_S = 1.0
"""How long after a move that did not succeed the next is tried."""

NOT_HERE = NotAllowed("a key is rotated over a connection of its own", hint="connect to the master, not to a door")


class Rekeying:
    """Of one link.

    Args:
        own: the key, as its file says.
        driver: whose connections are made with it.
        learnt: called when the key file says something else, of the keys that prove others too.
        changed: called when the session has moved to another key, with the seconds for which the older one is admitted yet.
        passes: called with the name of each step that is done (process/failpoints.py).
    """

    def __init__(
        self, own: OwnKey, driver: LinkDriver, learnt: Callable[[KeyFile], None], logger: logging.Logger,
        changed: Callable[[float], None] = lambda _overlap_s: None, passes: Callable[[str], None] = lambda _step: None,
    ) -> None:  # fmt: skip
        self._own, self._driver, self._learnt, self._logger, self._changed = own, driver, learnt, logger, changed
        self._passes = passes
        self._loop = asyncio.get_running_loop()
        self._disk = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: list[asyncio.Future[Rotated]] = []
        self._answer: Rotated | None = None
        """The master's last word on a key that the session is still to move to."""
        self._fresh = ""
        """The next public key, while it was made here in this session and nobody has answered: nobody can have admitted it."""
        self._at_master = False
        """Whether the session is with the master itself."""
        self._node = ""
        """The node with whose door the session is, as far as the key file knows it."""
        self._retry: asyncio.TimerHandle | None = None

    kinds = frozenset(cls.kind for cls in ROTATION_KINDS)

    async def rotate(self, overlap_s: float) -> Rotated:
        """Have another key; returns the master's answer once the session is there.

        Raises:
            ZClusterError: why there is none.
        """
        if self._driver.up and not self._at_master:
            raise NOT_HERE
        future: asyncio.Future[Rotated] = self._loop.create_future()
        self._waiting.append(future)
        self._spawn(self._begin(overlap_s))
        return await future

    def receive(self, message: Message) -> bool:
        """A message of the master; true when it was about keys."""
        match message:
            case Rotate() | Rotated() if not self._at_master:
                self._logger.warning("what the node says of this key is not heeded: that is for the master to say")
            case NextKey() if not self._at_master and message.node != (self._node or None):
                self._logger.debug("a next key is not heeded: the node says it of another")
            case Rotate():
                self._logger.info("told to have another key")
                self._spawn(self._begin(message.overlap_s))
            case Rotated():
                self._answered(message)
            case NextKey():
                self._spawn(self._learn(message))
            case Refusal(about=Rotated.kind):
                fresh, self._fresh = self._fresh, ""
                if fresh and message.code != Busy.code:  # then another process of this key has said it, perhaps
                    self._spawn(self._write(self._own.give_up, fresh))
                self._settle(error=error_from_dict({"code": message.code, "message": message.message, "hint": message.hint}))
            case _:
                return False
        return True

    def link_up(self) -> None:
        """There is a session."""
        own, place = self._own, self._driver.place
        # As of now: a connection stays what it is when the keys that prove it are others.
        self._at_master = place.public in ("", *own.key_file.known.masters)
        self._node = next((node.name for node in own.key_file.nodes if place.public in node.publics), "")
        self._fresh = ""
        if not self._at_master:
            self._settle(error=NOT_HERE)
        if place.public and place.public in (own.key_file.master_next, *(node.next for node in own.key_file.nodes)):
            self._spawn(self._write(own.proven, place.public))
        following = own.key_file.next
        if following is None:
            return
        told = self._answer is not None and self._answer.public == following.public
        if own.current == following and (self._at_master or told):
            self._finish(following.public, 0.0)
        elif self._at_master:
            self._driver.say(Rotated(public=following.public))

    def link_down(self, error: ZClusterError) -> bool:
        """The session, or an attempt, has ended; returns whether the next is made with another key."""
        before = self._own.current
        try:
            if self._own.look():
                self._learnt(self._own.key_file)
        except ZClusterError as fault:
            self._logger.warning("the key file cannot be read again: %s", fault)
        if self._own.current == before and isinstance(error, NotAllowed):
            self._own.other()
        self._driver.use(self._own.current.public, self._own.current.secret)
        return self._own.current != before

    def close(self) -> None:
        """Begin nothing more."""
        if self._retry is not None:
            self._retry.cancel()
        for task in self._tasks:
            task.cancel()
        self._settle(error=Unreachable("the session ended before the key was another"))

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _begin(self, overlap_s: float) -> None:
        try:
            async with self._disk:
                public = await asyncio.to_thread(self._own.begin)
                self._passes("rotation.made")
                self._fresh = self._own.made
        except ZClusterError as error:
            self._tell("there is no other key: %s", error)
            self._say(Rotated(code=error.code, message=error.message[:1000], hint=error.hint[:1000]))
            self._settle(error=error)
            return
        self._say(Rotated(public=public, overlap_s=overlap_s))

    def _answered(self, answer: Rotated) -> None:
        own, self._fresh = self._own, ""
        if answer.code:
            error = error_from_dict({"code": answer.code, "message": answer.message, "hint": answer.hint})
            self._tell("the master does not take the other key: %s", error)
            self._spawn(self._write(own.give_up, answer.public))
            self._settle(error=error)
            return
        try:
            own.look()
        except ZClusterError as fault:
            self._logger.warning("the key file cannot be read again: %s", fault)
        if own.use(answer.public):
            self._answer = answer
            self._passes("rotation.admitted")
            self._move()
        else:
            self._logger.warning("this key was rotated by another process, whose key file is not this one's")

    def _move(self) -> None:
        """Go to the pair of now, unless the connection is made with it already."""
        pair, answer = self._own.current, self._answer
        self._driver.use(pair.public, pair.secret)
        if answer is None or not self._driver.up:
            return
        if self._driver.public == pair.public:
            self._finish(pair.public, answer.overlap_s)
        else:
            self._driver.rekey(self._moved)

    def _moved(self, error: ZClusterError | None) -> None:
        answer = self._answer
        if answer is None:
            return
        if error is None:
            self._finish(answer.public, answer.overlap_s)
        elif self._driver.up:
            self._logger.warning("the session stays with its key, for now: %s", error)
            self._retry = self._loop.call_later(RETRY_S, self._move)

    def _finish(self, public: str, overlap_s: float) -> None:
        answer, self._answer = self._answer, None
        self._logger.info("the session has another key", extra={"fields": {"key": fingerprint(public)}})
        self._spawn(self._finished(public, answer or Rotated(public=public, overlap_s=overlap_s)))

    async def _finished(self, public: str, answer: Rotated) -> None:
        self._passes("rotation.moved")
        await self._write(self._own.finish, public)
        self._changed(answer.overlap_s)
        self._settle(answer)

    async def _learn(self, told: NextKey) -> None:
        if told.now:
            await self._write(self._own.proven, told.public)
            self._learnt(self._own.key_file)
            return
        code = ""
        try:
            async with self._disk:
                await asyncio.to_thread(self._own.learn, told.node, told.public)
        except ZClusterError as error:
            code = error.code
            whose = told.node or "the master"
            self._logger.warning("the next key of %s is known to this process only: %s", whose, error)
        self._learnt(self._own.key_file)
        self._say(NextKey(public=told.public, node=told.node, code=code))

    async def _write(self, change: Callable[[str], None], public: str) -> None:
        try:
            async with self._disk:
                await asyncio.to_thread(change, public)
        except ZClusterError as error:
            self._logger.error("the key file was not changed: %s", error)

    def _say(self, message: Rotated | NextKey) -> None:
        if self._driver.up:
            self._driver.say(message)  # without a session it is said in the next

    def _tell(self, text: str, error: ZClusterError) -> None:
        """Log an error, unless somebody in this process waits, who gets it."""
        self._logger.log(logging.INFO if self._waiting else logging.ERROR, text, error)

    def _settle(self, answer: Rotated | None = None, error: ZClusterError | None = None) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if future.done():
                continue
            if answer is not None:
                future.set_result(answer)
            elif error is not None:
                future.set_exception(error)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
