"""The journal of a commit: what is going to be done to a tree, on disk before any of it is done.

Rules kept here:
- a journal is complete or it is none: its length and a BLAKE2b-256 checksum stand before it, so one that was torn by a
  crash, or is garbage, is recognised and abandoned; reading never raises for what a file holds;
- each step in it may be carried out again and again with the same outcome;
- a journal has a token of its own. The state file carries the token of the journal that it completed: a journal that a power
  cut brings back after its removal is void, and is not done a second time to a tree that has moved on;
- the state file is checked in the same way.
"""

from __future__ import annotations

import hashlib
import os

import msgspec
from msgspec import Struct

from zcluster.errors import PeerError, UsageError
from zcluster.files import durable
from zcluster.files.beneath import name_fault

JOURNAL_NAME = "journal"
STATE_NAME = "state"
TOKEN_BYTES = 16
MAX_JOURNAL_BYTES = 1 << 30
"""About 10,000,000 files in one commit."""
MAX_STATE_BYTES = 64 << 20

_MAGIC = b"zcjrnl1\n"
_STATE_MAGIC = b"zcstate1"
_SUM_BYTES = 32
_HEAD_BYTES = len(_MAGIC) + 8 + _SUM_BYTES


class Record(Struct, array_like=True, frozen=True):
    """All that a commit does, in the order in which it is done.

    Names of staged files are names in the staging directory; everything else is a path of the tree.
    """

    version: int
    token: bytes
    owner: tuple[int, int] | None
    """User and group id that new directories get."""
    respelled: list[tuple[str, str]]
    """Old and new path that differ by case only: the same file where the file system does not tell cases apart."""
    away_files: list[str]
    """What is no directory, and stands where a directory must be."""
    away_dirs: list[str]
    """Directories that stand where a file must be."""
    make_dirs: list[tuple[str, int]]
    """Path and mode, parents first."""
    renames: list[tuple[str, list[tuple[str, str]]]]
    """By directory: the staged name, and the name in that directory."""
    touches: list[tuple[str, bool, int, int]]
    """Path, whether it is a directory, mode, and mtime in ns."""
    delete_files: list[str]
    delete_dirs: list[str]
    """The deepest first."""
    state: bytes | None
    """What the state is afterwards; None: as it was."""


class Stored(Struct, frozen=True):
    """What the state file holds: the token of the commit that wrote it, and the state, None while there is none."""

    token: bytes
    state: bytes | None


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Record)
_STORED = msgspec.msgpack.Decoder(Stored)


def _framed(magic: bytes, body: bytes) -> bytes:
    return b"".join((magic, len(body).to_bytes(8, "little"), hashlib.blake2b(body, digest_size=_SUM_BYTES).digest(), body))


def _unframed(magic: bytes, data: bytes) -> bytes | None:
    body = data[_HEAD_BYTES:]
    if not data.startswith(magic) or int.from_bytes(data[8:16], "little") != len(body):
        return None
    return body if hashlib.blake2b(body, digest_size=_SUM_BYTES).digest() == data[16:_HEAD_BYTES] else None


def encode(record: Record) -> bytes:
    """The bytes of a journal.

    Raises:
        UsageError: there is more than MAX_JOURNAL_BYTES to do.
        PeerError: a path is not UTF-8.
    """
    try:
        body = _ENCODER.encode(record)
    except UnicodeEncodeError:
        raise PeerError("a path of a plan is not UTF-8") from None
    if len(body) + _HEAD_BYTES > MAX_JOURNAL_BYTES:
        raise UsageError("there is too much to do in one commit", hint="commit the version in several parts")
    return _framed(_MAGIC, body)


def decode(data: bytes) -> Record | None:
    """The record that ``data`` is the complete journal of, or None."""
    body = _unframed(_MAGIC, data)
    if body is None:
        return None
    try:
        record = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    names = (name for _directory, pairs in record.renames for pair in pairs for name in pair)
    return None if any(map(name_fault, names)) else record


def write(control_fd: int, record: Record) -> None:
    """Write the journal into zcluster's directory of the tree, durably.

    Raises:
        OSError: it could not be written; none is left.
        UsageError: there is too much to do.
        PeerError: a path is not UTF-8.
    """
    data = encode(record)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(JOURNAL_NAME, flags, 0o600, dir_fd=control_fd)
    try:
        durable.write_all(fd, data)
        os.fsync(fd)
        durable.fsync_dir(control_fd)
    except OSError:
        remove(control_fd)
        raise
    finally:
        os.close(fd)


def read(control_fd: int) -> Record | None:
    """The complete journal that is there, or None.

    Raises:
        OSError: the disk failed.
    """
    data = durable.read_file(control_fd, JOURNAL_NAME, MAX_JOURNAL_BYTES)
    return None if data is None else decode(data)


def remove(control_fd: int) -> None:
    """Remove the journal, if there is one. This need not be durable: what the state file says makes it void.

    Raises:
        OSError: the disk failed.
    """
    try:
        os.unlink(JOURNAL_NAME, dir_fd=control_fd)
    except FileNotFoundError:
        return


def write_state(control_fd: int, token: bytes, state: bytes | None) -> None:
    """Replace the state in one step, durably.

    Raises:
        OSError: it could not be; the old one is as it was.
    """
    body = _ENCODER.encode(Stored(token, state))
    durable.replace_file(control_fd, STATE_NAME, _framed(_STATE_MAGIC, body))


def read_state(control_fd: int) -> Stored:
    """The state that is there; one with no token and no state when there is none, or what is there is damaged.

    Raises:
        OSError: the disk failed.
    """
    data = durable.read_file(control_fd, STATE_NAME, MAX_STATE_BYTES + 4096)
    body = None if data is None else _unframed(_STATE_MAGIC, data)
    try:
        return Stored(b"", None) if body is None else _STORED.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Stored(b"", None)
