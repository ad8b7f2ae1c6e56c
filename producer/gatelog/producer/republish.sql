-- Statements of a republication: topics filled from the index, and from the outbox what no index has seen yet.

-- name: state
-- Where the relay stands, and up to where there can be positions.
SELECT r.position, r.pending_events, @store.restored() AS restarted,
    greatest(r.position + r.pending_events, (SELECT max(i.position) FROM @store.indexed_events i)) AS highest
FROM @store.relay r

-- name: widths
-- How many partitions the topics had that were indexed.
SELECT topic, max(partition) + 1 AS partitions FROM @store.index_offsets GROUP BY topic

-- name: make_tables
-- "found": events that Kafka holds and the index does not. "again": positions that neither holds, and the events of
-- the outbox that had them.
DROP TABLE IF EXISTS found, again;
CREATE TEMP TABLE found (event_id uuid PRIMARY KEY);
CREATE TEMP TABLE again (position bigint PRIMARY KEY, id bigint NOT NULL)

-- name: compare
-- Of records that Kafka holds (position, id), those that the index does not hold so.
SELECT u.ord - 1 AS place, i.event_id IS NOT NULL AS is_other
FROM unnest($1::bigint[], $2::uuid[]) WITH ORDINALITY AS u (position, event_id, ord)
LEFT JOIN @store.indexed_events i ON i.position = u.position
WHERE i.event_id IS DISTINCT FROM u.event_id

-- name: keep_found
INSERT INTO found (event_id) SELECT u.id FROM unnest($1::uuid[]) AS u (id) ON CONFLICT DO NOTHING

-- name: indexed
SELECT position, stream FROM @store.indexed_events WHERE position > $1 ORDER BY position LIMIT $2

-- name: published_only
-- Events that were published, by what the relay has stored, and that neither the index nor Kafka holds: in the order in
-- which they were given their positions, as far as ids tell it.
SELECT o.id FROM @store.outgoing o, @store.relay r
WHERE (
        pg_visible_in_snapshot(o.txid, r.done_snapshot)
        OR (o.id <= r.after_id AND r.upto_snapshot IS NOT NULL AND pg_visible_in_snapshot(o.txid, r.upto_snapshot))
    )
    AND NOT EXISTS (SELECT FROM @store.indexed_events i WHERE i.event_id = o.event_id::uuid)
    AND NOT EXISTS (SELECT FROM found f WHERE f.event_id = o.event_id::uuid)
ORDER BY o.id LIMIT $1

-- name: again
SELECT a.position, o.stream FROM again a JOIN @store.outgoing o ON o.id = a.id ORDER BY a.position

-- name: disordered
-- Events whose position would not follow their version.
SELECT count(*) FROM again a
JOIN @store.outbox o ON o.id = a.id
JOIN @store.indexed_events i ON i.stream = o.stream
WHERE (i.version < o.version) <> (i.position < a.position)

-- name: rows
-- What is to be written after position $1, in categories $2, the first $3: as the relay takes it from the outbox.
SELECT * FROM (
    (
        SELECT i.position, i.stream, i.category, i.type, i.version::text, i.event_id::text, i.recorded_at,
            i.correlation_id::text, i.causation_id::text, i.traceparent, i.metadata,
            '\x00'::bytea || int4send(i.schema_id) || i.data AS value
        FROM @store.indexed_events i
        WHERE i.position > $1 AND i.category = ANY ($2::text[])
        ORDER BY i.position LIMIT $3
    )
    UNION ALL
    (
        SELECT a.position, o.stream, o.category, o.type, o.version, o.event_id, o.recorded_at, o.correlation_id,
            o.causation_id, o.traceparent, o.metadata, o.value
        FROM again a JOIN @store.outgoing o ON o.id = a.id
        WHERE a.position > $1 AND o.category = ANY ($2::text[])
        ORDER BY a.position LIMIT $3
    )
) r
ORDER BY r.position LIMIT $3

-- name: checked
-- Kafka was seen to hold exactly this position at these ends.
UPDATE @store.relay_leader SET epoch = epoch + 1, checked_position = $1, checked_offsets = $2
