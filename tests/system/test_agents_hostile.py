"""Hostile and broken words about agents: chunks and rows of workers, KEEPs of agents, files, ids and names of callers.

Rules kept here: a hostile worker or agent is a raw DEALER with an admitted key; beside it an honest peer is served as if
nothing were; each wait is for a fact, with a deadline.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
import zstandard
from agent_peers import Raw, agent_is, chunk, events, known, newest_event, row_of, start_agent, zcluster
from waiting import PATIENCE_S, counter, eventually

from zcluster import wire
from zcluster.bench.child import log_tail, stop_processes
from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient
from zcluster.core.agents.rowcodec import CHUNK_BYTES
from zcluster.errors import EXIT_NO_MATCH, EXIT_OK, EXIT_PARTIAL, EXIT_USAGE, InvalidArguments, NoSuchAgent, TooLarge, UsageError
from zcluster.wire.agents import AgentOrders, Keep, Rows, Taken

GROWTH_BYTES = 64 << 20
BOMB_BYTES = 256 << 20
LARGE = 10**7
FLOOD = 2_000
Body = Callable[[AsyncClient], Coroutine[Any, Any, None]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(1, settings={"session.heartbeat_s": 0.5}) as running:
        yield running


@pytest.fixture
def run(cluster: LocalCluster) -> Iterator[Callable[[Body], None]]:
    """Run a test with an administrator's client; afterwards all nodes are the processes that they were, and serve."""
    before = cluster.pids

    def with_client(body: Body) -> None:
        async def main() -> None:
            async with AsyncClient(key=cluster.admin_key, timeout=PATIENCE_S) as client:
                await body(client)
                mark = f"honest-{await newest_event(client)}"
                await client.agents.report([{"id": mark}], node="worker-1")
                await agent_is(client, mark, node="worker-1")

        asyncio.run(main())

    yield with_client
    assert cluster.pids == before


@pytest.fixture
def mallory(cluster: LocalCluster, request: pytest.FixtureRequest) -> Iterator[Raw]:
    """A hostile worker; each test has its own."""
    raw = Raw(cluster.new_key(f"m-{abs(hash(request.node.name)):x}"[:60], "worker"))
    yield raw
    raw.close()


def master_bytes(cluster: LocalCluster) -> int:
    return int(psutil.Process(cluster.pids["master"]).memory_info().rss)


# -- chunks ----------------------------------------------------------------------------------------------------------------


def test_chunks_that_come_twice_late_or_out_of_order_change_nothing(mallory: Raw, run: Callable[[Body], None]) -> None:
    def taken(base: int, upto: int, rows: list[Any], source: str = "book") -> tuple[str, int, int]:
        mallory.send(*chunk(base, upto, rows, source=source))
        found = mallory.wait_for(Taken)
        return found.source, found.upto, found.refused_count

    def talk() -> None:
        greeting = mallory.wait_for(Taken)
        assert (greeting.source, greeting.upto) == ("", 0), "nothing is known of it"
        first = [row_of("twice-1", name="first"), row_of("twice-2", name="first")]
        other = [row_of("twice-1", name="other", epoch=2), row_of("twice-9", name="other")]
        assert taken(3, 5, other) == ("", 0, 0), "it does not begin at the beginning"
        assert taken(0, 3, first) == ("book", 3, 0)
        for base, upto in ((0, 3), (0, 5), (1, 3), (4, 6), (2**53 - 2, 2**53 - 1)):
            assert taken(base, upto, other) == ("book", 3, 0), (base, upto)
        assert taken(5, 7, other) == ("book", 3, 0), "the one before it is missing"
        assert taken(3, 5, [row_of("twice-3", name="second")]) == ("book", 5, 0)
        assert taken(5, 7, [row_of("twice-4", name="third")]) == ("book", 7, 0)
        assert taken(3, 5, other) == ("book", 7, 0), "late"
        assert taken(4, 9, other, "another") == ("book", 7, 0), "another book begins at 0"
        mallory.send(*chunk(7, 6, other))
        assert mallory.wait_for(wire.Refusal).code == "protocol_error"
        assert taken(7, 7, []) == ("book", 7, 0)

    async def body(c: AsyncClient) -> None:
        before = await counter(c, "chunks_elsewhere")
        await asyncio.to_thread(talk)
        found = await known(c, select=["id", "name"])
        names = {id_: row["name"] for id_, row in found.items() if id_.startswith("twice-")}
        assert names == {"twice-1": "first", "twice-2": "first", "twice-3": "second", "twice-4": "third"}
        assert await counter(c, "chunks_elsewhere") - before == 9, "all that did not follow"

    run(body)


