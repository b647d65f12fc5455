"""What the master checks before a request waits for a node.

Rules kept here:
- ids of a session grow; one that does not is a duplicate, is not admitted, and is counted;
- the caller's role must permit the function, and its rights function, target and priority (both checked here and again where it
  runs); of a fan-out the nodes that they do not permit are answered, and the others run it;
- full is Busy at once, with how long to wait; nothing is dropped in silence;
- a call means one node; a fan-out names its nodes now, and those that cannot answer are told at once, with the reason;
- a node that was here before the master started is expected (``joining``) for a grace period: requests wait for it;
- whether a request is audited is decided here, refused ones too; while nobody has its function, it may be one that is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from zcluster.core.auditing import ADMIN, MAX_ARGS_BYTES, Trail
from zcluster.core.counters import Counters
from zcluster.core.dispatch import Dispatch
from zcluster.core.drained import refuse_drained, turned_away, unavailable
from zcluster.core.locating import Locate, Parking, check_target, names_agents
from zcluster.core.peers import Event, Fan, Identity, Node, Peer, Request
from zcluster.core.rights import right_denied
from zcluster.core.targets import ANY, MASTER, globs_in, is_single, select
from zcluster.core.verdicts import no_such_function
from zcluster.errors import Busy, Draining, NodeUnavailable, NotAllowed, TooLarge, UsageError, ZClusterError
from zcluster.wire import RequestGroup, Requests
from zcluster.wire.messages import RequestFlag

ALWAYS = frozenset({"queue.cancel", "queue.retry", "queue.drop"})
"""Functions for every client that are audited like an administrator's: what they do to jobs outlives the request."""
DEFAULT_TIMEOUT_S = 30.0
MAX_SELECTIONS = 256
"""Different targets that one message may have looked up among all nodes."""
MAX_ANSWERED_AT_ONCE = 4096
ANSWERED_WINDOW_S = 0.1
"""How many parts of a caller's fan-outs may be answered at once (their nodes are away) in that time; one fan-out always may."""
PER_REQUEST = RequestFlag.LARGE | RequestFlag.FAN_OUT
"""Flags of groups whose requests are looked at one by one."""
HERE = frozenset({"ready", "joining"})
MAX_GLOBS = 64
"""Globs in one message, equal targets counted once: each costs time for each node there is."""


