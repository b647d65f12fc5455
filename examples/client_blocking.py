"""The same client for a program without an event loop.

zcluster demo --functions examples/functions.py
ZCLUSTER_HOME=... python examples/client_blocking.py
"""

from __future__ import annotations

import zcluster


def main() -> None:
    """Connect with the home's admin key and call."""
    with zcluster.Client() as c:
        for node in c.nodes():
            print(f"{node['name']:<12} {node['role']:<8} {node['state']}")
        print("request:", c.call("request.about", target="worker-1"))
        for number in c.stream("count.up", {"to": 3}):
            print("item", number)


if __name__ == "__main__":
    main()
