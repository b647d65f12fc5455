"""Requests become the groups of WORK.

Rules kept here:
- the members of a group are of one caller, function and deadline, with consecutive ids and legs; either all of them have a
  mark (they are attempts of durable jobs) or none has;
- a mark is reckoned as header with every character escaped, so that a message keeps its bound whatever the keys are;
- what a group is held to (rights.py) is the same for all its members; where no definition concerns the caller it is not there.
"""

from __future__ import annotations

from zcluster.core.batch import Batch
from zcluster.core.peers import Request
from zcluster.core.relay import Relay
from zcluster.core.rights import Rights, word_of
from zcluster.wire import Mark, Of, WorkGroup
from zcluster.wire.messages import RequestFlag
from zcluster.wire.rights import Held

HELD_BYTES = 16 * 67 + 6 * 256
"""Of what a group is held to, at most."""


def begin_group(request: Request, batch: Batch[WorkGroup], ttl_ms: int, rights: Rights) -> None:
    """Begin a group with ``request``; one with a large body, which follows by itself, stays alone."""
    group, who, mark = request.group, request.caller.identity, request.mark
    large = group.flags & RequestFlag.LARGE
    header_bytes = 128 + 6 * (len(group.function) + len(who.name))
    work = WorkGroup(
        group.function, who.name, who.role, ttl_ms, large, request.caller.no, request.id, request.leg, [request.size]
    )
    if mark is not None:
        work.marks = [mark]
        header_bytes += _mark_bytes(mark)
    if who.grant or who.also or who.role in rights.rules:
        work.held = Held(list(who.names), _word(request), group.priority)
        header_bytes += HELD_BYTES
    batch.begin(work, request.body, header_bytes)
    if large:
        request.relay = Relay(request, Of.REQUEST_BODY, request.size)
        batch.last = None


def join_marked(request: Request, batch: Batch[WorkGroup], ttl_ms: int) -> bool:
    """Add ``request``, which has a mark, to the last group if that goes on with it; whether it did."""
    last, mark, group = batch.last, request.mark, request.group
    if last is None or last.marks is None or mark is None or group.flags & RequestFlag.LARGE:
        return False
    # By value: jobs that are alike need not share a RequestGroup. The caller's number stands for its name and role.
    count = len(last.sizes)
    follows = last.first_request + count == request.id and last.first_leg + count == request.leg
    if not follows or (last.function, last.session, last.ttl_ms) != (group.function, request.caller.no, ttl_ms):
        return False
    if last.held is not None and (last.held.word, last.held.priority) != (_word(request), group.priority):
        return False
    last.marks.append(mark)
    batch.reckon(_mark_bytes(mark))
    batch.join(request.body)
    return True


def _word(request: Request) -> str:
    return request.word or word_of(request.group.target)


def _mark_bytes(mark: Mark) -> int:
    return 32 + 6 * (len(mark.job) + len(mark.key))
