"""Groups themselves on the master: made, removed, and their shared files.

Rules kept here:
- removing a group marks it first: nobody is assigned to it any more; then its agents leave it in bounded commits, and it goes
  with its configuration and the files that no other group has, in one commit; a master that was stopped meanwhile goes on;
- the content of a shared file is stored once, under its digest, whichever groups have it;
- what is stored in all is bounded: groups, files and their bytes.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson

from zcluster.brokers.groups_edits import CHUNK, EDITS, TRIES, Edits, Outcome, busy, meta_of, no_such_group
from zcluster.core import groups as rules
from zcluster.core.groups import DEFAULT, FILE_KEY, NAME_KEY, OF_KEY, Edit
from zcluster.core.liveconfig import HISTORY_KEY, KEY
from zcluster.core.peers import Event
from zcluster.errors import Conflict, NoSuchFile, NoSuchGroup, TooLarge, UsageError, ZClusterError
from zcluster.nodes.desk import Desk
from zcluster.store.interface import Delete, Entry, Put

RETRY_S = 1.0
SCAN = 500
"""Groups that are read at once: each may have many files."""
Meta = dict[str, Any]


class Names:
    """The groups and their files."""

    def __init__(self, desk: Desk, edits: Edits) -> None:
        self._desk, self._store, self._edits = desk, desk.store, edits
        self._going: dict[str, asyncio.Task[int]] = {}

    async def start(self) -> None:
        """Go on with the groups whose removal was interrupted."""
        async for name, meta in self._all():
            if meta.get("going"):
                self._remove_soon(name, "")

    async def close(self) -> None:
        """Stop; what is being removed goes on at the next start."""
        tasks = list(self._going.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def create(self, name: str, comment: str, by: str) -> Meta:
        """Make a group."""
        rules.checked_group(name)
        comment = _checked_comment(comment)

        async def decide(edits: Entry | None) -> Meta:
            if name == DEFAULT:
                raise Conflict("the group 'default' is always there")
            entry = await self._store.get(NAME_KEY + name)
            if entry is not None:
                gone = bool(meta_of(entry).get("going"))
                raise Conflict(
                    f"the group {name!r} is being removed" if gone else f"there is a group {name!r} already",
                    hint="wait until it is gone" if gone else f"`zcluster groups show {name}` shows it",
                )
            if len({DEFAULT, *await self._edits.names()}) >= rules.MAX_GROUPS:
                raise TooLarge(f"there are {rules.MAX_GROUPS} groups already", hint="remove one first")
            meta: Meta = {"created_s": round(self._desk.wall_s(), 3), "by": by, "comment": comment, "files": []}
            await self._edits.commit([Put(NAME_KEY + name, orjson.dumps(meta))], edits, by)
            return meta

        meta = await self._decided(decide)
        self._desk.note(Event("group_created", {"group": name, "by": by}))
        return {"name": name, **meta}

    async def delete(self, name: str, by: str) -> int:
        """Delete a group; returns how many agents were in it. It goes on when the caller no longer waits."""
        if rules.checked_group(name) == DEFAULT:
            raise UsageError("the group 'default' cannot be removed", hint="it is where agents are that are in no other")
        if name not in self._going:

            async def mark(edits: Entry | None) -> Meta:
                meta = await self._meta(name)
                await self._edits.commit([Put(NAME_KEY + name, orjson.dumps({**meta, "going": True}))], edits, by)
                return meta

            await self._decided(mark)
            self._remove_soon(name, by)
        return await asyncio.shield(self._going[name])

    def _remove_soon(self, name: str, by: str) -> None:
        if name not in self._going:
            task = self._going[name] = asyncio.create_task(self._remove(name, by))
            task.add_done_callback(lambda _: self._going.pop(name, None))

    async def _remove(self, name: str, by: str) -> int:
        outcome = Outcome()
        while True:
            try:
                await self._empty(name, outcome, by)
                await self._decided(lambda edits: self._forget(name, edits, by))
            except ZClusterError as error:
                self._desk.logger.error("removing the group %s waits: %s", name, error)
                await asyncio.sleep(RETRY_S)
                continue
            self._desk.note(Event("group_removed", {"group": name, "agents": outcome.changed, "by": by}))
            return outcome.changed

    async def _empty(self, name: str, outcome: Outcome, by: str) -> None:
        said, edit = f'"{name}"'.encode(), Edit("remove", (name,))
        after, more = "", True
        while more:
            page = await self._store.scan(OF_KEY, after=after, limit=CHUNK)
            inside = [entry.key.removeprefix(OF_KEY) for entry in page.entries if said in entry.value]
            if inside:
                await self._edits.withdraw([(id_, edit) for id_ in inside], outcome, by)
            after, more = page.entries[-1].key if page.entries else "", page.more

    async def _forget(self, name: str, edits: Entry | None, by: str) -> Meta:
        meta = meta_of(await self._store.get(NAME_KEY + name))
        kept = await self._digests(without=name)
        ops: list[Put | Delete] = [Delete(NAME_KEY + name), Delete(f"{KEY}group/{name}")]
        ops += [Delete(FILE_KEY + each["digest"]) for each in meta.get("files", []) if each["digest"] not in kept]
        past = await self._store.scan(f"{HISTORY_KEY}group/{name}/", limit=1_000)
        await self._edits.commit([*ops, *(Delete(entry.key) for entry in past.entries)], edits, by)
        return meta

    # -- shared files ---------------------------------------------------------------------------------------------------

    async def files(self, group: str) -> list[dict[str, Any]]:
        """The shared files of a group: name, digest, size."""
        return list((await self._meta(group)).get("files", []))

    async def file(self, group: str, name: str) -> dict[str, Any]:
        """One of them, with its content as base64 in ``data``."""
        for each in await self.files(group):
            if each["name"] == name:
                entry = await self._store.get(FILE_KEY + each["digest"])
                if entry is not None:
                    return {**each, "data": orjson.loads(entry.value)["data"]}
        raise _no_file(group, name)

    async def put_file(self, group: str, name: str, data: str, by: str) -> dict[str, Any]:
        """Share a file with the agents of a group; ``data`` is base64."""
        rules.checked_file_name(name)
        content = _decoded(data)
        digest = hashlib.blake2b(content, digest_size=32).hexdigest()
        told = {"name": name, "digest": digest, "size": len(content)}

        async def decide(edits: Entry | None) -> Meta:
            meta = await self._meta(group)
            files = {each["name"]: each for each in meta.get("files", [])}
            old = files.get(name)
            if old == told:
                return meta
            files[name] = told
            if len(files) > rules.MAX_FILES:
                raise TooLarge(f"the group {group!r} has {rules.MAX_FILES} shared files already", hint="remove one first")
            kept = await self._digests(without=group)
            _check_room(kept, files)
            meta = {**meta, "files": [files[each] for each in sorted(files)]}
            ops: list[Put | Delete] = [
                Put(NAME_KEY + group, orjson.dumps(meta)),
                Put(FILE_KEY + digest, orjson.dumps({"data": base64.b64encode(content).decode()})),
            ]
            await self._edits.commit([*ops, *_orphaned(old, files, kept)], edits, by)
            return meta

        await self._decided(decide)
        self._desk.note(Event("group_changed", {"group": group, "file": name, "op": "put", "by": by}))
        return told

    async def remove_file(self, group: str, name: str, by: str) -> dict[str, Any]:
        """Share a file no longer."""

        async def decide(edits: Entry | None) -> Meta:
            meta = await self._meta(group)
            files = {each["name"]: each for each in meta.get("files", [])}
            old = files.pop(name, None)
            if old is None:
                raise _no_file(group, name)
            kept = await self._digests(without=group)
            put = Put(NAME_KEY + group, orjson.dumps({**meta, "files": list(files.values())}))
            await self._edits.commit([put, *_orphaned(old, files, kept)], edits, by)
            return dict(old)

        old = await self._decided(decide)
        self._desk.note(Event("group_changed", {"group": group, "file": name, "op": "remove", "by": by}))
        return old

    # -- inside ---------------------------------------------------------------------------------------------------------

    async def _meta(self, name: str) -> Meta:
        """What is stored of a group that is there. Raises NoSuchGroup."""
        entry = await self._store.get(NAME_KEY + rules.checked_group(name))
        meta = meta_of(entry)
        if name == DEFAULT and entry is None:
            return {"created_s": 0.0, "by": "", "comment": "", "files": []}
        if entry is None:
            raise no_such_group(name, await self._edits.names())
        if meta.get("going"):
            raise NoSuchGroup(f"the group {name!r} is being removed")
        return meta

    async def _decided(self, decide: Callable[[Entry | None], Awaitable[Meta]]) -> Meta:
        for _ in range(TRIES):
            async with self._edits.lock:
                edits = await self._store.get(EDITS)
                before = edits.revision if edits else 0
                try:
                    return await decide(edits)
                except Conflict:
                    entry = await self._store.get(EDITS)
                    if (entry.revision if entry else 0) == before:
                        raise  # it is no other writer: what was asked for does not go
        raise busy()

    async def _all(self) -> AsyncIterator[tuple[str, Meta]]:
        after, more = "", True
        while more:
            page = await self._store.scan(NAME_KEY, after=after, limit=SCAN)
            for entry in page.entries:
                yield entry.key.removeprefix(NAME_KEY), meta_of(entry)
            after, more = page.entries[-1].key if page.entries else "", page.more

    async def _digests(self, *, without: str) -> dict[str, tuple[int, int]]:
        """The digests of the other groups' files, with how many files have it, and its size."""
        found: dict[str, tuple[int, int]] = {}
        async for name, meta in self._all():
            for each in meta.get("files", []) if name != without else ():
                count, _ = found.get(each["digest"], (0, 0))
                found[each["digest"]] = count + 1, each["size"]
        return found