class Admission:
    """Turns the requests of a message into waiting requests or errors."""

    def __init__(
        self,
        nodes: dict[str, Node],
        master: str,
        dispatch: Dispatch,
        may_call: Callable[[str, str], bool],
        body_bytes: int,
        inline_bytes: int,
        counters: Counters,
        note: Callable[[Event], None],
    ) -> None:
        self.nodes = nodes
        self.draining = False
        self.grace_until_s = 0.0
        """Until then a function that no node has may still come with a node that is expected."""
        self.body_bytes = body_bytes
        self.inline_bytes = inline_bytes
        self._master = master
        self._dispatch = dispatch
        self._may_call = may_call
        self._count = counters.add
        self._note = note
        self._rights = dispatch.rights
        self.parking = Parking(dispatch)
        self._globs = 0
        self._selections = 0
        """How many were looked up for the message at hand."""
        self._frame = b""
        """That message: it may come in slices (backlog)."""
        self._selected: dict[str, list[Node]] = {}
        """What they mean, by target."""

    def admit(self, peer: Peer, message: Requests, data: bytes, offset: int, now: float) -> None:
        """Admit what may be admitted; every other request is answered with its error."""
        self._dispatch.touched[peer] = None
        if self._selections and data is not self._frame:
            self._globs, self._selections, self._selected = 0, 0, {}
        self._frame = data
        for group in message.groups:
            nodes, error = self._plan(peer, group, now)
            timeout_s = group.ttl_ms / 1000 if group.ttl_ms else DEFAULT_TIMEOUT_S
            deadline_s = now + min(timeout_s, self._dispatch.limits.max_timeout_s)
            count, audited = len(group.sizes), self._audits(group, error)
            if error is None and names_agents(group.target):
                offset = self._admit_located(peer, group, audited, data, offset, deadline_s, now)
            elif (
                error is None and not audited and not group.flags & PER_REQUEST and group.first_id > peer.last_id
                and self._too_much(peer, sum(group.sizes), count) is None
            ):  # fmt: skip
                offset = self._admit_run(peer, group, nodes, data, offset, deadline_s, now)
            else:
                offset = self._admit_each(peer, group, nodes, error, audited, data, offset, deadline_s, now)
            self._count("requests", len(group.sizes))

    def _admit_run(
        self, peer: Peer, group: RequestGroup, nodes: list[Node] | None, data: bytes, offset: int, deadline_s: float, now: float
    ) -> int:
        """The common case: a group that fits as a whole. The same as _admit_each, at a third of its cost."""
        dispatch = self._dispatch
        node = nodes[0] if nodes is not None else None
        queue = node.queue if node is not None else dispatch.queue_of(group.function, None)
        requests: list[Request] = []
        id_ = group.first_id
        for size in group.sizes:
            end = offset + size
            requests.append(Request(peer, id_, group, data[offset:end], size, deadline_s, now, node, queue))
            id_, offset = id_ + 1, end
        peer.last_id = id_ - 1
        peer.requests.update(zip(range(group.first_id, id_), requests, strict=True))
        dispatch.enqueue_run(requests, queue, now)
        return offset

    def located(self, locate: Locate, found: list[str] | ZClusterError) -> None:
        """The book's answer: the names of the nodes, or why there is none."""
        for request in self.parking.take(locate):
            try:
                nodes = self._found(request, found)
            except ZClusterError as error:
                self._tell_denied(request.caller.identity, request.group, error)
                self._dispatch.answer_error(request, error)
                continue
            if request.group.flags & RequestFlag.FAN_OUT:
                self._fan_out(request, nodes)
            else:
                self._dispatch.enqueue(request, nodes[0])

    def _found(self, request: Request, found: list[str] | ZClusterError) -> list[Node]:
        if isinstance(found, ZClusterError):
            raise found
        nodes = [self.nodes[name] for name in found if name in self.nodes]
        if not nodes:
            where = f"{request.group.target} is at {', '.join(found[:3])}, which this master does not know"
            raise NodeUnavailable(where, hint="`zcluster nodes` shows the nodes there are")
        group, who = request.group, request.caller.identity
        if group.flags & RequestFlag.FAN_OUT:
            return nodes
        if self._rights.narrows(who) and (denied := self._denied_at(who, group, nodes[0])) is not None:
            raise denied
        return [self._available(nodes[0], group.function)]

    def _admit_located(
        self, peer: Peer, group: RequestGroup, audited: bool, data: bytes, offset: int, deadline_s: float, now: float
    ) -> int:
        """Requests for where an agent is: they wait for the book's answer."""
        waiting: list[Request] = []
        large = group.flags & RequestFlag.LARGE
        for index, size in enumerate(group.sizes):
            end = offset if large else offset + size
            id_ = group.first_id + index
            if id_ <= peer.last_id:
                self._count("duplicate_request")
            else:
                peer.last_id = id_
                request = Request(peer, id_, group, data[offset:end], size, deadline_s, now)
                request.trail = self._trail(request) if audited else None
                peer.requests[id_] = request
                error = self._too_much(peer, len(request.body), len(waiting) + 1)
                if error is None:
                    waiting.append(request)
                else:
                    self._count("busy")
                    self._dispatch.answer_error(request, error)
            offset = end
        if waiting:
            self.parking.wait(group.target, waiting)
        return offset

    def _admit_each(
        self, peer: Peer, group: RequestGroup, nodes: list[Node] | None, error: ZClusterError | None, audited: bool, data: bytes,
        offset: int, deadline_s: float, now: float,
    ) -> int:  # fmt: skip
        large = group.flags & RequestFlag.LARGE
        id_ = group.first_id
        for size in group.sizes:
            end = offset if large else offset + size
            if id_ <= peer.last_id:
                self._count("duplicate_request")
            else:
                peer.last_id = id_
                request = Request(peer, id_, group, data[offset:end], size, deadline_s, now)
                request.trail = self._trail(request) if audited else None
                self._admit_one(request, nodes, error)
            id_, offset = id_ + 1, end
        return offset

    def _admit_one(self, request: Request, nodes: list[Node] | None, error: ZClusterError | None) -> None:
        peer, dispatch = request.caller, self._dispatch
        if error is None:
            count = 1 if nodes is None else len(nodes)
            error = self._too_much(peer, len(request.body) * count, count) or self._too_fast(request)
            if error is not None:
                self._count("busy")
        if error is not None:
            peer.requests[request.id] = request
            dispatch.answer_error(request, error)
        elif request.group.flags & RequestFlag.FAN_OUT:
            self._fan_out(request, nodes)
        else:
            peer.requests[request.id] = request
            dispatch.enqueue(request, nodes[0] if nodes is not None else None)

    def _fan_out(self, request: Request, nodes: list[Node] | None) -> None:
        peer = request.caller
        fan = Fan(peer, request.id)
        peer.requests[request.id] = fan
        parts: list[tuple[Request, Node | None]] = []
        for node in nodes if nodes is not None else [None]:
            part = Request(peer, request.id, request.group, request.body, request.size, request.deadline_s, request.queued_s)
            part.fan, part.trail = fan, request.trail
            fan.left[part] = None
            parts.append((part, node))
        if request.trail is not None:
            request.trail.open_parts = len(parts)
        refused = [
            (part, node, error) for part, node in parts
            if node is not None and (error := self._refused_at(peer.identity, request.group, node)) is not None
        ]  # fmt: skip
        peer.answered_at_once += len(refused)
        for part, node, error in refused:
            part.node = node
            self._dispatch.answer_error(part, error)
        denied = next((error for _, _, error in refused if isinstance(error, NotAllowed)), None)
        if denied is not None:
            self._tell_denied(peer.identity, request.group, denied)
        for part, node in parts:
            if part in fan.left:
                self._dispatch.enqueue(part, node)

    def _audits(self, group: RequestGroup, error: ZClusterError | None) -> bool:
        """Whether the requests of ``group``, which were refused with ``error`` or not, are audited."""
        which = self._dispatch.auditing.requests
        if which != ADMIN:
            return which == "all"
        functions = self._dispatch.functions
        if group.function in ALWAYS:
            return True
        if error is None:
            return ADMIN in functions.roles(group.function) or group.function not in functions.providers
        return ADMIN in functions.roles(group.function) or ADMIN in self._roles(group)

    def _trail(self, request: Request) -> Trail:
        caller, group, who = request.caller, request.group, request.caller.identity
        body = request.body if len(request.body) <= MAX_ARGS_BYTES else b""
        if not request.size:
            body = b"{}"  # empty means no arguments
        schemas = frozenset(self._dispatch.functions.schemas(group.function))
        id_, since_s = f"{caller.no}.{request.id}", request.queued_s
        return Trail(id_, who.name, who.key, who.grant or who.role, group.function, group.target, body, schemas, since_s)

    def _plan(self, peer: Peer, group: RequestGroup, now: float) -> tuple[list[Node] | None, ZClusterError | None]:
        """The nodes of a group's requests (None: any), or the error that all of them get."""
        try:
            self._check(peer, group)
            return self._nodes(group, now), None
        except ZClusterError as error:
            self._count(f"refused_{error.code}", len(group.sizes))
            self._tell_denied(peer.identity, group, error)
            return None, error

    def _tell_denied(self, who: Identity, group: RequestGroup, error: ZClusterError) -> None:
        if isinstance(error, NotAllowed):
            self._note(right_denied(who, group.function, group.target, error))

    def _check(self, peer: Peer, group: RequestGroup) -> None:
        if self.draining:
            raise Draining("the master is shutting down; it was never started", hint="try again when it is back")
        who = peer.identity
        if not any(self._may_call(who.role, needed) for needed in self._roles(group)):
            what = f"{who.name} ({who.grant or who.role}) may not call {group.function}"
            raise NotAllowed(what, hint="use a key with another role")
        if (who.grant or who.also or self._rights.rules) and self._rights.narrows(who):
            self._check_rights(who, group)
        limit = self.body_bytes if group.flags & RequestFlag.LARGE else self.inline_bytes
        if max(group.sizes) > limit:
            hint = "limits.body_bytes" if group.flags & RequestFlag.LARGE else "send it in chunks: docs/protocol.md, large bodies"
            raise TooLarge(f"a body of {max(group.sizes)} bytes, at most {limit} are allowed", hint=hint)

    def _check_rights(self, who: Identity, group: RequestGroup) -> None:
        """What can be said before the nodes are looked up: those of fan-outs, and where agents are, are looked at one by one."""
        target, error = group.target, self._rights.refusal(who, group.function, group.priority)
        if error is None and (target == ANY or not (group.flags & RequestFlag.FAN_OUT or names_agents(target))):
            node = "" if target == ANY else self._master if target == MASTER else target
            error = self._rights.refusal_at(who, group.function, target, node, master=node == self._master)
        if error is not None:
            raise error

    def _denied_at(self, who: Identity, group: RequestGroup, node: Node) -> NotAllowed | None:
        return self._rights.refusal_at(who, group.function, group.target, node.name, master=node.name == self._master)

    def _refused_at(self, who: Identity, group: RequestGroup, node: Node) -> ZClusterError | None:
        """Why this part of a fan-out does not begin at ``node``."""
        denied = self._denied_at(who, group, node) if self._rights.narrows(who) else None
        return denied or (None if _here(node, group.function) else unavailable(node))

    def _roles(self, group: RequestGroup) -> Iterable[str]:
        """The roles that the function asks of its caller where it may run. The node itself has the last word."""
        node = self.nodes.get(self._master if group.target == MASTER else group.target)
        info = node.functions.get(group.function) if node is not None else None
        return self._dispatch.functions.roles(group.function) if info is None else (info.role,)

    def _nodes(self, group: RequestGroup, now: float) -> list[Node] | None:
        target, fan_out = group.target, group.flags & RequestFlag.FAN_OUT
        if names_agents(target):
            check_target(target, bool(fan_out))
            return None
        if target == ANY:
            functions = self._dispatch.functions
            providers = functions.providers.get(group.function)
            if providers:
                if functions.drained:
                    refuse_drained(group.function, providers.values())
            elif now >= self.grace_until_s:
                raise no_such_function(group.function, "")
            return None
        if not fan_out and not is_single(target):
            raise UsageError(f"target {target!r} may mean several nodes", hint="use fan_out for lists, globs and 'all'")
        if not fan_out:
            node = self.nodes.get(self._master if target == MASTER else target)
            if node is not None and (node.state != "left"):
                return [self._available(node, group.function)]
        nodes = self._select(target)
        return nodes if fan_out else [self._available(nodes[0], group.function)]

    def _select(self, target: str) -> list[Node]:
        found = self._selected.get(target)
        if found is not None:
            return found
        node = self.nodes.get(target)
        if node is not None and node.state != "left":
            return [node]
        self._selections += 1
        if self._selections > MAX_SELECTIONS:
            what = f"more than {MAX_SELECTIONS} different targets in one message"
            raise Busy(what, hint="send fewer at once", retry_after_s=0.05)
        globs = globs_in(target)
        self._globs += globs
        if self._globs > MAX_GLOBS:
            raise Busy(f"more than {MAX_GLOBS} globs in one message", hint="send fewer at once", retry_after_s=0.05)
        here = [name for name, node in self.nodes.items() if node.state != "left"]
        found = [self.nodes[name] for name in select(target, here, self._master)]
        self._selected[target] = found
        return found

    def _available(self, node: Node, function: str) -> Node:
        if not _here(node, function):
            raise unavailable(node)
        if node.state == "ready" and function not in node.functions:
            raise no_such_function(function, node.name)
        return node

    def _too_much(self, peer: Peer, body_bytes: int, count: int) -> ZClusterError | None:
        dispatch, limits = self._dispatch, self._dispatch.limits
        if peer.waiting + count > limits.per_client:
            what, wait = f"{peer.waiting} requests of this client wait", peer.waiting
        elif dispatch.waiting + count > limits.total:
            what, wait = f"{dispatch.waiting} requests wait", dispatch.waiting
        elif dispatch.waiting_bytes + body_bytes > limits.total_bytes:
            what, wait = f"{dispatch.waiting_bytes} bytes wait", dispatch.waiting
        else:
            return None
        retry_after_s = min(30.0, max(0.05, wait / max(dispatch.rate_s, 100.0)))
        return Busy(f"the queue is full: {what}", hint=f"try again in {retry_after_s:.2g} s", retry_after_s=retry_after_s)

    def _too_fast(self, request: Request) -> ZClusterError | None:
        """Parts for nodes that are away are answered at once, so no queue bounds them: this does."""
        peer, window = request.caller, int(request.queued_s / ANSWERED_WINDOW_S)
        if window != peer.window:
            peer.window, peer.answered_at_once = window, 0
        if peer.answered_at_once <= MAX_ANSWERED_AT_ONCE:
            return None
        what = "too many parts of fan-outs for nodes that are away"
        return Busy(what, hint="send fewer at once", retry_after_s=ANSWERED_WINDOW_S)


def _here(node: Node, function: str) -> bool:
    return node.state in HERE and not (node.peer is not None and node.peer.draining) and not turned_away(node, function)
