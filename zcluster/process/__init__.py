"""What every daemon does with its operating system: logs, signals, one process per home."""

from zcluster.process.lifetime import Lifetime, OneProcess
from zcluster.process.logs import set_level, start_logging

__all__ = ["Lifetime", "OneProcess", "set_level", "start_logging"]
