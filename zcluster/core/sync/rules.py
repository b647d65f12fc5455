"""What a tree's rules cover.

Rules kept here:
- patterns are gitignore's (https://git-scm.com/docs/gitignore, by pathspec): the last pattern that matches a path decides; a
  pattern without a slash matches at any depth; one that ends with a slash matches directories only;
- ``exclude`` wins over all else, and nothing beneath an excluded directory comes back by a later ``!pattern``, as in git;
- ``include``, when there is any, lists what is covered: a path that no pattern of it matches is as its directory is, so
  ``etc/`` covers all beneath; directories are covered as soon as something beneath them could be;
- ``extra_valid`` are files that a sink may have of its own: covered (so they are seen and reported), never replaced and
  never deleted; a source treats them as excluded (:meth:`Rules.for_source`);
- a pattern that can match nothing is an error at declaration, not silence later.

What is asked of directories is remembered, in a bounded map, because every file beneath asks again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from zcluster.core.sync.entry import DIRECTORY, HASHES, LINK, MAX_MODE, Kind
from zcluster.errors import ConfigError
from zcluster.wire.trees import TreeInfo

MAX_REMEMBERED = 65_536
"""Directories whose answers a set of patterns remembers."""


class _Pattern:
    """One line of gitignore, asked about exactly one path: what is beneath a match is the caller's matter."""

    __slots__ = ("_by_name", "_search", "keeps", "segments")

    def __init__(self, text: str, what: str) -> None:
        hint = "see https://git-scm.com/docs/gitignore for what a pattern may be"
        if text.endswith("/**/"):
            # "All directories beneath": pathspec 1.1 takes it for the directory itself too, git 2.39 does not.
            text += "*/"
        try:
            compiled = GitIgnoreSpecPattern(text)
        except ValueError as error:
            raise ConfigError(f"{what} has an invalid pattern {text!r}: {error}", hint=hint) from None
        if compiled.regex is None or compiled.include is None:
            raise ConfigError(f"{what} has a pattern that can match nothing: {text!r}", hint=hint)
        self._search = compiled.regex.search
        self.keeps = compiled.include
        plain = text.removeprefix("!") if text.endswith("\\ ") else text.removeprefix("!").rstrip()
        anchored = "/" in plain.removesuffix("/")
        self._by_name = not anchored
        self.segments = plain.strip("/").split("/") if anchored else []
        """Of a pattern that is anchored at the root; empty: it matches at any depth."""

    def matches(self, path: str, name: str, is_dir: bool) -> bool:
        text = name if self._by_name else path
        # The named group is pathspec's mark of "matched a directory, and the path goes on behind it".
        found = self._search(text)
        if found is not None and found.lastgroup is None:
            return True
        if not is_dir:
            return False
        found = self._search(text + "/")
        if found is None or found.lastgroup is None:
            return False
        # "*/" and "**/" are found at the first slash wherever it is: they match every directory.
        return found.end() == len(text) + 1 or found.start() > 0


class _Patterns:
    """The patterns of one setting."""

    __slots__ = ("_known", "_patterns", "_prefixes", "_sticky")

    def __init__(self, lines: tuple[str, ...], what: str, *, sticky: bool) -> None:
        """``sticky``: what is beneath a matched directory is matched, whatever its own patterns say."""
        self._patterns = [_Pattern(line, what) for line in lines]
        self._patterns.reverse()
        self._sticky = sticky
        self._known: dict[str, bool] = {"": False}
        self._prefixes = _prefixes(self._patterns, what)

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def has(self, path: str, is_dir: bool) -> bool:
        """Whether the patterns match ``path``, itself or by way of a directory above it."""
        if is_dir:
            return self._has_directory(path)
        directory, _, name = path.rpartition("/")
        above = self._has_directory(directory)
        if above and self._sticky:
            return True
        own = self._own(path, name, False)
        return above if own is None else own

    def could_hold(self, directory: str) -> bool:
        """Whether something beneath ``directory`` could match by itself."""
        if self._prefixes is None:
            return True
        names = directory.split("/")
        for open_ended, depth, pattern in self._prefixes:
            if depth == len(names) or (open_ended and depth < len(names)):
                top = "/".join(names[:depth])
                if pattern.matches(top, names[depth - 1], True):
                    return True
        return False

    def _own(self, path: str, name: str, is_dir: bool) -> bool | None:
        for pattern in self._patterns:
            if pattern.matches(path, name, is_dir):
                return pattern.keeps
        return None

    def _has_directory(self, path: str) -> bool:
        known = self._known
        todo = []
        while (found := known.get(path)) is None:
            todo.append(path)
            path = path.rpartition("/")[0]
        if len(known) + len(todo) > MAX_REMEMBERED:
            known.clear()
            known[""] = False
        for one in reversed(todo):
            if not (found and self._sticky):
                own = self._own(one, one.rpartition("/")[2], True)
                found = found if own is None else own
            known[one] = found
        return found


