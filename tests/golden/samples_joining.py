"""Golden samples of the messages by which a key is admitted."""

from __future__ import annotations

from zcluster.wire import Message
from zcluster.wire.joining import Join, Joined, KnownKey

Sample = tuple[str, Message, list[bytes]]

KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
AT, HEARD = ["tcp://m.example:7570"], ["tcp://m.example:7571"]

SAMPLES: list[Sample] = [
    ("a new worker that would like to be called as its machine is", Join(public=KEY, name="web-3"), []),
    ("a key that asks what it is called", Join(public=KEY), []),
    ("a worker is admitted", Joined(name="web-3", role="worker", cluster="prod", addresses=AT, publish=HEARD), []),
    (
        "a client is admitted, under another name, and may use the door of a worker whose key is being rotated",
        Joined(
            name="anna-2", role="client", cluster="prod", addresses=AT,
            nodes=[KnownKey("web-3", KEY), KnownKey("web-4", KEY, KEY)],
        ),
        [],
    ),
]  # fmt: skip