def test_a_worker_that_reports_the_agents_of_others(
    cluster: LocalCluster, mallory: Raw, run: Callable[[Body], None], tmp_path: Path
) -> None:
    claims = [
        row_of("owned", epoch=2**50, name="stolen by a report"),
        row_of("owned", epoch=1, held="session", name="stolen by an old session"),
        row_of("owned", epoch=2**50, status="disconnected", name="said to be away"),
        row_of("owned", op="gone", epoch=2**50, held="session"),
    ]

    def claim() -> list[tuple[list[tuple[str, str]], list[str]]]:
        mallory.wait_for(Taken)
        answers = []
        for number, row in enumerate(claims):
            mallory.send(*chunk(number, number + 1, [row]))
            told: list[str] = []
            while not isinstance(found := mallory.wait_for(AgentOrders, Taken), Taken):
                told += [f"{order.op} {order.id}" for order in found.orders]
            assert found.upto == number + 1, "what is refused is not sent again"
            answers.append((found.refused, told))
        return answers

    async def body(c: AsyncClient) -> None:
        process = start_agent(cluster, tmp_path, "owned")
        try:
            before = await agent_is(c, "owned", status="active", held="session")
            refused, after = await counter(c, "rows_refused"), await newest_event(c)
            foreign, late, away, gone = await asyncio.to_thread(claim)
            assert foreign == ([("owned", "foreign")], ["drop owned"])
            assert late == ([("owned", "late")], ["drop owned"])
            assert away == ([("owned", "foreign")], ["drop owned"])
            assert gone == ([], []), "that it is not there is no claim"
            assert await counter(c, "rows_refused") - refused == 3

            async def told() -> int:
                return sum(event["fields"]["count"] for event in await events(c, after, "agent_refused"))

            await eventually(lambda: is_three(told), "events tell all of them")
            row = await c.agents.show("owned")
            assert (row["node"], row["held"], row["epoch"]) == ("master", "session", before["epoch"])
            assert row["status"] == "active"
            assert row["name"] == before["name"] or not row["name"].startswith("s")
            assert "lost" not in log_tail(tmp_path / "owned.log", 1 << 20), "its session was not disturbed"
        finally:
            stop_processes([process])

    async def is_three(told: Callable[[], Coroutine[Any, Any, int]]) -> bool:
        return await told() == 3

    run(body)


def bombs() -> list[tuple[Rows, bytes]]:
    """Chunks that would be large."""
    large = zstandard.ZstdCompressor(level=1).compress(bytes(BOMB_BYTES))
    streaming = zstandard.ZstdCompressor(level=1, write_content_size=False).compress(bytes(BOMB_BYTES))
    said = zstandard.get_frame_parameters(large).content_size.to_bytes(4, "little")
    forged = large[:16].replace(said, CHUNK_BYTES.to_bytes(4, "little")) + large[16:]
    assert zstandard.get_frame_parameters(forged).content_size == CHUNK_BYTES
    return [
        chunk(0, 1, [], body=packed, said={"encoding": 1, "raw_bytes": raw_bytes, "count": 1})
        for packed in (large, streaming, forged)
        for raw_bytes in (CHUNK_BYTES, CHUNK_BYTES + 1, 16 << 20)
    ]


