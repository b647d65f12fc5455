"""Golden samples of the messages about rights."""

from __future__ import annotations

from zcluster.wire import Message, Work, WorkGroup
from zcluster.wire.rights import Held, RoleInfo, Roles

Sample = tuple[str, Message, list[bytes]]

SAMPLES: list[Sample] = [
    (
        "a request of a key with a role of the configuration, that a worker has carried",
        Work(
            [WorkGroup("report.build", "ann", "client", 29998, 0, 7, 1, 48, [2], None, Held(["deploy", "worker"], "any", 3))]
        ),
        [b"{}"],
    ),
    (
        "one role of the configuration, and what comes through workers' doors",
        Roles(
            roles=[
                RoleInfo("deploy", "client", ["node.*", "report.*"], ["w*", "any"], 0, 5),
                RoleInfo("worker", "worker", ["node.*"], ["*"], 0, 9),
            ]
        ),
        [],
    ),
]
