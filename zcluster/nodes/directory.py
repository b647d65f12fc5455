"""What a node knows of the doors that there are: its own, and those of the others.

Rules kept here:
- the list is that of the last word of the master; a worker without a master keeps it: its agents may need it all the more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zcluster.wire.agents import Door


class Directory:
    """The doors, and who wants to hear of others."""

    def __init__(self) -> None:
        self._doors: Sequence[Door] = ()
        self._callbacks: list[Callable[[], None]] = []

    def doors(self) -> Sequence[Door]:
        """The doors that there are, with their loads."""
        return self._doors

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call it when the doors are others."""
        self._callbacks.append(callback)

    def set(self, doors: Sequence[Door], *, tell: bool = True) -> None:
        """These are the doors now; ``tell`` when others are to hear of it."""
        self._doors = doors
        for callback in self._callbacks if tell else ():
            callback()
