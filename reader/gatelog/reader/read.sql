-- name: stream_forward
-- One stream, index and outbox in one statement, so that a row on its way from one to the other is seen once.
(
    SELECT i.stream, i.version, i.position, i.event_id, i.type, i.recorded_at, i.correlation_id, i.causation_id,
        i.traceparent, i.metadata, i.schema_id, i.data
    FROM @store.indexed_events i
    WHERE i.stream = $1 COLLATE "C" AND i.version BETWEEN $2 AND $3
    ORDER BY i.version LIMIT $4
)
UNION ALL (
    SELECT p.stream, p.version, NULL, p.event_id, p.type, p.recorded_at, p.correlation_id, p.causation_id,
        p.traceparent, p.metadata, p.schema_id, p.data
    FROM @store.pending_events p
    WHERE p.stream = $1 COLLATE "C" AND p.version BETWEEN $2 AND $3
        AND p.version > (
            SELECT coalesce(max(x.version), 0) FROM @store.indexed_events x WHERE x.stream = $1 COLLATE "C"
        )
    ORDER BY p.version LIMIT $4
)
ORDER BY version LIMIT $4

-- name: stream_backward
(
    SELECT i.stream, i.version, i.position, i.event_id, i.type, i.recorded_at, i.correlation_id, i.causation_id,
        i.traceparent, i.metadata, i.schema_id, i.data
    FROM @store.indexed_events i
    WHERE i.stream = $1 COLLATE "C" AND i.version BETWEEN $2 AND $3
    ORDER BY i.version DESC LIMIT $4
)
UNION ALL (
    SELECT p.stream, p.version, NULL, p.event_id, p.type, p.recorded_at, p.correlation_id, p.causation_id,
        p.traceparent, p.metadata, p.schema_id, p.data
    FROM @store.pending_events p
    WHERE p.stream = $1 COLLATE "C" AND p.version BETWEEN $2 AND $3
        AND p.version > (
            SELECT coalesce(max(x.version), 0) FROM @store.indexed_events x WHERE x.stream = $1 COLLATE "C"
        )
    ORDER BY p.version DESC LIMIT $4
)
ORDER BY version DESC LIMIT $4

-- name: streams_forward
-- The same for several reads at once; the last column says which of them, counted from 1.
SELECT e.*, r.number
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[])
    WITH ORDINALITY AS r (stream, lowest, highest, rows_max, number),
LATERAL (
    (
        SELECT i.stream, i.version, i.position, i.event_id, i.type, i.recorded_at, i.correlation_id, i.causation_id,
            i.traceparent, i.metadata, i.schema_id, i.data
        FROM @store.indexed_events i
        WHERE i.stream = r.stream COLLATE "C" AND i.version BETWEEN r.lowest AND r.highest
        ORDER BY i.version LIMIT r.rows_max
    )
    UNION ALL (
        SELECT p.stream, p.version, NULL, p.event_id, p.type, p.recorded_at, p.correlation_id, p.causation_id,
            p.traceparent, p.metadata, p.schema_id, p.data
        FROM @store.pending_events p
        WHERE p.stream = r.stream COLLATE "C" AND p.version BETWEEN r.lowest AND r.highest
            AND p.version > (
                SELECT coalesce(max(x.version), 0) FROM @store.indexed_events x WHERE x.stream = r.stream COLLATE "C"
            )
        ORDER BY p.version LIMIT r.rows_max
    )
    ORDER BY version LIMIT r.rows_max
) e
ORDER BY r.number, e.version

-- name: streams_backward
SELECT e.*, r.number
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[])
    WITH ORDINALITY AS r (stream, lowest, highest, rows_max, number),
LATERAL (
    (
        SELECT i.stream, i.version, i.position, i.event_id, i.type, i.recorded_at, i.correlation_id, i.causation_id,
            i.traceparent, i.metadata, i.schema_id, i.data
        FROM @store.indexed_events i
        WHERE i.stream = r.stream COLLATE "C" AND i.version BETWEEN r.lowest AND r.highest
        ORDER BY i.version DESC LIMIT r.rows_max
    )
    UNION ALL (
        SELECT p.stream, p.version, NULL, p.event_id, p.type, p.recorded_at, p.correlation_id, p.causation_id,
            p.traceparent, p.metadata, p.schema_id, p.data
        FROM @store.pending_events p
        WHERE p.stream = r.stream COLLATE "C" AND p.version BETWEEN r.lowest AND r.highest
            AND p.version > (
                SELECT coalesce(max(x.version), 0) FROM @store.indexed_events x WHERE x.stream = r.stream COLLATE "C"
            )
        ORDER BY p.version DESC LIMIT r.rows_max
    )
    ORDER BY version DESC LIMIT r.rows_max
) e
ORDER BY r.number, e.version DESC

-- name: version
SELECT greatest(
    (SELECT max(i.version) FROM @store.indexed_events i WHERE i.stream = $1 COLLATE "C"),
    (SELECT max(p.version) FROM @store.pending_events p WHERE p.stream = $1 COLLATE "C"),
    0
)

-- name: frontier
SELECT position FROM @store.index_frontier

-- name: positions
-- The positions of events, as far as they are indexed.
SELECT event_id, position FROM @store.indexed_events WHERE event_id = ANY ($1::uuid[])

-- name: cursor_key
SELECT key FROM @store.cursor_key
