"""The core's machines in simulated time, on a simulated network, from a seed: every failure can be replayed.

Calls: read scenario (what happens), then cluster, processes, hosts and network (where), ledger and invariants (what has to
hold). File sync: read trees (what happens), then trees_hosts, trees_process, trees_places and trees_disk (where), and
trees_oracle (what has to hold). Agents: read agents (what happens), then agents_hosts (where) and agents_oracle (what has to
hold). Durable jobs: read queue (what happens), then queue_master and queue_clients (where), and queue_oracle (what has to hold).
"""

from zcluster.sim.agents import simulate_agents
from zcluster.sim.queue import simulate_queue
from zcluster.sim.scenario import Report, simulate
from zcluster.sim.trees import simulate_trees
from zcluster.sim.world import SimulationFailed

__all__ = ["Report", "SimulationFailed", "simulate", "simulate_agents", "simulate_queue", "simulate_trees"]
