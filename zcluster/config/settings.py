"""Every setting of zcluster, each declared, documented and bounded in this one place.

Rules kept here:
- a setting is a field of a frozen table; its name is TABLE.KEY, its unit is the end of its key (``_s``, ``_bytes``);
- the declared default is the one of preset "lan"; a preset changes defaults only;
- what must hold between settings is in rules.py; nothing else is said about a setting elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

from zcluster.config.audit import AuditSettings
from zcluster.config.queue import QueueSettings
from zcluster.config.roles import RolesSettings
from zcluster.config.spec import SPEC_KEY, Declared, about
from zcluster.config.sync import SyncSettings
from zcluster.config.units import GIB, KIB, MIB

PRESETS: Mapping[str, str] = MappingProxyType(
    {
        "local": "all processes on one machine: faults are seen sooner",
        "lan": "one site (the default)",
        "wan": "links with delay and loss: more patience",
    }
)


@dataclass(frozen=True)
class ClusterSettings:
    """The cluster as a whole."""

    name: str = field(
        default="zcluster", metadata=about("name", "Name of the cluster, shown in status and written into key files.")
    )
    preset: str = field(
        default="lan",
        metadata=about(
            "choice",
            "Which set of default timings to start from: local (one machine), lan (one site) or wan (links with delay). "
            "A timing that is set explicitly wins over its preset.",
            choices=tuple(PRESETS),
            flag="--preset",
        ),
    )


@dataclass(frozen=True)
class NodeSettings:
    """This node, whatever its role."""

    name: str = field(
        default="",
        metadata=about(
            "name", "Name of this node. Empty: 'master' for a master, the name in its key file for a worker.", optional=True
        ),
    )


@dataclass(frozen=True)
class MasterSettings:
    """Where a master listens."""

    bind: str = field(
        default="tcp://0.0.0.0:7570", metadata=about("bind", "Address where the master takes requests, nodes and clients.")
    )
    publish: str = field(default="tcp://0.0.0.0:7571", metadata=about("bind", "Address where the master publishes to its nodes."))
    advertise: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "addresses",
            "Addresses of this master that are written into key files, the preferred one first. "
            "Empty: derived from master.bind, where a wildcard becomes this host's name and loopback.",
        ),
    )
    ipc: bool = field(
        default=True,
        metadata=about(
            "boolean",
            "Whether programs of this user on this machine reach the master without a network too: by run/bus.sock in its home. "
            "They need an admitted key all the same.",
        ),
    )


@dataclass(frozen=True)
class WorkerSettings:
    """A worker's link to its master, and how much it runs at once."""

    master: tuple[str, ...] = field(
        default=(), metadata=about("addresses", "Addresses of the master. Empty: those in the worker's key file.")
    )
    key: str = field(
        default="",
        metadata=about(
            "path",
            "The worker's key file, relative to this file. Empty: keys/NAME.key below the home, or the only worker key there.",
            optional=True,
        ),
    )
    door: str = field(
        default="",
        metadata=about(
            "bind",
            "Address where this worker takes agents and clients, such as tcp://0.0.0.0:7580. Empty: it has no door.",
            optional=True,
        ),
    )
    advertise: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "addresses",
            "Addresses of this worker's door that agents are told, the preferred one first. "
            "Empty: derived from worker.door, where a wildcard becomes this host's name and loopback.",
        ),
    )
    slots: int = field(
        default=512,
        metadata=about("integer", "Requests that run at once on this worker.", unit="requests", low=1, high=65536),
    )
    processes: int = field(
        default=2,
        metadata=about("integer", 'Processes for functions declared with pool="process".', unit="processes", low=1, high=256),
    )
    tree_roots: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "paths",
            "Directories, relative to this file, beneath which a tree's worker_path may place files on this worker. "
            "Empty: only trees/NODE in its home.",
        ),
    )
    on_change: str = field(
        default="refuse",
        metadata=about(
            "choice",
            "Whether this worker runs the on_change commands that the master's trees name, as the user that it runs as itself.",
            choices=("refuse", "allow"),
        ),
    )


@dataclass(frozen=True)
class ClientSettings:
    """Command line and Python clients."""

    timeout_s: float = field(
        default=30.0,
        metadata=about(
            "duration",
            "Deadline of a request that names none.",
            unit="seconds",
            low=0.001,
            high=86400,
            live=True,
            flag="--timeout",
        ),
    )


@dataclass(frozen=True)
class SessionSettings:
    """Sessions between a node or client and its master: leases, and how a lost one comes back."""

    heartbeat_s: float = field(
        default=1.0,
        metadata=about(
            "duration",
            "Interval of heartbeats on an otherwise idle session.",
            unit="seconds",
            low=0.05,
            high=60,
            presets={"local": 0.5, "wan": 5.0},
        ),
    )
    lease_heartbeats: int = field(
        default=3,
        metadata=about(
            "integer", "Heartbeat intervals of silence that end a lease.", unit="intervals", low=2, high=20, presets={"wan": 4}
        ),
    )
    hello_timeout_s: float = field(
        default=5.0,
        metadata=about(
            "duration",
            "How long a connection may take to be admitted.",
            unit="seconds",
            low=0.1,
            high=60,
            presets={"local": 2.0, "wan": 15.0},
        ),
    )
    reconnect_base_s: float = field(
        default=0.1,
        metadata=about(
            "duration",
            "First back-off after a lost session; it doubles with each attempt, with full jitter.",
            unit="seconds",
            low=0.01,
            high=60,
            presets={"local": 0.05, "wan": 0.5},
        ),
    )
    reconnect_max_s: float = field(
        default=1.0,
        metadata=about(
            "duration",
            "Longest back-off between two attempts.",
            unit="seconds",
            low=0.01,
            high=300,
            presets={"local": 0.5, "wan": 10.0},
        ),
    )
    max_sessions: int = field(
        default=20000,
        metadata=about("integer", "Sessions that a master holds at once.", unit="sessions", low=1, high=1000000, live=True),
    )
    max_sessions_per_key: int = field(
        default=256,
        metadata=about(
            "integer", "Sessions that one client or admin key may hold at once.", unit="sessions", low=1, high=100000, live=True
        ),
    )
    drain_s: float = field(
        default=4.0,
        metadata=about(
            "duration", "How long running requests may take to end after SIGTERM.", unit="seconds", low=0, high=300, live=True
        ),
    )


