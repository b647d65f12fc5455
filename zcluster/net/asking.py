"""One question to a node, before any session: connect, send one message, take one answer, go.

Rules kept here:
- the connection trusts exactly the key that is expected; who has another never learns what was asked;
- whatever happens ends the question within its time, and its sockets with it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import zmq

from zcluster.core.link import STOPPED
from zcluster.errors import NotAllowed, PeerError, Unreachable, ZClusterError
from zcluster.net.context import HANDSHAKE_MS, NOBLOCK, Socket, client_socket
from zcluster.net.monitor import LINK_EVENTS, gave_up, read_event, watch
from zcluster.net.reader import Reader
from zcluster.wire import Message, WireLimits, decode, encode


async def ask(
    context: zmq.Context[Socket], address: str, keys: tuple[str, str], server: str, message: Message, *, timeout_s: float
) -> Message:
    """What the node at ``address`` answers to ``message``.

    Args:
        keys: the own pair, public and secret.
        server: the public key that proves who answers.
        timeout_s: how long all of it may take.

    Raises:
        NotAllowed: the node does not admit the key.
        Unreachable: nobody answers there, or somebody with another key.
        PeerError: the answer cannot be read.
    """
    question = _Question(context, address, keys, server, message)
    try:
        async with asyncio.timeout(timeout_s):
            return await question.answer
    except TimeoutError:
        what = "does not answer" if question.secured else "does not complete the handshake"
        hint = STOPPED if question.secured else f"is it the master of this cluster, and is the address right? Then {STOPPED}"
        raise Unreachable(f"{address} {what} in {timeout_s:g} s", hint=hint) from None
    finally:
        question.close()


class _Question:
    """One socket with one message on its way."""

    def __init__(
        self, context: zmq.Context[Socket], address: str, keys: tuple[str, str], server: str, message: Message
    ) -> None:
        loop = asyncio.get_running_loop()
        self._address = address
        self._limits = WireLimits()
        self.answer: asyncio.Future[Message] = loop.create_future()
        self.secured = False
        self._message = message
        public, secret = keys
        self._socket = client_socket(
            context, zmq.DEALER, secret.encode(), public.encode(), server=server.encode(), max_bytes=self._limits.frame_bytes
        )
        pair = self._pair = watch(context, self._socket, LINK_EVENTS)
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self._socket.close(linger=0)
            pair.close(linger=0)
            raise Unreachable(f"cannot connect to {address}: {error.strerror}", hint="are there file descriptors left?") from None
        self._reader = Reader(loop, self._socket, self._turn)
        self._monitor = Reader(loop, pair, self._events)

    def close(self) -> None:
        self._socket.disable_monitor()
        self._reader.close(0)
        self._monitor.close()

    def _turn(self) -> bool:
        try:
            frames = self._socket.recv_multipart(NOBLOCK)
        except zmq.Again:
            return False
        try:
            if len(frames) != 1:
                raise PeerError(f"{self._address} answers with {len(frames)} frames, one is expected")
            self._over(decode(frames[0], self._limits)[0])
        except PeerError as error:
            self._over(error)
        return False

    def _events(self) -> bool:
        while (found := read_event(self._pair)) is not None:
            event = found[0]
            if gave_up(*found):
                said = f"{self._address} takes the connection and says nothing in {HANDSHAKE_MS / 1000:g} s"
                self._over(Unreachable(said, hint=STOPPED))
                return False
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.secured = True
                # not before: a connection that has failed already takes nothing, and its end is told here
                with suppress(zmq.Again):
                    self._socket.send(encode(self._message), NOBLOCK)
                self._reader.look_again()
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._over(NotAllowed(f"the master at {self._address} does not admit this key"))
            elif event == zmq.EVENT_CLOSED:
                hint = "is the master running, and is the address right?"
                self._over(Unreachable(f"nobody listens at {self._address}", hint=hint))
            else:
                self._turn()  # the answer may have come before the end of the connection
                how = "ended the connection" if self.secured else "ended the connection during the handshake"
                self._over(Unreachable(f"{self._address} {how}", hint="is it the master of this cluster?"))
        return False

    def _over(self, result: Message | ZClusterError) -> None:
        if self.answer.done():
            return
        if isinstance(result, ZClusterError):
            self.answer.set_exception(result)
        else:
            self.answer.set_result(result)
