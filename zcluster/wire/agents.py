"""The messages about agents, the doors of nodes, and what clients say to one another, typed. docs/protocol.md ("Agents",
"Doors", "Messages between clients") says how they follow each other.

Rules kept here:
- an agent says of itself only what changed since its last word on this session; the first word of a session says all;
- rows go up in chunks that are numbered without gaps; what the master has committed it acknowledges, and nothing else;
- who an agent or client is comes from its key; at a worker's door the worker vouches for the key of the connection it carries.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Struct

from zcluster.wire.trees import MAX_ID, Count, Encoding, RawBytes, Words

AgentId = Annotated[str, Meta(min_length=1, max_length=128)]
NodeName = Annotated[str, Meta(max_length=64)]
GroupName = Annotated[str, Meta(min_length=1, max_length=64)]
Short = Annotated[str, Meta(max_length=256)]
Digest = Annotated[str, Meta(max_length=64)]
Connection = Annotated[int, Meta(ge=1, le=MAX_ID)]


class Keep(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Agent to node, each interval: it is alive. A field that is absent is as before."""

    kind: ClassVar[int] = 52
    full: bool = False
    """This says everything; what is absent is empty."""
    interval_s: Annotated[float, Meta(gt=0, le=86_400)] | None = None
    """When the next is to be expected."""
    name: Short | None = None
    address: Short | None = None
    """The host's own address, as the host sees it."""
    version: Annotated[str, Meta(max_length=64)] | None = None
    os: dict[str, Any] | None = None
    labels: dict[str, str] | None = None
    metrics: dict[str, Any] | None = None
    config: Digest | None = None
    """Digest of the SETTINGS that it applied."""
    tree: Digest | None = None
    """Digest of the shared files that it holds."""


class SharedFile(Struct, array_like=True, frozen=True):
    """One file of a group."""

    name: Annotated[str, Meta(min_length=1, max_length=255)]
    digest: Digest
    """blake2b_256 of its content, hexadecimal."""
    size: Count


