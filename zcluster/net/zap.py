"""The ZAP handler (RFC 27, https://rfc.zeromq.org/spec/27/): who may connect.

Rules kept here:
- only CURVE, only our domains, only keys that the ring has at this moment; everything else is denied;
- each domain has its own check: who may open a session may not always subscribe;
- an error of any kind denies that one request and never ends the handler;
- strangers who try too often are denied without a word: neither the log nor what is remembered of them is theirs to fill;
- the stranger hears that it is denied, and never why;
- the User-Id of a connection is the public key itself (Z85): a name can be given away, a key cannot.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

import zmq
from zmq.utils import z85

from zcluster.core.tries import Tries
from zcluster.net.connections import group
from zcluster.net.context import NOBLOCK, PUBLISH_DOMAIN, ZAP_DOMAIN, Socket
from zcluster.net.descriptors import plain_address
from zcluster.net.reader import Reader

ENDPOINT = "inproc://zeromq.zap.01"
VERSION = b"1.0"
TURN = 64
FRAMES = 7
KEY_BYTES = 32
UNKNOWN = "unknown key "

Check = Callable[[str], bool]
"""Whether a public key (Z85) is let in."""


def decide(frames: list[bytes], admits: Check, subscribes: Check | None = None) -> tuple[list[bytes], str]:
    """The reply to a ZAP request, and why it was denied (empty: it was not).

    Args:
        frames: version, request id, domain, address, identity, mechanism, credentials (one for CURVE).
        admits: whether the ring has this public key (Z85).
        subscribes: whether it may subscribe; None: there is no publisher.
    """
    request_id = frames[1] if len(frames) > 1 else b""
    try:
        reason, user = _check(frames, admits, subscribes)
    except Exception as error:
        reason, user = f"error in the check: {type(error).__name__}", ""
    status = (b"400", b"denied") if reason else (b"200", b"OK")
    return [VERSION, request_id, *status, user.encode(), b""], reason


def _check(frames: list[bytes], admits: Check, subscribes: Check | None) -> tuple[str, str]:
    if len(frames) < FRAMES - 1 or frames[0] != VERSION:
        return "malformed request", ""
    to_subscribe = subscribes is not None and frames[2] == PUBLISH_DOMAIN
    if frames[2] != ZAP_DOMAIN and not to_subscribe:
        return "another domain", ""
    if frames[5] != b"CURVE":
        return f"mechanism {frames[5][:16].decode('ascii', 'replace')}", ""
    if len(frames) != FRAMES or len(frames[6]) != KEY_BYTES:
        return "malformed credentials", ""
    public = z85.encode(frames[6]).decode("ascii")
    if not admits(public):
        return f"{UNKNOWN}{public}", ""
    if to_subscribe and subscribes is not None and not subscribes(public):
        return f"key {public} may not subscribe", ""
    return "", public


class Strangers(Protocol):
    """Who hears of those that are not let in."""

    def denied(self, address: str, reason: str) -> None:
        """Somebody was denied, for a reason that only we get to know."""

    def unknown_key(self, public: str, address: str) -> str:
        """An unknown public key was denied; returns the reason to tell, "" for the usual one."""

    def limited(self) -> None:
        """An unknown key was denied, one of too many to be told one by one."""


class Zap:
    """Serves ZAP requests of one context in the loop.

    Args:
        let_in: is told each public key that was let in.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, context: zmq.Context[Socket], admits: Check, strangers: Strangers,
        logger: logging.Logger, subscribes: Check | None = None, let_in: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        self._loop = loop
        self._admits, self._subscribes, self._strangers, self._let_in = admits, subscribes, strangers, let_in
        self._tries = Tries(loop.time())
        self._logger = logger
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(ENDPOINT)
        self._reader = Reader(loop, self._socket, self._turn)

    def close(self) -> None:
        """Stop; from now on everybody is denied."""
        self._reader.close()

    def _turn(self) -> bool:
        for _ in range(TURN):
            try:
                envelope = self._socket.recv_multipart(NOBLOCK)
            except zmq.Again:
                self._reader.look_again()
                return False
            except zmq.ZMQError as error:
                self._logger.error("ZAP could not read a request: %s", error)
                return False
            self._answer(envelope)
        return True

    def _answer(self, envelope: list[bytes]) -> None:
        # [route, empty, version, request id, domain, address, identity, mechanism, credentials]
        frames = envelope[2:]
        reply, reason = decide(frames, self._admits, self._subscribes)
        try:
            if not reason and self._let_in is not None:
                self._let_in(reply[4].decode("ascii"))  # before it can say anything
            self._socket.send_multipart([*envelope[:2], *reply], NOBLOCK)
            if reason:
                self._deny(plain_address(frames[3].decode("ascii", "replace")) if len(frames) > 3 else "", reason)
        except Exception:
            self._logger.exception("ZAP could not answer")

    def _deny(self, address: str, reason: str) -> None:
        strangers = self._strangers
        if reason.startswith(UNKNOWN):
            if not self._tries.allow(group(address), self._loop.time()):
                strangers.limited()
                return
            reason = strangers.unknown_key(reason.removeprefix(UNKNOWN), address) or reason
        strangers.denied(address, reason)
