"""What the commands about keys share: the master's home, its ring, roles, and names for the shell.

Rules kept here:
- the home is worked on as it is on disk: its master may run or not, and a broken zcluster.toml keeps nobody from revoking a key;
- a role that nobody has declared is a mistake here, although the ring would take it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zcluster.cli.connect import settings
from zcluster.cli.options import State, completes
from zcluster.cli.output import say
from zcluster.errors import EXIT_OK, EXIT_PARTIAL, InvalidKey, UsageError
from zcluster.keys.rights import ROLES

if TYPE_CHECKING:
    from zcluster.config import Home
    from zcluster.keys import Ring


APPLIED_WITHIN_S = 2.0

F = TypeVar("F", bound=Callable[..., Any])


def home_of(state: State) -> Home:
    """The home that is meant."""
    from zcluster.config import Home, default_home

    return Home.of(state.home or default_home())


def ring_of(home: Home) -> Ring:
    """The ring in ``home``.

    Raises:
        InvalidKey: there is none, or it is broken.
    """
    from zcluster.keys import Ring

    if not home.ring_file.exists():
        raise InvalidKey(f"{home.path} has no ring of keys", hint="run `zcluster keys init` on the master, or give --home")
    return Ring(home.ring_file)


def applied(home: Home, ring: Ring) -> bool | None:
    """Whether the master that runs in ``home`` goes by ``ring`` as it is now, waited for; None: no master runs there."""
    from zcluster.keys.applied import wait_applied

    return wait_applied(home.run_dir, ring.version, APPLIED_WITHIN_S)


def told_applied(done: bool | None) -> int:
    """Say on stderr what :func:`applied` found, where that is worth a line; returns the exit code."""
    if done is False:
        say(f"the ring says so, but the running master has not applied it within {APPLIED_WITHIN_S:g} s: its log says why")
        return EXIT_PARTIAL
    return EXIT_OK


def check_known_role(state: State, role: str) -> str:
    """``role`` itself, when it is one of the built-in roles or of the configuration in the home.

    Raises:
        UsageError: it is none of them. ConfigError: it is not built in, and the configuration cannot be read.
    """
    if role in ROLES:
        return role
    declared = [each.name for each in settings(state).settings.roles.role]
    if role in declared:
        return role
    from zcluster.config import nearest

    known = tuple(dict.fromkeys((*ROLES, *declared)))
    near = nearest(role, known)
    hint = f"did you mean {near!r}?" if near else f"the roles are {', '.join(known)}"
    raise UsageError(f"there is no role {role[:80]!r}", hint=hint)


if TYPE_CHECKING:  # generic only since click 8.5, and only on paper
    TextType = click.ParamType[str]
else:
    TextType = click.ParamType


class RoleType(TextType):
    """A role; which ones there are, the configuration says (:func:`check_known_role`)."""

    name = "role"

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """The built-in ones, for who gave none."""
        return f"Choose from: {', '.join(ROLES)}, or a role of the configuration."


def role_option(default: str | None = None, help: str = "What the key's owner may do.") -> Callable[[F], F]:
    """``--role ROLE``; without a default it has to be given."""
    # a default of None, said aloud, is a value to click, and then nothing is missing
    given = {"required": True} if default is None else {"default": default, "show_default": True}
    return click.option("--role", type=RoleType(), metavar="ROLE", shell_complete=completes("role_names"), help=help, **given)
