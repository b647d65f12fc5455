"""The core's machines in simulated time, on a simulated network, from a seed: every failure can be replayed.

Read scenario (what happens), then cluster, processes, hosts and network (where), ledger and invariants (what has to hold).
"""

from zcluster.sim.scenario import Report, simulate
from zcluster.sim.world import SimulationFailed

__all__ = ["Report", "SimulationFailed", "simulate"]