def broken_chunks() -> list[tuple[Rows, bytes]]:
    """Chunks that are none."""
    good = row_of("broken-1")
    texts = [
        b"", b"{", b"null", b"[null]", b'["x"]', b"[" * 100_000, b"\xff\xfe", b'[["broken-1","put",1,"report"]]',
        b'[["broken-1","put",1,"report",{},{}]]', b'[["broken-1","put",-1,"report",{}]]', b'[["broken-1","put",1.5,"report",{}]]',
        b'[["broken-1","put",9007199254740993,"report",{}]]', b'[["broken-1","put",1,"report",[]]]', b'[[7,"put",1,"report",{}]]',
        b'[["broken-1","put",1,"report",{"last_seen":NaN}]]', b'[["broken-1","put",1,"report",{"last_seen":1e999}]]',
        b'[["broken-1","put",1,"report",{"metrics":' + b'{"a":' * 30_000 + b"1" + b"}" * 30_000 + b"}]]",
        b'[["broken-1","put",1,"report",{"name":"\xed\xa0\x80"}]]',
    ]  # fmt: skip
    many = [row_of(f"b{number}") for number in range(4097)]
    return [
        *(chunk(0, 1, [], body=text, said={"count": 1}) for text in texts),
        chunk(0, 1, [good], said={"count": 2}), chunk(0, 1, [good], said={"count": 0}),
        chunk(0, 1, [good], said={"raw_bytes": 1}), chunk(0, 1, [good], said={"encoding": 1}),
        chunk(0, 1, many), chunk(0, 1, [row_of("broken-1", name="x" * CHUNK_BYTES)]),
    ]  # fmt: skip


def test_chunks_that_are_none_are_refused_in_bounded_memory(
    cluster: LocalCluster, mallory: Raw, run: Callable[[Body], None]
) -> None:
    def talk() -> None:
        mallory.wait_for(Taken)
        for message, packed in [*broken_chunks(), *bombs()]:
            mallory.send(message, packed)
            found = mallory.wait_for(wire.Refusal, Taken)
            assert isinstance(found, wire.Refusal), (message, packed[:100])
            assert (found.code, found.about) == ("protocol_error", Rows.kind), (found, message, packed[:100])
        mallory.send(*chunk(0, 1, [row_of("whole")]))
        assert mallory.wait_for(Taken).upto == 1, "the session goes on, and its cursor stayed"

    async def body(c: AsyncClient) -> None:
        before_bytes = master_bytes(cluster)
        await asyncio.to_thread(talk)
        assert master_bytes(cluster) - before_bytes < GROWTH_BYTES
        found = await known(c)
        assert "whole" in found
        assert not [id_ for id_ in found if id_.startswith("b")]

    run(body)


def broken_rows() -> list[Any]:
    """Rows that may not be taken, in chunks that can be read."""
    deep: Any = 1
    for _ in range(300):
        deep = {"a": deep}
    ids = ["", "-x", ".x", "../x", "a/b", "a b", "a\nb", "a\0b", "\u202ex", "é", "x" * 129, "x" * 10_000]
    fields: list[dict[str, Any]] = [
        {"name": 7}, {"name": None}, {"name": "a\nb"}, {"name": "x" * 257}, {"version": "x" * 65}, {"status": "godlike"},
        {"last_seen": "now"}, {"last_seen": -1}, {"last_seen": 1e300}, {"first_seen": True}, {"labels": []},
        {"labels": {"a": 1}}, {"labels": {"": "x"}}, {"labels": {"a=b": "x"}}, {"labels": {"a b": "x"}},
        {"labels": {"a": "x" * 257}}, {"labels": {str(number): "x" for number in range(65)}}, {"os": []},
        {"labels": {"a": "\x1b[2J"}}, {"os": {"platform": 7}}, {"os": {"a": "x" * 2048}}, {"os": {"a": "\x9b"}}, {"metrics": 7},
        {"metrics": {"a": "x" * 16_384}},
        {"metrics": {"a": deep}}, {"metrics": {"a": 2**70}}, {"config": "x" * 65}, {"tree": []},
    ]  # fmt: skip
    return [
        *(row_of(id_) for id_ in ids),
        *(row_of(f"bad-{number}", **each) for number, each in enumerate(fields)),
        row_of("bad-op", op="steal"), row_of("bad-held", held="magic"),
    ]  # fmt: skip


