"""Hints that something changed in a tree, from inotify by way of watchdog. A hint, never the truth.

Rules kept here:
- a hint names a directory that has to be looked at, or one file in it, and nothing else; many files of few directories
  become their directories; when hints were lost, or are too many, it is "everything". What no hint told is found when its
  directory is looked at in whole, or by the slow clock's full pass;
- a new directory is watched first and then hinted at, with all beneath it, so that what is put there before its watch is
  in place is found by the look that follows;
- hints are taken from watchdog's reader itself. Its emitters and observers are not used: their queues hold back moves for
  half a second and lose events in bursts, and an overflow is only logged by them;
- hints are coalesced in bounded memory; the callback is called once, until the hints are collected;
- no trouble of watching is an exception: without watches the tree is still looked at, by the slow clock.

A file that its writer keeps open is hinted at by every write; mapped writes are hinted at by none (inotify(7)).
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, cast

from zcluster.core.sync.entry import join, parent
from zcluster.core.sync.paths import OWN_DIRECTORY
from zcluster.files.contents import GONE, reason_of

if TYPE_CHECKING:
    from watchdog.observers.inotify_c import CallbackId, InotifyEvent, InotifyFD, Mask, WatchDescriptor

BURST_EVENTS = 10_000
"""More events than these between two collections are a burst: everything is looked at. The kernel's queue holds 16,384."""
MAX_DIRECTORIES = 2_000
"""The same for directories."""
MAX_FILES = 2_000
"""More files than these become their directories."""
_MAX_MOVING = 1_024

_IN_MODIFY, _IN_ATTRIB, _IN_CLOSE_WRITE, _IN_MOVED_FROM, _IN_MOVED_TO = 0x2, 0x4, 0x8, 0x40, 0x80
_IN_CREATE, _IN_DELETE, _IN_MOVE_SELF = 0x100, 0x200, 0x800
_IN_ONLYDIR, _IN_DONT_FOLLOW, _IN_EXCL_UNLINK, _IN_ISDIR = 0x01000000, 0x02000000, 0x04000000, 0x40000000
_MASK = (
    _IN_MODIFY | _IN_ATTRIB | _IN_CLOSE_WRITE | _IN_MOVED_FROM | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE | _IN_MOVE_SELF
    | _IN_ONLYDIR | _IN_DONT_FOLLOW | _IN_EXCL_UNLINK
)  # fmt: skip
_NO_WATCHES = "inotify watches ran out; raise fs.inotify.max_user_watches (sysctl)"
_NO_INSTANCES = "inotify instances ran out; raise fs.inotify.max_user_instances (sysctl)"


