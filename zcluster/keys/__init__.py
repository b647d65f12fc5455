"""Keys: who may join, under which name, with which rights.

Rules kept here:
- identity is the key: a name is what the ring calls a public key, and a role is what the ring says of it;
- secrets live in key files of mode 0600 and nowhere else;
- zmq is loaded only where a pair is made or compared.
"""

from __future__ import annotations

from zcluster.keys.homes import (
    DOOR_ROLES,
    InitialisedHome,
    init_home,
    joining_key_path,
    known_workers,
    new_key,
    new_keys,
    own_key,
    worker_key_path,
)
from zcluster.keys.keyfile import KeyFile
from zcluster.keys.pair import KeyPair, check_public, fingerprint, generate, public_of
from zcluster.keys.private import make_private_dir
from zcluster.keys.rights import (
    FUNCTION_ROLES,
    JOINER,
    KINDS,
    ROLES,
    SENDS,
    check_role,
    may_call,
    may_send,
    may_send_at_door,
    may_subscribe,
    of_configuration,
)
from zcluster.keys.ring import MAX_ENTRIES, MAX_REVOKED, NewKey, Ring
from zcluster.keys.ringfile import Content, Entry, Previous, Rejected, Revoked, Token

__all__ = [
    "DOOR_ROLES",
    "FUNCTION_ROLES",
    "JOINER",
    "KINDS",
    "MAX_ENTRIES",
    "MAX_REVOKED",
    "ROLES",
    "SENDS",
    "Content",
    "Entry",
    "InitialisedHome",
    "KeyFile",
    "KeyPair",
    "NewKey",
    "Previous",
    "Rejected",
    "Revoked",
    "Ring",
    "Token",
    "check_public",
    "check_role",
    "fingerprint",
    "generate",
    "init_home",
    "joining_key_path",
    "known_workers",
    "make_private_dir",
    "may_call",
    "may_send",
    "may_send_at_door",
    "may_subscribe",
    "of_configuration",
    "new_key",
    "new_keys",
    "own_key",
    "public_of",
    "worker_key_path",
]
