"""Golden samples of the messages about tables, agents, doors and notes."""

from __future__ import annotations

import orjson
import xxhash

from zcluster.wire import Message
from zcluster.wire.agents import (
    AgentOrder,
    AgentOrders,
    Carry,
    Door,
    Doors,
    EventInfo,
    Events,
    Grab,
    Keep,
    Listen,
    Metrics,
    Note,
    Rows,
    Settings,
    Shared,
    SharedFile,
    Taken,
)
from zcluster.wire.tables import BUCKETS, Ask, Changes, Head, Page

Sample = tuple[str, Message, list[bytes]]

PUBLIC = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
STORE = "00112233445566778899aabbccddeeff"
DIGEST = xxhash.xxh3_128_hexdigest(b"a table")
FILE = b"listen = 80\n"
FILE_DIGEST = "0f" * 32
CHANGED = orjson.dumps([[7, "groups/of/web-1", ["web", "db"]], [8, "groups/name/old", None]])
PAGED = orjson.dumps([[3, "groups/name/web", {"created_s": 1792000000.5, "by": "admin", "comment": "", "files": []}]])
ROWS = orjson.dumps(
    [
        ["web-1", "put", 1792000000123, "session", {"name": "web-1", "status": "active", "labels": {"site": "ber"}}],
        ["web-2", "gone", 1792000000456, "report", {}],
    ]
)  # fmt: skip
HELLO_FRAME = bytes.fromhex("5a010100")
DOOR = Door(node="worker-1", public=PUBLIC, addresses=["tcp://10.0.0.7:7580"], agents=12)

SAMPLES: list[Sample] = [
    ("an empty table", Head(table="groups", store=STORE, revision=0, digest=DIGEST), []),
    ("two changes", Changes(table="groups", store=STORE, base=6, revision=8, raw_bytes=len(CHANGED)), [CHANGED]),
    (
        "nothing of this table changed up to a revision",
        Changes(table="config", store=STORE, base=6, revision=9, encoding=1, raw_bytes=2),
        [bytes.fromhex("28b52ffd20021100005b5d")],
    ),
    ("changes after a revision", Ask(table="groups", store=STORE, want="changes", revision=6), []),
    ("the page after a key", Ask(table="groups", want="page", after="groups/of/web-1"), []),
    ("what differs", Ask(table="groups", store=STORE, want="repair", revision=8), [bytes(16 * BUCKETS)]),
    (
        "a page in the middle",
        Page(
            table="groups", store=STORE, revision=8, after="groups/name/a", last="groups/name/web", raw_bytes=len(PAGED)
        ),
        [PAGED],
    ),
    (
        "one bucket, compressed",
        Page(table="groups", store=STORE, revision=8, buckets=[17], more=True, encoding=1, raw_bytes=2),
        [bytes.fromhex("28b52ffd20021100005b5d")],
    ),
    (
        "the first of a session",
        Keep(
            full=True, interval_s=10.0, name="web-1", address="10.0.0.9", version="0.1.0",
            os={"platform": "debian", "version": "13", "arch": "x86_64"}, labels={"site": "ber"},
            metrics={"cpu": {"percent": 1.5}}, config="", tree="",
        ),
        [],
    ),
    ("nothing new", Keep(), []),
    ("what it applied", Keep(config="ab" * 16, tree="cd" * 16), []),
    (
        "two groups, a configuration and a file",
        Settings(
            digest="ab" * 16, groups=["web", "db"], config={"interval": 5, "metrics": ["cpu"]},
            files=[SharedFile("app.conf", FILE_DIGEST, len(FILE))],
        ),
        [],
    ),
    ("from the beginning", Grab(digest=FILE_DIGEST), []),
    ("the rest", Grab(digest=FILE_DIGEST, offset=5), []),
    ("a whole file", Shared(digest=FILE_DIGEST, offset=0, size=len(FILE)), [FILE]),
    ("no such file", Shared(digest=FILE_DIGEST, offset=0, size=0, code="no_such_file"), []),
    ("one door", Doors(doors=[DOOR]), []),
    ("move there now", Doors(doors=[DOOR], go="worker-1"), []),
    ("two rows, and more follow", Rows(source="b0" * 16, base=40, upto=42, count=2, more=True, raw_bytes=len(ROWS)), [ROWS]),
    (
        "none, compressed",
        Rows(source="b0" * 16, base=42, upto=43, count=0, encoding=1, raw_bytes=2),
        [bytes.fromhex("28b52ffd20021100005b5d")],
    ),
    ("nothing is known", Taken(), []),
    ("all but one", Taken(source="b0" * 16, upto=42, refused=[("web-2", "late")], refused_count=1), []),
    (
        "each order",
        AgentOrders(
            orders=[
                AgentOrder(op="drop", id="web-1", epoch=1792000000123),
                AgentOrder(op="adopt", id="web-2", epoch=1792000000456, row={"name": "web-2"}),
                AgentOrder(op="move", id="web-3", node="worker-2"),
                AgentOrder(op="remove", id="web-4"),
            ]
        ),
        [],
    ),
    ("cpu and memory", Metrics(values={"cpu": {"percent": 3.5}, "memory": {"percent": 41.0}}, config="ab" * 16), []),
    ("a connection begins", Carry(connection=1, op="open", key=PUBLIC), []),
    ("a frame of it", Carry(connection=1), [HELLO_FRAME]),
    ("it is over", Carry(connection=1, op="closed"), []),
    ("notes to this name", Listen(name="bob"), []),
    ("no longer", Listen(name=""), []),
    ("kept notes have arrived", Listen(name="bob", seen=4294967297), []),
    ("a note", Note(id=1, sender="alice", key="laptop", to="bob", text="hi, \u00c4", at_s=1792000000.5), []),
    ("a kept one", Note(id=2, sender="laptop", key="laptop", to="bob", text="later", at_s=1792000001.0, kept=True), []),
    (
        "a name that is taken",
        Note(id=0, sender="", key="", to="bob", text="bob is taken", at_s=1792000000.5, code="conflict"),
        [],
    ),
    (
        "two events of a worker",
        Events(
            events=[
                EventInfo(name="agent_active", at_s=1792000000.5, fields={"agent": "web-1"}),
                EventInfo(
                    name="agents_silent", at_s=1792000001.5, level="warning", fields={"count": 11, "agents": ["web-1", "web-2"]}
                ),
            ]
        ),
        [],
    ),
]
