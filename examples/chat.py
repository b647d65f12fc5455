"""Messages between named clients: one listens, others send, and one message waits for somebody who is not there yet.

zcluster demo
ZCLUSTER_HOME=... python examples/chat.py
"""

from __future__ import annotations

import asyncio

import zcluster


async def main() -> None:
    """Two clients with the home's admin key, under names of their own."""
    async with zcluster.AsyncClient() as ann, zcluster.AsyncClient() as bob:
        async with ann.messages("example-ann") as for_ann:
            sessions = await bob.send("example-ann", "hello", as_name="example-bob")
            message = await anext(for_ann)
            print(f"{message.sender} ({message.key}) says {message.text!r} to {sessions} session")

            try:
                await ann.send("example-bob", "are you there?")
            except zcluster.NoSuchClient as error:
                print("not sent:", error.message)
            await ann.send("example-bob", "read this later", keep_s=60)

        async with bob.messages("example-bob") as for_bob:
            message = await anext(for_bob)
            print(f"{message.sender} said {message.text!r}, kept: {message.kept}")


if __name__ == "__main__":
    asyncio.run(main())
