"""The worker: a node that runs functions for its master."""
