"""From the configuration's settings to the machine's limits."""

from __future__ import annotations

from zcluster.config import Settings
from zcluster.core.dispatch import QueueLimits
from zcluster.core.master import MasterLimits
from zcluster.core.roster import SessionLimits


def machine_limits(settings: Settings) -> MasterLimits:
    """The limits of a master with these settings."""
    session, limits, queue = settings.session, settings.limits, settings.queue
    return MasterLimits(
        session=SessionLimits(
            heartbeat_s=session.heartbeat_s,
            lease_heartbeats=session.lease_heartbeats,
            max_sessions=session.max_sessions,
            max_sessions_per_key=session.max_sessions_per_key,
            chunk_bytes=limits.chunk_bytes,
        ),
        queue=QueueLimits(
            per_client=queue.per_client,
            total=queue.total,
            total_bytes=queue.total_bytes,
            max_timeout_s=queue.max_timeout_s,
            attempts=queue.attempts,
        ),
        body_bytes=limits.body_bytes,
        inline_bytes=limits.inline_bytes,
        window_bytes=limits.window_bytes,
        outbox_bytes=limits.outbox_bytes,
        transfer_bytes=limits.transfer_bytes,
        faults=limits.faults,
        frame_bytes=limits.frame_bytes,
    )
