"""``zcluster completion``: the script that teaches a shell our names."""

from __future__ import annotations

import click

from zcluster.cli.options import common_options
from zcluster.cli.output import put

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@common_options
def completion(shell: str) -> None:
    """Print the completion script for a shell.

    \b
    bash: eval "$(zcluster completion bash)"      in ~/.bashrc
    zsh:  eval "$(zcluster completion zsh)"       in ~/.zshrc
    fish: zcluster completion fish | source       in ~/.config/fish/config.fish

    The names of nodes, functions, trees, groups and agents are completed from the running cluster.
    """
    from click.shell_completion import get_completion_class

    from zcluster.cli.main import COMPLETE_VARIABLE, PROGRAM, cli

    kind = get_completion_class(shell)
    assert kind is not None, "click knows every shell of SHELLS"
    source = kind(cli, {}, PROGRAM, COMPLETE_VARIABLE)
    put(source.source_template % source.source_vars())
