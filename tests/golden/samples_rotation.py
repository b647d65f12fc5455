"""Golden samples of the messages about rotation."""

from __future__ import annotations

from zcluster.wire import Bye, Hello, Message
from zcluster.wire.agents import Door, Doors
from zcluster.wire.rotation import NextKey, Rotate, Rotated

Sample = tuple[str, Message, list[bytes]]

PUBLIC = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
FOLLOWING = "x<ZBe*<WMRHiqSF3BV(y[A7FeSt}$O4[4A-$aOSI"
DOOR = Door(node="worker-1", public=PUBLIC, next=FOLLOWING, addresses=["tcp://10.0.0.7:7580"])

SAMPLES: list[Sample] = [
    ("of a session that moves", Hello(versions=[1], software="0.1.0", instance="a1b2c3", moves=7), []),
    ("the last on a connection that a session leaves", Bye(code="moved"), []),
    ("a door whose key is being rotated", Doors(doors=[DOOR]), []),
    ("the present key is to be admitted for ten minutes more", Rotate(overlap_s=600.0), []),
    ("an owner's next key", Rotated(public=PUBLIC), []),
    ("it is admitted", Rotated(public=PUBLIC, overlap_s=599.5), []),
    (
        "an owner that cannot have another key",
        Rotated(code="invalid_key", message="cannot write /etc/zcluster/w.key: Read-only file system", hint="use another place"),
        [],
    ),
    ("the master's next key", NextKey(public=PUBLIC), []),
    ("a door's, and the older one is used no more", NextKey(public=PUBLIC, node="worker-1", now=True), []),
    ("a peer knows it, but could not write it", NextKey(public=PUBLIC, code="invalid_key"), []),
]
