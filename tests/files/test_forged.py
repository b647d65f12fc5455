"""Two contents with one xxh3_128: why what a worker sends up is named by BLAKE2b.

XXH3 multiplies pairs of input words, each mixed with a word of its public secret
(https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md, "XXH3 128-bits, input of 17 to 128 bytes"). An input word that
equals its secret word makes its product 0, whatever the other word is; the sums of words that are mixed in beside the products
cancel when two of them change by the same bits.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import xxhash

from zcluster.core.sync.entry import FILE, Entry, content_digest
from zcluster.errors import PeerError
from zcluster.files.staging import Staging
from zcluster.files.treedir import TreeDir

SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c"
)
WORD = 1 << 64


def forged(bits: int) -> bytes:
    """64 bytes; all that differ in ``bits`` only have the same xxh3_128."""

    def word(at: int) -> int:
        return int.from_bytes(SECRET[at : at + 8], "little")

    def pair(low: int, total: int) -> bytes:
        return low.to_bytes(8, "little") + ((total - low) % WORD).to_bytes(8, "little")

    first, second = pair(word(0), 0x1234 ^ bits), pair(word(32), 0x5678 ^ bits)
    return first + second + bytes(16) + pair(word(16), 0)


def test_contents_with_one_xxh3_can_be_made() -> None:
    one, other = forged(0), forged(0xABCDEF)
    assert one != other
    assert xxhash.xxh3_128_digest(one) == xxhash.xxh3_128_digest(other)
    assert content_digest("blake2b_256", one) != content_digest("blake2b_256", other)


def test_what_comes_up_is_not_taken_for_another_content(tmp_path: Path) -> None:
    one, other = forged(0), forged(0xABCDEF)
    treedir = TreeDir(tmp_path / "logs", "logs", create=True)
    treedir.recover()
    staging = Staging(treedir, 1, "blake2b_256")
    entry = Entry("a", FILE, len(one), 0, 0o644, content_digest("blake2b_256", one))
    with pytest.raises(PeerError, match="not what its entry says"):
        staging.put("a", entry, other)
    staging.put("a", entry, one)
    treedir.close()
