"""Reads packaging/compose.yaml: the part of YAML that it is written in, and stricter than YAML.

Mappings by indentation of two; a scalar is plain, or JSON; lists are JSON on one line; comments have lines of their own.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

_LINE = re.compile(r"(?P<indent>(?:  )*)(?P<key>[A-Za-z][A-Za-z0-9_-]*):(?: (?P<value>\S.*))?")
_PLAIN = re.compile(r"[A-Za-z0-9./][A-Za-z0-9./_-]*")
_NOT_TEXT = re.compile(r"(?:y|n|yes|no|on|off|true|false|null|~|[0-9._]+|0x[0-9a-f]+)", re.IGNORECASE)


def read_compose(path: Path) -> dict[str, Any]:
    """The document, or an AssertionError that names the line."""
    root: dict[str, Any] = {}
    open_maps: list[dict[str, Any]] = [root]
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        assert found is not None, f"line {number}: {line!r}"
        depth = len(found["indent"]) // 2
        assert depth < len(open_maps), f"line {number} is indented too far"
        del open_maps[depth + 1 :]
        assert found["key"] not in open_maps[depth], f"line {number}: {found['key']} is there twice"
        if found["value"] is None:
            open_maps.append({})
            open_maps[depth][found["key"]] = open_maps[-1]
        else:
            open_maps[depth][found["key"]] = _scalar(found["value"], number)
    return root


def _scalar(text: str, number: int) -> Any:
    if text[0] in '["{':
        return json.loads(text)
    if text in ("true", "false"):
        return text == "true"
    assert _PLAIN.fullmatch(text), f"line {number}: quote {text!r}"
    assert not _NOT_TEXT.fullmatch(text), f"line {number}: quote {text!r}"
    return text
