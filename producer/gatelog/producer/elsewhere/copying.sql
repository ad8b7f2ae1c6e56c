-- Statements by which a repair of the gate sees the index under one name, "indexed", wherever it is.

-- name: view
-- The index is in this database.
CREATE TEMP VIEW indexed AS SELECT position, stream, version, event_id, type FROM @store.indexed_events

-- name: table
-- It is in others: what is needed of it is copied.
CREATE TEMP TABLE indexed (
    position bigint PRIMARY KEY,
    stream text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    event_id uuid NOT NULL,
    type text COLLATE "C" NOT NULL
);
CREATE INDEX ON indexed (event_id);
CREATE INDEX ON indexed (stream, version)

-- name: put
INSERT INTO indexed (position, stream, version, event_id, type)
SELECT u.* FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::uuid[], $5::text[]) AS u
ON CONFLICT DO NOTHING

-- name: state
-- Of a shard: up to where it is whole, and its highest position.
SELECT f.position AS frontier, (SELECT coalesce(max(i.position), 0) FROM @store.indexed_events i) AS highest
FROM @store.index_frontier f

-- name: offsets
-- Of a shard: up to here, what Kafka holds of its streams is in it.
SELECT topic, partition, next_offset, leader_epoch, topic_id FROM @store.indexed_offsets

-- name: kept
-- Of a shard: records that wait for somebody to look at them, and those that were dismissed.
SELECT topic, partition, "offset", is_dismissed FROM @store.kept_records

-- name: since
-- Of a shard: events from position $1 on, the first $2.
SELECT position, stream, version, event_id, type FROM @store.indexed_events
WHERE position >= $1 ORDER BY position LIMIT $2

-- name: like
-- Of a shard: events that have one of these positions, or ids, or versions of these streams.
SELECT i.position, i.stream, i.version, i.event_id, i.type
FROM @store.indexed_events i WHERE i.position = ANY ($1::bigint[])
UNION
SELECT i.position, i.stream, i.version, i.event_id, i.type
FROM unnest($2::uuid[]) AS u (id)
JOIN LATERAL (SELECT x.* FROM @store.indexed_events x WHERE x.event_id = u.id LIMIT 1) i ON true
UNION
SELECT i.position, i.stream, i.version, i.event_id, i.type
FROM unnest($3::text[], $4::bigint[]) AS u (stream, version)
JOIN LATERAL (
    SELECT x.* FROM @store.indexed_events x WHERE x.stream = u.stream COLLATE "C" AND x.version = u.version LIMIT 1
) i ON true

-- name: waiting
-- A page of the outbox.
SELECT o.event_id FROM @store.outbox o WHERE $1::uuid IS NULL OR o.event_id > $1 ORDER BY o.event_id LIMIT $2

-- name: waiting_streams
-- A page of the streams in the outbox, and where each begins there.
SELECT o.stream, min(o.version) AS first FROM @store.outbox o
WHERE o.stream > $1 COLLATE "C" GROUP BY o.stream ORDER BY o.stream LIMIT $2

-- name: ends
-- Of a shard: the events of these streams from these versions on, and the one before them.
SELECT i.position, i.stream, i.version, i.event_id, i.type
FROM unnest($1::text[], $2::bigint[]) AS u (stream, first)
JOIN LATERAL (
    SELECT x.* FROM @store.indexed_events x WHERE x.stream = u.stream COLLATE "C" AND x.version >= u.first - 1
) i ON true

-- name: remember
-- The gate knows the ids of all events that are in the index and not in its outbox.
INSERT INTO @store.stored_ids (event_id, version, stream)
SELECT i.event_id, i.version, i.stream FROM indexed i ON CONFLICT DO NOTHING
