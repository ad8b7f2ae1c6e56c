-- Statements of a verification. Each is one snapshot of one database, the gate's or a shard's; often these are the same.
-- What may move from the outbox to the index is asked of the gate first: so it is in one of the answers at least.

-- name: session
-- Pages are looked up by index, whatever statistics say.
SET enable_seqscan = off;
SET jit = off;
SET default_transaction_read_only = on

-- name: published
-- At the gate: how far the relay has come, and how far the index is known to be.
SELECT p.position AS published, p.pending_events AS pending, f.position AS told
FROM @store.published p, @store.index_frontier f

-- name: heads
-- At the gate: a page of streams after $1, where they end, and the last version of each in the outbox.
SELECT h.stream, h.version, coalesce(p.version, 0) AS waiting
FROM (SELECT stream, version FROM @store.stream_heads WHERE stream > $1 COLLATE "C" ORDER BY stream LIMIT $2) h
LEFT JOIN LATERAL (SELECT max(x.version) AS version FROM @store.pending_events x WHERE x.stream = h.stream) p ON true
ORDER BY h.stream

-- name: heads_of
-- At the gate: where these streams end.
SELECT u.stream, h.version FROM unnest($1::text[]) AS u (stream)
JOIN LATERAL (SELECT x.version FROM @store.stream_heads x WHERE x.stream = u.stream COLLATE "C" LIMIT 1) h ON true

-- name: outbox
-- At the gate: a page of the outbox after stream $1 and version $2, and whether what comes before is there too.
SELECT o.stream, o.version, o.event_id, o.type, o.schema_id, o.metadata, sha256(o.data) AS digest,
    o.version = 1
        OR EXISTS (SELECT FROM @store.pending_events x WHERE x.stream = o.stream AND x.version = o.version - 1)
        AS follows
FROM (
    SELECT * FROM @store.pending_events p
    WHERE (p.stream, p.version) > ($1::text COLLATE "C", $2::bigint)
    ORDER BY p.stream, p.version LIMIT $3
) o
ORDER BY o.stream, o.version

-- name: forgotten
-- At the gate: which of these ids it would not recognise.
SELECT u.id FROM unnest($1::uuid[]) AS u (id)
WHERE NOT EXISTS (SELECT FROM @store.indexed_events i WHERE i.event_id = u.id)
    AND NOT EXISTS (SELECT FROM @store.pending_events p WHERE p.event_id = u.id)

-- name: state
SELECT f.position AS frontier,
    (SELECT count(*) FROM @store.unreadable_records u WHERE u.resolved_at IS NULL) AS unreadable
FROM @store.index_frontier f

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

-- name: page
-- Events after position $1 up to $2, the first $3, and where the version before each is.
SELECT e.position, e.stream, e.version, e.event_id, b.position AS before
FROM (
    SELECT i.position, i.stream, i.version, i.event_id FROM @store.indexed_events i
    WHERE i.position > $1 AND i.position <= $2 ORDER BY i.position LIMIT $3
) e
LEFT JOIN LATERAL (
    SELECT x.position FROM @store.indexed_events x WHERE x.stream = e.stream AND x.version = e.version - 1 LIMIT 1
) b ON e.version > 1
ORDER BY e.position

-- name: ends
-- The last version of these streams.
SELECT u.stream, coalesce(i.version, 0) AS version FROM unnest($1::text[]) AS u (stream)
LEFT JOIN LATERAL (
    SELECT max(x.version) AS version FROM @store.indexed_events x WHERE x.stream = u.stream COLLATE "C"
) i ON true

-- name: of_ids
SELECT i.event_id, i.position, i.stream, i.version, i.type, i.schema_id, i.metadata, sha256(i.data) AS digest
FROM unnest($1::uuid[]) AS u (id)
JOIN LATERAL (SELECT x.* FROM @store.indexed_events x WHERE x.event_id = u.id LIMIT 1) i ON true

-- name: held
-- Which of these streams have these versions.
SELECT u.stream, u.version FROM unnest($1::text[], $2::bigint[]) AS u (stream, version)
WHERE EXISTS (SELECT FROM @store.indexed_events x WHERE x.stream = u.stream COLLATE "C" AND x.version = u.version)
