"""``zcluster version``: what a bug report needs."""

from __future__ import annotations

import click

from zcluster import __version__
from zcluster.cli.options import State, common_options, output_option
from zcluster.cli.output import emit_object, pairs


@click.command()
@output_option
@common_options
@click.pass_obj
def version(state: State) -> None:
    """Print the versions of zcluster and what it runs on."""
    import platform

    import zmq

    item = {
        "zcluster": __version__,
        "python": platform.python_version(),
        "pyzmq": zmq.pyzmq_version(),
        "libzmq": zmq.zmq_version(),
        "system": platform.platform(terse=True),
    }
    emit_object(item, state.output, lines=pairs(list(item.items())), name_key="zcluster")
