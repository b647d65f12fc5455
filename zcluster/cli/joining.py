"""Where a join token comes from on the new machine: the command line, stdin, a file, or ZCLUSTER_JOIN.

Rules kept here:
- a token is taken out of the environment as soon as it is read: no child of this process inherits it;
- a file with a token is held to the same rule as a key file: nobody else may read it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zcluster.cli.options import FILE
from zcluster.errors import InvalidKey, UsageError

if TYPE_CHECKING:
    from zcluster.keys.tokens import TokenText

VARIABLE = "ZCLUSTER_JOIN"
MAX_BYTES = 64 << 10

F = TypeVar("F", bound=Callable[..., Any])


def join_file_option(command: F) -> F:
    """``--join-file FILE``."""
    option = click.option("--join-file", type=FILE, metavar="FILE", help="File with the join token, readable by its owner only.")
    return option(command)


def token_of(join: str | None, join_file: Path | None) -> TokenText | None:
    """The token that was given, or None.

    Args:
        join: the token's text, or "-" for stdin.
        join_file: the file that has it.

    Raises:
        UsageError: two were given. InvalidKey: it is no token, or its file cannot be read.
    """
    from zcluster.keys.private import read_private
    from zcluster.keys.tokens import TokenText

    inherited = os.environ.pop(VARIABLE, None)
    if join is not None and join_file is not None:
        raise UsageError("a token was given twice: on the command line and as a file", hint="leave one out")
    if join == "-":
        join = sys.stdin.readline(MAX_BYTES)
    elif join_file is not None:
        try:
            data, _found = read_private(join_file, MAX_BYTES, forbid=0o077)
        except FileNotFoundError:
            raise InvalidKey(f"there is no file {join_file}", hint="it is what `zcluster token create --out` writes") from None
        join = data.decode("ascii", "replace")
    text = join if join is not None else inherited
    return TokenText.read(text) if text else None
