"""``zcluster agent``: the light daemon of a monitored host, and fleets of simulated ones for load tests.

Rules kept here:
- an agent needs its key file and nothing else: where its node is stands there, and ``--node`` says it better;
- what it keeps is below ``--state``; what its host's programs read is below ``--files``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from zcluster.agents.lean import leave_out_unused
from zcluster.cli.connect import settings
from zcluster.cli.options import DIRECTORY, FILE, State, common_options
from zcluster.errors import UsageError

if TYPE_CHECKING:
    from zcluster.keys import KeyFile


@click.command()
@click.option("--key", type=FILE, metavar="FILE", help="Key file of this agent (role agent).")
@click.option(
    "--node", "nodes", multiple=True, metavar="tcp://HOST:PORT",
    help="Address of a node to connect to, instead of the key file's; NAME@tcp://... names it (may be repeated).",
)  # fmt: skip
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label of this agent (may be repeated).")
@click.option(
    "--state", "state_dir", type=DIRECTORY, metavar="DIR", help="What it keeps. [default: data/agents/NAME in the home]"
)
@click.option(
    "--files", "files_dir", type=DIRECTORY, metavar="DIR",
    help="Where the shared files of its groups and config.json go. [default: files in the state directory]",
)  # fmt: skip
@click.option("--simulate", type=click.IntRange(min=1), metavar="N", help="Run N agents in this process, for load tests.")
@click.option("--keys", "keys_dir", type=DIRECTORY, metavar="DIR", help="With --simulate: the directory with their key files.")
@common_options
@click.pass_obj
def agent(
    state: State, key: Path | None, nodes: tuple[str, ...], labels: tuple[str, ...], state_dir: Path | None,
    files_dir: Path | None, simulate: int | None, keys_dir: Path | None,
) -> int:  # fmt: skip
    """Run the agent of a host: it is alive, it measures, it gets its groups.

    It gets its configuration and the shared files of its groups too. It connects to the least loaded of the nodes that it was
    given, and moves to another one when its node dies. SIGTERM ends it.
    """
    leave_out_unused()
    from zcluster.agents.process import AgentOptions, serve
    from zcluster.agents.process import simulate as simulate_agents
    from zcluster.keys.rotation import OwnKey

    loaded = settings(state)
    for text in nodes:
        _check_node(text)
    log = loaded.settings.log
    options = AgentOptions(nodes, parse_labels(labels), None, None, log.level, log.format)
    if simulate is not None:
        return simulate_agents(fleet_keys(simulate, keys_dir, key), options)
    if keys_dir is not None:
        raise UsageError("--keys is for --simulate", hint="one agent has one key: --key FILE")
    if key is None:
        raise UsageError("an agent needs its key file", hint="--key FILE; on the master: zcluster keys new NAME --role agent")
    key_file = _agent_key(key)
    place = state_dir if state_dir is not None else loaded.home / "data" / "agents" / key_file.name
    chosen = AgentOptions(nodes, options.labels, place, files_dir or place / "files", log.level, log.format)
    return serve(OwnKey(key_file, key), chosen)


def parse_labels(words: tuple[str, ...]) -> dict[str, str]:
    """``KEY=VALUE`` words as labels.

    Raises:
        UsageError: one is none, or they are beyond a bound.
    """
    labels: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"{word[:80]!r} is no label", hint="such as: --label site=ber")
        labels[key] = value
    if labels:
        from zcluster.core.agents.row import labels_fault

        if (fault := labels_fault(labels)) is not None:
            raise fault
    return labels


def fleet_keys(count: int, directory: Path | None, key: Path | None) -> list[KeyFile]:
    """The key files of ``count`` simulated agents: the first in ``directory`` by name.

    Raises:
        UsageError: no directory was given, or it has too few.
    """
    hint = f"on the master: zcluster keys new --role agent --count {count} --prefix sim- --out DIR"
    if directory is None or key is not None:
        raise UsageError("simulated agents need a key each: give --keys DIR, and no --key", hint=hint)
    found = sorted(directory.glob("*.key"))[:count]
    if len(found) < count:
        raise UsageError(f"{directory} has {len(found)} key files, {count} agents need one each", hint=hint)
    return [_agent_key(path) for path in found]


def _agent_key(path: Path) -> KeyFile:
    from zcluster.keys import KeyFile

    key_file = KeyFile.read(path)
    key_file.check_user(path, "agent", ("agent",))
    return key_file


def _check_node(text: str) -> None:
    from zcluster.config import parse_address
    from zcluster.core.doors import split_node

    parse_address(split_node(text)[1])
