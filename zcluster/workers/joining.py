"""Joining a cluster from a new machine: a pair is made here, and the master is asked to admit it.

Rules kept here:
- the key file is on disk before the master is asked, and says that it is joining until the master has answered: whatever is
  killed or lost in between, running the same again completes it;
- a key file that has joined is used as it is: no token is looked at any more;
- the own key is asked for first: who was admitted before the answer was lost is told so, and a used-up token is no fault;
- a token is for one master: a key file of another is not touched.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import zmq

from zcluster.config import name_fault, parse_address
from zcluster.config.addresses import MAX_ADDRESSES
from zcluster.core.doors import KnownNode
from zcluster.core.joining import Joiner, Try, as_name
from zcluster.errors import InvalidKey, NotAllowed, PeerError, Unreachable, ZClusterError
from zcluster.keys import KeyFile, KeyPair, check_public, check_role, fingerprint, generate
from zcluster.keys.tokens import TokenText
from zcluster.net.asking import ask
from zcluster.net.context import Socket, new_context
from zcluster.process.failpoints import failpoint
from zcluster.wire import Refusal
from zcluster.wire.joining import Join, Joined

ASK_S = 10.0
GIVE_UP_S = 60.0
"""How long nobody has to answer for a joiner with a token to give up."""
SAY_EVERY_S = 60.0

_random = random.SystemRandom()


@dataclass(frozen=True)
class Joining:
    """What is to be joined.

    Attributes:
        path: the key file, which need not exist.
        token: what lets it join; None: somebody accepts the key by its fingerprint.
        wish: the name that it would like; empty: the machine's.
        addresses: where the master is, instead of what the key file says.
        say: told each line that a person should know.
    """

    path: Path
    token: TokenText | None = None
    wish: str = ""
    addresses: Sequence[str] = ()
    say: Callable[[str], None] = lambda _line: None

    def key_file(self) -> KeyFile:
        """The key file, made now when there is none.

        Raises:
            InvalidKey: it cannot be read or made, there is no token to make it from, or it is another master's.
        """
        token = self.token
        if token is None or self.path.exists():
            return self._fitting(KeyFile.read(self.path))
        name = token.name or as_name(self.wish or default_name(token.role), token.role)
        made = KeyFile(name, token.role, token.cluster, generate(), token.master_public, token.addresses, joining=True)
        try:
            made.write(self.path)
        except InvalidKey:
            if not self.path.exists():
                raise
            return self._fitting(KeyFile.read(self.path))  # another process was quicker
        self.say(f"made the key {fingerprint(made.pair.public)} in {self.path}")
        return made

    def _fitting(self, key_file: KeyFile) -> KeyFile:
        token = self.token
        if token is not None and key_file.joining and token.master_public not in key_file.known.masters:
            raise InvalidKey(
                f"{self.path} is to join another master than the token's",
                hint="move that file away, or give another --key; it was not changed",
            )
        return key_file


def default_name(role: str) -> str:
    """The name that a key of this machine would like: the machine's own."""
    return as_name(socket.gethostname().partition(".")[0], role)


def request(path: Path, name: str, role: str, cluster: str, master_public: str, addresses: Sequence[str]) -> KeyFile:
    """Make a key file that waits to be accepted by its fingerprint.

    Raises:
        InvalidKey: something in it is malformed, or the file exists already.
    """
    check_public(master_public)
    made = KeyFile(name, check_role(role), cluster, generate(), master_public, tuple(addresses), joining=True)
    made.write(path)
    return made


def joined(joining: Joining) -> KeyFile:
    """The key file of a key that the master admits. Blocks until then: with a token not for long, without one for ever.

    Raises:
        InvalidKey: as of :meth:`Joining.key_file`.
        NotAllowed: the token is refused.
        Unreachable: no master answers.
    """
    fresh = not joining.path.exists()
    key_file = joining.key_file()
    if not key_file.joining:
        if joining.token is not None:
            joining.say(f"{joining.path} has joined already: the token is not used (to join anew, move that file away)")
        return key_file
    context = new_context()
    try:
        return asyncio.run(_join(context, joining, key_file, fresh))
    finally:
        context.term()


