"""The table of attacks, in the order of docs/security.md."""

from __future__ import annotations

import bodies
import crowds
import descriptors
import floods
import multipart
import mutants
import revoked
import squatters
import stopped
import strangers
import subscriptions

MODULES = (
    mutants, multipart, crowds, strangers, revoked, squatters, subscriptions, stopped, floods, bodies, descriptors,
)  # fmt: skip
ATTACKS = {module.ATTACK.name: module.ATTACK for module in MODULES}
