-- name: offsets
-- Where to go on in the partitions that were assigned; a partition that was never read starts at 0.
SELECT a.topic, a.partition, coalesce(o.next_offset, 0) AS next_offset
FROM unnest($1::text[], $2::int[]) AS a (topic, partition)
LEFT JOIN @store.index_offsets o ON o.topic = a.topic COLLATE "C" AND o.partition = a.partition

-- name: claim_new
INSERT INTO @store.index_offsets (topic, partition, next_offset)
SELECT topic, partition, 0 FROM unnest($1::text[], $2::int[]) AS a (topic, partition)
ON CONFLICT DO NOTHING

-- name: advance
-- Compare and set: an indexer that lost its partition meanwhile finds another offset there, and writes nothing.
UPDATE @store.index_offsets o SET next_offset = b.upto
FROM (
    SELECT * FROM unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[]) AS u (topic, partition, since, upto)
) b
WHERE o.topic = b.topic COLLATE "C" AND o.partition = b.partition AND o.next_offset = b.since
RETURNING o.topic

-- name: frontier
SELECT @store.advance_frontier()

-- name: status
SELECT f.position AS frontier,
    (SELECT coalesce(max(position), 0) FROM @store.events) AS highest,
    (SELECT count(*) FROM @store.unreadable_records) AS unreadable,
    (SELECT count(*) FROM pg_stat_activity a
     WHERE a.application_name = 'gatelog indexer' AND a.datname = current_database()) > 0 AS indexer_is_active
FROM @store.index_frontier f
