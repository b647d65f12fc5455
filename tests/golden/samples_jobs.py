"""Golden samples of the messages about durable jobs."""

from __future__ import annotations

from zcluster.wire import Message, Work, WorkGroup
from zcluster.wire.jobs import (
    Accepted,
    AcceptedGroup,
    Follow,
    JobFlag,
    JobGroup,
    JobRefusal,
    Jobs,
    KnownJob,
    LargeOutcome,
    OutcomeGroup,
    Outcomes,
)
from zcluster.wire.messages import Mark

Sample = tuple[str, Message, list[bytes]]

STORE = "5f0c11a9"
FAILED = b'{"code":"function_failed","message":"ValueError: no such day","hint":"","request_id":""}'

SAMPLES: list[Sample] = [
    (
        "a job of each of two functions, both with idempotency keys",
        Work(
            [
                WorkGroup(
                    "report.build", "laptop", "client", 3600000, 0, 0, 0, 44, [20, 20],
                    [Mark(f"{STORE}-17", 1, "report-2026-11-19"), Mark(f"{STORE}-18", 2, "")],
                ),
                WorkGroup("disk.free", "laptop", "client", 60000, 0, 0, 0, 46, [0], [Mark(f"{STORE}-20", 1, "nightly")]),
            ]
        ),
        [b'{"day":"2026-11-19"}', b'{"day":"2026-11-20"}'],
    ),
    (
        "two submissions of which one has an idempotency key, and one with every field set",
        Jobs(
            [
                JobGroup("report.build", "any", 5, 0, 0, 0, 0, 3, 0, 0, "", 1, [20, 20], ["report-2026-11-19", ""]),
                JobGroup(
                    "disk.free", "web-*", 9, JobFlag.FAN_OUT, 600000, 1792000000123, 3600000, 0, 60000, 86400000, "nightly", 3,
                    [0],
                ),
            ]
        ),
        [b'{"day":"2026-11-19"}', b'{"day":"2026-11-20"}'],
    ),
    (
        "two new jobs, one that was there already, and two that were refused",
        Accepted(
            store=STORE,
            groups=[AcceptedGroup(1, 17, 2)],
            known=[KnownJob(3, 4)],
            refused=[
                JobRefusal(4, 1, "key_conflict", "the idempotency key belongs to 5f0c11a9-5", "take another key", None),
                JobRefusal(5, 1, "busy", "2000000 jobs of this key have not ended", "wait until some have", 1.0),
            ],
        ),
        [],
    ),
    ("of two jobs", Follow(store=STORE, numbers=[17, 18]), []),
    ("no longer of one", Follow(store=STORE, numbers=[18], stop=True), []),
    (
        "two values of one node, an error, one that was cancelled, a large value, and a number that is none",
        Outcomes(
            store=STORE,
            groups=[
                OutcomeGroup(17, 3, "worker-1", 1, [2, 4]),
                OutcomeGroup(20, 4, "worker-2", 1, [len(FAILED)]),
                OutcomeGroup(22, 5, "", 0, [2]),
            ],
            large=[LargeOutcome(19, 3, "worker-1", 2, 307200)],
            unknown=[23],
        ),
        [b"42", b"null", FAILED, b"{}"],
    ),
]  # fmt: skip
