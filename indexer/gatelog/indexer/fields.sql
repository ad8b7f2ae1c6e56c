-- name: definition
-- The index on a field ($2) of an event type ($1), compared as $3 and called $4: its name, and the statements that make it.
-- Positions are in it too, so that equality gives them in order. Statistics are made beside it: of a partial index the
-- planner does not use those that come with it.
SELECT f.name,
    format('CREATE INDEX CONCURRENTLY %I ON @store.events ((%s), position) WHERE type = %L', f.name, f.field, $1::text) AS make,
    format('COMMENT ON INDEX @store.%I IS %L', f.name, $4::text) AS describe,
    format('CREATE STATISTICS IF NOT EXISTS @store.%I ON (%s) FROM @store.events', f.name, f.field) AS observe
FROM (
    SELECT 'events_field_' || left(md5(jsonb_build_array($1::text, $2::text[], $3::text)::text), 16) AS name,
        format('@store.payload_%s(data_json, %L::text[])', $3::text, $2::text[])
        || CASE WHEN $3 = 'text' THEN ' COLLATE "C"' ELSE '' END AS field
) f

-- name: present
-- The indexes on fields that there are. One that is not valid was left behind by an attempt that was broken off.
SELECT c.relname AS name, i.indisvalid AS is_valid, obj_description(c.oid, 'pg_class') AS field
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = '@store.events'::regclass AND c.relname LIKE 'events\_field\_%'
ORDER BY field

-- name: remove
-- Names are of our own making (definition).
DROP INDEX CONCURRENTLY IF EXISTS @store.@name

-- name: forget
DROP STATISTICS IF EXISTS @store.@name

-- name: analyze
-- So that the planner knows the values of new fields.
ANALYZE @store.events
