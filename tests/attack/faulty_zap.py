"""A master whose check of keys goes wrong while a file is there: run as ``python faulty_zap.py FLAG master ...``. The
file says how: ``slow`` or ``raises``.

Rules kept here: only the check is replaced, the rest is the master as it is.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from zcluster.cli.main import main
from zcluster.net import zap

SLOW_S = 0.3


def spoiled(check: Callable[[str], bool], flag: Path) -> Callable[[str], bool]:
    """``check``, which is late or raises while ``flag`` is there."""

    def admits(public: str) -> bool:
        if flag.exists():
            if flag.read_text() == "raises":
                raise RuntimeError("the check of keys is broken")
            time.sleep(SLOW_S)
        return check(public)

    return admits


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    sound = zap.decide
    zap.decide = lambda frames, admits, subscribes=None: sound(frames, spoiled(admits, Path(name)), subscribes)
    sys.argv = ["zcluster", *arguments]
    main()
