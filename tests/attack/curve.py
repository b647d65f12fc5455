"""CURVE over a plain TCP socket (RFC 26, https://rfc.zeromq.org/spec/26/): a peer that libzmq does not hold to its manners.

Rules kept here:
- every step is one method, so that an attack may leave one out, repeat it, or say it with other bytes;
- nothing is checked that an attacker would not check.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import socket
import struct
from pathlib import Path
from typing import Any

import zmq
from zmq.utils import z85

from zcluster.keys import KeyFile

GREETING_BYTES = 64
MORE, LONG, COMMAND = 1, 2, 4
"""Flags of a ZMTP frame."""
INNER_COMMAND = 2
"""The flag within an encrypted frame."""
SHORT_BYTES = 255
KEY_BYTES, NONCE_BYTES, MAC_BYTES = 32, 24, 16


def _sodium() -> ctypes.CDLL:
    bundled = sorted((Path(zmq.__file__).parent.parent / "pyzmq.libs").glob("libsodium*"))
    return ctypes.CDLL(str(bundled[0]) if bundled else ctypes.util.find_library("sodium"))


SODIUM = _sodium()


def box(text: bytes, nonce: bytes, public: bytes, secret: bytes) -> bytes:
    """``text`` for the holder of ``public``."""
    out = ctypes.create_string_buffer(len(text) + MAC_BYTES)
    assert SODIUM.crypto_box_easy(out, text, ctypes.c_ulonglong(len(text)), nonce, public, secret) == 0
    return out.raw


def open_box(text: bytes, nonce: bytes, public: bytes, secret: bytes) -> bytes:
    """What the holder of ``public`` has put into a box for us."""
    out = ctypes.create_string_buffer(len(text) - MAC_BYTES)
    assert SODIUM.crypto_box_open_easy(out, text, ctypes.c_ulonglong(len(text)), nonce, public, secret) == 0
    return out.raw


def new_pair() -> tuple[bytes, bytes]:
    """A new public and secret key."""
    public, secret = ctypes.create_string_buffer(KEY_BYTES), ctypes.create_string_buffer(KEY_BYTES)
    assert SODIUM.crypto_box_keypair(public, secret) == 0
    return public.raw, secret.raw


def greeting(mechanism: bytes = b"CURVE", *, server: bool = False) -> bytes:
    """What each end of a connection says first."""
    return b"\xff" + bytes(8) + b"\x7f\x03\x00" + mechanism.ljust(20, b"\0") + bytes([server]) + bytes(31)


def frame(flags: int, body: bytes) -> bytes:
    """A ZMTP frame."""
    size = bytes([flags, len(body)]) if len(body) <= SHORT_BYTES else struct.pack(">BQ", flags | LONG, len(body))
    return size + body


def properties(values: dict[str, bytes]) -> bytes:
    """Metadata of a connection."""
    return b"".join(bytes([len(name)]) + name.encode() + struct.pack(">I", len(value)) + value for name, value in values.items())


def tcp(address: str, patience_s: float) -> socket.socket:
    """A plain connection to ``tcp://HOST:PORT``."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=patience_s)


