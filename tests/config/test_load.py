"""Loading: precedence and origins, and an error for everything that is not known and valid."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from zcluster.config import SETTINGS, Home, Loaded, Settings, load, reload, rows
from zcluster.config.check import MAX_MODULES
from zcluster.config.tomltext import MAX_TOML_BYTES
from zcluster.errors import ConfigError


def load_text(home: Path, text: str, flags: dict[str, Any] | None = None, environ: dict[str, str] | None = None) -> Loaded:
    (home / "zcluster.toml").write_text(text)
    return load(home, flags, environ or {})


def error_of(home: Path, text: str, flags: dict[str, Any] | None = None, environ: dict[str, str] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_text(home, text, flags, environ)
    return caught.value


def test_without_a_file_everything_is_default(tmp_path: Path) -> None:
    loaded = load(tmp_path, {}, {})
    assert loaded.settings == Settings()
    assert loaded.home == tmp_path
    assert set(loaded.origins) == set(SETTINGS)
    assert {str(origin) for origin in loaded.origins.values()} == {"default"}


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    text = "[client]\ntimeout_s = 1\n\n[worker]\nslots = 10\n[log]\nlevel = 'debug'\n"
    environ = {"ZCLUSTER_CLIENT__TIMEOUT_S": "2s", "ZCLUSTER_WORKER__SLOTS": "20"}
    loaded = load_text(tmp_path, text, {"client.timeout_s": "3s"}, environ)
    assert loaded.settings.client.timeout_s == 3.0
    assert loaded.settings.worker.slots == 20
    assert loaded.settings.log.level == "debug"
    assert str(loaded.origins["client.timeout_s"]) == "flag --timeout"
    assert str(loaded.origins["worker.slots"]) == "environment ZCLUSTER_WORKER__SLOTS"
    assert str(loaded.origins["log.level"]) == "file zcluster.toml:7"
    assert str(loaded.origins["log.format"]) == "default"
    assert (loaded.origins["log.level"].kind, loaded.origins["log.level"].where) == ("file", "zcluster.toml:7")


def test_the_process_environment_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZCLUSTER_HOME", str(tmp_path))
    monkeypatch.setenv("ZCLUSTER_WORKER__SLOTS", "7")
    loaded = load()
    assert (loaded.home, loaded.settings.worker.slots) == (tmp_path, 7)


def test_flags_that_were_not_given_change_nothing(tmp_path: Path) -> None:
    loaded = load(tmp_path, {"master.bind": None, "functions.modules": (), "worker.master": []}, {})
    assert loaded.settings == Settings()
    assert loaded.flags == {"master.bind": None, "functions.modules": (), "worker.master": []}


def test_lists_come_as_lists_as_one_text_and_comma_separated(tmp_path: Path) -> None:
    two = ("tcp://a:1", "tcp://b:2")
    assert load_text(tmp_path, "[worker]\nmaster = ['tcp://a:1', 'tcp://b:2']\n").settings.worker.master == two
    assert load(tmp_path, {"worker.master": "tcp://c:3"}, {}).settings.worker.master == ("tcp://c:3",)
    assert load(tmp_path, {"worker.master": list(two)}, {}).settings.worker.master == two
    assert load(tmp_path, {}, {"ZCLUSTER_WORKER__MASTER": "tcp://a:1, tcp://b:2"}).settings.worker.master == two
    assert load(tmp_path, {}, {"ZCLUSTER_WORKER__MASTER": ""}).settings.worker.master == ()


def test_sizes_and_durations_are_read_in_units(tmp_path: Path) -> None:
    text = '[limits]\nbody_bytes = "1MiB"\n[queue]\nmax_timeout_s = "2h"\n[session]\nheartbeat_s = 2\n'
    settings = load_text(tmp_path, text).settings
    assert settings.limits.body_bytes == 1 << 20
    assert settings.queue.max_timeout_s == 7200.0
    assert isinstance(settings.session.heartbeat_s, float)


def test_paths_are_relative_to_what_gives_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    text = '[worker]\nkey = "keys/w.key"\n[functions]\nmodules = ["jobs.py", "package.module"]\n'
    settings = load_text(tmp_path / "home", text).settings
    assert settings.worker.key == str(tmp_path / "home/keys/w.key")
    assert settings.functions.modules == (str(tmp_path / "home/jobs.py"), "package.module")
    flags = {"worker.key": Path("w.key"), "functions.modules": ("jobs.py",)}
    settings = load(tmp_path / "home", flags, {}).settings
    assert settings.worker.key == str(tmp_path / "w.key")
    assert settings.functions.modules == (str(tmp_path / "jobs.py"),)


def test_a_preset_changes_defaults_and_explicit_values_win(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, "[session]\nheartbeat_s = 2.0\n", {}, {"ZCLUSTER_CLUSTER__PRESET": "wan"})
    assert loaded.settings.session.heartbeat_s == 2.0
    assert loaded.settings.session.reconnect_max_s == 10.0
    assert loaded.origins["session.heartbeat_s"].kind == "file"
    assert str(loaded.origins["session.reconnect_max_s"]) == "preset wan"
    assert loaded.origins["session.drain_s"].kind == "default"
    lan = load_text(tmp_path, "[cluster]\npreset = 'lan'\n")
    assert lan.settings.session == Settings().session
    assert lan.origins["session.heartbeat_s"].kind == "default"


def test_an_unknown_setting_names_file_line_and_the_nearest(tmp_path: Path) -> None:
    error = error_of(tmp_path, "[session]\n\nheartbeats = 1\n")
    assert f"{tmp_path}/zcluster.toml:3" in error.message
    assert "session.heartbeats" in error.message
    assert "did you mean 'session.heartbeat_s'?" in error.hint


def test_an_unknown_table_names_line_and_the_nearest(tmp_path: Path) -> None:
    error = error_of(tmp_path, "# c\n[sesion]\nheartbeat_s = 1\n")
    assert "zcluster.toml:2: unknown table [sesion]" in error.message
    assert "did you mean 'session'?" in error.hint
    assert "the tables are cluster, node" in error_of(tmp_path, "[qqq]\n").hint
    assert "zcluster.toml:3" in error_of(tmp_path, "\n\nqqq.x = 1\n").message


def test_a_setting_in_the_wrong_table_is_found(tmp_path: Path) -> None:
    error = error_of(tmp_path, "[master]\nmodules = []\n")
    assert "did you mean 'functions.modules'?" in error.hint
    assert "[log] has level, format" in error_of(tmp_path, "[log]\nqqqq = 1\n").hint


def test_a_value_in_place_of_a_table(tmp_path: Path) -> None:
    assert "zcluster.toml:1: expected session to be a table" in error_of(tmp_path, "session = 5\n").message
    assert "unknown setting 'session.1'" in error_of(tmp_path, "[session.1]\n").message
    assert "expected queue to be a table" in error_of(tmp_path, "[[queue]]\ntotal = 1\n").message


def test_inline_and_dotted_tables_have_lines_too(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, "client = { timeout_s = 9 }\nlog.level = 'error'\n")
    assert loaded.settings.client.timeout_s == 9.0
    assert str(loaded.origins["client.timeout_s"]) == "file zcluster.toml:1"
    assert str(loaded.origins["log.level"]) == "file zcluster.toml:2"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[worker]\nslots = 'x'", "worker.slots: expected an integer, got 'x'"),
        ("[worker]\nslots = '5'", "worker.slots: expected an integer, got '5'"),
        ("[worker]\nslots = 5.0", "expected an integer, got 5.0"),
        ("[worker]\nslots = true", "expected an integer, got True"),
        ("[worker]\nslots = 0", "expected 1 to 65536 requests, got 0"),
        ("[worker]\nslots = 65537", "expected 1 to 65536 requests, got 65537"),
        ("[worker]\nslots = 0x" + "f" * 5000, "got a larger number"),
        ("[worker]\nmaster = 'tcp://a:1'", "expected a list"),
        ("[worker]\nmaster = [1]", "expected a list of texts, got 1"),
        ("[worker]\nmaster = ['tcp://a']", "expected an address"),
        ("[worker]\nkey = 5", "expected text, got 5"),
        ('[worker]\nkey = "a\\u0000b"', "without NUL"),
        ("[limits]\nbody_bytes = 1.5", "expected a size"),
        ("[limits]\nbody_bytes = 'much'", "expected a size, got 'much'"),
        ("[limits]\nbody_bytes = true", "expected a size, got bool"),
        ("[limits]\nbody_bytes = []", "expected a size, got list"),
        ("[limits]\nbody_bytes = 1023", "expected 1KiB to 4GiB bytes, got 1023"),
        ("[session]\nheartbeat_s = nan", "expected a duration"),
        ("[session]\nheartbeat_s = inf", "expected a duration"),
        ("[session]\nheartbeat_s = 61", "expected 0.05 to 60 seconds, got 61"),
        ("[session]\nheartbeat_s = {}", "expected a duration, got dict"),
        ("[cluster]\nname = ''", "expected a name"),
        ("[cluster]\nname = 'a b'", "expected a name"),
        ("[node]\nname = 'all'", "reserved"),
        ("[log]\nlevel = 'debgu'", "expected debug or info or warning or error, got 'debgu' (did you mean 'debug'?)"),
        ("[master]\nbind = 'tcp://0.0.0.0:0'", "port"),
        ("[master]\nbind = ''", "expected an address"),
        ("[master]\nadvertise = ['tcp://0.0.0.0:1']", "wildcard"),
        ("[functions]\nmodules = ['a-b']", "expected a module"),
    ],
)
def test_a_wrong_value_names_file_line_and_what_is_expected(tmp_path: Path, text: str, expected: str) -> None:
    error = error_of(tmp_path, text)
    assert f"{tmp_path}/zcluster.toml:2: " in error.message
    assert expected in str(error)


def test_lists_are_bounded(tmp_path: Path) -> None:
    many = [f"tcp://h{index}:1" for index in range(17)]
    assert len(load(tmp_path, {"worker.master": many[:16]}, {}).settings.worker.master) == 16
    with pytest.raises(ConfigError, match="at most 16 items, got 17"):
        load(tmp_path, {"worker.master": many}, {})
    with pytest.raises(ConfigError, match=f"at most {MAX_MODULES} items"):
        load(tmp_path, {"functions.modules": ["m"] * (MAX_MODULES + 1)}, {})


def test_a_wrong_value_is_an_error_even_when_it_is_overridden(tmp_path: Path) -> None:
    error = error_of(tmp_path, "[worker]\nslots = 0\n", {"worker.slots": 5}, {"ZCLUSTER_WORKER__SLOTS": "5"})
    assert "zcluster.toml:2" in error.message


def test_errors_of_flags_and_variables_name_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"flag --bind: master\.bind: expected an address"):
        load(tmp_path, {"master.bind": "x"}, {})
    with pytest.raises(
        ConfigError, match=r"environment variable ZCLUSTER_WORKER__SLOTS: worker\.slots: expected an integer, got 'many'"
    ):
        load(tmp_path, {}, {"ZCLUSTER_WORKER__SLOTS": "many"})
    with pytest.raises(ConfigError, match=r"unknown setting 'master\.bnd'") as caught:
        load(tmp_path, {"master.bnd": "x"}, {})
    assert caught.value.hint == "did you mean 'master.bind'?"


def test_an_unknown_variable_with_a_double_underscore_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ZCLUSTER_MASTER__BIN ") as caught:
        load(tmp_path, {}, {"ZCLUSTER_MASTER__BIN": "x"})
    assert "ZCLUSTER_MASTER__BIND" in caught.value.hint
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, {}, {"ZCLUSTER_master__bind": "x"})
    assert "ZCLUSTER_MASTER__BIND" in caught.value.hint


def test_other_variables_are_not_ours(tmp_path: Path) -> None:
    environ = {"ZCLUSTER_HOME": "/x", "ZCLUSTER_KEY": "k", "ZCLUSTER_TEST_X": "1", "OTHER__X": "1"}
    assert load(tmp_path, {}, environ).settings == Settings()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[a\n", "zcluster.toml:1"),
        ("[log]\nlevel = info\n", "zcluster.toml:2"),
        ("a = " + "[" * 5000, "zcluster.toml: not valid"),
    ],
)
def test_a_file_that_is_no_toml_names_the_line(tmp_path: Path, text: str, place: str) -> None:
    error = error_of(tmp_path, text)
    assert place in error.message
    assert "not valid TOML" in error.message


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    Home(tmp_path).config_file.mkdir()
    with pytest.raises(ConfigError, match=r"zcluster\.toml: cannot be read: Is a directory"):
        load(tmp_path, {}, {})


def test_the_file_is_bounded(tmp_path: Path) -> None:
    load_text(tmp_path, "#" * MAX_TOML_BYTES)
    assert "larger than" in error_of(tmp_path, "#" * (MAX_TOML_BYTES + 1)).message


def test_settings_that_do_not_fit_together_name_both_places(tmp_path: Path) -> None:
    error = error_of(tmp_path, "[queue]\ntotal = 10\n", {}, {"ZCLUSTER_QUEUE__PER_CLIENT": "11"})
    assert "queue.per_client must be at most queue.total" in error.message
    assert "is 11 (environment ZCLUSTER_QUEUE__PER_CLIENT) and queue.total is 10 (file zcluster.toml:2)" in error.message
    assert load_text(tmp_path, "[queue]\ntotal = 10\nper_client = 10\n").settings.queue.total == 10


def test_rows_list_every_setting_once_in_order(tmp_path: Path) -> None:
    table = rows(load_text(tmp_path, "[worker]\nslots = 9\n"))
    assert [row.name for row in table] == list(SETTINGS)
    slots = next(row for row in table if row.name == "worker.slots")
    assert slots == ("worker.slots", 9, "file zcluster.toml:2", SETTINGS["worker.slots"].spec.doc)


def test_a_reload_applies_live_changes_and_names_the_others(tmp_path: Path) -> None:
    running = load_text(tmp_path, "[log]\nlevel = 'info'\n").settings
    fresh = load_text(tmp_path, "[log]\nlevel = 'debug'\n[worker]\nslots = 9\n").settings
    done = reload(running, fresh)
    assert done.applied == ("log.level",)
    assert done.needs_restart == ("worker.slots",)
    assert (done.settings.log.level, done.settings.worker.slots) == ("debug", 512)
    assert reload(running, running).settings == running


def test_a_reload_whose_live_part_does_not_fit_is_refused(tmp_path: Path) -> None:
    running = load_text(tmp_path, "").settings
    # the smaller body fits the smaller inline size, which only a restart applies
    fresh = load_text(tmp_path, "[limits]\nbody_bytes = 2048\ninline_bytes = 1024\n").settings
    with pytest.raises(
        ConfigError, match=r"limits\.inline_bytes is 65536 \(running\) and limits\.body_bytes is 2048 \(re-read\)"
    ):
        reload(running, fresh)


def test_loading_leaves_no_file_behind(tmp_path: Path) -> None:
    load(tmp_path / "new", {}, {})
    assert os.listdir(tmp_path) == []
