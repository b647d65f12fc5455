"""Events that the audit log has too: who was admitted, refused, cut off, or denied a right.

Rules kept here:
- what a peer can cause at will is thinned out before it comes here (eventflood.py), so that nobody fills the log;
- a record's fields are bounded, and each text is on one line.
"""

from __future__ import annotations

from zcluster.core.auditing import Record
from zcluster.core.eventnames import told
from zcluster.core.peers import Event

NAMES = frozenset({"hello_refused", "connection_cut", "right_denied", "node_drained", "node_resumed", "node_removed"})
BEGINNINGS = ("key_", "token_")


def audits(event: str) -> bool:
    """Whether an event of this name is in the audit log."""
    return event in NAMES or event.startswith(BEGINNINGS)


def event_record(event: Event, at_s: float) -> Record:
    """The record of an event. ``at_s`` is when it was told, seconds since 1970."""
    fields = told(event.fields)
    return {"at_s": round(at_s, 3), "what": "event", "event": event.name, "key": str(fields.get("name") or ""), "fields": fields}
