"""Keys, tokens and strangers as commands and functions show them; never a secret.

Rules kept here:
- a row has the same fields wherever it is shown, and a time is ISO 8601 in UTC.
"""

from __future__ import annotations

from typing import Any

from zcluster.core.joining import Stranger
from zcluster.keys.pair import fingerprint
from zcluster.keys.ring import Ring
from zcluster.keys.ringfile import Entry, Revoked, Token, iso
from zcluster.keys.tokens import refusal

Row = dict[str, Any]


def key_row(entry: Entry) -> Row:
    """An admitted key."""
    return {
        "name": entry.name,
        "role": entry.role,
        "fingerprint": fingerprint(entry.public),
        "created_at": entry.created_at,
        "public": entry.public,
        "token": entry.token,
        "previous": [{"public": each.public, "until": each.until} for each in entry.previous],
        "rotating": "wanted" if entry.rotate_s else f"until {entry.previous[-1].until}" if entry.previous else "",
    }


def revoked_row(record: Revoked, tokens: int) -> Row:
    """A key that was revoked just now, and how many tokens with it."""
    public = record.public
    return {"name": record.name, "role": record.role, "revoked_at": record.revoked_at, "public": public, "tokens_revoked": tokens}


def token_row(token: Token, ring: Ring, now_s: float) -> Row:
    """A join token; ``state`` is ``valid``, ``expired``, ``used up`` or ``revoked``."""
    creator = ring.by_id(token.creator) if token.creator else None
    return {
        "id": token.id,
        "role": token.role,
        "name": token.name,
        "state": refusal(token, now_s) or "valid",
        "uses_left": token.uses_left,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "creator": "" if creator is None else creator.name,
    }


def pending_row(stranger: Stranger) -> Row:
    """A key that waits to be accepted."""
    return {
        "fingerprint": fingerprint(stranger.public),
        "address": stranger.address,
        "tries": stranger.tries,
        "first_at": iso(stranger.first_s),
        "last_at": iso(stranger.last_s),
        "public": stranger.public,
    }
