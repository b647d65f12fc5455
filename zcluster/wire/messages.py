"""Every message of the bus, typed, in one place.

Rules kept here:
- a message is one class with a ``kind`` number, which is the third byte of its frame;
- headers are JSON and are decoded by msgspec straight into these classes, so a header of the wrong shape never
  becomes an object (bounds are part of the types);
- a batch message carries *groups*: runs of consecutive ids with the same properties, so that 64 requests cost one header;
- bodies are not here: they follow the header in the frame, in the order of the groups' ``sizes``.

Adding a message: one class here, one entry in ``KINDS``, one paragraph in docs/protocol.md, one golden frame in tests/golden.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from zcluster.wire.agents import AGENT_BODIES, AGENT_BULK, AGENT_KINDS, AgentMessage
from zcluster.wire.jobs import JOB_BULK, JOB_KINDS, SIZED_KINDS, JobMessage
from zcluster.wire.joining import JOINING_KINDS, JoiningMessage
from zcluster.wire.rights import RIGHTS_KINDS, Held, RightsMessage
from zcluster.wire.rotation import ROTATION_KINDS, RotationMessage
from zcluster.wire.tables import TABLE_BODIES, TABLE_BULK, TABLE_KINDS, TableMessage
from zcluster.wire.trees import BODY_KINDS, BULK_KINDS, TREE_KINDS, TreeMessage
from zcluster.wire.trees import MAX_ID as MAX_ID

Id = Annotated[int, Meta(ge=0, le=MAX_ID)]
RequestId = Annotated[int, Meta(ge=1, le=MAX_ID)]
Size = Annotated[int, Meta(ge=0, le=MAX_ID)]
Sizes = Annotated[list[Size], Meta(min_length=1, max_length=4096)]
Name = Annotated[str, Meta(max_length=128)]
Text = Annotated[str, Meta(max_length=4000)]
TargetText = Annotated[str, Meta(max_length=8192)]
Priority = Annotated[int, Meta(ge=0, le=9)]
Flags = Annotated[int, Meta(ge=0, le=255)]
TtlMs = Annotated[int, Meta(ge=0, le=86_400_000)]


class RequestFlag:
    """Bits of ``flags`` in a request or work group."""

    LARGE = 1
    """The bodies follow in CHUNK messages; ``sizes`` says how large they are. Such a group has one member."""
    FAN_OUT = 2
    """The target may mean several nodes; each answers by itself and a DONE ends it."""
    IDEMPOTENT = 4
    """The caller says that running it twice does no harm, whatever the function's declaration says."""


class Status:
    """How a result or reply is to be read."""

    VALUE = 0
    ERROR = 1
    ITEM = 2
    """Items of a stream: all ``sizes`` of the group belong to the one id ``first_id`` / ``first_leg``."""
    END = 3
    """A stream ended well (no body)."""
    LARGE_VALUE = 4
    """The value follows in CHUNK messages against credit; ``sizes`` holds its size (no body here)."""
    DONE = 5
    """A fan-out has all its answers (no body). Only in replies."""
    REFUSED = 6
    """The worker did not start it (it is draining, or full); the body is the error. Only in results."""


class Of:
    """What a grant of credit is for."""

    REQUEST_BODY = 0
    REPLY_BODY = 1
    ITEMS = 2


