"""``zcluster sim``: the core in simulated time, on a simulated network, from a seed.

Rule kept here: a seed that fails is printed with the command that replays it.
"""

from __future__ import annotations

import re

import click

from zcluster.cli.options import debug_option
from zcluster.cli.output import put, say
from zcluster.errors import EXIT_FAILED, EXIT_OK, UsageError

MAX_SEEDS = 1_000_000


@click.command()
@click.option("--seed", type=click.IntRange(min=0), help="Replay this seed and print what happened.")
@click.option("--seeds", metavar="A..B", help="Run the seeds A to B, both included, and print those that fail.")
@click.option(
    "--scenario", type=click.Choice(["calls", "trees", "agents", "queue"]), default="calls", show_default=True,
    help="What is simulated: calls over the bus, file sync, agents that move between nodes, or durable jobs.",
)  # fmt: skip
@debug_option
def sim(seed: int | None, seeds: str | None, scenario: str) -> int:
    """Replay the seeded simulation of a seed and print what happened.

    The machines of the core run with loss, delay, duplication, reordering, crashes and clock jumps; what has to hold
    is checked after every event. Exit code 1 when it does not.
    """
    from zcluster.sim import simulate as calls
    from zcluster.sim import simulate_agents, simulate_queue, simulate_trees

    simulate = {"calls": calls, "trees": simulate_trees, "agents": simulate_agents, "queue": simulate_queue}[scenario]
    which = "" if scenario == "calls" else f"--scenario {scenario} "
    if (seed is None) == (seeds is None):
        raise UsageError("give --seed or --seeds", hint="for instance: zcluster sim --seed 1")
    if seed is not None:
        outcome = simulate(seed, say=put)
        put(outcome.summary)
        return EXIT_OK if outcome.ok else EXIT_FAILED
    chosen = seed_range(seeds or "")
    failed = 0
    for number in chosen:
        outcome = simulate(number)
        if not outcome.ok:
            failed += 1
            put(f"seed {number}: {outcome.summary}")
            say(f"replay it with: zcluster sim {which}--seed {number}")
    put(f"{len(chosen)} seeds, {failed} failed")
    return EXIT_FAILED if failed else EXIT_OK


def seed_range(text: str) -> range:
    """The seeds that ``A..B`` means, both included.

    Raises:
        UsageError: the text has another form, the range is empty, or has more than MAX_SEEDS seeds.
    """
    found = re.fullmatch(r"([0-9]{1,18})\.\.([0-9]{1,18})", text)
    if found is None:
        raise UsageError(f"{text!r} is no range of seeds", hint="write it like 1..1000")
    first, last = int(found[1]), int(found[2])
    if not 1 <= last - first + 1 <= MAX_SEEDS:
        raise UsageError(f"{text} has {max(0, last - first + 1)} seeds", hint=f"give 1 to {MAX_SEEDS}")
    return range(first, last + 1)
