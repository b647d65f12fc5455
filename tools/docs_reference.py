"""Writes the generated pages of docs/reference/: ``make docs``. tests/docs/ checks that they are current.

Rules kept here: a page is a pure function of the code; running this twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import docs_cli
import docs_errors
import docs_functions

from zcluster.config import reference_markdown

SETTINGS_HEAD = """# Settings

A flag wins over the environment, the environment over `zcluster.toml`, the file over the default. `master.bind` is the flag
`--bind`, the variable `ZCLUSTER_MASTER__BIND`, and `bind` in the table `[master]` of the file. Which flags a command has is in
[cli.md](cli.md). An unknown setting is an error that names its line and the nearest known one.

Durations are seconds, or text such as `250ms`, `5s`, `10m`, `1h`; sizes are bytes, or text such as `64KiB`, `64MiB`.
`zcluster config show --origin` prints each value and where it comes from; `zcluster config validate` checks the file.

"""

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"

PAGES: dict[str, Callable[[], str]] = {
    "cli.md": docs_cli.render,
    "errors.md": docs_errors.render,
    "functions.md": docs_functions.render,
    "settings.md": lambda: SETTINGS_HEAD + reference_markdown(),
}
"""Each generated page and what renders it."""


def main() -> None:
    """Write every page that is not current."""
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for name, render in PAGES.items():
        path = REFERENCE / name
        text = render()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote docs/reference/{name}")


if __name__ == "__main__":
    main()
