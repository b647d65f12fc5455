"""The roles of the configuration at the master: read from its settings, held by its machine, told to the workers.

Rules kept here:
- what holds is what the file said when it was read last: a change is everywhere before any request that comes after it;
- a worker that takes part is told before it is given any work, and at each change, always all of them;
- anyone may ask what their own key may do; what another's may, an administrator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import msgspec

from zcluster.config import Loaded, RoleSettings
from zcluster.core.carrying import lowered
from zcluster.core.explained import Known, Question, Step, allowed, explain
from zcluster.core.master import Master
from zcluster.core.peers import Identity, Peer
from zcluster.core.rights import Rights, Rule
from zcluster.dapi.context import Context
from zcluster.dapi.function import Function, function
from zcluster.errors import NoSuchKey, NotAllowed
from zcluster.keys import Ring, may_call
from zcluster.nodes.desk import Desk
from zcluster.wire import Hello, Message, Sealed, encode
from zcluster.wire.rights import RoleInfo, Roles

TAKES_PART = "rights"
"""The word in the parts of a worker's HELLO that it is told."""
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
TargetText = Annotated[str, msgspec.Meta(min_length=1, max_length=8192)]
Priority = Annotated[int, msgspec.Meta(ge=0, le=9)]


def rules_of(roles: Iterable[RoleSettings]) -> list[Rule]:
    """The rules that the configuration declares."""
    return [Rule(role.name, role.base, role.functions, role.targets, *role.priorities) for role in roles]


def check(who: Identity, door: bool, asked: Question, known: Known) -> dict[str, Any]:
    """What ``zcluster rights check`` says: whether it is allowed, and why.

    Args:
        door: through a worker's door.
        asked: the question; its ``who`` is taken from here.
    """
    carried = lowered(who) if door else who
    if carried is None:
        steps = [Step("door", False, f"a key of role {who.grant or who.role} is not carried at a door")]
    else:
        key, *steps = explain(Question(carried, asked.function, asked.target, asked.priority), known)
        # A door lowers what a key may do, not what it is.
        steps = [key._replace(text=f"{who.name} has the role {who.grant or who.role}"), *steps]
    told = {"name": who.name, "role": who.grant or who.role, "function": asked.function, "target": asked.target}
    rows = [{"what": step.what, "ok": step.ok, "why": step.text} for step in steps]
    return {"allowed": allowed(steps), **told, "priority": asked.priority, "door": door, "steps": rows}


def rows_of(rights: Rights) -> list[dict[str, Any]]:
    """What ``zcluster rights ls`` lists: each role of the configuration."""
    return [
        {
            "name": rule.name, "base": rule.base, "functions": list(rule.functions), "targets": list(rule.targets),
            "priorities": [rule.lowest, rule.highest],
        }
        for rule in rights.rules.values()
    ]  # fmt: skip


class MasterRoles:
    """A part, and an attachment of the sessions.

    Args:
        look: look at who is admitted: roles may have another base.
    """

    kinds: frozenset[int] = frozenset()

    def __init__(self, desk: Desk, machine: Master, ring: Ring, look: Callable[[], None]) -> None:
        self._desk, self._machine, self._ring, self._look = desk, machine, ring, look
        self._rights = machine.rights
        self._rights.define(rules_of(desk.loaded().settings.roles.role))
        self._workers: dict[Peer, None] = {}
        machine.attach(self)

    def functions(self) -> dict[str, Function]:
        """``rights.check`` and ``rights.list``."""

        @function("rights.check", idempotent=True, pool="inline")
        def check_(
            function: Word, target: TargetText, context: Context, name: str = "", priority: Priority = 5, door: bool = False
        ) -> dict[str, Any]:
            """Whether the key ``name`` (empty: one's own) may call ``function`` at ``target``, and why: a step for each thing
            that is looked at. ``door``: through a worker's door. Of other keys only administrators may ask."""
            if name not in ("", context.caller) and context.role != "admin":
                raise NotAllowed("what another key may do is an administrator's to ask", hint="leave the name out")
            asked = Question(self._who(name or context.caller), function, target, priority)
            return check(asked.who, door, asked, self._known(function))

        @function("rights.list", role="admin", idempotent=True, pool="inline")
        def list_() -> list[dict[str, Any]]:
            """The roles of the configuration, with what each may do."""
            return rows_of(self._rights)

        return {found.name: found for found in (Function(call, own_errors=True) for call in (check_, list_))}

    async def start(self) -> None:
        """What the configuration says holds already."""

    def apply(self, loaded: Loaded) -> None:
        """The roles may be others: they hold at once."""
        if self._rights.define(rules_of(loaded.settings.roles.role)):
            self._look()
            frame = self._frame()
            for peer in self._workers:
                self._machine.tell(peer, frame)
            self._desk.wake()

    async def close(self) -> None:
        """Nothing is open."""

    # -- an attachment ----------------------------------------------------------------------------------------------

    def opened(self, peer: Peer, hello: Hello, now: float) -> None:
        """A worker begins without definitions: it is told those that there are."""
        if peer.identity.role == "worker" and TAKES_PART in hello.parts:
            self._workers[peer] = None
            if self._rights.rules:
                self._machine.tell(peer, self._frame())

    def closed(self, peer: Peer, reason: str, now: float) -> None:
        """It is told no more."""
        self._workers.pop(peer, None)

    def received(self, peer: Peer, message: Message, data: bytes, offset: int, now: float) -> None:
        """Nobody says anything of this kind."""

    # -- inside -----------------------------------------------------------------------------------------------------

    def _frame(self) -> Sealed:
        infos = [
            RoleInfo(rule.name, rule.base, list(rule.functions), list(rule.targets), rule.lowest, rule.highest)
            for rule in self._rights.rules.values()
        ]
        return Sealed(encode(Roles(roles=infos)))

    def _who(self, name: str) -> Identity:
        entry = self._ring.entries.get(name)
        if entry is None:
            raise NoSuchKey(f"the ring has no key {name[:80]!r}", hint="`zcluster keys ls` lists them")
        return self._rights.identity(entry.id, entry.name, entry.role)

    def _known(self, function: str) -> Known:
        machine = self._machine
        functions = machine.dispatch.functions
        roles = list(functions.roles(function)) if function in functions.providers else None
        return Known(self._rights, machine.roster.nodes.keys(), machine.name, roles, may_call)
