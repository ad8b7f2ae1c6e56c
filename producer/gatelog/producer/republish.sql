-- Statements of a republication: topics filled from the index, and from the outbox what no index has seen yet. Some are for
-- the gate's database, some for each shard of the index; often these are the same.

-- name: state
-- Where the relay stands.
SELECT r.position, r.pending_events, @store.restored() AS restarted FROM @store.relay r

-- name: widths
-- Of a shard: how many partitions the topics had that were indexed.
SELECT topic, max(partition) + 1 AS partitions FROM @store.index_offsets GROUP BY topic

-- name: make_tables
-- "found": events that Kafka holds and the index does not. "again": positions that neither holds, and the events of
-- the outbox that had them.
DROP TABLE IF EXISTS found, again;
CREATE TEMP TABLE found (event_id uuid PRIMARY KEY);
CREATE TEMP TABLE again (position bigint PRIMARY KEY, id bigint NOT NULL)

-- name: ids_at
-- Of a shard: the events at these positions.
SELECT position, event_id FROM @store.indexed_events WHERE position = ANY ($1::bigint[])

-- name: keep_found
INSERT INTO found (event_id) SELECT u.id FROM unnest($1::uuid[]) AS u (id) ON CONFLICT DO NOTHING

-- name: indexed
-- Of a shard: what it holds after position $1, the first $2.
SELECT position, stream FROM @store.indexed_events WHERE position > $1 ORDER BY position LIMIT $2

-- name: published_only
-- Events after outbox id $1 that were published, by what the relay has stored, and that Kafka does not hold: in the order
-- in which they were given their positions, as far as ids tell it; the first $2.
SELECT o.id, o.event_id::uuid AS event_id FROM @store.outgoing o, @store.relay r
WHERE o.id > $1 AND (
        pg_visible_in_snapshot(o.txid, r.done_snapshot)
        OR (o.id <= r.after_id AND r.upto_snapshot IS NOT NULL AND pg_visible_in_snapshot(o.txid, r.upto_snapshot))
    )
    AND NOT EXISTS (SELECT FROM found f WHERE f.event_id = o.event_id::uuid)
ORDER BY o.id LIMIT $2

-- name: held
-- Of a shard: which of these ids it holds.
SELECT i.event_id FROM unnest($1::uuid[]) AS u (id)
JOIN LATERAL (SELECT x.event_id FROM @store.indexed_events x WHERE x.event_id = u.id LIMIT 1) i ON true

-- name: again
SELECT a.position, o.stream, o.version::bigint AS version
FROM again a JOIN @store.outgoing o ON o.id = a.id ORDER BY a.position

-- name: disordered
-- Of a shard: events whose position would not follow their version, of these positions, streams and versions.
SELECT count(*) AS events FROM unnest($1::bigint[], $2::text[], $3::bigint[]) AS a (position, stream, version)
JOIN @store.indexed_events i ON i.stream = a.stream COLLATE "C"
WHERE (i.version < a.version) <> (i.position < a.position)

-- name: rows
-- Of a shard: what is to be written after position $2, in categories $1, the first $3: as the relay takes it.
SELECT i.position, i.stream, i.category, i.type, i.version::text, i.event_id::text, i.recorded_at,
    i.correlation_id::text, i.causation_id::text, i.traceparent, i.metadata,
    '\x00'::bytea || int4send(i.schema_id) || i.data AS value
FROM @store.indexed_events i
WHERE i.position > $2 AND i.category = ANY ($1::text[])
ORDER BY i.position LIMIT $3

-- name: rows_again
-- The same of the outbox.
SELECT a.position, o.stream, o.category, o.type, o.version, o.event_id, o.recorded_at, o.correlation_id,
    o.causation_id, o.traceparent, o.metadata, o.value
FROM again a JOIN @store.outgoing o ON o.id = a.id
WHERE a.position > $2 AND o.category = ANY ($1::text[])
ORDER BY a.position LIMIT $3

-- name: checked
-- Kafka was seen to hold exactly this position at these ends.
UPDATE @store.relay_leader SET epoch = epoch + 1, checked_position = $1, checked_offsets = $2