class Watcher:
    """Watches the directories beneath ``root`` from its construction to :meth:`close`.

    Args:
        root: the tree's root; a symbolic link is resolved once, here.
        on_hint: called from a thread of ours when there is a first hint, and then not again before :meth:`collect`. It
            must not block, and must not raise.
        covers: whether a directory (relative path) is of interest; what is not is not watched, nor what is beneath it.

    A full scan that begins after the construction, and scans of what :meth:`collect` gives, see all that was hinted at.
    """

    def __init__(
        self,
        root: Path,
        on_hint: Callable[[], None],
        *,
        covers: Callable[[str], bool] | None = None,
        burst_events: int = BURST_EVENTS,
        max_directories: int = MAX_DIRECTORIES,
        max_files: int = MAX_FILES,
    ) -> None:
        self._on_hint = on_hint
        self._covers = covers
        self._burst_events, self._max_directories, self._max_files = burst_events, max_directories, max_files
        self._root = os.fsencode(os.path.realpath(root))
        self._lock = threading.Lock()
        self._gate = threading.Lock()
        self._dirty: set[str] | None = set()
        self._files: set[str] = set()
        self._events = 0
        self._changing = threading.RLock()
        """Held while a watch is added, and while all are given back: never is one added to a closed inotify."""
        self._ids = count()
        self._paths: dict[int, tuple[str, int]] = {}
        """By watch: its path now, and the id of its callback."""
        self._moving: dict[str, None] = {}
        self._fd: InotifyFD | None = None
        self.reason = ""
        """Why it does not watch (any more); empty: it does."""
        self._start()

    @property
    def watching(self) -> bool:
        """False: there will be no more hints; a new Watcher may have more luck."""
        return not self.reason

    @property
    def watches(self) -> int:
        """How many directories are watched."""
        return len(self._paths)

    @property
    def pending(self) -> bool:
        """Whether there are hints that nobody has collected."""
        return self._dirty is None or bool(self._dirty) or bool(self._files)

    def collect(self) -> frozenset[str] | None:
        """The directories and files hinted at since the last call, and forget them; None: everything may have changed."""
        with self._lock:
            dirty, files = self._dirty, self._files
            self._dirty, self._files, self._events = set(), set(), 0
        return None if dirty is None else frozenset(dirty | files)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Take no events meanwhile; the kernel keeps them, or says that they became too many. For our own writes: what
        they tell is known, and reading it would take the interpreter from whoever writes."""
        with self._gate:
            yield

    def close(self) -> None:
        """Stop watching; its thread has ended when this returns. Not to be called from ``on_hint``."""
        self._stop("it is closed")
        fd = self._fd
        if fd is not None and fd is not threading.current_thread():
            fd.join()

    def _start(self) -> None:
        try:
            from watchdog.observers.inotify_c import InotifyFD
        except (ImportError, AttributeError, OSError) as error:
            self.reason = f"this system has no inotify: {error}"
            return
        try:
            self._fd = InotifyFD()
        except OSError as error:
            self.reason = _NO_INSTANCES if error.errno in (errno.EMFILE, errno.ENFILE) else reason_of(error)
            return
        self._fd.start()
        self._add_tree("")
        if not self._paths and not self.reason:
            self._stop("the root cannot be watched")
        if self.reason:
            self._fd.join()

    def _stop(self, reason: str) -> None:
        """End the watch for ``reason``, from any thread; its watches are given back."""
        with self._changing:
            if self.reason:
                return
            self.reason = reason
            if self._fd is not None:
                self._fd.stop()
            self._paths.clear()

    # What InotifyFD calls, in its thread (watchdog.observers.inotify_c.WatchCallback).

    def on_event(self, event: InotifyEvent) -> None:
        """An event of one of our watches."""
        with self._gate:
            self._on_event(event)

    def _on_event(self, event: InotifyEvent) -> None:
        watch = self._paths.get(event.wd)
        if watch is None:
            return
        directory, mask = watch[0], event.mask
        if mask & _IN_MOVE_SELF:
            self._moved_itself(directory)
            return
        if not event.name:
            return  # of the directory itself: its parent tells the same, and of the root only the end matters
        name = os.fsdecode(event.name)
        if not directory and name == OWN_DIRECTORY:
            return
        path = join(directory, name)
        hints = [directory]
        if mask & _IN_ISDIR:
            if mask & _IN_MOVED_FROM:
                self._moving[path] = None
                if len(self._moving) > _MAX_MOVING:
                    self._moving.clear()
            elif mask & (_IN_CREATE | _IN_MOVED_TO):
                self._moving.pop(path, None)
                hints += self._add_tree(path)
            self._hint(hints)
        else:
            self._hint([], path)

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """A watched directory is gone."""
        watch = self._paths.pop(wd, None)
        if watch is None or self.reason:
            return
        if watch[0]:
            self._hint([parent(watch[0])])
        else:
            self._stop("the root is gone")
            self._hint(None)

    def on_queue_overflow(self) -> None:
        """The kernel has dropped events, perhaps those of new directories: all are watched again, and all is hinted at."""
        self._add_tree("")
        self._hint(None)

    def _moved_itself(self, path: str) -> None:
        """A watched directory was moved. Within the tree its parent has told where to before this, and its watches have
        their new paths; a path that is still the old one has left the tree."""
        if not path:
            self._stop("the root was moved")
            self._hint(None)
        elif path in self._moving:
            del self._moving[path]
            self._drop_tree(path)

    def _add_tree(self, path: str) -> list[str]:
        """Watch ``path`` and the directories beneath it, each before it is listed; those that are watched."""
        added: list[str] = []
        todo = [path]
        while todo and not self.reason:
            path = todo.pop()
            if path == OWN_DIRECTORY or (path and self._covers is not None and not self._covers(path)):
                continue
            if not self._add(path):
                continue
            added.append(path)
            # Gone, or not to be read: then there is nothing to watch beneath, and the scan will say so.
            with suppress(OSError), os.scandir(self._at(path)) as found:
                todo += [join(path, os.fsdecode(item.name)) for item in found if item.is_dir(follow_symlinks=False)]
        return added

    def _at(self, path: str) -> bytes:
        return os.path.join(self._root, os.fsencode(path)) if path else self._root

    def _add(self, path: str) -> bool:
        with self._changing:
            fd = self._fd
            if fd is None or self.reason:
                return False
            id_ = next(self._ids)
            try:
                wd = fd.add_callback(self._at(path), cast("Mask", _MASK), self, cast("CallbackId", id_))
            except OSError as error:
                if error.errno not in (*GONE, errno.EACCES):
                    self._stop(_NO_WATCHES if error.errno == errno.ENOSPC else f"inotify: {reason_of(error)}")
                    self._hint(None)
                return False
            if wd < 0:  # watchdog's way to say that the directory may not be read
                return False
            before = self._paths.get(wd)
            self._paths[wd] = (path, id_)
            if before is not None:  # watched already, by its path of then
                fd.remove_callbacks([(wd, cast("CallbackId", before[1]))])
        return True

    def _drop_tree(self, path: str) -> None:
        below = path + "/"
        with self._changing:
            gone = [(wd, id_) for wd, (at, id_) in self._paths.items() if at == path or at.startswith(below)]
            for wd, _ in gone:
                del self._paths[wd]
            if self._fd is not None and not self.reason:
                self._fd.remove_callbacks([(cast("WatchDescriptor", wd), cast("CallbackId", id_)) for wd, id_ in gone])

    def _hint(self, directories: list[str] | None, file: str = "") -> None:
        with self._lock:
            first = self._dirty is not None and not self._dirty and not self._files
            self._events += 1
            if self._dirty is not None:
                if file:
                    self._files.add(file)
                if len(self._files) > self._max_files:
                    self._dirty.update(map(parent, self._files))
                    self._files.clear()
                if directories is not None:
                    self._dirty.update(directories)
                if directories is None or self._events > self._burst_events or len(self._dirty) > self._max_directories:
                    self._dirty, self._files = None, set()
        if first:
            self._on_hint()
