"""The queue of durable jobs: states, transitions, who is next, and who is told. Pure."""
