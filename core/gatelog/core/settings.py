"""Settings: from arguments, ``GATELOG_*``, ``gatelog.toml``, and what ``gatelog up`` started, in this order.

Any librdkafka property is taken: ``GATELOG_KAFKA_SECURITY_PROTOCOL`` sets ``security.protocol``, and so does
``"security.protocol"`` in the table ``[kafka]`` of ``gatelog.toml``.
"""

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from gatelog.core import dsns
from gatelog.core.domain import check_store_name
from gatelog.core.errors import SettingsError

SETTINGS_FILE: Final = "gatelog.toml"
ENDPOINTS_FILE: Final = "endpoints.toml"
SHARDS_MAX: Final = 64
_ENVELOPE_BYTES_MAX: Final = 8 * 1024  # stream id (as key and header), type, trace context, ids, framing
_KAFKA_PREFIX: Final = "GATELOG_KAFKA_"
_SERVICE: Final = "_SERVICE_HOST"
# What Kubernetes sets in every pod for a service, which may well be called gatelog-kafka.
_OF_SERVICE: Final = re.compile(
    r"_SERVICE_HOST|_SERVICE_PORT(_[A-Z0-9_]+)?|_PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?"
)
_UNDERSCORED: Final = frozenset({"log_level"})  # the librdkafka properties that are spelt with "_", not "."


class KafkaEnvironment(PydanticBaseSettingsSource):
    """``GATELOG_KAFKA_A_B`` as the librdkafka property ``a.b``."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not used: the source answers for one field as a whole."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return ``{"kafka": properties}``, or nothing when the environment has none."""
        services = [name.removesuffix(_SERVICE) for name in os.environ if name.endswith(_SERVICE)]
        found = {
            _property(name.removeprefix(_KAFKA_PREFIX)): value
            for name, value in os.environ.items()
            if name.startswith(_KAFKA_PREFIX) and not any(_is_of_service(name, service) for service in services)
        }
        return {"kafka": found} if found else {}


def _is_of_service(name: str, service: str) -> bool:
    """Say whether Kubernetes has set a variable for a service, of which it has set ``…_SERVICE_HOST`` too."""
    return name.startswith(service) and _OF_SERVICE.fullmatch(name, len(service)) is not None


def _property(name: str) -> str:
    lower = name.lower()
    return lower if lower in _UNDERSCORED else lower.replace("_", ".")


def _listed(value: Any) -> Any:  # noqa: ANN401 - the field's own type checks it
    """Several DSNs in one variable: with spaces between them, or as a JSON list."""
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.lstrip().startswith("[") else value.split()


Level: TypeAlias = Literal[
    "NONE",
    "BACKWARD",
    "BACKWARD_TRANSITIVE",
    "FORWARD",
    "FORWARD_TRANSITIVE",
    "FULL",
    "FULL_TRANSITIVE",
]


