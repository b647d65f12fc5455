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
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

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


class Offer(NamedTuple):
    """Where a token is, if there is one; nothing was looked at yet."""

    text: str | None
    file: Path | None

    @property
    def there(self) -> bool:
        """Whether a token was given."""
        return self.text is not None or self.file is not None

    def read(self) -> TokenText | None:
        """The token, or None.

        Raises:
            InvalidKey: it is no token, none where one was to be read, or its file cannot be read.
        """
        from zcluster.keys.private import read_private
        from zcluster.keys.tokens import TokenText

        text = self.text
        if self.file is not None:
            try:
                data, _found = read_private(self.file, MAX_BYTES, forbid=0o077)
            except FileNotFoundError:
                raise InvalidKey(
                    f"there is no file {self.file}", hint="it is what `zcluster token create --out` writes"
                ) from None
            text = data.decode("ascii", "replace")
        elif text == "-":
            text = sys.stdin.readline(MAX_BYTES)
        if text is not None and not text.strip():
            raise InvalidKey("the join token is empty", hint="give what `zcluster token create` printed, or leave the option out")
        return TokenText.read(text) if text is not None else None


def offered(join: str | None, join_file: Path | None) -> Offer:
    """What was given: on the command line, or else in ZCLUSTER_JOIN.

    Args:
        join: the token's text, or "-" for stdin.
        join_file: the file that has it.

    Raises:
        UsageError: two were given.
    """
    inherited = os.environ.pop(VARIABLE, None)
    if join is not None and join_file is not None:
        raise UsageError("a token was given twice: on the command line and as a file", hint="leave one out")
    return Offer((inherited or None) if join is None and join_file is None else join, join_file)


def token_of(join: str | None, join_file: Path | None) -> TokenText | None:
    """The token that was given, or None. Raises as :func:`offered` and :meth:`Offer.read`."""
    return offered(join, join_file).read()
