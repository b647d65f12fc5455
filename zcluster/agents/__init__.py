"""The agent: a light daemon on a monitored host."""
