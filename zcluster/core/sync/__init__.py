"""The state machines of file sync: pure, as all of core. docs/protocol.md ("Trees") is the conversation that they hold."""
