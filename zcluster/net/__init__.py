"""The only place that makes sockets: the loop's drivers that perform what the core decides."""
