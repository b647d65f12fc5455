"""Digests of changed directories, written into the directories above them.

Rules kept here:
- digests go up from the deepest changed directory to the root, once a pass;
- a directory that could never be looked at is in no listing;
- a listing of which one digest changes is not decoded for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from zcluster.core.sync.entry import DIRECTORY, EMPTY_LISTING, Entry, decode_listing, encode_listing, join, listing_digest
from zcluster.files.held import NO_SIGNATURE, SIGNATURE_BYTES, STAT, Held, with_digest


class RollUp:
    """One pass' changes on their way to the root.

    Args:
        held: what was known before the pass.
        delta, stats: what differs; digests are written into them.
        different: of ``delta``, where more changes than digests; what is taken out here is added.
    """

    def __init__(
        self, held: Held, delta: dict[str, bytes | None], stats: dict[str, bytes | None], different: set[str]
    ) -> None:  # fmt: skip
        self._held, self._delta, self._stats, self._different = held, delta, stats, different

    def run(self, dropped: Mapping[str, Mapping[str, bytes | None]]) -> bytes:
        """Write the digests, deepest first, and take out the names ``dropped`` by directory; the root's digest."""
        changed: defaultdict[int, set[str]] = defaultdict(set)
        patches: defaultdict[int, dict[str, dict[str, bytes | None]]] = defaultdict(dict)
        for path, listing in self._delta.items():
            if listing is not None:
                changed[depth_of(path)].add(path)
        for path, names in dropped.items():
            patches[depth_of(path)][path] = dict(names)
        for depth in range(max([*changed, *patches], default=0), -1, -1):
            for path, patch in patches[depth].items():
                if self._patch(path, patch):
                    changed[depth].add(path)
            if depth:
                for path in changed[depth]:
                    above, _, name = path.rpartition("/")
                    digest = listing_digest(self._listing(path) or EMPTY_LISTING)
                    patches[depth - 1].setdefault(above, {})[name] = digest
        return listing_digest(self._listing("") or EMPTY_LISTING) if changed[0] else self._held.root

    def _listing(self, path: str) -> bytes | None:
        return self._delta[path] if path in self._delta else self._held.listings.get(path)

    def _patch(self, path: str, patch: Mapping[str, bytes | None]) -> bool:
        """Set digests of entries of ``path``, or, where it is None, take the entry out; whether anything changed."""
        listing = self._listing(path)
        if listing is None:
            return False
        if len(patch) == 1:
            ((name, digest),) = patch.items()
            quick = digest is not None and with_digest(listing, name, self._digest_before(join(path, name)), digest)
            if quick:
                self._delta[path] = quick
                return quick != listing
        stats = self._stats.get(path) or self._held.stats[path]
        entries: list[Entry] = []
        rows: list[bytes] = []
        for index, entry in enumerate(decode_listing(listing)):
            digest = patch.get(entry.name, entry.digest)
            if digest is None:
                continue
            if digest != entry.digest:
                entry = Entry(entry.name, DIRECTORY, 0, 0, entry.mode, digest)
            entries.append(entry)
            start = SIGNATURE_BYTES + index * STAT.size
            rows.append(stats[start : start + STAT.size])
        if None in patch.values():
            # Not settled: the next look has to try again.
            self._stats[path] = NO_SIGNATURE + b"".join(rows)
            self._different.add(path)
        self._delta[path] = encoded = encode_listing(entries)
        return encoded != listing

    def _digest_before(self, path: str) -> bytes:
        return listing_digest(self._held.listings.get(path, EMPTY_LISTING))


def depth_of(path: str) -> int:
    """How many names a path has; the root's has none."""
    return path.count("/") + 1 if path else 0
