"""``python -m zcluster.files FD SHARED PARENT``: the sync process, started by a node (zcluster.files.host) and by nobody else."""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import Any

import orjson

from zcluster.errors import ZClusterError
from zcluster.files.channel import MAX_BYTES, NOTE, PREFIX
from zcluster.files.engine import Engine, end_with_parent
from zcluster.files.masterside import MasterSide
from zcluster.files.slots import Slots
from zcluster.files.workerside import WorkerSide
from zcluster.process import run_daemon, start_logging


def main() -> None:
    """Serve until the line to the node ends, then end at once: what is on the disks is whole or made whole at the next start."""
    if len(sys.argv) != 4 or not all(word.isdigit() for word in sys.argv[1:]):
        sys.exit("this is a part of a zcluster node, which starts it by itself")
    end_with_parent(int(sys.argv[3]))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A terminal's Ctrl-C goes to all; the node decides when this process ends.
        signal.signal(number, signal.SIG_IGN)
    sock = socket.socket(fileno=int(sys.argv[1]))
    setup = _first_note(sock)
    logger = start_logging(setup["level"], setup["format"], setup["node"])
    try:
        run_daemon(_serve(sock, int(sys.argv[2]), setup))
    except ZClusterError as error:
        logger.error("file sync cannot start: %s", error)
        os._exit(error.exit_code)
    # Threads may be in the middle of something large: nothing of it has to be waited for.
    os._exit(0)


async def _serve(sock: socket.socket, shared: int, setup: dict[str, Any]) -> None:
    logger = start_logging(setup["level"], setup["format"], setup["node"])
    engine = Engine(sock, Slots(shared, first=False), setup["frame_bytes"], logger)
    os.close(shared)
    if setup["role"] == "master":
        MasterSide(engine, setup)
    else:
        WorkerSide(engine, setup)
    engine.perform()
    await engine.run()


def _first_note(sock: socket.socket) -> dict[str, Any]:
    """The setup: the first thing on the line."""
    size, kind = PREFIX.unpack(_exactly(sock, PREFIX.size))
    if kind != NOTE or size > MAX_BYTES:
        sys.exit("this is a part of a zcluster node, which starts it by itself")
    setup: dict[str, Any] = orjson.loads(_exactly(sock, size))
    return setup


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            sys.exit(0)
        data += part
    return data


if __name__ == "__main__":
    main()