def _orphaned(old: dict[str, Any] | None, files: dict[str, dict[str, Any]], kept: dict[str, tuple[int, int]]) -> list[Delete]:
    """The deletion of the old content, when nothing has it any more."""
    if old is None or old["digest"] in kept or any(each["digest"] == old["digest"] for each in files.values()):
        return []
    return [Delete(FILE_KEY + old["digest"])]


def _check_room(kept: dict[str, tuple[int, int]], files: dict[str, dict[str, Any]]) -> None:
    sizes = {digest: size for digest, (_, size) in kept.items()} | {each["digest"]: each["size"] for each in files.values()}
    count = sum(times for times, _ in kept.values()) + len(files)
    if count > rules.MAX_FILES_TOTAL or sum(sizes.values()) > rules.MAX_FILES_TOTAL_BYTES:
        raise TooLarge(
            f"all groups together would share {count} files of {sum(sizes.values())} bytes",
            hint=f"at most {rules.MAX_FILES_TOTAL} files and {rules.MAX_FILES_TOTAL_BYTES} bytes; larger things are for a tree",
        )


def _decoded(data: str) -> bytes:
    if len(data) > (rules.MAX_FILE_BYTES + 2) // 3 * 4:
        raise TooLarge("the file is too large to be shared", hint=f"at most {rules.MAX_FILE_BYTES} bytes; a tree has no limit")
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise UsageError("the content of a shared file is base64") from None
    if len(content) > rules.MAX_FILE_BYTES:
        raise TooLarge("the file is too large to be shared", hint=f"at most {rules.MAX_FILE_BYTES} bytes; a tree has no limit")
    return content


def _checked_comment(comment: str) -> str:
    if len(comment) > rules.MAX_COMMENT_CHARS or not comment.isprintable():
        raise UsageError("the comment is one line", hint=f"at most {rules.MAX_COMMENT_CHARS} characters, no control characters")
    return comment


def _no_file(group: str, name: str) -> NoSuchFile:
    return NoSuchFile(f"the group {group!r} shares no file {name[:80]!r}", hint=f"`zcluster groups files {group} ls` lists them")