def test_rows_that_are_none_are_refused_one_by_one(mallory: Raw, run: Callable[[Body], None]) -> None:
    def talk() -> list[tuple[str, str]]:
        mallory.wait_for(Taken)
        for upto, row in enumerate(broken_rows(), 1):
            mallory.send(*chunk(upto - 1, upto, [row_of(f"good-{upto}"), row, row_of("good-last", epoch=upto)]))
            found = mallory.wait_for(Taken, wire.Refusal)
            assert isinstance(found, Taken), (row, found)
            assert (found.upto, found.refused_count) == (upto, 1), row
            assert found.refused[0][1] == "invalid", row
        mallory.send(*chunk(upto, upto + 1, broken_rows()))
        found = mallory.wait_for(Taken)
        assert found.refused_count == len(broken_rows())
        named: list[tuple[str, str]] = found.refused
        return named

    async def body(c: AsyncClient) -> None:
        named = await asyncio.to_thread(talk)
        assert 0 < len(named) < len(broken_rows()), "an answer is bounded"
        found = await known(c)
        assert {id_ for id_ in found if id_.startswith("good-")} == {
            "good-last", *(f"good-{number}" for number in range(1, len(broken_rows()) + 1)),
        }  # fmt: skip
        assert not [id_ for id_ in found if id_.startswith(("bad", "x", "é", "a"))]

    run(body)


