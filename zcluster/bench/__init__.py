"""Benchmarks that tell the truth.

Rules kept here:
- what is measured runs in its own processes over real sockets; the process that asks for the numbers only watches;
- zcluster is measured through its public ``AsyncClient`` only, with encryption, permissions and deadlines on;
- contenders take turns within one run, and a ratio is a ratio of medians over those turns;
- with a fixed rate, latency counts from the moment at which a request was due, not from when it could be sent;
- whatever is started is stopped, and its directory removed, however the bench ends.

``dapi`` is the bench of requests, ``special`` holds the other named ones, ``report`` shows results,
``cluster.LocalCluster`` is a cluster of this machine for a while.
"""
