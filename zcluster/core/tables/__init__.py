"""Replicated tables: parts of the master's store that workers have copies of. docs/protocol.md, "Tables"."""
