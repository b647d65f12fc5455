"""The master: the ROUTER front, the publisher, and the broker of requests."""
