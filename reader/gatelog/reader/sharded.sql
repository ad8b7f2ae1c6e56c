-- name: pending
-- The outbox' part of a stream, and how far the index holds what has left the outbox ("left_upto"): one row at least.
SELECT f.position AS left_upto, p.*
FROM @store.index_frontier f
LEFT JOIN LATERAL (
    SELECT o.stream, o.version, NULL::bigint AS position, o.event_id, o.type, o.recorded_at, o.correlation_id,
        o.causation_id, o.traceparent, o.metadata, o.schema_id, o.data
    FROM @store.pending_events o
    WHERE o.stream = $1 COLLATE "C" AND o.version BETWEEN $2 AND $3
    ORDER BY o.version LIMIT $4
) p ON true

-- name: pending_backward
SELECT f.position AS left_upto, p.*
FROM @store.index_frontier f
LEFT JOIN LATERAL (
    SELECT o.stream, o.version, NULL::bigint AS position, o.event_id, o.type, o.recorded_at, o.correlation_id,
        o.causation_id, o.traceparent, o.metadata, o.schema_id, o.data
    FROM @store.pending_events o
    WHERE o.stream = $1 COLLATE "C" AND o.version BETWEEN $2 AND $3
    ORDER BY o.version DESC LIMIT $4
) p ON true

-- name: pending_version
SELECT f.position AS left_upto,
    coalesce((SELECT max(o.version) FROM @store.pending_events o WHERE o.stream = $1 COLLATE "C"), 0) AS version
FROM @store.index_frontier f