def test_a_worker_that_waits_for_no_answer_delays_no_other(
    cluster: LocalCluster, mallory: Raw, run: Callable[[Body], None]
) -> None:
    rows = [row_of(f"flood-{number}", labels={"pad": "x" * 250}) for number in range(600)]

    def flood() -> tuple[int, int]:
        upto, refused, taken = 0, 0, 0
        mallory.wait_for(Taken)
        for _ in range(FLOOD // 20):
            for _ in range(20):
                mallory.send(*chunk(upto, upto + 1, rows))
            answers = [mallory.wait_for(Taken, wire.Refusal) for _ in range(20)]
            refused += sum(isinstance(answer, wire.Refusal) for answer in answers)
            upto = max([upto, *(answer.upto for answer in answers if isinstance(answer, Taken))])
            taken += sum(isinstance(answer, Taken) for answer in answers)
        return taken, refused

    async def body(c: AsyncClient) -> None:
        before_bytes = master_bytes(cluster)
        flooding = asyncio.create_task(asyncio.to_thread(flood))
        served = 0
        while not flooding.done():
            await c.agents.report([{"id": "beside", "name": f"turn {served}"}], node="worker-1")
            await agent_is(c, "beside", name=f"turn {served}")
            served += 1
        taken, refused = await flooding
        assert served > 1
        assert taken
        assert refused, "more than a window was refused"
        assert taken + refused == FLOOD
        assert master_bytes(cluster) - before_bytes < GROWTH_BYTES

    run(body)


# -- what agents say -------------------------------------------------------------------------------------------------------


def test_what_a_hostile_agent_says_of_itself(cluster: LocalCluster, run: Callable[[Body], None]) -> None:
    keep = Keep.kind
    broken = [
        (keep, b'{"labels":{"a":"' + b"x" * 500_000 + b'"}}'), (keep, b'{"labels":{"a":1}}'), (keep, b'{"metrics":{"cpu":NaN}}'),
        (keep, b'{"metrics":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}"), (keep, b'{"interval_s":0}'),
        (keep, b'{"interval_s":1e300}'), (keep, b'{"labels":{"a":"\\u001b[2J"}}'), (keep, b'{"name":"' + b"x" * 257 + b'"}'),
        (keep, b'{"os":{"platform":7}}'), (keep, b'{"metrics":{"a":"' + b"x" * 20_000 + b'"}}'),
        (keep, b'{"labels":{' + b",".join(b'"%d":"x"' % number for number in range(10_000)) + b"}}"),
        (Rows.kind, b'{"source":"book","base":0,"upto":1,"count":0,"raw_bytes":2}'),
    ]  # fmt: skip

    def talk() -> None:
        raw = Raw(cluster.new_key("liar", "agent"), epoch=int(time.time() * 1000))
        try:
            raw.send(Keep(full=True, labels={"site": "ber"}, interval_s=5))
            for kind, header in broken:
                raw.send_header(kind, header, b"[]" if kind == Rows.kind else b"")
                assert raw.wait_for(wire.Refusal).code in ("protocol_error", "not_allowed"), header[:100]
            for _ in range(1000):
                raw.send(Keep(interval_s=1e-300, metrics={"cpu": 1}))
            raw.send(Keep(interval_s=86_400, version="1.2.3"))
            raw.send(wire.Beat())
            raw.socket.send(wire.encode(Keep())[:4] + LARGE.to_bytes(4, "big") + b'{"labels":{"a":"' + b"x" * LARGE + b'"}}')
        finally:
            liars.append(raw)

    liars: list[Raw] = []

    async def body(c: AsyncClient) -> None:
        before_bytes, refused = master_bytes(cluster), await counter(c, "event_agent_refused")
        await asyncio.to_thread(talk)
        try:
            row = await agent_is(c, "liar", version="1.2.3")
            assert row["labels"] == {"site": "ber"}
            assert await counter(c, "event_agent_refused") > refused
            # A frame of 10^7 bytes cuts the connection: the agent is waited for.
            await agent_is(c, "liar", status="silent")
            assert master_bytes(cluster) - before_bytes < GROWTH_BYTES
        finally:
            liars[0].close()

    run(body)


# -- what callers say ------------------------------------------------------------------------------------------------------


def test_broken_lines_of_an_import_are_told_by_number_and_the_others_kept(
    cluster: LocalCluster, run: Callable[[Body], None], tmp_path: Path
) -> None:
    lines = [
        b'{"id": "line-1", "labels": {"site": "ber"}}', b"{broken", b"[]", b"7", b'{"id": "../etc"}', b'{"name": "nobody"}',
        b'{"id": "line-7", "lables": {}}', b'{"id": "line-8", "labels": {"a": 1}}', b"\xff\xfe", b"",
        b'{"id": "line-11", "labels": {"a": "' + b"x" * LARGE + b'"}}',
        b'{"id": "line-12", "labels": {"a": "' + b"x" * 1000 + b'"}}',
        b'{"id": "line-13", "last_seen": NaN}', b"[" * 50_000, b'{"id": "line-15", "name": "a\\u001b[2J"}',
        b'{"id": "line-16", "metrics": {"n": ' + b"9" * 400 + b"}}", b'{"id": "line-17", "name": "\\ud800"}',
        b'{"id": "line-18", "status": "active"}',
    ]  # fmt: skip
    bad = {2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17}

    async def body(c: AsyncClient) -> None:
        file = tmp_path / "agents.ndjson"
        file.write_bytes(b"\n".join(lines))
        done = await asyncio.to_thread(zcluster, cluster, "agents", "import", str(file), "--node", "worker-1", "-o", "json")
        said = done.stderr.decode()
        assert done.returncode == EXIT_PARTIAL, said
        assert json.loads(done.stdout) == {"schema": 1, "taken": 2, "refused": len(bad)}, said
        told = {int(line.split()[2].rstrip(":")) for line in said.splitlines() if line.startswith("zcluster: line ")}
        assert told == bad, said
        assert said.isprintable() or all(line.isprintable() for line in said.splitlines()), "nothing of a terminal's"
        for id_ in ("line-1", "line-18"):
            await agent_is(c, id_, node="worker-1")
        assert {id_ for id_ in await known(c) if id_.startswith("line-")} == {"line-1", "line-18"}

    run(body)


def test_labels_of_ten_million_bytes_are_refused_and_the_connection_goes_on(run: Callable[[Body], None]) -> None:
    async def body(c: AsyncClient) -> None:
        for node in ("master", "worker-1"):
            rows = [{"id": f"large-{node}", "labels": {"a": "x" * LARGE}}, {"id": f"small-{node}", "labels": {"a": "x"}}]
            done = await c.agents.report(rows, node=node)
            assert (done["taken"], done["refused_count"]) == (1, 1)
            (told,) = done["refused"]
            assert (told["index"], told["id"], told["code"]) == (0, f"large-{node}", "too_large")
            assert len(told["message"]) < 1000
            await agent_is(c, f"small-{node}", node=node)
            assert (await c.call("node.info", target=node))["name"] == node
        with pytest.raises(TooLarge):
            await c.agents.report([{"id": "huge", "labels": {"a": "x" * 70_000_000}}])
        assert (await c.call("node.info", target="master"))["name"] == "master"

    run(body)


NAMES = ["../x", "a/b", "a\nb", "-x", "", ".", "..", ".x", "a b", "a\0b", "\x1b[2J", "x" * 65, "é", "\u202ex", "a,b", "*"]
RESERVED = ["all", "ANY"]
OF_FILES = {"-x", ".x", "x" * 65, "a b", "a,b", "*", "é"}
"""These may be names of shared files."""
Work = Callable[[], Coroutine[Any, Any, Any]]


def group_words(c: AsyncClient, name: str) -> list[Work]:
    """What a caller may do with a group of this name."""
    return [
        lambda: c.groups.create(name), lambda: c.groups.add(name, ["n1"], new=True), lambda: c.groups.delete(name),
        lambda: c.groups.set([name], ["n1"], new=True), lambda: c.groups.put_file(name, "file", b"x"),
        lambda: c.call("groups.create", {"name": name}, target="master"),
        lambda: c.call("groups.add", {"group": name, "agents": ["n1"], "new": True}, target="master"),
        lambda: c.call("config.set", {"scope": f"group/{name}", "values": {"interval": 1}}, target="master"),
    ]  # fmt: skip


async def refused(work: Work) -> None:
    """It is a usage error, told in one line."""
    with pytest.raises(UsageError) as raised:
        await work()
    assert str(raised.value).isprintable(), raised.value
    assert len(str(raised.value)) < 1000


def test_names_of_groups_with_paths_or_control_characters(cluster: LocalCluster, run: Callable[[Body], None]) -> None:
    async def body(c: AsyncClient) -> None:
        await c.groups.create("fine")
        before = await c.groups.list()
        agents = set(await known(c))
        for name in [*NAMES, *RESERVED]:
            for work in group_words(c, name):
                await refused(work)
        for name in set(NAMES) - OF_FILES:
            await refused(partial(c.groups.put_file, "fine", name, b"x"))
        with pytest.raises(UsageError):
            await c.groups.create(7)  # type: ignore[arg-type]
        for name in ("../x", "a\nb", "", "\x1b[2J"):
            for words in (["create", "--", name], ["add", "fine", "--new", "--", name], ["set", "--", "n1", name]):
                done = await asyncio.to_thread(zcluster, cluster, "groups", *words)
                assert done.returncode in (EXIT_USAGE, EXIT_PARTIAL), (words, done)
                assert done.stderr.decode().strip().isprintable(), (words, done)
        assert await c.groups.list() == before
        assert set(await known(c)) == agents, "nobody was made known by a refused word"

    run(body)


IDS = ["../x", "a/b", "a\nb", "-x", "", ".x", "a b", "\x1b[2J", "x" * 129, "é", "a,b"]


def test_ids_with_paths_or_control_characters(cluster: LocalCluster, run: Callable[[Body], None]) -> None:
    async def body(c: AsyncClient) -> None:
        before = set(await known(c))
        for node in ("master", "worker-1"):
            done = await c.agents.report([{"id": id_} for id_ in [*IDS, None, 7, ["x"]]], node=node)
            assert (done["taken"], done["refused_count"]) == (0, len(IDS) + 3)
            assert all(each["message"].isprintable() for each in done["refused"])
        for id_ in IDS:
            with pytest.raises((UsageError, NoSuchAgent, TooLarge)):
                await c.agents.show(id_)
            with pytest.raises((UsageError, NoSuchAgent, TooLarge)):
                await c.agents.remove([id_])
            with pytest.raises((UsageError, NoSuchAgent, TooLarge)):
                await c.agents.move(id_, "worker-1")
            with pytest.raises((UsageError, NoSuchAgent, TooLarge, InvalidArguments)):
                await c.call("node.info", target=f"agent:{id_}")
        for id_ in ("../x", "a\nb", "\x1b[2J"):
            done_cli = await asyncio.to_thread(zcluster, cluster, "agents", "show", "--", id_)
            assert done_cli.returncode in (EXIT_USAGE, EXIT_NO_MATCH), done_cli
            assert done_cli.stderr.decode().strip().isprintable(), done_cli
        listed = await asyncio.to_thread(zcluster, cluster, "agents", "count", "-o", "name")
        assert (listed.returncode, int(listed.stdout)) == (EXIT_OK, len(before))
        assert set(await known(c)) == before

    run(body)
