-- Statements of a verification. Each is one snapshot; a page of rows at a time.

-- name: session
-- Pages are looked up by index, whatever statistics say.
SET enable_seqscan = off;
SET jit = off;
SET default_transaction_read_only = on

-- name: state
SELECT p.position AS published, p.pending_events AS pending, f.position AS frontier,
    (SELECT count(*) FROM @store.unreadable_records u WHERE u.resolved_at IS NULL) AS unreadable
FROM @store.published p, @store.index_frontier f

-- name: offsets
SELECT topic, partition, max(next_offset) AS next_offset FROM @store.index_offsets GROUP BY topic, partition

-- name: dismissed
-- Records that somebody has looked at, and that are not to be indexed.
SELECT topic, partition, "offset" FROM @store.unreadable_records WHERE resolution LIKE 'dismissed:%' LIMIT $1

-- name: topics
SELECT topic, topic_id FROM @store.index_topics

-- name: rows
-- The rows that records of these positions should have become.
SELECT position, stream, version, event_id, type, recorded_at, correlation_id, causation_id, traceparent, metadata,
    schema_id, data
FROM @store.indexed_events WHERE position = ANY ($1::bigint[])

-- name: positions
-- Which positions after $1 up to $2 the index holds, the first $3.
SELECT position FROM @store.indexed_events WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3

-- name: disorder
-- Events from position $1 to $2 that do not follow their stream's last one, or that the gate does not know.
SELECT e.position, e.stream, e.version, b.position AS before, h.version AS head
FROM @store.indexed_events e
LEFT JOIN LATERAL (
    SELECT x.position FROM @store.indexed_events x WHERE x.stream = e.stream AND x.version = e.version - 1 LIMIT 1
) b ON e.version > 1
LEFT JOIN LATERAL (SELECT x.version FROM @store.stream_heads x WHERE x.stream = e.stream LIMIT 1) h ON true
WHERE e.position BETWEEN $1 AND $2
    AND (h.version IS NULL OR h.version < e.version
        OR (e.version > 1 AND (b.position IS NULL OR b.position >= e.position)))
ORDER BY e.position

-- name: heads
-- A page of streams after $1: where the gate says that they end, and where index and outbox do.
SELECT h.stream, h.version, greatest(i.version, p.version, 0) AS found
FROM (SELECT stream, version FROM @store.stream_heads WHERE stream > $1 COLLATE "C" ORDER BY stream LIMIT $2) h
LEFT JOIN LATERAL (SELECT max(x.version) AS version FROM @store.indexed_events x WHERE x.stream = h.stream) i ON true
LEFT JOIN LATERAL (SELECT max(x.version) AS version FROM @store.pending_events x WHERE x.stream = h.stream) p ON true
ORDER BY h.stream

-- name: outbox
-- A page of the outbox after stream $1 and version $2: what the index has under the same id, and what comes before.
SELECT o.stream, o.version, i.position, i.stream AS indexed_stream, i.version AS indexed_version,
    i.data IS NOT DISTINCT FROM o.data AND i.type IS NOT DISTINCT FROM o.type
        AND i.schema_id IS NOT DISTINCT FROM o.schema_id AND i.metadata IS NOT DISTINCT FROM o.metadata AS is_same,
    o.version = 1
        OR EXISTS (SELECT FROM @store.indexed_events x WHERE x.stream = o.stream AND x.version = o.version - 1)
        OR EXISTS (SELECT FROM @store.pending_events x WHERE x.stream = o.stream AND x.version = o.version - 1)
        AS follows
FROM (
    SELECT * FROM @store.pending_events p
    WHERE (p.stream, p.version) > ($1::text COLLATE "C", $2::bigint)
    ORDER BY p.stream, p.version LIMIT $3
) o
LEFT JOIN LATERAL (SELECT x.* FROM @store.indexed_events x WHERE x.event_id = o.event_id LIMIT 1) i ON true
ORDER BY o.stream, o.version
