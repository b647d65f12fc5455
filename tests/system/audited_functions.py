"""Functions of the tests of the audit log, for the workers of a real cluster."""

from __future__ import annotations

import zcluster


@zcluster.function("door.open", role="admin")
def open_door(code: zcluster.Secret, door: str = "front") -> str:
    """The door is open, if the code is right."""
    if code.reveal() != "1234":
        raise ValueError("the code is wrong")
    return door
