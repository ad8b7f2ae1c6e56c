-- name: stream_forward
-- One stream, index and outbox in one statement, so that a row on its way from one to the other is seen once.
WITH indexed AS (
    SELECT i.stream, i.version, i.position, i.event_id, i.type, i.recorded_at, i.correlation_id, i.causation_id,
        i.traceparent, i.metadata, i.schema_id, i.data
    FROM @store.indexed_events i
    WHERE i.stream = $1 COLLATE "C" AND i.version BETWEEN $2 AND $3
    ORDER BY i.version LIMIT $4
)
SELECT * FROM indexed
UNION ALL (
    SELECT p.stream, p.version, NULL, p.event_id, p.type, p.recorded_at, p.correlation_id, p.causation_id,
        p.traceparent, p.metadata, p.schema_id, p.data
    FROM @store.pending_events p
    WHERE p.stream = $1 COLLATE "C" AND p.version BETWEEN $2 AND $3
        AND p.version > (
            SELECT coalesce(max(i.version), 0) FROM @store.indexed_events i WHERE i.stream = $1 COLLATE "C"
        )
    ORDER BY p.version LIMIT $4
)
ORDER BY version LIMIT $4

-- name: stream_backward
WITH indexed AS (
    SELECT i.stream, i.version, i.position, i.event_id, i.type, i.recorded_at, i.correlation_id, i.causation_id,
        i.traceparent, i.metadata, i.schema_id, i.data
    FROM @store.indexed_events i
    WHERE i.stream = $1 COLLATE "C" AND i.version BETWEEN $2 AND $3
    ORDER BY i.version DESC LIMIT $4
)
SELECT * FROM indexed
UNION ALL (
    SELECT p.stream, p.version, NULL, p.event_id, p.type, p.recorded_at, p.correlation_id, p.causation_id,
        p.traceparent, p.metadata, p.schema_id, p.data
    FROM @store.pending_events p
    WHERE p.stream = $1 COLLATE "C" AND p.version BETWEEN $2 AND $3
        AND p.version > (
            SELECT coalesce(max(i.version), 0) FROM @store.indexed_events i WHERE i.stream = $1 COLLATE "C"
        )
    ORDER BY p.version DESC LIMIT $4
)
ORDER BY version DESC LIMIT $4

-- name: version
SELECT greatest(
    (SELECT max(i.version) FROM @store.indexed_events i WHERE i.stream = $1 COLLATE "C"),
    (SELECT max(p.version) FROM @store.pending_events p WHERE p.stream = $1 COLLATE "C"),
    0
)

-- name: log
-- The whole log, or some categories of it, in position order, up to the frontier and never past it.
SELECT i.stream, i.version, i.position, i.event_id, i.type, i.recorded_at, i.correlation_id, i.causation_id,
    i.traceparent, i.metadata, i.schema_id, i.data
FROM @store.indexed_events i
WHERE i.position > $1 AND i.position <= (SELECT f.position FROM @store.index_frontier f)
    AND ($2::text[] IS NULL OR i.category = ANY ($2::text[]))
    AND ($3::text[] IS NULL OR i.type = ANY ($3::text[]))
    AND ($4::timestamptz IS NULL OR i.recorded_at >= $4)
    AND ($5::timestamptz IS NULL OR i.recorded_at < $5)
    AND ($6::jsonb IS NULL OR i.data_json @> $6)
ORDER BY i.position LIMIT $7

-- name: frontier
SELECT position FROM @store.index_frontier

-- name: positions
-- The positions of events, as far as they are indexed.
SELECT event_id, position FROM @store.indexed_events WHERE event_id = ANY ($1::uuid[])