@dataclass(frozen=True)
class LimitSettings:
    """Bounds on memory: what peers send never decides it."""

    body_bytes: int = field(
        default=64 * MIB,
        metadata=about("bytes", "Largest body of one request or answer.", unit="bytes", low=KIB, high=4 * GIB, live=True),
    )
    chunk_bytes: int = field(
        default=256 * KIB,
        metadata=about("bytes", "Size of the chunks that a large body is sent in.", unit="bytes", low=KIB, high=16 * MIB),
    )
    inline_bytes: int = field(
        default=64 * KIB,
        metadata=about(
            "bytes", "Largest body that travels inside a batch; a larger one goes in chunks.", unit="bytes", low=256, high=MIB
        ),
    )
    window_bytes: int = field(
        default=MIB,
        metadata=about("bytes", "Credit that a receiver grants ahead for one large body.", unit="bytes", low=KIB, high=GIB),
    )
    frame_bytes: int = field(
        default=MIB,
        metadata=about(
            "bytes",
            "Largest frame that is accepted from a peer; a larger one ends its connection.",
            unit="bytes",
            low=32 * KIB,
            high=64 * MIB,
        ),
    )
    outbox_bytes: int = field(
        default=64 * MIB,
        metadata=about("bytes", "Memory for what waits to be sent to one peer.", unit="bytes", low=MIB, high=16 * GIB, live=True),
    )
    transfer_bytes: int = field(
        default=256 * MIB,
        metadata=about("bytes", "Memory for large bodies in one process.", unit="bytes", low=KIB, high=1024 * GIB, live=True),
    )
    faults: int = field(
        default=100_000,
        metadata=about(
            "integer",
            "Messages of one key that may be refused at once; a hundredth of it more each second. Beyond it connections are cut.",
            unit="messages",
            low=1,
            high=1_000_000_000,
            live=True,
        ),
    )


@dataclass(frozen=True)
class FunctionSettings:
    """Functions that this node offers."""

    modules: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "modules",
            "Modules with functions: dotted names, or paths ending in .py (relative to this file).",
            flag="--functions",
        ),
    )


@dataclass(frozen=True)
class LogSettings:
    """The log on stderr."""

    level: str = field(
        default="info",
        metadata=about(
            "choice",
            "Least severe level that is logged.",
            choices=("debug", "info", "warning", "error"),
            live=True,
            flag="--log-level",
        ),
    )
    format: str = field(
        default="auto",
        metadata=about(
            "choice",
            "Form of a log line: text, json, or auto (text on a terminal, JSON lines otherwise).",
            choices=("auto", "text", "json"),
            flag="--log-format",
        ),
    )


@dataclass(frozen=True)
class Settings:
    """All settings, by table."""

    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    node: NodeSettings = field(default_factory=NodeSettings)
    master: MasterSettings = field(default_factory=MasterSettings)
    worker: WorkerSettings = field(default_factory=WorkerSettings)
    client: ClientSettings = field(default_factory=ClientSettings)
    session: SessionSettings = field(default_factory=SessionSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    queue: QueueSettings = field(default_factory=QueueSettings)
    functions: FunctionSettings = field(default_factory=FunctionSettings)
    log: LogSettings = field(default_factory=LogSettings)
    sync: SyncSettings = field(default_factory=SyncSettings)
    audit: AuditSettings = field(default_factory=AuditSettings)
    roles: RolesSettings = field(default_factory=RolesSettings)

    def value(self, name: str) -> object:
        """The value of the setting ``name`` ("table.key"); raises KeyError for an unknown one."""
        declared = SETTINGS[name]
        value: object = getattr(getattr(self, declared.table), declared.key)
        return value


def _tables() -> Iterator[tuple[str, type]]:
    for table in fields(Settings):
        factory = table.default_factory
        assert isinstance(factory, type), table.name
        yield table.name, factory


TABLES: Mapping[str, type] = MappingProxyType(dict(_tables()))
"""The dataclass of each table, in the order of the documentation."""

SETTINGS: Mapping[str, Declared] = MappingProxyType(
    {
        f"{table}.{key.name}": Declared(table, key.name, key.default, key.metadata[SPEC_KEY])
        for table, kind in TABLES.items()
        for key in fields(kind)
    }
)
"""Every setting by its name."""

LIVE: frozenset[str] = frozenset(name for name, declared in SETTINGS.items() if declared.spec.live)
"""The settings that SIGHUP applies; every other one needs a restart."""
