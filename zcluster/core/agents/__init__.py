"""Agents: rows, whose they are, filters, and the way of changed rows to the master. Pure."""
