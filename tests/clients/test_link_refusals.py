"""When a client that was never admitted gives up."""

from __future__ import annotations

import asyncio
import logging

import pytest

from zcluster.clients.link import ClientLink
from zcluster.core.doors import Candidate
from zcluster.core.link import LinkPolicy
from zcluster.errors import NotAllowed, TimedOut, Unreachable, UnsupportedVersion, ZClusterError
from zcluster.keys import KeyFile, generate
from zcluster.keys.rotation import OwnKey

NOWHERE, ELSEWHERE = Candidate("tcp://127.0.0.1:1"), Candidate("tcp://127.0.0.1:2")
REFUSED = NotAllowed("refused")


@pytest.mark.parametrize(("addresses", "errors", "ended"), [
    ([NOWHERE], [REFUSED], True),
    ([NOWHERE], [Unreachable("gone")], False),
    ([Candidate(NOWHERE.address, "K"), Candidate(NOWHERE.address, "L")], [REFUSED], True),
    ([NOWHERE, ELSEWHERE], [REFUSED], False),
    ([NOWHERE, ELSEWHERE], [REFUSED, Unreachable("gone")], False),
    ([NOWHERE, ELSEWHERE], [REFUSED, REFUSED], True),
    ([NOWHERE, ELSEWHERE], [UnsupportedVersion("old")], True),
])  # fmt: skip
def test_it_gives_up_when_each_address_has_refused_it(
    addresses: list[Candidate], errors: list[ZClusterError], ended: bool
) -> None:
    async def body() -> None:
        key_file = KeyFile("anna", "client", "c", generate(), generate().public)
        link = ClientLink(OwnKey(key_file), lambda _key_file: addresses, LinkPolicy(), logging.getLogger("test"))
        waiting = asyncio.ensure_future(link.opened(60.0))
        for error in errors:
            link.link_down(error, False, 0.0)
        if ended:
            with pytest.raises(type(errors[-1])):
                await waiting
        else:
            assert not link._opened.done()
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        link.close()

    asyncio.run(body())


@pytest.mark.parametrize(("last", "expected"), [(REFUSED, NotAllowed), (Unreachable("gone"), TimedOut)])
def test_what_was_never_sent_ends_with_the_refusal_of_a_key_that_was_admitted_before(
    last: ZClusterError, expected: type[ZClusterError]
) -> None:
    async def body() -> None:
        key_file = KeyFile("anna", "client", "c", generate(), generate().public)
        link = ClientLink(OwnKey(key_file), lambda _key_file: [NOWHERE], LinkPolicy(), logging.getLogger("test"))
        link._opened.set_result(None)
        link.link_down(last, True, 0.0)
        call = link.calls.open("echo", "any", b"", link.loop.time() - 60.0, timeout_s=1.0)
        call.sink = answer = link.loop.create_future()
        link._due()
        with pytest.raises(expected):
            await answer
        link.close()

    asyncio.run(body())
