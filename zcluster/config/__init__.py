"""Settings: declared once, read from flags, environment and file, checked, and explained.

Rules kept here:
- importing this package and loading a configuration needs the standard library only (and pathspec for a tree's patterns), and
  neither asyncio nor sockets: every command pays for it at its start;
- settings are immutable values: a process that re-reads them gets new ones (:func:`reload`).
"""

from __future__ import annotations

from zcluster.config.addresses import (
    Address,
    Advertised,
    advertised,
    advertised_door,
    ipc_path,
    local_address,
    parse_address,
    reachable,
)
from zcluster.config.audit import AuditSettings
from zcluster.config.home import Home, absolute, default_home
from zcluster.config.load import Loaded, Origin, Reloaded, Row, load, reload, rows
from zcluster.config.names import MAX_NAME_CHARS, RESERVED_NAMES, name_fault, nearest
from zcluster.config.queue import QueueSettings
from zcluster.config.roles import ROLE_KEYS, RoleSettings, RolesSettings
from zcluster.config.settings import (
    LIVE,
    SETTINGS,
    TABLES,
    ClientSettings,
    ClusterSettings,
    FunctionSettings,
    LimitSettings,
    LogSettings,
    MasterSettings,
    NodeSettings,
    SessionSettings,
    Settings,
    WorkerSettings,
)
from zcluster.config.sync import TREE_KEYS, SyncSettings, TreeSettings
from zcluster.config.template import reference_markdown, template
from zcluster.config.tomltext import TomlFault, parse_toml, toml_value
from zcluster.config.trees import home_conflict
from zcluster.config.units import format_bytes, parse_bytes, parse_duration_s

__all__ = [
    "Address",
    "Advertised",
    "AuditSettings",
    "ClientSettings",
    "ClusterSettings",
    "FunctionSettings",
    "Home",
    "LIVE",
    "LimitSettings",
    "Loaded",
    "LogSettings",
    "MAX_NAME_CHARS",
    "MasterSettings",
    "NodeSettings",
    "Origin",
    "QueueSettings",
    "RESERVED_NAMES",
    "ROLE_KEYS",
    "Reloaded",
    "RoleSettings",
    "RolesSettings",
    "Row",
    "SETTINGS",
    "SessionSettings",
    "Settings",
    "SyncSettings",
    "TABLES",
    "TREE_KEYS",
    "TomlFault",
    "TreeSettings",
    "WorkerSettings",
    "absolute",
    "advertised",
    "advertised_door",
    "default_home",
    "format_bytes",
    "home_conflict",
    "load",
    "name_fault",
    "nearest",
    "ipc_path",
    "local_address",
    "parse_address",
    "reachable",
    "parse_bytes",
    "parse_duration_s",
    "parse_toml",
    "reference_markdown",
    "reload",
    "rows",
    "template",
    "toml_value",
]
