"""Lets the attacks import the modules beside them (pytest's importlib mode does not), their processes too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
