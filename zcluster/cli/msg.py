"""``zcluster msg`` and ``zcluster chat``: messages between named clients.

Rules kept here:
- what others sent is data on stdout, a line each, and no character of it reaches the screen as a control sequence;
- ``listen`` and ``chat`` have their name before they say or do anything else: whoever sends to it then is heard;
- ``chat`` reads its commands from stdin, a line each, and ends at its end: a pipe works as well as a keyboard.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zcluster.cli.connect import connection, open_client, run_async
from zcluster.cli.events import clock
from zcluster.cli.groups import Group
from zcluster.cli.options import (
    DURATION,
    State,
    completes,
    shared_options,
)
from zcluster.cli.output import Column, cell, emit_list, emit_object, json_text, put, say, seconds
from zcluster.errors import TooLarge, UsageError, ZClusterError

if TYPE_CHECKING:
    from zcluster.clients import AsyncClient
    from zcluster.clients.messages import Message

EVERYBODY = "all"
LINES_AHEAD = 100
"""Lines of stdin that are read before they are needed."""
CHAT_HELP = """send NAME TEXT   say TEXT to NAME, or to all
who              who listens
help             this
quit             end"""

WHO_COLUMNS = (
    Column("name", "NAME"),
    Column("key", "KEY"),
    Column("sessions", "SESSIONS", right=True),
    Column("kept", "KEPT", right=True),
)

as_option = click.option("--as", "as_name", default="", metavar="NAME", help="Your name. [default: the name of the key]")


@click.group(cls=Group)
def msg() -> None:
    """Send messages to named clients, and listen for them."""


@msg.command()
@click.argument("words", nargs=-1, required=True, metavar="NAME TEXT...", shell_complete=completes("listener_names"))
@click.option("--all", "everybody", is_flag=True, help="To everybody who listens; then there is no NAME.")
@click.option("--keep", type=DURATION, metavar="DURATION", default=0.0, help="Let it wait so long when nobody listens: 1h, 7d.")
@as_option
@shared_options
@click.pass_obj
def send(
    state: State, words: tuple[str, ...], everybody: bool, keep: float, as_name: str, timeout: float | None, key: Path | None,
    master: tuple[str, ...],
) -> None:  # fmt: skip
    """Send TEXT to whoever listens as NAME; with - as TEXT, what stdin has.

    Exit code 5 when nobody does and it is not to be kept. -o json says how many sessions got it.
    """
    to, said = (EVERYBODY, words) if everybody else (words[0], words[1:])
    text = _stdin_text() if said == ("-",) else " ".join(said)
    if not text:
        raise UsageError("there is nothing to send", hint="zcluster msg send NAME TEXT, or --all TEXT; - for stdin")

    async def deliver(client: AsyncClient) -> int:
        async with client as c:
            return await c.send(to, text, keep_s=keep, as_name=as_name, timeout=timeout)

    sessions = run_async(deliver(open_client(state, connection(key, master, timeout))))
    item = {"to": to, "sessions": sessions, "kept": bool(keep and not sessions)}
    emit_object(item, state.output, lines=[_delivered(to, sessions, keep)], name_key="to")


def _stdin_text() -> str:
    """What stdin has, without its last line end; not more of it is read than a message may have."""
    from zcluster.core.notes import MAX_TEXT_BYTES

    with click.open_file("-", "rb") as stdin:
        data: bytes = stdin.read(MAX_TEXT_BYTES + 2).removesuffix(b"\n")
    if len(data) > MAX_TEXT_BYTES:
        raise TooLarge(f"stdin has more than {MAX_TEXT_BYTES} bytes", hint="send it in pieces, or as a file")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UsageError("stdin is not valid UTF-8", hint="check the encoding") from None


def _delivered(to: str, sessions: int, keep_s: float) -> str:
    if sessions or not keep_s:
        return f"{to}: {sessions} {'session' if sessions == 1 else 'sessions'} got it"
    return f"{to}: kept for {seconds(keep_s)}"


@msg.command()
@as_option
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after so many messages.")
@shared_options
@click.pass_obj
def listen(
    state: State, as_name: str, count: int | None, timeout: float | None, key: Path | None, master: tuple[str, ...]
) -> None:
    """Print each message for your name, until Ctrl-C.

    A sender's key follows its name in brackets when the two differ: the key is proven, the name is only said.
    """
    client = open_client(state, connection(key, master, timeout))
    run_async(_listen(client, as_name, count, state.output))


async def _listen(client: AsyncClient, as_name: str, count: int | None, output: str | None) -> None:
    async with client as c, c.messages(as_name) as messages:
        say(f"zcluster: listening as {messages.name}")
        async for message in messages:
            _show(message, output)
            if count is not None:
                count -= 1
                if not count:
                    return


@msg.command()
@shared_options
@click.pass_obj
def who(state: State, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """List the names that somebody listens under, or that messages wait for."""
    emit_list(run_async(_who(open_client(state, connection(key, master, timeout)))), WHO_COLUMNS, state.output)


async def _who(client: AsyncClient) -> list[dict[str, Any]]:
    async with client as c:
        return await _names(c)


async def _names(c: AsyncClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await c.call("notes.who", target="master")
    return found


@click.command()
@as_option
@shared_options
@click.pass_obj
def chat(state: State, as_name: str, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """Talk with other clients, a command a line.

    \b
    send NAME TEXT   say TEXT to NAME, or to all
    who              who listens
    help             this
    quit             end (Ctrl-D too)
    """
    run_async(_chat(open_client(state, connection(key, master, timeout)), as_name, state.output))


async def _chat(client: AsyncClient, as_name: str, output: str | None) -> None:
    async with client as c, c.messages(as_name) as messages:
        say(f"zcluster: you are {messages.name}; help shows what you can say")

        async def hear() -> None:
            async for message in messages:
                _show(message, output)

        async def obey() -> None:
            _prompt()
            async for line in _lines():
                if not await _obey(c, line, output):
                    return
                _prompt()

        await _until_one_ends(hear(), obey())


async def _until_one_ends(*works: Coroutine[Any, Any, None]) -> None:
    """Run ``works`` until one has ended, whose error is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _obey(c: AsyncClient, line: str, output: str | None) -> bool:
    """Do what a line of the chat says; false when it ends."""
    command, _, rest = line.strip().partition(" ")
    match command.lower():
        case "":
            return True
        case "quit" | "exit":
            return False
        case "help":
            say(CHAT_HELP)
        case "who":
            with _errors_said():
                emit_list(await _names(c), WHO_COLUMNS, output)
        case "send":
            to, _, text = rest.strip().partition(" ")
            if not to or not text.strip():
                say("send NAME TEXT, or send all TEXT")
                return True
            with _errors_said():
                sessions = await c.send(to, text.strip())
                say(_delivered(to, sessions, 0.0))
        case _:
            say(f"{cell(command)} is no command here\n{CHAT_HELP}")
    return True


