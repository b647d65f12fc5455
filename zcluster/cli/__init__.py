"""The ``zcluster`` command: thin click commands over the public Python API.

Rules kept here:
- stdout is data, stderr is talk; an error is one line on stderr and an exit code (:mod:`zcluster.cli.main`);
- a module of this package imports only click, its neighbours and plain declarations at the top: what a command needs
  beyond that is imported inside the command, so that ``--help`` and completion stay fast;
- every command that prints data takes ``-o`` and prints through :mod:`zcluster.cli.output`.
"""