class FunctionInfo(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a node says of one function when it joins."""

    name: Name
    doc: Text = ""
    role: Name = "client"
    timeout_s: float | None = None
    idempotent: bool = False
    stream: bool = False
    pool: Name = "thread"
    parameters: str = ""
    """The JSON schema of the arguments, as JSON text: the master opens it only to hide secrets."""
    returns: Text = ""


class Hello(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Peer to master, first message of a connection. The name and role come from the key, never from here."""

    kind: ClassVar[int] = 1
    versions: Annotated[list[int], Meta(min_length=1, max_length=16)]
    software: Name = ""
    instance: Name
    """Random text of this process: tells a reconnection from a second process with the same key."""
    slots: Annotated[int, Meta(ge=0, le=65536)] = 0
    functions: Annotated[list[FunctionInfo], Meta(max_length=4096)] = []
    moves: Id = 0
    """The number of the session that moves to this connection (its key was rotated); 0: a session begins."""
    epoch: Id = 0
    """Agent: the number of this session, larger than of each before; the newest session of an agent holds it."""
    door: Annotated[list[Annotated[str, Meta(max_length=256)]], Meta(max_length=16)] = []
    """Worker: the addresses at which agents and clients may connect to it."""
    parts: Annotated[list[Name], Meta(max_length=16)] = []
    """Worker: what it takes part in beyond requests and trees: ``tables`` (it is told HEAD), ``agents`` (it is told TAKEN),
    ``rights`` (it is told ROLES)."""


class Welcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Master to peer, answer to HELLO: the peer is admitted as ``name`` in session ``session``."""

    kind: ClassVar[int] = 2
    version: int
    session: Id
    name: Name
    role: Name
    cluster: Name
    master: Name
    epoch: Id
    software: Name = ""
    heartbeat_s: Annotated[float, Meta(gt=0, le=3600)]
    lease_heartbeats: Annotated[int, Meta(ge=2, le=100)]
    body_bytes: Size
    inline_bytes: Size
    chunk_bytes: Annotated[int, Meta(ge=1024, le=MAX_ID)]
    window_bytes: Annotated[int, Meta(ge=1024, le=MAX_ID)]
    frame_bytes: Size = 0
    """The largest frame that is taken; 0: not told."""


class Beat(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Both ways, once a heartbeat interval, from the main loop. The master answers each with one."""

    kind: ClassVar[int] = 3
    slots: Annotated[int, Meta(ge=0, le=65536)] | None = None
    """How many requests it takes at once from now on; absent: as before."""
    in_flight: Size = 0
    load: float = 0.0
    cpu_percent: float = 0.0
    memory_percent: float = 0.0
    trees: Annotated[str, Meta(max_length=64)] = ""
    """Worker: one digest over the roots of all its trees, so that an idle cluster needs nothing else to know that nothing
    differs."""
    agents: Size = 0
    """Worker: how many agents have a session at its door."""


class Bye(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Both ways: this session ends (``draining`` false) or takes no new work (``draining`` true)."""

    kind: ClassVar[int] = 4
    code: Name = ""
    message: Text = ""
    hint: Text = ""
    draining: bool = False


class Refusal(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Master to peer: a whole message was refused; the session goes on unless a BYE follows."""

    kind: ClassVar[int] = 5
    code: Name
    about: Annotated[int, Meta(ge=0, le=255)] = 0
    """The kind of the refused message; 0 when it could not be told."""
    message: Text = ""
    hint: Text = ""
    versions: list[int] = []


class Cancel(Struct, frozen=True, kw_only=True):
    """Client to master (``ids`` are request ids) or master to worker (``ids`` are legs)."""

    kind: ClassVar[int] = 6
    ids: Annotated[list[Id], Meta(max_length=4096)]


class Grant(Struct, array_like=True):
    """Credit: the receiver takes up to ``upto`` bytes (or items) in total of this body or stream."""

    id: Id
    leg: Id
    of: Annotated[int, Meta(ge=0, le=2)]
    upto: Size


class Credit(Struct, frozen=True, kw_only=True):
    """Grants of credit; between master and worker ``id`` is 0 and ``leg`` decides."""

    kind: ClassVar[int] = 7
    grants: Annotated[list[Grant], Meta(max_length=4096)]


class Catalog(Struct, frozen=True, kw_only=True):
    """Master to client: the functions that may be run twice without harm (so that the client may retry them)."""

    kind: ClassVar[int] = 8
    idempotent: Annotated[list[Name], Meta(max_length=65536)]


class RequestGroup(Struct, array_like=True):
    """Requests of one caller with the same function, target, deadline and priority, and consecutive ids."""

    function: Name
    target: TargetText
    ttl_ms: TtlMs
    priority: Priority
    flags: Flags
    first_id: RequestId
    sizes: Sizes


class Requests(Struct, frozen=True, array_like=True):
    """Client to master. Ids of a session MUST grow; bodies follow the header."""

    kind: ClassVar[int] = 16
    groups: Annotated[list[RequestGroup], Meta(max_length=4096)]


class Mark(Struct, array_like=True):
    """What a node is told of a durable job, for the function that runs it."""

    job: Name
    """Its id."""
    attempt: Annotated[int, Meta(ge=1, le=MAX_ID)]
    key: Annotated[str, Meta(max_length=256)]
    """Its idempotency key."""


class WorkGroup(Struct, array_like=True):
    """Requests for a worker: consecutive legs (the master's numbers) and consecutive request ids of one caller."""

    function: Name
    caller: Name
    role: Name
    ttl_ms: TtlMs
    flags: Flags
    session: Id
    first_request: Id
    first_leg: Id
    sizes: Sizes
    marks: Annotated[list[Mark], Meta(max_length=4096)] | None = None
    """Of a durable job each member has one; absent or null: requests."""
    held: Held | None = None
    """Absent or null: there is nothing to hold them to but ``role``."""


class Work(Struct, frozen=True, array_like=True):
    """Master to worker. Legs of a session grow."""

    kind: ClassVar[int] = 17
    groups: Annotated[list[WorkGroup], Meta(max_length=4096)]


class ResultGroup(Struct, array_like=True):
    """Results with the same status and consecutive legs (or items of the one leg ``first_leg``)."""

    first_leg: Id
    status: Annotated[int, Meta(ge=0, le=6)]
    sizes: Sizes


class Results(Struct, frozen=True, array_like=True):
    """Worker to master."""

    kind: ClassVar[int] = 18
    groups: Annotated[list[ResultGroup], Meta(max_length=4096)]


class ReplyGroup(Struct, array_like=True):
    """Replies with the same status and node and consecutive ids; ``leg`` is set where credit will name it, else 0."""

    first_id: Id
    status: Annotated[int, Meta(ge=0, le=5)]
    node: Name
    leg: Id
    sizes: Sizes


class Replies(Struct, frozen=True, array_like=True):
    """Master to client."""

    kind: ClassVar[int] = 19
    groups: Annotated[list[ReplyGroup], Meta(max_length=4096)]


class Chunk(Struct, frozen=True, array_like=True):
    """A piece of a large body; its bytes are the frame's body. Between master and worker ``id`` is 0."""

    kind: ClassVar[int] = 20
    id: Id
    leg: Id
    offset: Size


class Sealed:
    """A frame that is encoded already, by another process of this node: it is sent as it is."""

    __slots__ = ("frame", "kind")

    def __init__(self, frame: bytes | bytearray | memoryview) -> None:
        self.frame = frame
        self.kind = frame[2]


BusMessage = (
    Hello | Welcome | Beat | Bye | Refusal | Cancel | Credit | Catalog | Requests | Work | Results | Replies | Chunk
)
Message = (
    BusMessage | TreeMessage | TableMessage | AgentMessage | JobMessage | JoiningMessage | RightsMessage | RotationMessage
    | Sealed
)

_BUS_KINDS: tuple[type[BusMessage], ...] = (
    Hello, Welcome, Beat, Bye, Refusal, Cancel, Credit, Catalog, Requests, Work, Results, Replies, Chunk,
)  # fmt: skip
KINDS: dict[
    int,
    type[BusMessage] | type[TreeMessage] | type[TableMessage] | type[AgentMessage] | type[JobMessage] | type[JoiningMessage]
    | type[RightsMessage] | type[RotationMessage],
] = {
    cls.kind: cls
    for cls in (
        *_BUS_KINDS, *TREE_KINDS, *TABLE_KINDS, *AGENT_KINDS, *JOB_KINDS, *JOINING_KINDS, *RIGHTS_KINDS, *ROTATION_KINDS,
    )
}  # fmt: skip
"""The class of each kind number."""
LATE_KINDS = BULK_KINDS | TABLE_BULK | AGENT_BULK | JOB_BULK | SIZED_KINDS
"""Kinds beyond the bus's own that go by the bulk lane; the others of them are control."""
TAKES_ALL = BODY_KINDS | TABLE_BODIES | AGENT_BODIES | {Chunk.kind}
"""Kinds whose body is all that follows the header."""
