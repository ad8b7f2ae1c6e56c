-- name: find
-- One exact definition of a subject.
SELECT id, subject, version, definition FROM @store.schemas WHERE subject = $1 AND sha256 = $2

-- name: lock_subject
-- Versions of a subject are numbered one at a time; the lock ends with the transaction.
SELECT pg_advisory_xact_lock(hashtextextended('@store' || ':schema:' || $1, 0))

-- name: register
-- The next version of a subject; an equal definition is not written twice (see lock_subject).
INSERT INTO @store.schemas (subject, version, definition, sha256)
SELECT $1, coalesce(max(version), 0) + 1, $2, $3 FROM @store.schemas WHERE subject = $1
RETURNING id, subject, version, definition

-- name: lock_all
-- Nothing else is registered while schemas are imported under ids of their own.
LOCK TABLE @store.schemas IN SHARE ROW EXCLUSIVE MODE

-- name: is_awaited
-- Whether the table was lost and made anew, and takes nothing but what is imported: see anew.sql.
SELECT EXISTS (
    SELECT FROM pg_trigger t WHERE t.tgrelid = '@store.schemas'::regclass AND t.tgname = 'schemas_await_copy'
)

-- name: admit
DROP TRIGGER schemas_await_copy ON @store.schemas

-- name: import
-- A schema of another registry, under the id and version that it has there.
INSERT INTO @store.schemas (id, subject, version, definition, sha256) OVERRIDING SYSTEM VALUE
VALUES ($1, $2, $3, $4, $5)

-- name: move_ids
-- What is registered next gets an id above those that were imported.
SELECT setval(pg_get_serial_sequence('@store.schemas', 'id'), max(id)) FROM @store.schemas HAVING max(id) IS NOT NULL

-- name: subjects
SELECT DISTINCT subject FROM @store.schemas ORDER BY subject

-- name: versions
SELECT id, subject, version, definition FROM @store.schemas WHERE subject = $1 ORDER BY version

-- name: by_ids
SELECT id, subject, version, definition FROM @store.schemas WHERE id = ANY ($1::int[])

-- name: latest
SELECT id, subject, version, definition FROM @store.schemas WHERE subject = $1 ORDER BY version DESC LIMIT 1

-- name: level
-- The level of a subject, or of those that have none of their own ('').
SELECT level FROM @store.schema_levels WHERE subject IN ($1, '') ORDER BY subject DESC LIMIT 1

-- name: levels
SELECT subject, level FROM @store.schema_levels ORDER BY subject

-- name: set_level
INSERT INTO @store.schema_levels (subject, level) VALUES ($1, $2)
ON CONFLICT (subject) DO UPDATE SET level = excluded.level
