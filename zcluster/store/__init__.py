"""What a node keeps: the key-value store with leases, compare-and-swap and watch, and the book of agents.

``interface`` and ``book`` say what there is; ``memory`` is the reference, ``sqlite`` what nodes use. Nothing above this package
knows SQLite.
"""
