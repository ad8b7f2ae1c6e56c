"""Which registry a store has: a server, if the settings name one, else its own tables."""

from gatelog.core import postgres
from gatelog.core.settings import Settings
from gatelog.schemas.confluent import ConfluentRegistry
from gatelog.schemas.postgres_registry import PostgresRegistry
from gatelog.schemas.registry import Registry


def registry_of(settings: Settings, pool: postgres.Pool) -> Registry:
    """Return the registry of a store; ``pool`` stays the caller's.

    Raises:
        SettingsError: the settings of the registry cannot be used.
    """
    return PostgresRegistry(settings, pool) if settings.registry_url is None else ConfluentRegistry(settings)
