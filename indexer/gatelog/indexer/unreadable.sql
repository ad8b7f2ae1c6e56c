-- Records that could not be read when they came, kept whole in unreadable_records.

-- name: list
-- The open ones after number $1, or all of them with $2, the first $3.
SELECT id, topic, partition, "offset", reason, seen_at, resolved_at, resolution,
    octet_length(value) AS value_bytes, octet_length(key) AS key_bytes
FROM @store.unreadable_records
WHERE id > $1 AND ($2 OR resolved_at IS NULL)
ORDER BY id LIMIT $3

-- name: show
SELECT * FROM @store.unreadable_records WHERE id = $1

-- name: open
-- The next open ones after number $1, the first $2; with $3 these numbers only.
SELECT id, topic, partition, "offset", key, value, headers
FROM @store.unreadable_records
WHERE resolved_at IS NULL AND id > $1 AND ($3::bigint[] IS NULL OR id = ANY ($3))
ORDER BY id LIMIT $2

-- name: lock
-- Of two who retry one record, the second finds it settled.
SELECT FROM @store.unreadable_records WHERE id = $1 AND resolved_at IS NULL FOR UPDATE

-- name: same
-- Whether the index holds this very event, and its jsonb.
SELECT e.data_json IS NOT NULL AS has_json FROM @store.events e
WHERE e.position = $1 AND e.stream = $2 AND e.version = $3 AND e.event_id = $4 AND e.type = $5 AND e.data = $6

-- name: taken
-- Which event stands where this one claims to be.
SELECT e.position, e.stream, e.version, e.event_id FROM @store.events e
WHERE e.position = $1 OR (e.stream = $2 AND e.version = $3) OR e.event_id = $4
ORDER BY e.position LIMIT 1

-- name: fill
-- The one change that an event's row allows: see "refuse_all_but_missing_json".
UPDATE @store.events SET data_json = $2 WHERE position = $1 AND data_json IS NULL

-- name: settle
UPDATE @store.unreadable_records SET resolved_at = now(), resolution = $2 WHERE id = $1 AND resolved_at IS NULL
RETURNING id