class Curve:
    """One connection with an admitted key.

    Args:
        key: who connects; its first address is connected to, or ``address``.
        kind: the kind of socket that it says it is.
        routing_id: the id that it claims.
    """

    def __init__(
        self, key: KeyFile, kind: str = "DEALER", *, address: str = "", routing_id: bytes = b"", patience_s: float = 30.0
    ) -> None:
        self.socket = tcp(address or key.addresses[0], patience_s)
        self._server, self._pair = key.master_public, (_raw(key.pair.public), _raw(key.pair.secret))
        self._public, self._secret = new_pair()
        self._key = b""
        """What crypto_box_beforenm has made of both short-term keys."""
        self._number = 0
        self._about = {"Socket-Type": kind.encode(), "Identity": routing_id}

    def connect(self) -> Curve:
        """The whole handshake; raises ConnectionError when the other end ends it."""
        server = _raw(self._server)
        self.socket.sendall(greeting())
        self.exactly(GREETING_BYTES)
        hello = b"\x05HELLO\x01\x00" + bytes(72) + self._public + self._next()
        self.command(hello + box(bytes(64), b"CurveZMQHELLO---" + self._last(), server, self._secret))
        welcome = self.read_frame()[1]
        opened = open_box(welcome[24:], b"WELCOME-" + welcome[8:24], server, self._secret)
        theirs, cookie = opened[:KEY_BYTES], opened[KEY_BYTES:]
        shared = ctypes.create_string_buffer(KEY_BYTES)
        assert SODIUM.crypto_box_beforenm(shared, theirs, self._secret) == 0
        self._key = shared.raw
        nonce = bytes(range(16))
        vouch = box(self._public + server, b"VOUCH---" + nonce, theirs, self._pair[1])
        number = self._next()
        inside = self._pair[0] + nonce + vouch + properties(self._about)
        initiate = self._seal(inside, b"CurveZMQINITIATE" + number)
        self.command(b"\x08INITIATE" + cookie + number + initiate)
        ready = self.read_frame()[1]
        if not ready.startswith(b"\x05READY"):
            raise ConnectionError(f"the handshake was refused: {ready[:20]!r}")
        return self

    def message(self, body: bytes, *, more: bool = False, command: bool = False) -> bytes:
        """The bytes of one encrypted frame."""
        number = self._next()
        inside = bytes([(MORE if more else 0) | (INNER_COMMAND if command else 0)]) + body
        return frame(0, b"\x07MESSAGE" + number + self._seal(inside, b"CurveZMQMESSAGEC" + number))

    def send(self, body: bytes, *, more: bool = False) -> None:
        """Send one frame."""
        self.socket.sendall(self.message(body, more=more))

    def command(self, body: bytes) -> None:
        """Send one command of the handshake."""
        self.socket.sendall(frame(COMMAND, body))

    def receive(self) -> bytes:
        """The next frame that the other end has sent, decrypted."""
        while True:
            body = self.read_frame()[1]
            if body.startswith(b"\x07MESSAGE"):
                inside = self._unseal(body[16:], b"CurveZMQMESSAGES" + body[8:16])
                if not inside[0] & INNER_COMMAND:
                    return inside[1:]

    def read_frame(self) -> tuple[int, bytes]:
        """The next frame as it is on the wire: flags and body."""
        flags = self.exactly(1)[0]
        size = struct.unpack(">Q", self.exactly(8))[0] if flags & LONG else self.exactly(1)[0]
        return flags, self.exactly(size)

    def exactly(self, count: int) -> bytes:
        """So many bytes; raises ConnectionError when the other end ends before them."""
        out = bytearray()
        while len(out) < count:
            part = self.socket.recv(count - len(out))
            if not part:
                raise ConnectionError("the other end ended the connection")
            out += part
        return bytes(out)

    def ended(self, wait_s: float) -> bool:
        """Whether the other end ends the connection within that time; what it says until then is thrown away."""
        self.socket.settimeout(wait_s)
        try:
            while self.socket.recv(65536):
                continue
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        return True

    def close(self) -> None:
        """End it."""
        self.socket.close()

    def _next(self) -> bytes:
        self._number += 1
        return self._last()

    def _last(self) -> bytes:
        return struct.pack(">Q", self._number)

    def _seal(self, text: bytes, nonce: bytes) -> bytes:
        out = ctypes.create_string_buffer(len(text) + MAC_BYTES)
        assert SODIUM.crypto_box_easy_afternm(out, text, ctypes.c_ulonglong(len(text)), nonce, self._key) == 0
        return out.raw

    def _unseal(self, text: bytes, nonce: bytes) -> bytes:
        out = ctypes.create_string_buffer(max(1, len(text) - MAC_BYTES))
        assert SODIUM.crypto_box_open_easy_afternm(out, text, ctypes.c_ulonglong(len(text)), nonce, self._key) == 0
        return out.raw


def _raw(key: Any) -> bytes:
    return bytes(z85.decode(key.encode()))
