-- name: search_path
-- Only what Postgres itself brings is meant by a bare name: not what others have put into "public".
SET @scope search_path = ''

-- name: settings
-- What correctness rests on, whatever the role or the database says. Statements are bounded by our own timeouts. Who
-- made synchronous_commit stronger than "on" knows why; "off" would acknowledge what a crash takes back. There is no
-- transaction_timeout before Postgres 17.
SET @scope default_transaction_isolation = 'read committed';
SET @scope default_transaction_read_only = off;
SET @scope default_transaction_deferrable = off;
SET @scope statement_timeout = 0;
SET @scope lock_timeout = 0;
SET @scope idle_in_transaction_session_timeout = 0;
SET @scope idle_session_timeout = 0;
SET @scope standard_conforming_strings = on;
SET @scope backslash_quote = safe_encoding;
SET @scope "TimeZone" = 'UTC';
SET @scope "DateStyle" = 'ISO';
SELECT pg_catalog.set_config('synchronous_commit', 'on', '@scope' OPERATOR(pg_catalog.=) 'LOCAL')
WHERE pg_catalog.current_setting('synchronous_commit') OPERATOR(pg_catalog.=) 'off';
SELECT pg_catalog.set_config('transaction_timeout', '0', '@scope' OPERATOR(pg_catalog.=) 'LOCAL')
WHERE pg_catalog.current_setting('transaction_timeout', true) IS NOT NULL

-- name: may_write
-- In the transaction that a default has made read-only; before its first query. A standby refuses it.
SET LOCAL transaction_read_only = off

-- name: history
-- Which history of which cluster this is: a promotion begins another one. (The control file says so after the first
-- checkpoint only, the name of the WAL file at once.) A standby has none of its own.
SELECT CASE WHEN NOT pg_is_in_recovery() THEN
    c.system_identifier || '/' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)
END
FROM pg_control_system() c

-- name: same_history
DO $$ BEGIN
    IF (@history) <> '@known' THEN
        RAISE 'this is another Postgres than before: a standby was promoted, or a backup restored'
            USING ERRCODE = 'cannot_connect_now';
    END IF;
END $$
