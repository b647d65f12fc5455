"""``python -m zcluster``: the same as the ``zcluster`` command."""

from __future__ import annotations

from zcluster.cli.main import main

if __name__ == "__main__":
    main()
