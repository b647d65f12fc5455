"""gitignore patterns in the configuration.

Rules kept here:
- a pattern that is malformed, or that can match nothing, is an error at the start: a rule that silently does nothing would
  send files that were meant to stay, or delete files that were meant to be kept;
- pathspec is imported only when there is a pattern.
"""

from __future__ import annotations

import re

MAX_PATTERN_CHARS = 1024


def pattern_fault(pattern: str) -> str:
    """What is wrong with a gitignore pattern, in a few words; empty when nothing is."""
    if not 0 < len(pattern) <= MAX_PATTERN_CHARS:
        return f"expected a pattern of 1 to {MAX_PATTERN_CHARS} characters, got {len(pattern)}"
    if not pattern.isprintable():
        return f"expected a pattern without control characters, got {pattern[:80]!r}"
    import warnings

    from pathspec import GitIgnoreSpec

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # re's remarks on "[[": it reads them as gitignore does
            parsed = list(GitIgnoreSpec.from_lines([pattern]).patterns)
    except (ValueError, re.error):
        return f"not a gitignore pattern: {pattern[:80]!r}"
    if any(each.include is None for each in parsed) or not parsed:
        return f"the pattern {pattern[:80]!r} matches nothing"
    return ""
