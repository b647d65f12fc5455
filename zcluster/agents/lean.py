"""Keeping an agent's process small: what its libraries would load and it never uses.

Rules kept here:
- only in a process that is nothing but an agent, before anything of it is loaded: elsewhere nothing is changed;
- what is left out is optional for who imports it (asyncio without TLS, hashlib without OpenSSL: both are ways that they are
  built).

Measured with Python 3.11: asyncio alone loads ssl, and with it OpenSSL: 4.5 of 33 MiB. The bus is encrypted by CurveZMQ.
"""

from __future__ import annotations

import sys

UNUSED = ("ssl", "_hashlib")


def leave_out_unused() -> None:
    """Let the imports of UNUSED fail from now on, unless this process has an event loop's library already."""
    if "asyncio" not in sys.modules:
        for name in UNUSED:
            sys.modules.setdefault(name, None)  # type: ignore[arg-type]