@contextlib.contextmanager
def _errors_said() -> Iterator[None]:
    """A message that does not arrive ends no chat."""
    try:
        yield
    except ZClusterError as error:
        say(f"zcluster: {error}")


def _show(message: Message, output: str | None) -> None:
    if output in ("json", "ndjson", "yaml"):  # a stream has no end to wrap a list around: one JSON object a line
        from dataclasses import asdict

        put(json_text(asdict(message)))
        return
    if output == "name":
        put(cell(message.sender))
        return
    if message.missed:
        say(f"zcluster: {message.missed} messages were missed here: they came faster than they were shown")
    sender = message.sender if message.sender == message.key else f"{message.sender} ({message.key})"
    to = f" to {message.to}" if message.to == EVERYBODY else ""
    put(f"{clock(message.at_s)}  {cell(sender)}{to}: {cell(message.text)}")


def _prompt() -> None:
    if sys.stdin.isatty() and sys.stderr.isatty():
        click.echo("> ", nl=False, err=True)


async def _lines() -> AsyncIterator[str]:
    """The lines of stdin. Read in a thread of its own, which keeps nobody from ending: any stdin can be read so."""
    loop = asyncio.get_running_loop()
    here: asyncio.Queue[str | None] = asyncio.Queue()
    room = threading.Semaphore(LINES_AHEAD)

    def read() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody wants the lines any more
            for line in sys.stdin:
                room.acquire()
                loop.call_soon_threadsafe(here.put_nowait, line)
            loop.call_soon_threadsafe(here.put_nowait, None)

    threading.Thread(target=read, name="zcluster-stdin", daemon=True).start()
    while (line := await here.get()) is not None:
        room.release()
        yield line
