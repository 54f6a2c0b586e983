"""Settings: flag > variable > file > default, each with its source; errors are three lines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from archwright import settings
from archwright.contract.listener import ListenerSettings, read_listener
from archwright.home import Home

from .command_line import error_of
from .test_home_modes import show_as_foreign


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in settings.NAMES:
        monkeypatch.delenv(settings.PREFIX + name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


def test_defaults() -> None:
    found = settings.load()
    assert (found.host, found.port, found.home, found.database_url) == ("127.0.0.1", 8470, "~/.archwright", "")
    assert set(found.sources) == set(settings.NAMES)
    assert set(found.sources.values()) == {"default"}


def test_the_order_of_the_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir(0o700)
    (home / settings.FILE).write_text('host = "home"\nport = 0\nmodel_idle_s = 1\ndata_workers = 1\n')
    (tmp_path / settings.FILE).write_text('model_idle_s = 2\nport = 1\nlog_level = "file"\n')
    monkeypatch.setenv("ARCHWRIGHT_HOME", str(home))
    monkeypatch.setenv("ARCHWRIGHT_PORT", "2")
    monkeypatch.setenv("ARCHWRIGHT_LOG_LEVEL", "environment")
    found = settings.load({"log_level": "flag", "data_workers": None})
    assert (found.host, found.model_idle_s, found.port, found.log_level) == ("home", 2, 2, "flag")
    assert found.sources["host"] == found.sources["data_workers"] == str(home / settings.FILE)
    assert found.sources["model_idle_s"] == "archwright.toml"
    assert found.sources["port"] == "ARCHWRIGHT_PORT"
    assert found.sources["log_level"] == "flag"
    assert found.sources["cache"] == "default"


def test_an_empty_variable_is_not_set_and_a_folder_may_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / settings.FILE).write_text("port = 7\n")
    monkeypatch.setenv("ARCHWRIGHT_PORT", "")
    assert settings.load(folder=folder).port == 7
    assert settings.load().port == 8470


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *(("port", port, "port must be 0 to 65535") for port in ("-1", "65536", "x", "", "1.5", "0x10")),
        ("admin_port", -1, "admin_port must be 0 to 65535"),
        ("cache", "on", "cache must be one of off, deterministic, all, not 'on'"),
        ("host", 7, "host must be a text"),
        ("otlp_url", "localhost:4317", "otlp_url must be an http or https URL"),
        ("audit_checkpoints", "log.jsonl", "audit_checkpoints must be `stdout`, `syslog`, `file:` and the full path"),
    ],
)
def test_a_bad_value_is_refused_with_its_field(name: str, value: object, message: str) -> None:
    error = error_of("AW-SET-02", settings.load, {name: value})
    assert message in error.message and error.where.field == name
    assert error.hint and (name != "otlp_url" or ":4318" in error.hint)


def test_hosts_of_images_are_separated_by_commas() -> None:
    chosen = settings.load({"image_hosts": " A.example, *.b.example ,"})
    assert read_listener(chosen).image_hosts == ("a.example", "*.b.example")
    assert read_listener(settings.load()).image_hosts == ()


def test_each_setting_of_the_listeners_is_read() -> None:
    changed = {
        **{"host": "::1", "port": 1, "admin_port": 2, "trusted_proxies": "::1", "image_hosts": "a.example"},
        **{"cors_origins": "https://chat.example", "tls_certificate": "c.pem", "tls_key": "k.pem"},
        **{"otlp_url": "http://collector:4318", "alert_webhook": "https://hook.example"},
        **{"audit_checkpoints": "syslog", "audit_second_place": "none"},
        **{"audit_retention_days": 400, "usage_retention_days": 30},
    }
    listener = read_listener(settings.load(changed))
    default = ListenerSettings()
    unread = [name for name in default.__struct_fields__ if getattr(listener, name) == getattr(default, name)]
    assert unread == []


def test_the_hub_is_reached_by_the_variables_of_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    assert settings.read_hub_access() == settings.HubAccess("https://huggingface.co", "", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example:8080/mirror/")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    access = settings.read_hub_access()
    assert access == settings.HubAccess("http://hub.example:8080/mirror", "hf_secret", True)
    assert "hf_secret" not in repr(access)
    for wrong in ("hub.example", "ftp://hub", "https://user:key@hub", "http://["):
        monkeypatch.setenv("HF_ENDPOINT", wrong)
        assert "key" not in error_of("AW-SET-02", settings.read_hub_access).message


def test_good_ports_and_choices() -> None:
    assert [settings.load({"port": port}).port for port in (0, "0", 65535, "8470")] == [0, 0, 65535, 8470]
    assert settings.load({"cache": "deterministic", "admin_port": "8471"}).admin_port == 8471


def test_trusted_proxies_are_a_list(home: Home) -> None:
    (home.folder() / settings.FILE).write_text('trusted_proxies = "10.0.0.0/8, 192.0.2.1 ::1"')
    assert read_listener(settings.load()).trusted_proxies == ("10.0.0.0/8", "192.0.2.1", "::1")
    assert read_listener(settings.load({"home": "elsewhere"})).trusted_proxies == ()


OF_THE_OPERATOR = [
    *("host", "database_url", "tls_certificate", "tls_key", "ray_address", "otlp_url", "admin_port", "cache"),
    *("trusted_proxies", "image_hosts", "cors_origins", "engine_user", "audit_checkpoints", "residency"),
    *("audit_second_place", "owner_key_days", "audit_retention_days", "usage_retention_days"),
    *("alert_webhook", "alert_smtp", "alert_smtp_login", "alert_from", "alert_to"),
    *("backup_to", "backup_key"),
]
VALID = {
    **{"admin_port": "1", "cache": '"all"', "otlp_url": '"http://c:1"'},
    **{"audit_checkpoints": '"/a"', "residency": '"DE"', "audit_second_place": '"none"', "owner_key_days": "1"},
    **{"audit_retention_days": "400", "usage_retention_days": "30"},
    **{"alert_webhook": '"https://h/x"', "alert_smtp": '"mail:25"', "alert_smtp_login": '"env:LOGIN"'},
    **{"backup_to": '"/a"', "backup_key": '"env:KEY"'},
}


@pytest.mark.parametrize("name", OF_THE_OPERATOR)
def test_a_setting_of_security_is_refused_in_the_working_folder(name: str, home: Home) -> None:
    line = f"{name} = {VALID.get(name, repr('x'))}\n"
    Path(settings.FILE).write_text(f"# first\nport = 1\n{line}")
    error = error_of("AW-SET-09", settings.load)
    assert error.where == (settings.FILE, 3, name)
    assert str(home.root / settings.FILE) in error.hint and f"ARCHWRIGHT_{name.upper()}" in error.hint
    Path(settings.FILE).rename(home.folder() / settings.FILE)
    assert settings.load().sources[name] == str(home.root / settings.FILE)


def test_no_file_names_the_home(home: Home) -> None:
    """A home of a cloned repository would bring its own settings of security."""
    for file in (Path(settings.FILE), home.folder() / settings.FILE):
        file.write_text('home = "here"\n')
        error = error_of("AW-SET-09", settings.load)
        assert error.where.line == 1 and error.hint == "set ARCHWRIGHT_HOME"
        file.unlink()


def test_each_setting_is_classified() -> None:
    """A new setting needs a scope; a class without one fails at its import."""
    scopes = {name for name, scope in settings.SCOPES.items() if scope == "home"}
    assert scopes == set(OF_THE_OPERATOR)
    assert set(settings.SCOPES.values()) == {"project", "home", "process"}


def test_in_the_home_its_file_is_that_of_the_home(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    (home.folder() / settings.FILE).write_text('otlp_url = "http://c:1"\n')
    monkeypatch.chdir(home.root)
    assert settings.load().otlp_url == "http://c:1"


@pytest.mark.parametrize(("path", "mode"), [("file", 0o664), ("file", 0o646), ("folder", 0o775), ("folder", 0o757)])
@pytest.mark.parametrize("linked", [False, True])
def test_a_file_that_others_may_write_is_refused(path: str, mode: int, linked: bool, tmp_path: Path) -> None:
    file = tmp_path / "project" / settings.FILE
    file.parent.mkdir(0o755)
    file.write_text("port = 1\n")
    if linked:
        Path(settings.FILE).symlink_to(file)
    folder = tmp_path if linked else file.parent
    assert settings.load(folder=folder).port == 1
    changed = file if path == "file" else file.parent
    changed.chmod(mode)
    error = error_of("AW-SET-08", settings.load, folder=folder)
    assert error.where.file == str(changed) and f"chmod go-w {changed}" in error.hint


def test_a_file_in_a_folder_where_only_owners_replace_files_is_accepted(tmp_path: Path) -> None:
    (tmp_path / settings.FILE).write_text("port = 1\n")
    tmp_path.chmod(0o1777)
    assert settings.load(folder=tmp_path).port == 1


@pytest.mark.parametrize("foreign", ["file", "folder", "link"])
def test_a_file_of_another_user_is_refused(foreign: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, link = tmp_path / "project" / settings.FILE, tmp_path / settings.FILE
    file.parent.mkdir(0o755)
    file.write_text("port = 1\n")
    link.symlink_to(file)
    path = {"file": file, "folder": file.parent, "link": link}[foreign]
    show_as_foreign(monkeypatch, path)
    error = error_of("AW-SET-08", settings.load)
    assert "12345" in error.message and error.where.file == str(path) and "chown" in error.hint


def test_an_unknown_name_lists_the_known(tmp_path: Path) -> None:
    (tmp_path / settings.FILE).write_text("prot = 1\n")
    error = error_of("AW-SET-01", settings.load)
    assert "unknown setting 'prot'" in error.message and "port" in error.hint and error.where.file == settings.FILE


@pytest.mark.parametrize("content", [b"host = ", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / settings.FILE).write_bytes(content)
    error = error_of("AW-SET-03", settings.load)
    assert "not valid TOML" in error.message and error.where.file == str(tmp_path / settings.FILE)


def test_variables_the_user_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "k")
    assert settings.read_variable("MY_KEY") == "k"
    assert settings.read_variable("NO_SUCH_VARIABLE") is None


def test_a_childs_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "k")
    monkeypatch.setenv("MY_OTHER", "o")
    found = settings.child_environment({"ADDED": "a", "MY_OTHER": "p"}, without=("MY_KEY",))
    assert (found["ADDED"], found["MY_OTHER"]) == ("a", "p")
    assert "MY_KEY" not in found
    assert "MY_KEY" in settings.child_environment()


def test_the_os_user_is_named_with_the_caller_of_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    user = settings.read_os_user()
    assert user.endswith(f"({os.getuid()})")
    monkeypatch.setenv("SUDO_USER", "ann")
    assert settings.read_os_user() == f"{user} by sudo of ann"
    monkeypatch.setattr("os.getuid", lambda: 4_000_000_001)
    assert settings.read_os_user() == "4000000001"
