"""The peer's side of rotation, with a driver and a master that the test plays."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest

from zcluster.core.doors import Candidate, KnownNode
from zcluster.errors import Busy, InvalidKey, NotAllowed, Unreachable, ZClusterError
from zcluster.keys import KeyFile, generate
from zcluster.keys import rotation as rotation_module
from zcluster.keys.rotation import OwnKey
from zcluster.net import rekeying as rekeying_module
from zcluster.net.link import LinkDriver
from zcluster.net.rekeying import Rekeying
from zcluster.wire import Beat, Message, Refusal
from zcluster.wire.rotation import NextKey, Rotate, Rotated

MASTER, FOLLOWING, DOOR = (generate().public for _ in range(3))
PATIENCE_S = 30.0


class Driver:
    """In place of the link's driver: it notes what is wanted of it."""

    def __init__(self, public: str) -> None:
        self.up = True
        self.public = self.used = public
        """Of the connection that there is; of the next one."""
        self.place = Candidate("tcp://m:1", MASTER)
        self.said: list[Message] = []
        self.moves: list[Callable[[ZClusterError | None], None]] = []
        self.changed = asyncio.Event()

    def use(self, public: str, secret: str) -> None:
        assert secret
        self.used = public

    def say(self, message: Message) -> None:
        assert self.up
        self.said.append(message)
        self.changed.set()

    def rekey(self, moved: Callable[[ZClusterError | None], None]) -> None:
        self.moves.append(moved)
        self.changed.set()

    def moved(self) -> None:
        """The session is on a connection with the other key."""
        self.public = self.used
        self.moves.pop()(None)


