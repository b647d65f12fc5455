"""The state machines of the bus: pure. No clock, disk, network, randomness, threads or logging.

Events and the current time come in as arguments; messages and effects come out as values. The same machines run in
the real processes (net/, brokers/, workers/, clients/), in the unit tests and in the seeded simulator (sim/).

Read them from the smallest: wheel, targets, fairqueue, transfer, link (one end of a session), calls (a client's
requests), work (a node's running requests), peers, then the master: roster, requests, relay, master.
"""
