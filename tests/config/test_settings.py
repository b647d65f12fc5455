"""The declarations: typed, frozen, documented, bounded, and consistent with each other."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import pytest

from zcluster.config import LIVE, SETTINGS, TABLES, LimitSettings, SessionSettings, Settings
from zcluster.config.check import check_together, check_value
from zcluster.config.rules import CROSS_RULES, CrossRule
from zcluster.config.settings import PRESETS
from zcluster.errors import ConfigError

ORIGINS = dict.fromkeys(SETTINGS, "test")


def test_the_fixed_defaults() -> None:
    settings = Settings()
    assert settings.cluster.name == "zcluster"
    assert settings.master.bind == "tcp://0.0.0.0:7570"
    assert settings.master.publish == "tcp://0.0.0.0:7571"
    assert (settings.session.heartbeat_s, settings.session.lease_heartbeats) == (1.0, 3)
    assert settings.client.timeout_s == 30.0
    assert settings.limits == LimitSettings(67108864, 262144, 65536, 1048576, 1048576, 67108864, 268435456)
    assert settings.queue.max_timeout_s == 86400


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().session.heartbeat_s = 2.0  # type: ignore[misc]


def test_a_value_is_found_by_its_name() -> None:
    assert Settings(session=SessionSettings(heartbeat_s=7.0)).value("session.heartbeat_s") == 7.0
    with pytest.raises(KeyError):
        Settings().value("session.nothing")


@pytest.mark.parametrize("name", SETTINGS)
def test_every_declaration_is_complete(name: str) -> None:
    declared = SETTINGS[name]
    spec = declared.spec
    assert spec.doc.endswith("."), f"{name} has no doc, or one that is no sentence"
    assert declared.name == name
    if spec.kind in ("integer", "bytes", "duration"):
        assert spec.unit, f"{name} has no unit"
        assert spec.low < spec.high, f"{name} has no range"
    assert (spec.kind == "duration") == name.endswith("_s"), f"{name} does not end in its unit"
    assert (spec.kind == "bytes") == name.endswith("_bytes"), f"{name} does not end in its unit"
    assert bool(spec.choices) == (spec.kind == "choice"), name
    assert set(spec.presets) <= set(PRESETS) - {"lan"}, f"{name}: lan is the declared default"


@pytest.mark.parametrize("name", SETTINGS)
def test_every_default_passes_its_own_check(name: str) -> None:
    declared = SETTINGS[name]
    for preset in PRESETS:
        default = declared.default_under(preset)
        assert check_value(declared, default, text=False) == default
        assert type(check_value(declared, default, text=False)) is type(declared.default)


@pytest.mark.parametrize("table", TABLES)
def test_every_table_is_described(table: str) -> None:
    assert (TABLES[table].__doc__ or "").endswith(".")
    assert not (TABLES[table].__doc__ or "").startswith(TABLES[table].__name__), "the docstring is the generated one"


@pytest.mark.parametrize("name", [name for name, each in SETTINGS.items() if each.spec.high])
def test_every_number_is_bounded_at_both_ends(name: str) -> None:
    declared = SETTINGS[name]
    spec = declared.spec
    step = 1 if spec.kind != "duration" else 0.0001
    for edge in (spec.low, spec.high):
        whole = edge if spec.kind == "duration" else int(edge)
        assert check_value(declared, whole, text=False) == edge
    for beyond in (spec.low - step, spec.high + step):
        with pytest.raises(ConfigError):
            check_value(declared, beyond if spec.kind == "duration" else int(beyond), text=False)


def test_flags_and_variables_are_unique() -> None:
    assert len({declared.environment for declared in SETTINGS.values()}) == len(SETTINGS)
    assert SETTINGS["master.bind"].flag == "--bind"
    assert SETTINGS["master.publish"].flag == "--publish"
    assert SETTINGS["worker.master"].flag == "--master"
    assert SETTINGS["worker.key"].flag == "--key"
    assert SETTINGS["functions.modules"].flag == "--functions"
    assert SETTINGS["client.timeout_s"].flag == "--timeout"
    assert SETTINGS["master.bind"].environment == "ZCLUSTER_MASTER__BIND"


def test_live_settings() -> None:
    assert {"log.level", "client.timeout_s", "limits.body_bytes", "queue.total"} <= LIVE
    assert LIVE.isdisjoint({"master.bind", "cluster.preset", "node.name", "session.heartbeat_s", "limits.frame_bytes"})


@pytest.mark.parametrize("preset", PRESETS)
def test_the_defaults_of_every_preset_keep_all_rules(preset: str) -> None:
    tables = {
        table: kind(**{each.key: each.default_under(preset) for each in SETTINGS.values() if each.table == table})
        for table, kind in TABLES.items()
    }
    check_together(Settings(**tables), ORIGINS)


@pytest.mark.parametrize("rule", [rule for rule in CROSS_RULES if " must be at most " in rule.text], ids=lambda rule: rule.first)
def test_every_rule_can_be_broken_and_names_both_settings(rule: CrossRule, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = rule.first, rule.second
    table, key = first.split(".")
    settings = Settings()
    too_much = settings.value(second) + 1  # type: ignore[operator]
    broken = replace(settings, **{table: replace(getattr(settings, table), **{key: too_much})})
    assert rule.holds(settings)
    assert not rule.holds(broken)
    monkeypatch.setattr("zcluster.config.check.CROSS_RULES", (rule,))
    with pytest.raises(ConfigError, match=f"{first} must be at most {second}") as caught:
        check_together(broken, {**ORIGINS, first: "file zcluster.toml:3"})
    assert "file zcluster.toml:3" in caught.value.message


def test_the_two_addresses_of_a_master_must_differ_unless_the_system_chooses() -> None:
    settings = Settings()
    same = replace(settings, master=replace(settings.master, publish=settings.master.bind))
    with pytest.raises(ConfigError, match="different addresses"):
        check_together(same, ORIGINS)
    chosen = replace(settings, master=replace(settings.master, bind="tcp://127.0.0.1:*", publish="tcp://127.0.0.1:*"))
    check_together(chosen, ORIGINS)


def test_importing_the_configuration_loads_neither_sockets_nor_asyncio() -> None:
    heavy = ("zmq", "asyncio", "socket", "ssl", "logging", "difflib")
    program = f"import sys, zcluster.config, zcluster.keys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