class Play:
    """One owner of a key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.own = OwnKey(KeyFile.read(path), path)
        self.first = self.own.current.public
        self.driver = Driver(self.first)
        self.learnt: list[KeyFile] = []
        self.overlaps: list[float] = []
        self.rekeying = self.start()
        self.rekeying.link_up()

    def start(self) -> Rekeying:
        """As a process that starts."""
        driver = cast(LinkDriver, self.driver)
        return Rekeying(self.own, driver, self.learnt.append, logging.getLogger("test"), self._rotated)

    def restart(self) -> None:
        """The process was killed, and is started again: it connects, and has a session."""
        self.rekeying.close()
        self.own = OwnKey(KeyFile.read(self.path), self.path)
        self.driver = Driver(self.own.current.public)
        self.rekeying = self.start()
        self.rekeying.link_up()

    def at_door(self) -> None:
        """The session goes on at the door of the node ``d``."""
        self.driver.place = Candidate("tcp://d:1", DOOR)
        self.rekeying.link_up()

    @property
    def file(self) -> KeyFile:
        return KeyFile.read(self.path)

    @property
    def masters(self) -> list[str]:
        """The keys that prove the master, as the file says."""
        return list(self.file.known.masters)

    def is_rotated(self, public: str) -> bool:
        """Whether the file has this key, and no other beside it."""
        return self.file.pair.public == public and self.file.next is None

    async def until(self, check: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not check():
                self.driver.changed.clear()
                await self.driver.changed.wait()

    async def said(self) -> Message:
        """The next thing that it says."""
        await self.until(lambda: self.driver.said)
        return self.driver.said.pop(0)

    async def next_public(self) -> str:
        """It was told to have another key: the key that it says."""
        said = await self.said()
        assert isinstance(said, Rotated)
        assert not said.code, said
        return said.public

    def _rotated(self, overlap_s: float) -> None:
        self.overlaps.append(overlap_s)
        self.driver.changed.set()


Scene = Callable[[Play], Coroutine[Any, Any, None]]
Played = Callable[[Scene], None]


@pytest.fixture
def played(tmp_path: Path) -> Played:
    """Runs a scene."""
    key_file = KeyFile("a", "agent", "c", generate(), MASTER, ("tcp://m:1",), (), (KnownNode("d", DOOR),))
    key_file.write(tmp_path / "a.key")

    def play(scene: Scene) -> None:
        async def main() -> None:
            made = Play(tmp_path / "a.key")
            try:
                await scene(made)
            finally:
                made.rekeying.close()

        asyncio.run(main())

    return play


def test_told_to_have_another_key_it_makes_one_and_moves(played: Played) -> None:
    async def scene(play: Play) -> None:
        assert play.rekeying.receive(Rotate(overlap_s=60.0))
        public = await play.next_public()
        assert play.file.next is not None
        assert (play.file.pair.public, play.file.next.public) == (play.first, public)
        assert play.driver.used == play.first, "not before it is admitted"
        play.rekeying.receive(Rotated(public=public, overlap_s=59.0))
        assert play.driver.used == public
        assert play.file.pair.public == play.first, "the older one stays until the session has moved"
        play.driver.moved()
        await play.until(lambda: play.overlaps)
        assert play.overlaps == [59.0]
        assert play.is_rotated(public)

    played(scene)


def test_who_begins_by_itself_gets_the_answer_when_the_session_is_there(played: Played) -> None:
    async def scene(play: Play) -> None:
        asked = asyncio.ensure_future(play.rekeying.rotate(30.0))
        said = await play.said()
        assert isinstance(said, Rotated)
        assert said.overlap_s == 30.0
        play.rekeying.receive(Rotated(public=said.public, overlap_s=30.0))
        assert not asked.done()
        play.driver.moved()
        assert (await asked).public == said.public

    played(scene)


def test_what_the_master_does_not_take_is_given_up(played: Played) -> None:
    async def scene(play: Play) -> None:
        asked = asyncio.ensure_future(play.rekeying.rotate(30.0))
        public = await play.next_public()
        play.rekeying.receive(Rotated(public=public, code="busy", message="a moment ago"))
        with pytest.raises(Busy, match="a moment ago"):
            await asked
        await settled(play)
        assert play.is_rotated(play.first)
        assert play.driver.moves == []

    played(scene)


async def settled(play: Play) -> None:
    """Wait for what was begun."""
    await asyncio.gather(*play.rekeying._tasks)


@pytest.mark.parametrize("asked_here", [True, False])
def test_who_asked_for_another_key_gets_the_error_and_the_log_does_not(
    played: Played, caplog: pytest.LogCaptureFixture, asked_here: bool
) -> None:
    async def scene(play: Play) -> None:
        if asked_here:
            work = asyncio.ensure_future(play.rekeying.rotate(60.0))
        else:
            play.rekeying.receive(Rotate(overlap_s=60.0))
        public = await play.next_public()
        play.rekeying.receive(Rotated(public=public, code=Busy.code, message="a moment ago", hint="later"))
        if asked_here:
            with pytest.raises(Busy, match="a moment ago"):
                await work

    caplog.set_level(logging.INFO)
    played(scene)
    (record,) = [each for each in caplog.records if "does not take" in each.getMessage()]
    assert record.levelno == (logging.INFO if asked_here else logging.ERROR)


def test_an_answer_that_says_nothing_of_the_key_gives_nothing_up(played: Played) -> None:
    async def scene(play: Play) -> None:
        asked = asyncio.ensure_future(play.rekeying.rotate(30.0))
        public = await play.next_public()
        play.rekeying.receive(Rotated(code="invalid_key", message="the disk"))
        with pytest.raises(InvalidKey):
            await asked
        await settled(play)
        assert play.file.next is not None
        play.rekeying.link_up()
        assert await play.next_public() == public, "it is said again: it may have been admitted"

    played(scene)


def test_a_refusal_gives_up_what_was_made_just_now_and_nothing_else(played: Played) -> None:
    refusal = Refusal(code="not_allowed", about=Rotated.kind, message="carried")

    async def scene(play: Play) -> None:
        asked = asyncio.ensure_future(play.rekeying.rotate(30.0))
        await play.next_public()
        assert play.rekeying.receive(refusal)
        with pytest.raises(NotAllowed, match="carried"):
            await asked
        await settled(play)
        assert play.file.next is None
        public = await asyncio.to_thread(play.own.begin)
        play.rekeying.link_up()
        assert await play.next_public() == public
        play.rekeying.receive(refusal)
        await settled(play)
        assert play.file.next is not None, "it may have been admitted before"
        assert not play.rekeying.receive(Refusal(code="busy", about=Beat.kind))
        assert not play.rekeying.receive(Beat())

    played(scene)


def test_what_another_process_of_the_key_may_have_said_is_not_given_up(played: Played) -> None:
    busy = Refusal(code="busy", about=Rotated.kind, message="being rotated")

    async def scene(play: Play) -> None:
        other = OwnKey(play.file, play.path)
        made = await asyncio.to_thread(other.begin)
        asked = asyncio.ensure_future(play.rekeying.rotate(30.0))
        assert await play.next_public() == made
        play.rekeying.receive(Refusal(code="not_allowed", about=Rotated.kind))
        with pytest.raises(NotAllowed):
            await asked
        await settled(play)
        assert play.file.next is not None, "it is the other's"
        await asyncio.to_thread(other.give_up, made)
        play.rekeying.receive(Rotate(overlap_s=60.0))
        await play.next_public()
        play.rekeying.receive(busy)
        await settled(play)
        assert play.file.next is not None, "the other may have read it, and said it before"

    played(scene)


def test_what_was_said_in_the_session_before_is_not_given_up(played: Played) -> None:
    async def scene(play: Play) -> None:
        play.rekeying.receive(Rotate(overlap_s=60.0))
        public = await play.next_public()
        play.rekeying.link_down(Unreachable("broke"))
        play.rekeying.link_up()
        assert await play.next_public() == public
        play.rekeying.receive(Refusal(code="not_allowed", about=Rotated.kind))
        await settled(play)
        assert play.file.next is not None

    played(scene)


def test_a_door_says_nothing_of_this_key(played: Played) -> None:
    async def scene(play: Play) -> None:
        play.at_door()
        play.rekeying.receive(Rotate(overlap_s=60.0))
        await settled(play)
        assert play.file.next is None, "it would be admitted by the door alone"
        public = await asyncio.to_thread(play.own.begin)
        for answer in (Rotated(public=public, overlap_s=60.0), Rotated(public=public, code="busy")):
            play.rekeying.receive(answer)
            await settled(play)
        play.rekeying.link_down(NotAllowed("says the door"))
        assert play.driver.used == public
        play.rekeying.link_up()
        await settled(play)
        assert (play.driver.said, play.driver.moves) == ([], [])
        assert play.file.pair.public == play.first
        assert play.file.next is not None, "the master has not heard of it"

    played(scene)


def test_a_session_at_a_door_rotates_nothing(played: Played) -> None:
    async def scene(play: Play) -> None:
        play.at_door()
        with pytest.raises(NotAllowed, match="connection of its own"):
            await play.rekeying.rotate(30.0)
        play.driver.up = False
        asked = asyncio.ensure_future(play.rekeying.rotate(30.0))
        await asyncio.sleep(0)
        play.driver.up = True
        play.at_door()
        with pytest.raises(NotAllowed, match="connection of its own"):
            await asked

    played(scene)


def test_a_door_says_of_no_other_that_it_has_another_key(played: Played) -> None:
    async def scene(play: Play) -> None:
        play.at_door()
        for told in (NextKey(public=FOLLOWING), NextKey(public=FOLLOWING, node="e"), NextKey(public=MASTER, now=True)):
            play.rekeying.receive(told)
        play.rekeying.receive(NextKey(public=FOLLOWING, node="d"))
        assert await play.said() == NextKey(public=FOLLOWING, node="d")
        await settled(play)
        assert play.masters == [MASTER]
        assert play.file.nodes == (KnownNode("d", DOOR, (), FOLLOWING),)

    played(scene)


def test_the_master_stays_the_master_when_its_key_has_become_another(played: Played) -> None:
    async def scene(play: Play) -> None:
        for public in (FOLLOWING, DOOR):
            play.rekeying.receive(NextKey(public=public))
            await play.said()
            play.rekeying.receive(NextKey(public=public, now=True))
            await settled(play)
        assert play.masters == [DOOR]

    played(scene)


def test_a_file_that_cannot_be_written_is_told(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_own: OwnKey) -> str:
        raise InvalidKey("cannot write", hint="the file system is full")

    monkeypatch.setattr(rotation_module.OwnKey, "begin", full)

    async def scene(play: Play) -> None:
        play.rekeying.receive(Rotate(overlap_s=60.0))
        assert await play.said() == Rotated(code="invalid_key", message="cannot write", hint="the file system is full")

    played(scene)


def test_a_move_that_fails_is_tried_again_while_there_is_a_session(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rekeying_module, "RETRY_S", 0.0)

    async def scene(play: Play) -> None:
        play.rekeying.receive(Rotate(overlap_s=60.0))
        play.rekeying.receive(Rotated(public=await play.next_public(), overlap_s=60.0))
        for _ in range(3):
            play.driver.moves.pop()(NotAllowed("the copy of the ring does not know it yet"))
            await play.until(lambda: play.driver.moves)
        play.driver.moved()
        await play.until(lambda: play.overlaps)

    played(scene)


@pytest.mark.parametrize("killed", ["before it was said", "before it was answered", "before it moved", "before the file"])
def test_whenever_it_is_killed_it_goes_on_after_its_next_start(played: Played, killed: str) -> None:
    async def scene(play: Play) -> None:
        play.rekeying.receive(Rotate(overlap_s=60.0))
        public = await play.next_public()
        if killed in ("before it moved", "before the file"):
            play.rekeying.receive(Rotated(public=public, overlap_s=60.0))
        play.restart()
        assert play.driver.used == play.first
        assert await play.next_public() == public
        play.rekeying.receive(Rotated(public=public, overlap_s=20.0))
        play.driver.moved()
        await play.until(lambda: play.overlaps)
        assert play.overlaps == [20.0]
        assert play.is_rotated(public)

    played(scene)


def test_killed_for_longer_than_the_overlap_it_uses_the_next_key(played: Played) -> None:
    async def scene(play: Play) -> None:
        public = await asyncio.to_thread(play.own.begin)
        assert play.rekeying.link_down(NotAllowed("refused")), "another key is tried"
        assert play.driver.used == public
        play.driver.public = public
        play.rekeying.link_up()
        await play.until(lambda: play.overlaps)
        assert play.overlaps == [0.0]
        assert play.is_rotated(public)

    played(scene)


def test_a_refusal_with_one_key_only_is_a_refusal(played: Played) -> None:
    async def scene(play: Play) -> None:
        assert not play.rekeying.link_down(NotAllowed("refused"))
        await asyncio.to_thread(play.own.begin)
        assert not play.rekeying.link_down(Unreachable("gone")), "nothing is said against the key"
        assert play.driver.used == play.first

    played(scene)


def test_a_key_that_another_process_rotated_is_followed(played: Played) -> None:
    async def scene(play: Play) -> None:
        other = OwnKey(play.file, play.path)
        public = await asyncio.to_thread(other.begin)
        play.rekeying.receive(Rotated(public=public, overlap_s=60.0))
        assert play.driver.used == public
        play.driver.moved()
        await play.until(lambda: play.overlaps)
        await asyncio.to_thread(other.finish, public)
        play.rekeying.receive(Rotated(public=generate().public, overlap_s=60.0))
        assert play.driver.used == public, "of a file that is not this one's"

    played(scene)


def test_a_lost_connection_has_the_file_read_again(played: Played) -> None:
    async def scene(play: Play) -> None:
        other = OwnKey(play.file, play.path)
        public = await asyncio.to_thread(other.begin)
        await asyncio.to_thread(other.finish, public)
        assert play.rekeying.link_down(Unreachable("cut"))
        assert play.driver.used == public
        assert [key_file.pair.public for key_file in play.learnt] == [public]
        play.path.write_text("nonsense")
        assert not play.rekeying.link_down(Unreachable("gone"))
        assert play.driver.used == public

    played(scene)


def test_the_next_keys_of_others_are_kept_and_acknowledged(played: Played) -> None:
    async def scene(play: Play) -> None:
        play.rekeying.receive(NextKey(public=FOLLOWING))
        assert await play.said() == NextKey(public=FOLLOWING)
        assert play.masters == [MASTER, FOLLOWING]
        assert play.learnt[-1].known.masters == (MASTER, FOLLOWING)
        play.rekeying.receive(NextKey(public=FOLLOWING, node="d"))
        assert await play.said() == NextKey(public=FOLLOWING, node="d")
        assert play.file.nodes == (KnownNode("d", DOOR, (), FOLLOWING),)
        play.rekeying.receive(NextKey(public=FOLLOWING, now=True))
        await settled(play)
        assert play.masters == [FOLLOWING]
        assert play.driver.said == [], "that is not answered"

    played(scene)


def test_a_next_key_that_cannot_be_kept_is_known_to_this_process(played: Played) -> None:
    async def scene(play: Play) -> None:
        play.path.chmod(0o644)  # a file that others may read is not touched
        play.rekeying.receive(NextKey(public=FOLLOWING))
        assert await play.said() == NextKey(public=FOLLOWING, code="invalid_key")
        assert play.own.key_file.known.masters == (MASTER, FOLLOWING)

    played(scene)


def test_the_master_that_answers_with_the_next_key_has_no_other_any_more(played: Played) -> None:
    async def scene(play: Play) -> None:
        await asyncio.to_thread(play.own.learn, "", FOLLOWING)
        play.driver.place = Candidate("tcp://m:1", FOLLOWING)
        play.rekeying.link_up()
        await settled(play)
        assert play.masters == [FOLLOWING]

    played(scene)


def test_without_a_session_nothing_is_said(played: Played) -> None:
    async def scene(play: Play) -> None:
        play.driver.up = False
        play.rekeying.receive(Rotate(overlap_s=60.0))
        play.rekeying.receive(NextKey(public=FOLLOWING))
        await settled(play)
        assert play.driver.said == []
        assert play.file.next is not None

    played(scene)


def test_who_waits_hears_of_the_end(played: Played) -> None:
    async def scene(play: Play) -> None:
        asked = asyncio.ensure_future(play.rekeying.rotate(30.0))
        await play.next_public()
        play.rekeying.close()
        with pytest.raises(Unreachable):
            await asked

    played(scene)
