"""What every daemon does with its operating system: logs, signals, one process per home."""

from zcluster.process.lifetime import Lifetime, OneProcess
from zcluster.process.logs import set_level, start_logging
from zcluster.process.loop import run_daemon

__all__ = ["Lifetime", "OneProcess", "run_daemon", "set_level", "start_logging"]
