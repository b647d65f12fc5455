"""What holds for all tests.

The processes that tests start keep the modules that they compile. Images for containers often forbid that
(PYTHONDONTWRITEBYTECODE), and then each of the many hundred processes compiles five hundred modules anew: more than half of
its start, and two fifths of the whole run.
"""

from __future__ import annotations

import os
import sys

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
