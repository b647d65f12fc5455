"""A source and its copies in one process without time: what is between them loses, repeats and mixes up what is published, and
sessions end at any moment. Everything is decided by one seed."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from zcluster.core.batch import Body
from zcluster.core.tables.bodies import Item, read_body
from zcluster.core.tables.copy import Copy
from zcluster.core.tables.digests import bucket_of, digest_bytes, entry_digest, split_digests
from zcluster.core.tables.names import prefix_of
from zcluster.core.tables.source import Part, Source, pack_changes, pack_page
from zcluster.core.tables.state import CopyState, Effect, Replace, Save, Tell, read_state, state_bytes
from zcluster.wire.tables import BUCKETS, Ask, Changes, Head, Page

TABLE = "t"
PREFIX = prefix_of(TABLE)
HEARTBEAT_S = 1.0
Frame = tuple[Head | Changes | Page, bytes]


def bucket_digests(entries: Iterable[tuple[str, bytes]]) -> list[bytes]:
    """The digests of all buckets of a table with these entries."""
    found = [0] * BUCKETS
    for key, value in entries:
        found[bucket_of(key)] ^= entry_digest(key, value)
    return [digest_bytes(digest) for digest in found]


def no_packing(raw: bytes) -> tuple[int, Body]:
    return 0, raw


class Truth:
    """The source's store: one table and something else, so that revisions have gaps."""

    def __init__(self, number: int) -> None:
        self.id = f"store-{number}"
        self.revision = 0
        self.data: dict[str, bytes] = {}
        self.log: list[Item] = []
        self.forgotten = 0
        self.states: dict[int, dict[str, bytes]] = {0: {}}

    def commit(self, ops: list[tuple[str, bytes | None]]) -> None:
        self.revision += 1
        for key, value in sorted(dict(ops).items()):
            if value is None and key not in self.data:
                continue
            if value is None:
                del self.data[key]
            else:
                self.data[key] = value
            self.log.append((self.revision, key, value))
        self.states[self.revision] = dict(self.data)

    def compact(self, keep: int) -> None:
        if len(self.log) > keep:
            self.forgotten = self.log[len(self.log) - keep - 1][0]
            self.log = [item for item in self.log if item[0] > self.forgotten]