class SchemaSettings(BaseModel):
    """The table ``[schemas]``: what ``gatelog schema`` works on when its command line does not say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: tuple[Path, ...] = Field((), description=".avsc files, and folders of them")
    models: tuple[str, ...] = Field((), description="modules that define events")
    compatibility: Level | None = Field(None, description="of subjects that have none below; none: the registry's")
    subjects: dict[str, Level] = Field(default_factory=dict, description="compatibility of single subjects")
    lint_ignore: tuple[str, ...] = Field((), description="rules that lint leaves out")


class Settings(BaseSettings):
    """Everything that can be set; the limits carry their unit in their name."""

    model_config = SettingsConfigDict(env_prefix="GATELOG_", extra="forbid", frozen=True)

    store: Annotated[str, AfterValidator(check_store_name)] = "gatelog"
    home: Path = Field(Path(".gatelog"), description="state folder of the local services")
    postgres_dsn: SecretStr | None = None
    index_dsns: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_listed)] = Field(
        (), max_length=SHARDS_MAX, description="where the index is, a database a shard; none: beside the gate"
    )
    kafka: dict[str, str] = Field(default_factory=dict, description="librdkafka properties")

    topic_partitions: int = Field(8, ge=1, le=1000, description="of a new topic; fixed for its life")
    topic_replication: int = Field(-1, ge=-1, description="of a new topic; -1: the broker's default")
    topic_min_insync_replicas: int | None = Field(None, ge=1, description="of a new topic; none: the broker's")

    event_bytes_max: int = Field(1024 * 1024, ge=1, description="encoded payload of one event")
    metadata_bytes_max: int = Field(64 * 1024, ge=1, description="metadata of one event, as JSON")
    append_events_max: int = Field(10_000, ge=1, description="events in one append")
    batch_events_max: int = Field(2_000, ge=1, description="events that are appended in one statement")
    load_chunk_events: int = Field(10_000, ge=1, description="events that a bulk load stores in one transaction")
    append_connections: int = Field(2, ge=1, description="batches in flight at once")
    append_timeout_s: float = Field(30.0, gt=0)
    outbox_events_max: int = Field(5_000_000, ge=1, description="backlog beyond which appends are refused")
    outbox_segment_events: int = Field(200_000, ge=1, description="after which the outbox' segments take turns")
    outbox_snapshot_age_max_s: float = Field(
        60.0, ge=0, description="an older snapshot does not hold rotation up; what it reads of the outbox is an error"
    )

    tick_events_max: int = Field(20_000, ge=1, description="events in one Kafka transaction")
    tick_bytes_max: int = Field(64 * 1024 * 1024, ge=1, description="payload in one Kafka transaction")
    poll_interval_s: float = Field(0.5, gt=0, description="when no notification wakes the relay")
    index_rows_max: int = Field(5_000, ge=1, description="rows that the indexer writes in one transaction")
    index_jsonb: bool = Field(True, description="store the payload as jsonb too, for SQL")
    read_rows_max: int = Field(5_000, ge=1, description="rows that a read fetches at a time")

    snapshot_events: int = Field(100, ge=0, description="events after which a fold keeps a snapshot; 0: never")

    registry_url: str | None = Field(
        None, description="of a Confluent-compatible schema registry, commas between several; none: Postgres' tables"
    )
    registry_auth: SecretStr | None = Field(None, description="user:password, or key:secret")
    registry_ca_file: Path | None = Field(None, description="what the registry's certificate is checked against")
    registry_cert_file: Path | None = Field(None, description="our certificate, for mutual TLS")
    registry_key_file: Path | None = Field(None, description="the key of registry_cert_file, unless it is in there")
    registry_timeout_s: float = Field(10.0, gt=0, description="of one request")
    subscription_protocol: Literal["auto", "consumer", "classic"] = Field(
        "auto", description="of groups; consumer: KIP-848; auto: that, where brokers miss a member soon enough"
    )
    subscription_session_timeout_s: float = Field(
        6.0, ge=1, description="until a silent member is given up; brokers allow no less, if not told to"
    )
    subscription_events_max: int = Field(10_000, ge=1, description="events that a member holds at once")
    subscription_bytes_max: int = Field(64 * 1024 * 1024, ge=1, description="the same in bytes; one batch more")

    register_schemas: bool = Field(
        True, description="register a new schema at its first append; off in production: at deploy time"
    )

    schemas: SchemaSettings = SchemaSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments before environment before file before what ``gatelog up`` started."""
        file = TomlConfigSettingsSource(settings_cls, Path(os.environ.get("GATELOG_CONFIG") or SETTINGS_FILE))
        given = init_settings().get("home") or os.environ.get("GATELOG_HOME") or file().get("home")
        home = Path(given or cls.model_fields["home"].default)
        return (
            init_settings,
            env_settings,
            KafkaEnvironment(settings_cls),
            file,
            TomlConfigSettingsSource(settings_cls, home / ENDPOINTS_FILE),
        )

    @classmethod
    def load(cls, **overrides: Any) -> Self:  # noqa: ANN401 - the fields' own types check the values
        """Return the settings in force.

        Raises:
            SettingsError: a value is missing or wrong; the message names each setting.
        """
        try:
            return cls(**{name: value for name, value in overrides.items() if value is not None})
        except ValidationError as error:
            raise SettingsError(_explain(error)) from error
        except ValueError as error:  # the TOML file itself
            raise SettingsError(f"{SETTINGS_FILE} cannot be read: {error}") from error

    @property
    def dsn(self) -> str:
        """The Postgres DSN.

        Raises:
            SettingsError: none is set and no local Postgres was started.
        """
        if self.postgres_dsn is None:
            raise SettingsError(
                "No Postgres is configured. Start one with `gatelog up`, or set GATELOG_POSTGRES_DSN "
                f"or postgres_dsn in {SETTINGS_FILE}."
            )
        return dsns.check("The Postgres DSN (postgres_dsn)", self.postgres_dsn.get_secret_value())

    @property
    def shard_dsns(self) -> tuple[str, ...]:
        """The DSN of each shard of the index, in order; none when the index is in the gate's own database.

        Raises:
            SettingsError: one of them is not a DSN.
        """
        return tuple(
            dsns.check(f"index_dsns: number {n}", secret.get_secret_value())
            for n, secret in enumerate(self.index_dsns)
        )

    @property
    def kafka_properties(self) -> dict[str, str]:
        """The librdkafka properties.

        Raises:
            SettingsError: no bootstrap servers are set and no local Kafka was started.
        """
        if not self.kafka.get("bootstrap.servers"):
            raise SettingsError(
                "No Kafka is configured. Start one with `gatelog up`, or set GATELOG_KAFKA_BOOTSTRAP_SERVERS "
                f'or "bootstrap.servers" under [kafka] in {SETTINGS_FILE}.'
            )
        return dict(self.kafka)

    @property
    def record_bytes_max(self) -> int:
        """What the Kafka record of the largest legal event takes, headers and framing included."""
        return self.event_bytes_max + self.metadata_bytes_max + _ENVELOPE_BYTES_MAX


def _explain(error: ValidationError) -> str:
    lines = [
        f"{'.'.join(map(str, e['loc']))} (GATELOG_{'_'.join(map(str, e['loc'])).upper()}): {e['msg']}"
        for e in error.errors()
    ]
    return "Settings are wrong: " + "; ".join(lines)
