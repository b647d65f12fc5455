"""Reading every byte of a tree again, against its manifest.

Rules kept here:
- nothing is believed but content: a file whose size and times are as recorded is read all the same;
- no symbolic link is followed, and nothing is changed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator, Mapping

from zcluster.core.sync.entry import FILE, LINK, Entry, decode_listing, join
from zcluster.files.beneath import Beneath
from zcluster.files.contents import Hashing, reason_of


def differences(
    listings: Mapping[str, bytes], root_fd: int, hashing: Hashing, on_progress: Callable[[int, int, int], None] | None
) -> Generator[tuple[str, str], None, None]:
    """(path, reason) of each entry of ``listings`` that is not on the disk as they say. The root's fd stays the caller's.

    ``on_progress`` is called after each directory with the directories, files and bytes read so far.
    """
    beneath = Beneath(root_fd)
    try:
        for count, (path, listing) in enumerate(listings.items(), 1):
            try:
                fd = beneath.dir_fd(path)
            except OSError as error:
                yield path, f"the directory cannot be opened: {reason_of(error)}"
                continue
            for entry in decode_listing(listing):
                if reason := _difference(fd, entry, hashing):
                    yield join(path, entry.name), reason
            if on_progress is not None:
                on_progress(count, hashing.files, hashing.bytes)
    finally:
        beneath.close()


def _difference(fd: int, entry: Entry, hashing: Hashing) -> str:
    """Why ``entry`` is not what is in the open directory ``fd``; empty: it is."""
    if entry.kind == FILE:
        hashed = hashing.hash_file(fd, entry.name)
        if hashed.stat is None:
            return hashed.fault
        if hashed.digest == entry.digest:
            return ""
        if hashed.stat.st_size == entry.size and hashed.stat.st_mtime_ns == entry.mtime_ns:
            return "its content differs, although its size and time are the same"
        return "its content differs"
    try:
        mode = os.stat(entry.name, dir_fd=fd, follow_symlinks=False).st_mode
        if entry.kind == LINK:
            same = stat.S_ISLNK(mode) and os.readlink(entry.name, dir_fd=fd) == entry.target
            return "" if same else "it is not the link that it was"
    except OSError as error:
        return reason_of(error)
    return "" if stat.S_ISDIR(mode) else "it is no directory"