class Master:
    """Tells and answers as brokers/tables.py does, of a store without waiting."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.source = Source(TABLE, truth.id, truth.revision, no_packing)
        self.source.looked(bucket_digests(truth.data.items()), truth.revision)

    def publish(self) -> list[Frame]:
        truth = self.truth
        frames: list[Frame] = []
        if self.source.position < truth.forgotten:
            self.source.lost(truth.revision)
        items = [item for item in truth.log if item[0] > self.source.position]
        for message, body in self.source.read(items, truth.revision):
            frames.append((message, bytes(body)))
        return frames

    def head(self) -> list[Frame]:
        frames = self.publish()
        head = self.source.looked(bucket_digests(self.truth.data.items()), self.truth.revision)
        return [*frames, (head, b"")]

    def answer(self, ask: Ask, body: bytes) -> list[Frame]:
        truth = self.truth
        known = ask.store == truth.id and truth.forgotten <= ask.revision <= truth.revision
        if ask.want == "changes" and known:
            items = [item for item in truth.log if item[0] > ask.revision]
            made = pack_changes(TABLE, truth.id, ask.revision, items, truth.revision, no_packing)[0]
            if made is not None:
                return [(made[0], bytes(made[1]))]
        if ask.want == "repair" and ask.store == truth.id:
            return self._repair(ask, body)
        after = ask.after if ask.want == "page" and ask.store == truth.id else ""
        held = [(truth.revision, key, value) for key, value in sorted(truth.data.items()) if key > after]
        page, data, _ = pack_page(Part(TABLE, truth.id, truth.revision, held, True, after), no_packing)
        return [(page, bytes(data))]

    def _repair(self, ask: Ask, body: bytes) -> list[Frame]:
        truth = self.truth
        mine = bucket_digests(truth.data.items())
        bad = [number for number, digest in enumerate(split_digests(body)) if digest != mine[number]]
        if not bad:
            made = pack_changes(TABLE, truth.id, ask.revision, [], truth.revision, no_packing)[0]
            assert made is not None
            return [(made[0], bytes(made[1]))]
        frames: list[Frame] = []
        for number in bad:
            items = [(truth.revision, key, value) for key, value in sorted(truth.data.items()) if bucket_of(key) == number]
            after, first = "", True
            while items or first:
                part = Part(TABLE, truth.id, truth.revision, items, True, after, (number,), number != bad[-1])
                page, data, count = pack_page(part, no_packing)
                frames.append((page, bytes(data)))
                items, after, first = items[count:], page.last, False
        return frames


@dataclass
class Disk:
    """What a worker has saved."""

    data: dict[str, bytes] = field(default_factory=dict)
    state: bytes | None = None


class Worker:
    """A copy and its disk."""

    def __init__(self, disk: Disk | None = None) -> None:
        self.disk = disk or Disk()
        self.machine = Copy(TABLE, read_state(self.disk.state))
        self.published: list[Frame] = []
        """On its way from the publisher."""
        self.asked: list[tuple[Ask, bytes]] = []
        self.answers: list[Frame] = []
        self.up = False
        self.flipped = False
        self.asks = 0

    def hear(self, frame: Frame, now: float, *, session: bool) -> None:
        message, body = frame
        if isinstance(message, Head):
            own = bucket_digests(self.disk.data.items())
            self.perform(self.machine.head(message, own, now, session=session))
        elif isinstance(message, Page):
            self.perform(self.machine.page(message, read_body(body, PREFIX), now))
        else:
            self.perform(self.machine.changes(message, read_body(body, PREFIX), now, answer=session))

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Save):
                self._commit(effect.ops, effect.state)
            elif isinstance(effect, Replace):
                held = [(key, value) for key, value in self.disk.data.items() if effect.covers(key, bucket_of(key))]
                self._commit(effect.ops(held), effect.state)
            elif isinstance(effect, Tell):
                # A newer question takes the place of one that the source has not begun (source.Questions).
                self.asked = [(effect.ask, effect.body)]
                self.asks += 1

    def session_begins(self, head: Frame, now: float) -> None:
        self.up = True
        self.asked, self.answers = [], [head]
        self.perform(self.machine.link_up(HEARTBEAT_S, now))

    def session_ends(self) -> None:
        self.up = False
        self.asked, self.answers = [], []
        self.machine.link_down()

    def _commit(self, ops: list[tuple[str, bytes | None]], state: CopyState) -> None:
        for key, value in ops:
            if value is None:
                self.disk.data.pop(key, None)
            else:
                self.disk.data[key] = value
        self.disk.state = state_bytes(state)


class World:
    """A source, some copies, and chance."""

    def __init__(self, seed: int, workers: int = 3, keys: int = 40) -> None:
        self.random = random.Random(seed)
        self.keys = [f"{PREFIX}{number:03}" for number in range(keys)]
        self.now = 0.0
        self.stores = 1
        self.truths: dict[str, Truth] = {}
        self.begin_again()
        self.workers = [Worker() for _ in range(workers)]

    def begin_again(self) -> None:
        """The source's store was lost."""
        truth = Truth(self.stores)
        self.stores += 1
        self.truths[truth.id] = truth
        self.master = Master(truth)

    def publish(self, frames: list[Frame]) -> None:
        chance = self.random
        for worker in self.workers:
            for frame in frames:
                for _ in range(chance.choice((0, 1, 1, 1, 1, 2))):
                    at = len(worker.published) if chance.random() < 0.8 else chance.randint(0, len(worker.published))
                    worker.published.insert(at, frame)

    def write(self) -> None:
        chance = self.random
        if chance.random() < 0.2:
            self.master.truth.commit([])
            return
        keys = chance.sample(self.keys, chance.choice((1, 1, 1, 2, 5, 20)))
        self.master.truth.commit(
            [(key, None if chance.random() < 0.3 else b"%d" % chance.randint(0, 9999)) for key in keys]
        )

    def step(self) -> None:
        """One thing happens."""
        chance = self.random
        self.now += chance.choice((0.0, 0.1, 0.5, 2.0))
        worker = chance.choice(self.workers)
        happening = chance.random()
        if happening < 0.15:
            self.write()
        elif happening < 0.25:
            self.publish(self.master.publish())
        elif happening < 0.3:
            self.publish(self.master.head())
        elif happening < 0.45:
            if worker.published:
                worker.hear(worker.published.pop(0), self.now, session=False)
        elif happening < 0.9:
            self.session(worker)
        elif happening < 0.92:
            worker.perform(worker.machine.handle_deadline(self.now))
        elif happening < 0.94:
            worker.session_ends()
        elif happening < 0.95:
            self.restart(worker)
        elif happening < 0.97:
            self.master.truth.compact(chance.randint(0, 10))
        elif happening < 0.98:
            self.restart_master(lost=chance.random() < 0.3)
        else:
            self.flip(worker)
        self.check()

    def session(self, worker: Worker) -> None:
        if not worker.up:
            head = self.master.source.head
            assert head is not None
            worker.session_begins((head, b""), self.now)
        elif worker.asked and self.random.random() < 0.7:
            ask, body = worker.asked.pop(0)
            worker.answers += self.master.answer(ask, body)
        elif worker.answers:
            worker.hear(worker.answers.pop(0), self.now, session=True)

    def restart(self, worker: Worker) -> None:
        at = self.workers.index(worker)
        self.workers[at] = Worker(worker.disk)
        self.workers[at].flipped = worker.flipped

    def restart_master(self, *, lost: bool) -> None:
        for worker in self.workers:
            worker.session_ends()
        if lost:
            self.begin_again()
        else:
            self.master = Master(self.master.truth)

    def flip(self, worker: Worker) -> None:
        """A value of the copy is suddenly another."""
        if worker.disk.data:
            worker.disk.data[self.random.choice(sorted(worker.disk.data))] = b'"flipped"'
            worker.flipped = True

    def check(self) -> None:
        """A copy that says it is ready is a state that its source has had."""
        for worker in self.workers:
            state = read_state(worker.disk.state)
            if state.ready:
                right = worker.disk.data == self.truths[state.store].states[state.revision]
                worker.flipped = worker.flipped and not right
                assert right or worker.flipped, state
            assert not (worker.asked and not worker.up)

    def settle(self, rounds: int = 200) -> None:
        """Nothing goes wrong from here on, and time passes: everything is the same in the end."""
        for worker in self.workers:
            worker.published.clear()
        for _ in range(rounds):
            self.now += HEARTBEAT_S
            frames = self.master.head()
            for worker in self.workers:
                if not worker.up:
                    self.session(worker)
                for frame in frames:
                    worker.hear(frame, self.now, session=False)
                while worker.asked or worker.answers:
                    self.session(worker)
                worker.perform(worker.machine.handle_deadline(self.now))
            self.check()
            if all(self.settled(worker) for worker in self.workers):
                return
        raise AssertionError([worker.machine.state for worker in self.workers])

    def settled(self, worker: Worker) -> bool:
        truth, state = self.master.truth, worker.machine.state
        return worker.disk.data == truth.data and state.ready and state.store == truth.id and state.revision == truth.revision
