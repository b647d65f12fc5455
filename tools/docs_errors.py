"""docs/reference/errors.md from zcluster.errors.

Rules kept here: every error class and every exit code is listed, with what the class says of itself.
"""

from __future__ import annotations

import inspect

from zcluster import errors

HEAD = """# Errors

An error has the same code in Python, on the wire and on the command line. It says what happened (`message`), what to do
next (`hint`), where (`node`), and for which request (`request_id`, written `SESSION.ID`; the logs of all nodes carry the
same). In Python all are classes of `zcluster`, below `ZClusterError`. On the command line an error is one line on stderr;
with `-o json` it is `{"error": {"code", "message", "hint", "request_id"}}` there.
"""

EXIT_CODES = {
    errors.EXIT_OK: "ok",
    errors.EXIT_FAILED: "failed",
    errors.EXIT_USAGE: "called wrongly",
    errors.EXIT_PARTIAL: "partial or degraded: only some nodes of a fan-out succeeded, or the cluster is not whole",
    errors.EXIT_NOT_ALLOWED: "not allowed",
    errors.EXIT_NO_MATCH: "no match: no such node, function or key",
    errors.EXIT_UNREACHABLE: "unreachable: no master answers, or the node is gone",
    errors.EXIT_TIMED_OUT: "timed out",
}


def render() -> str:
    """The page."""
    lines = [HEAD, "| code | Python | exit code | meaning |", "|---|---|---|---|"]
    for code, cls in sorted(errors.ERRORS.items()):
        meaning = (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ").replace("``", "`").replace("|", "\\|")
        lines.append(f"| `{code}` | `{cls.__name__}` | {cls.exit_code} | {meaning} |")
    lines += ["", "## Exit codes", "", "| exit code | meaning |", "|---|---|"]
    lines += [f"| {number} | {meaning} |" for number, meaning in sorted(EXIT_CODES.items())]
    lines += ["", "Ctrl-C ends a command with 130, a closed pipe with 141, as usual in a shell.", ""]
    return "\n".join(lines)
