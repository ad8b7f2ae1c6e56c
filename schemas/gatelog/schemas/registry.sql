-- name: find
-- The id of one exact definition of a subject.
SELECT id FROM @store.schemas WHERE subject = $1 AND sha256 = $2

-- name: lock_subject
-- Versions of a subject are numbered one at a time; the lock ends with the transaction.
SELECT pg_advisory_xact_lock(hashtextextended('@store' || ':schema:' || $1, 0))

-- name: register
-- The next version of a subject; an equal definition is not written twice (see lock_subject).
INSERT INTO @store.schemas (subject, version, definition, sha256)
SELECT $1, coalesce(max(version), 0) + 1, $2, $3 FROM @store.schemas WHERE subject = $1
RETURNING id

-- name: by_ids
SELECT id, subject, version, definition FROM @store.schemas WHERE id = ANY ($1::int[])

-- name: latest
SELECT id, subject, version, definition FROM @store.schemas WHERE subject = $1 ORDER BY version DESC LIMIT 1