class Settings(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Node to agent: its groups in order, its merged configuration, and the shared files of its groups."""

    kind: ClassVar[int] = 53
    digest: Digest
    """Of all of this; KEEP says it back."""
    groups: Annotated[list[GroupName], Meta(max_length=64)] = []
    config: dict[str, Any] = {}
    files: Annotated[list[SharedFile], Meta(max_length=1024)] = []


class Grab(Struct, frozen=True, kw_only=True):
    """Agent to node: send the shared file with this digest, from ``offset`` on."""

    kind: ClassVar[int] = 54
    digest: Digest
    offset: Count = 0


class Shared(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Node to agent: a piece of a shared file, which is the body. ``code`` tells why there is none."""

    kind: ClassVar[int] = 55
    digest: Digest
    offset: Count
    size: Count
    """Of the whole file."""
    code: Annotated[str, Meta(max_length=64)] = ""


class Door(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where agents and clients may connect to a node."""

    node: NodeName
    public: Annotated[str, Meta(max_length=40)]
    """Its CURVE public key, Z85."""
    next: Annotated[str, Meta(max_length=40)] = ""
    """The key that it will have soon, or has already; empty: none is known."""
    addresses: Annotated[list[Short], Meta(max_length=16)]
    agents: Count = 0
    """How many agents have a session there: the fewer, the better."""


class Doors(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Node to agent, and master to worker: the doors there are. ``go`` tells an agent to move to that node now."""

    kind: ClassVar[int] = 56
    doors: Annotated[list[Door], Meta(max_length=1024)] = []
    go: NodeName = ""


class Rows(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Worker to master: the rows of its agents that changed after ``base`` up to ``upto`` (numbers of the worker's own book).

    Body: a JSON array of rows, each ``[id, op, epoch, held, {fields}]``.
    """

    kind: ClassVar[int] = 57
    source: Annotated[str, Meta(max_length=64)]
    """Random text of the worker's book: another one begins at 0."""
    base: Count
    upto: Count
    count: Annotated[int, Meta(ge=0, le=65_536)]
    more: bool = False
    """Whether others follow at once; false: with these the master has all that there is."""
    encoding: Encoding = 0
    raw_bytes: RawBytes


class Taken(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Master to worker: of ``source`` everything up to ``upto`` is committed here. Sent after WELCOME, after each commit, and
    as the answer to ROWS that do not follow."""

    kind: ClassVar[int] = 58
    source: Annotated[str, Meta(max_length=64)] = ""
    """Empty: nothing of this worker is known."""
    upto: Count = 0
    refused: Annotated[list[tuple[AgentId, Annotated[str, Meta(max_length=64)]]], Meta(max_length=1000)] = []
    """Rows that were not taken, and why (``late``, ``foreign``, ``invalid``); the first of them."""
    refused_count: Count = 0


class AgentOrder(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that a node is to do with one agent."""

    op: Literal["drop", "adopt", "move", "remove"]
    """``drop``: it belongs to another node. ``adopt``: it is this node's from now on. ``move``: tell it to go to ``node``.
    ``remove``: forget it and end its session."""
    id: AgentId
    epoch: Count = 0
    """Of the claim that decided: what this node holds by a newer one stays. 0 with ``remove``: whatever it holds."""
    held: Literal["session", "report"] = "session"
    """``drop``: how the claim with ``epoch`` is held."""
    node: NodeName = ""
    """``move``: where to. ``drop``: whose that claim is; empty: this node's own, which was refused."""
    row: dict[str, Any] = {}
    """``adopt``: its fields."""


class AgentOrders(Struct, frozen=True, kw_only=True):
    """Master to worker."""

    kind: ClassVar[int] = 59
    orders: Annotated[list[AgentOrder], Meta(max_length=1000)]


class Metrics(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Worker to master, each interval of its live configuration: what it measured."""

    kind: ClassVar[int] = 60
    values: dict[str, Any]
    config: Digest = ""
    """Digest of the live configuration that it has applied."""


class Carry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Both ways between worker and master: a connection of a client at the worker's door. The body is a frame of it."""

    kind: ClassVar[int] = 61
    connection: Connection
    op: Literal["open", "data", "closed", "full"] = "data"
    key: Annotated[str, Meta(max_length=40)] = ""
    """With ``open``: the client's CURVE public key, as the worker's ZAP admitted it."""


class Listen(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Client to master: notes to this name are to come to this session (empty: no longer)."""

    kind: ClassVar[int] = 62
    name: Annotated[str, Meta(max_length=64)]
    seen: Count = 0
    """The client has the kept notes up to this id: they are forgotten. Such a LISTEN is not answered."""


class Note(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Master to client: what another client said."""

    kind: ClassVar[int] = 63
    id: Count
    sender: Annotated[str, Meta(max_length=64)]
    key: Annotated[str, Meta(max_length=64)]
    """The name of the sender's key: it is proven, the sender's own name is only said."""
    to: Annotated[str, Meta(max_length=64)]
    text: Annotated[str, Meta(max_length=65_536)]
    at_s: float
    kept: bool = False
    """It was kept until now; LISTEN confirms it."""
    code: Words = ""
    """The answer to a LISTEN (``id`` is 0): ``listening``, or the code of the error that ``text`` tells."""


class EventInfo(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that happened at a node. Bounds beyond those of the types: core/eventnames.py."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    at_s: float
    """When, by the node's clock."""
    level: Literal["info", "warning"] = "info"
    fields: dict[str, Any] = {}
    """What it is about."""


class Events(Struct, frozen=True, kw_only=True):
    """Worker to master: what happened there, in order."""

    kind: ClassVar[int] = 64
    events: Annotated[list[EventInfo], Meta(max_length=100)]


AgentMessage = (
    Keep | Settings | Grab | Shared | Doors | Rows | Taken | AgentOrders | Metrics | Carry | Listen | Note | Events
)  # fmt: skip
AGENT_KINDS: tuple[type[AgentMessage], ...] = (
    Keep, Settings, Grab, Shared, Doors, Rows, Taken, AgentOrders, Metrics, Carry, Listen, Note, Events,
)  # fmt: skip
AGENT_BULK = frozenset({Shared.kind, Rows.kind, Carry.kind})
AGENT_BODIES = frozenset({Shared.kind, Rows.kind, Carry.kind})