async def _join(context: zmq.Context[Socket], joining: Joining, key_file: KeyFile, fresh: bool) -> KeyFile:
    loop = asyncio.get_running_loop()
    # those of a new token are newer than those of the token by which the file was made
    told = () if joining.token is None else joining.token.addresses
    addresses = tuple(joining.addresses) or tuple(dict.fromkeys((*told, *key_file.addresses)))
    if not addresses:
        raise InvalidKey(f"{joining.path} says no address of the master", hint="give --master tcp://HOST:7570")
    joiner = Joiner(joining.token is not None, fresh, GIVE_UP_S, loop.time())
    others, said_s, last = cycle(addresses), -SAY_EVERY_S, ""
    address, attempt = next(others), joiner.first()
    while True:
        await asyncio.sleep(attempt.after_s * _random.uniform(0.5, 1.0))
        try:
            answer = await _ask(context, joining, key_file, address, attempt)
        except NotAllowed as error:
            following, fault = joiner.refused(), ZClusterError(error.message)
            if following is None:
                raise _refused(joining) from None
        except (Unreachable, PeerError) as error:
            following, fault = joiner.unanswered(loop.time()), error
            if following is None:
                raise Unreachable(error.message, hint=_ask_after_master(joining)) from None
            address = next(others)
        else:
            failpoint("join.answered")
            return _written(joining, key_file, answer, address)
        attempt = following
        if attempt.after_s and (fault.message != last or loop.time() - said_s >= SAY_EVERY_S):
            last, said_s = fault.message, loop.time()
            joining.say(_waits(joining, key_file, fault))


async def _ask(context: zmq.Context[Socket], joining: Joining, key_file: KeyFile, address: str, attempt: Try) -> Joined:
    """One question. Raises NotAllowed, Unreachable or PeerError."""
    pair: KeyPair = key_file.pair
    question = Join(public=pair.public, name=key_file.name)
    if attempt.with_token and joining.token is not None:
        pair = joining.token.pair
        failpoint("join.before_asking")
    keys = (pair.public, pair.secret)
    answer = await ask(context, address, keys, key_file.master_public, question, timeout_s=ASK_S)
    match answer:
        case Joined():
            return answer
        case Refusal(code=NotAllowed.code):
            raise NotAllowed(f"the master at {address} refuses")
        case Refusal():
            raise Unreachable(f"the master at {address} cannot admit the key now: {answer.message}", hint=answer.hint)
        case _:
            told = type(answer).__name__.upper()
            raise PeerError(f"{address} answers JOIN with {told}", hint="is it a master, and as new as this zcluster?")


def _written(joining: Joining, key_file: KeyFile, answer: Joined, address: str) -> KeyFile:
    """The key file as the master says, on disk. Raises PeerError when it says what no key file can hold."""
    addresses = tuple(dict.fromkeys((address, *answer.addresses)))[:MAX_ADDRESSES]
    for fault in filter(None, map(name_fault, (answer.name, answer.cluster, *(node.name for node in answer.nodes)))):
        raise PeerError(f"the master's JOINED makes no sense: {fault}")
    for each in (*addresses, *answer.publish):
        parse_address(each)
    done = replace(
        key_file,
        name=answer.name,
        role=check_role(answer.role),
        cluster=answer.cluster,
        addresses=addresses,
        publish=tuple(answer.publish),
        nodes=tuple(KnownNode(node.name, check_public(node.public), (), node.next) for node in answer.nodes),
        joining=False,
    )
    done.rewrite(joining.path)
    joining.say(f"joined {done.cluster} as {done.name}; its key is {joining.path}, and no token is needed any more")
    return done


def _refused(joining: Joining) -> NotAllowed:
    return NotAllowed(
        "the master refuses the token",
        hint="it may have expired, been used up or revoked, or was changed: the master's log says which; "
        f"with a new one the key in {joining.path} is used again",
    )


def _ask_after_master(joining: Joining) -> str:
    known_by = "the token was made" if joining.token is not None else "the key file was made"
    return f"is the master there, and has it still the key that it had when {known_by}?"


def _waits(joining: Joining, key_file: KeyFile, fault: ZClusterError) -> str:
    if isinstance(fault, Unreachable | PeerError):
        return f"{fault.message} ({_ask_after_master(joining)}); it is tried again"
    mark = fingerprint(key_file.pair.public)
    return f"{key_file.name} waits to be accepted; on the master: zcluster keys accept {key_file.name} --fingerprint {mark}"
