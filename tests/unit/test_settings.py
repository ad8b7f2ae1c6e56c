"""Where settings come from, and what a wrong one says."""

from pathlib import Path

import pytest

from gatelog.core.errors import SettingsError
from gatelog.core.settings import Settings


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings but the test's own."""
    monkeypatch.chdir(tmp_path)
    for name in ("GATELOG_POSTGRES_DSN", "GATELOG_KAFKA_BOOTSTRAP_SERVERS", "GATELOG_STORE", "GATELOG_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def test_arguments_before_environment_before_file_before_local_services(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".gatelog").mkdir()
    (tmp_path / ".gatelog" / "endpoints.toml").write_text(
        'postgres_dsn = "postgresql://local"\n[kafka]\n"bootstrap.servers" = "local:1"\n"client.id" = "local"\n'
    )
    assert Settings.load().dsn == "postgresql://local"
    (tmp_path / "gatelog.toml").write_text('store = "file"\npostgres_dsn = "postgresql://file"\n')
    assert Settings.load().dsn == "postgresql://file"
    monkeypatch.setenv("GATELOG_POSTGRES_DSN", "postgresql://environment")
    monkeypatch.setenv("GATELOG_KAFKA_BOOTSTRAP_SERVERS", "environment:1")
    settings = Settings.load()
    assert (settings.dsn, settings.store) == ("postgresql://environment", "file")
    assert settings.kafka_properties["bootstrap.servers"] == "environment:1"
    assert Settings.load(postgres_dsn="postgresql://argument").dsn == "postgresql://argument"


@pytest.mark.parametrize(
    "listed", ["postgresql://a/x postgresql://b/x,y", '["postgresql://a/x", "postgresql://b/x,y"]']
)
def test_several_index_dsns_from_one_variable(listed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert Settings.load().shard_dsns == ()
    monkeypatch.setenv("GATELOG_INDEX_DSNS", listed)
    assert Settings.load().shard_dsns == ("postgresql://a/x", "postgresql://b/x,y")
    monkeypatch.delenv("GATELOG_INDEX_DSNS")
    (tmp_path / "gatelog.toml").write_text('index_dsns = ["postgresql://a:secret@file/x"]\n')
    assert Settings.load().shard_dsns == ("postgresql://a:secret@file/x",)
    assert "secret" not in repr(Settings.load())


def test_any_librdkafka_property(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATELOG_KAFKA_BOOTSTRAP_SERVERS", "a:1")
    monkeypatch.setenv("GATELOG_KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("GATELOG_KAFKA_LOG_LEVEL", "3")
    assert Settings.load().kafka_properties == {
        "bootstrap.servers": "a:1",
        "security.protocol": "SASL_SSL",
        "log_level": "3",
    }


def test_what_kubernetes_sets_for_services_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """For each service, in every pod; a service may be called gatelog-kafka."""
    for service in ("GATELOG", "GATELOG_KAFKA", "GATELOG_KAFKA_0", "GATELOG_POSTGRES", "GATELOG_STORE"):
        for name, value in {
            "SERVICE_HOST": "10.0.0.11",
            "SERVICE_PORT": "9092",
            "SERVICE_PORT_TCP_CLIENTS": "9092",
            "PORT": "tcp://10.0.0.11:9092",
            "PORT_9092_TCP": "tcp://10.0.0.11:9092",
            "PORT_9092_TCP_PROTO": "tcp",
            "PORT_9092_TCP_PORT": "9092",
            "PORT_9092_TCP_ADDR": "10.0.0.11",
        }.items():
            monkeypatch.setenv(f"{service}_{name}", value)
    assert Settings.load().kafka == {}
    for typo in ("GATELOG_KAFKA_BOOTSTRAP_PORT", "GATELOG_KAFKA_PORT_9092", "GATELOG_KAFKA_1_PORT"):
        monkeypatch.setenv(typo, "x")
    assert Settings.load().kafka.keys() == {"bootstrap.port", "port.9092", "1.port"}, "librdkafka refuses these"


def test_secrets_are_not_shown() -> None:
    assert "secret" not in repr(Settings.load(postgres_dsn="postgresql://me:secret@host/db"))


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ({"store": "Bad"}, "Bad"),
        ({"event_bytes_max": 0}, "GATELOG_EVENT_BYTES_MAX"),
        ({"append_timeout_s": "soon"}, "GATELOG_APPEND_TIMEOUT_S"),
        ({"no_such_setting": 1}, "no_such_setting"),
        ({"index_dsns": "[broken"}, "GATELOG_INDEX_DSNS"),
        ({"index_dsns": ["postgresql://a/x"] * 65}, "GATELOG_INDEX_DSNS"),
    ],
)
def test_a_wrong_setting_is_named(overrides: dict[str, object], names: str) -> None:
    with pytest.raises(SettingsError, match=names):
        Settings.load(**overrides)


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "gatelog.toml").write_text("store = ")
    with pytest.raises(SettingsError, match=r"gatelog\.toml"):
        Settings.load()


def test_nothing_configured_says_what_to_do() -> None:
    with pytest.raises(SettingsError, match="gatelog up"):
        _ = Settings.load().dsn
    with pytest.raises(SettingsError, match="gatelog up"):
        _ = Settings.load().kafka_properties
    with pytest.raises(SettingsError, match="postgresql://"):
        _ = Settings.load(postgres_dsn="host=localhost").dsn
