"""What a started master tells of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MasterInfo:
    """What a started master tells: its name, cluster, addresses and the fingerprint of its key."""

    name: str
    cluster: str
    bind: str
    publish: str
    fingerprint: str
    epoch: int
