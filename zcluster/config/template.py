"""Texts made from the declarations of the settings: the commented zcluster.toml, and the reference page.

Rules kept here:
- nothing about a setting is written here: doc, unit, range and default all come from its declaration;
- the template loads as it is, and still loads when any of its settings is uncommented.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from inspect import getdoc

from zcluster.config.check import range_text
from zcluster.config.roles import ROLE_KEYS, RoleSettings
from zcluster.config.settings import PRESETS, SETTINGS, TABLES
from zcluster.config.spec import KIND_TEXT, Declared
from zcluster.config.sync import TREE_KEYS, TreeSettings
from zcluster.config.tomltext import toml_value
from zcluster.config.units import format_bytes

_WIDTH = 100

_EXAMPLES = {"name": "rules", "path": "files/rules"}
"""What the template shows for a tree's settings that have no default."""

_HEAD = """\
# Settings of one zcluster home. Each is listed with its default; remove the '#' before a setting to change it.
# A command line flag wins over the environment (ZCLUSTER_TABLE__KEY), which wins over this file.
# Durations are seconds, or text like "250ms", "5s", "10m", "1h". Sizes are bytes, or text like "64KiB", "64MiB".
# `zcluster config validate` checks this file, `zcluster config show --origin` says where each value is from.
"""


def template(cluster_name: str) -> str:
    """A zcluster.toml that sets ``cluster.name`` and shows every other setting as a comment with its doc and default."""
    lines = [_HEAD]
    for table, kind in TABLES.items():
        lines.append(f"[{table}]  # {getdoc(kind)}")
        for declared in SETTINGS.values():
            if declared.table != table:
                continue
            if declared.spec.kind in ("trees", "roles"):
                lines += _example_tree(declared) if declared.spec.kind == "trees" else _example_role(declared)
                continue
            lines += [f"# {line}" for line in textwrap.wrap(_described(declared), _WIDTH)]
            is_name = declared.name == "cluster.name"
            default = toml_value(cluster_name) if is_name else _toml_default(declared)
            lines.append(f"{'' if is_name else '#'}{declared.key} = {default}")
        lines.append("")
    return "\n".join(lines)


def _example_tree(declared: Declared) -> Iterator[str]:
    """A whole [[sync.tree]] as comments: without the "# " before its header and its settings it is a tree."""
    yield from (f"# {line}" for line in textwrap.wrap(f"{declared.spec.doc} Remove the '# ' to declare one:", _WIDTH))
    yield "# [[sync.tree]]"
    for key, each in TREE_KEYS.items():
        yield from (f"#   {line}" for line in textwrap.wrap(_described(each), _WIDTH))
        yield f"# {key} = {_toml_default(each) if each.default is not None else toml_value(_EXAMPLES[key])}"


def _example_role(declared: Declared) -> Iterator[str]:
    """A whole [roles.NAME] as comments, as of a tree."""
    yield from (f"# {line}" for line in textwrap.wrap(f"{declared.spec.doc} Remove the '# ' to declare one:", _WIDTH))
    yield "# [roles.deploy]"
    for key, each in ROLE_KEYS.items():
        yield from (f"#   {line}" for line in textwrap.wrap(_described(each), _WIDTH))
        yield f"# {key} = {_toml_default(each)}"


def reference_markdown() -> str:
    """The reference of all settings, in Markdown."""
    return "\n".join(_reference_lines())


def _reference_lines() -> Iterator[str]:
    for table, kind in TABLES.items():
        yield from _reference_table(f"[{table}]", kind, [each for each in SETTINGS.values() if each.table == table])
    yield from _reference_table("[[sync.tree]]", TreeSettings, list(TREE_KEYS.values()))
    yield from _reference_table("[roles.NAME]", RoleSettings, list(ROLE_KEYS.values()))
    yield "## Presets\n\n`cluster.preset` changes these defaults. A value that is set explicitly wins.\n"
    yield "| setting | " + " | ".join(f"`{preset}`" for preset in PRESETS) + " |"
    yield "|---" * (len(PRESETS) + 1) + "|"
    for declared in SETTINGS.values():
        if declared.spec.presets:
            defaults = " | ".join(f"`{toml_value(declared.default_under(preset))}`" for preset in PRESETS)
            yield f"| `{declared.name}` | {defaults} |"
    yield ""
    for preset, meaning in PRESETS.items():
        yield f"- `{preset}`: {meaning}"
    yield ""


def _reference_table(title: str, kind: type, settings: Sequence[Declared]) -> Iterator[str]:
    yield f"## {title}\n\n{getdoc(kind)}\n"
    yield "| setting | default | allowed | on SIGHUP | what it does |"
    yield "|---|---|---|---|---|"
    for declared in settings:
        live = "applied" if declared.spec.live else "restart"
        default = "required" if declared.default is None else f"`{_toml_default(declared)}`"
        cells = (f"`{declared.name}`", default, _allowed(declared), live, declared.spec.doc)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _described(declared: Declared) -> str:
    spec = declared.spec
    notes = [_allowed(declared)]
    notes += [f"{preset}: {toml_value(value)}" for preset, value in spec.presets.items()]
    notes += ["applied by SIGHUP"] if spec.live else []
    return f"{spec.doc} ({'; '.join(notes)})"


def _allowed(declared: Declared) -> str:
    spec = declared.spec
    bounds = range_text(spec)
    if spec.choices:
        return bounds
    unit = f" {spec.unit}" if bounds and spec.unit and spec.kind != "bytes" else ""
    return f"{KIND_TEXT[spec.kind]}{', ' if bounds else ''}{bounds}{unit}{' or empty' if spec.optional else ''}"


def _toml_default(declared: Declared) -> str:
    if declared.spec.kind == "bytes" and isinstance(declared.default, int):
        return toml_value(format_bytes(declared.default))
    return toml_value(declared.default)
