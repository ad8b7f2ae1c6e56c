"""A role that Postgres' administrators have given settings of their own, and names that somebody has planted."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from pydantic import SecretStr

from gatelog.core.settings import Settings
from support.apart import connected

HOSTILE = {
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "statement_timeout": "900ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "900ms",
    "idle_session_timeout": "900ms",
    "standard_conforming_strings": "off",
    "backslash_quote": "off",
    "synchronous_commit": "off",
    "TimeZone": "Asia/Kathmandu",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "bytea_output": "escape",
    "client_encoding": "LATIN1",
    "row_security": "off",
    "jit": "on",
    "plan_cache_mode": "force_custom_plan",
    "enable_indexscan": "off",
}
# What is found here before Postgres' own, where a bare name is meant by the caller's search path.
_PLANTED = """
CREATE SCHEMA @tag;
CREATE FUNCTION @tag.trap() RETURNS text LANGUAGE plpgsql AS $f$ BEGIN RAISE 'a planted name was used'; END $f$;
CREATE FUNCTION @tag.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $f$ SELECT @tag.trap()::timestamptz $f$;
CREATE FUNCTION @tag.nextval(regclass) RETURNS bigint LANGUAGE sql AS $f$ SELECT @tag.trap()::bigint $f$;
CREATE FUNCTION @tag.cardinality(anyarray) RETURNS int LANGUAGE sql AS $f$ SELECT @tag.trap()::int $f$;
CREATE FUNCTION @tag.jsonb_typeof(jsonb) RETURNS text LANGUAGE sql AS $f$ SELECT @tag.trap() $f$;
CREATE FUNCTION @tag.less(bigint, bigint) RETURNS boolean LANGUAGE sql AS $f$ SELECT @tag.trap() = '' $f$;
CREATE OPERATOR @tag.< (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = @tag.less);
CREATE OPERATOR @tag.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = @tag.less);
GRANT USAGE ON SCHEMA @tag TO PUBLIC;
"""


@asynccontextmanager
async def hostile_role(settings: Settings) -> AsyncIterator[Settings]:
    """Yield settings by which every connection is a role's whose defaults suit nobody; it is dropped at the end."""
    tag = f"hostile_{secrets.token_hex(4)}"
    at = urlsplit(settings.dsn)
    async with connected(settings.dsn) as connection:
        await connection.execute(_PLANTED.replace("@tag", tag))
        await connection.execute(f"CREATE ROLE {tag} LOGIN PASSWORD '{tag}'")
        await connection.execute(f"GRANT CREATE ON DATABASE {at.path[1:]} TO {tag}")
        newer = {"transaction_timeout": "900ms"} if connection.get_server_version() >= (17,) else {}
        for name, value in {**HOSTILE, **newer, "search_path": f"{tag}, pg_catalog"}.items():
            chosen = value if name == "search_path" else f"'{value}'"
            await connection.execute(f"ALTER ROLE {tag} SET {name} = {chosen}")
        try:
            dsn = at._replace(netloc=f"{tag}:{tag}@{at.hostname}:{at.port}").geturl()
            yield settings.model_copy(update={"postgres_dsn": SecretStr(dsn)})
        finally:
            await connection.execute(f"DROP OWNED BY {tag} CASCADE")
            await connection.execute(f"DROP SCHEMA {tag} CASCADE; DROP ROLE {tag}")