def _prefixes(patterns: list[_Pattern], what: str) -> list[tuple[bool, int, _Pattern]] | None:
    """How a directory's path must begin for something beneath it to match: (any depth below too, depth, pattern).

    None: anything could.
    """
    out = []
    for pattern in patterns:
        if not pattern.keeps:
            continue
        if not pattern.segments or pattern.segments[0] == "**":
            return None
        for depth in range(1, len(pattern.segments)):
            open_ended = pattern.segments[depth] == "**"
            out.append((open_ended, depth, _Pattern("/" + "/".join(pattern.segments[:depth]), what)))
            if open_ended:
                break
    return out


@dataclass(frozen=True)
class Rules:
    """The rules of one tree; see ``[[sync.tree]]`` and :class:`zcluster.wire.trees.TreeInfo`.

    ``max_file_bytes``, ``max_files`` and ``max_bytes`` of 0 are no bound. ``mode`` -1: as at the source.

    Raises:
        ConfigError: a pattern is invalid, or a value is out of its range.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    extra_valid: tuple[str, ...] = ()
    mode: int = -1
    owner: str = ""
    delete: bool = True
    delete_share: float = 0.5
    symlinks: Literal["refuse", "copy"] = "refuse"
    max_file_bytes: int = 0
    max_files: int = 0
    max_bytes: int = 0
    hash: str = "xxh3_128"
    at_source: bool = False
    """These are the rules as the source has them: what is extra-valid at its sinks is not published."""
    covers: Callable[[str, bool], bool] = field(init=False, repr=False, compare=False)
    """``covers(path, is_dir)``: whether the tree's rules concern ``path``; the root always is covered."""
    _include: _Patterns = field(init=False, repr=False, compare=False)
    _exclude: _Patterns = field(init=False, repr=False, compare=False)
    _extra_valid: _Patterns = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._check()
        put = object.__setattr__
        put(self, "_include", _Patterns(self.include, "include", sticky=False))
        put(self, "_exclude", _Patterns(self.exclude, "exclude", sticky=True))
        put(self, "_extra_valid", _Patterns(self.extra_valid, "extra_valid", sticky=True))
        bounded = self.include or self.exclude or (self.extra_valid and self.at_source)
        put(self, "covers", self._covers if bounded else _covers_all)

    @classmethod
    def of(cls, info: TreeInfo) -> Rules:
        """The rules that a tree was declared with, as its sinks have them."""
        return cls(
            include=tuple(info.include),
            exclude=tuple(info.exclude),
            extra_valid=tuple(info.extra_valid),
            mode=info.mode,
            owner=info.owner,
            delete=info.delete,
            delete_share=info.delete_share,
            symlinks=info.symlinks,
            max_file_bytes=info.max_file_bytes,
            max_files=info.max_files,
            max_bytes=info.max_bytes,
            hash=info.hash,
        )

    def for_source(self) -> Rules:
        """The same rules as the tree's source has them: extra-valid files are not covered there."""
        return replace(self, at_source=True)

    def is_extra_valid(self, path: str, is_dir: bool = False) -> bool:
        """Whether a sink may have ``path`` of its own: it is neither replaced nor deleted there."""
        return bool(self._extra_valid) and bool(path) and self._extra_valid.has(path, is_dir)

    def mode_of(self, kind: Kind, mode: int) -> int:
        """The permission bits that a manifest says of an entry: the rule's, or its own ``mode``; 0 for a link.

        Where the rule gives them, directories can be entered by whom they can be read by.
        """
        if kind == LINK:
            return 0
        if self.mode < 0:
            return mode & MAX_MODE
        return self.mode | ((self.mode & 0o444) >> 2) if kind == DIRECTORY else self.mode

    def _covers(self, path: str, is_dir: bool) -> bool:
        if not path:
            return True
        if self._exclude and self._exclude.has(path, is_dir):
            return False
        if self.at_source and self.is_extra_valid(path, is_dir):
            return False
        if not self._include or self._include.has(path, is_dir):
            return True
        if is_dir and self._include.could_hold(path):
            return True
        return self.is_extra_valid(path, is_dir)

    def _check(self) -> None:
        if not -1 <= self.mode <= MAX_MODE:
            raise ConfigError(f"mode {self.mode:#o} is not a file's", hint="give permission bits such as 0o640")
        if not 0 <= self.delete_share <= 1:
            raise ConfigError(f"delete_share {self.delete_share} is not between 0 and 1", hint="0.5 is half of the files")
        if self.hash not in HASHES:
            raise ConfigError(f"no hash is called {self.hash!r}", hint=f"one of {', '.join(HASHES)}")
        if self.symlinks not in ("refuse", "copy"):
            raise ConfigError(f"symlinks cannot be {self.symlinks!r}", hint="'refuse' or 'copy'")
        if min(self.max_file_bytes, self.max_files, self.max_bytes) < 0:
            raise ConfigError("a limit of a tree is below 0", hint="0 is no limit")


def _covers_all(_path: str, _is_dir: bool) -> bool:
    return True
