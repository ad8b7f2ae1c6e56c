-- name: lock_claims
-- Whoever waits here reads, in its next statement, what the one before has claimed.
SELECT pg_advisory_xact_lock(hashtextextended('@store:offsets', 0))

-- name: claim_new
-- A partition that was never read starts at 0.
INSERT INTO @store.index_offsets (topic, partition, next_offset)
SELECT a.topic, a.partition, 0
FROM unnest($1::text[], $2::int[]) AS a (topic, partition)
WHERE NOT EXISTS (
    SELECT FROM @store.index_offsets o WHERE o.topic = a.topic COLLATE "C" AND o.partition = a.partition
)

-- name: offsets
-- Where to go on in the partitions that were assigned.
SELECT a.topic, a.partition, o.next_offset, o.leader_epoch
FROM unnest($1::text[], $2::int[]) AS a (topic, partition)
JOIN LATERAL (
    SELECT o.next_offset, o.leader_epoch FROM @store.index_offsets o
    WHERE o.topic = a.topic COLLATE "C" AND o.partition = a.partition ORDER BY o.next_offset DESC LIMIT 1
) o ON true

-- name: advance
-- Compare and set: an indexer that lost its partition meanwhile finds another offset there, and writes nothing.
WITH left_behind AS (
    DELETE FROM @store.index_offsets o
    USING unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[], $5::int[]) AS b (topic, partition, since, upto, epoch)
    WHERE o.topic = b.topic COLLATE "C" AND o.partition = b.partition AND o.next_offset = b.since
    RETURNING o.topic, o.partition, b.upto, b.epoch
)
INSERT INTO @store.index_offsets (topic, partition, next_offset, leader_epoch)
SELECT topic, partition, upto, epoch FROM left_behind
RETURNING topic

-- name: without_predecessor
-- Which of these versions the index has none before. One short look each, whatever the planner thinks of their number.
SELECT b.stream, b.version
FROM unnest($1::text[], $2::bigint[]) AS b (stream, version)
WHERE (
    SELECT 1 FROM @store.events e WHERE e.stream = b.stream COLLATE "C" AND e.version = b.version - 1 LIMIT 1
) IS NULL

-- name: lost_predecessors
-- Of these: whose predecessor was not kept aside either. The key of a record is its stream; its headers may say nothing.
SELECT b.stream, b.version
FROM unnest($1::text[], $2::bigint[]) AS b (stream, version)
WHERE NOT EXISTS (
    SELECT FROM @store.unreadable_records u
    WHERE u.key = convert_to(b.stream, 'UTF8') AND coalesce(
        u.headers ->> 'ce_streamversion' = encode(convert_to((b.version - 1)::text, 'UTF8'), 'base64'), true)
)
ORDER BY b.stream, b.version

-- name: frontier
SELECT @store.advance_frontier()

-- name: doubles
-- Which rows of a batch (counted from 0) repeat one that is in the index, or an earlier one of the batch.
WITH b AS MATERIALIZED (
    SELECT u.*, u.ord - 1 AS place
    FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::uuid[])
        WITH ORDINALITY AS u (position, stream, version, event_id, ord)
)
SELECT b.place FROM b
WHERE EXISTS (SELECT FROM @store.events e WHERE e.position = b.position)
    OR EXISTS (SELECT FROM @store.events e WHERE e.stream = b.stream COLLATE "C" AND e.version = b.version)
    OR EXISTS (SELECT FROM @store.events e WHERE e.event_id = b.event_id)
    OR b.place > least(
        (SELECT min(x.place) FROM b x WHERE x.position = b.position),
        (SELECT min(x.place) FROM b x WHERE x.stream = b.stream AND x.version = b.version),
        (SELECT min(x.place) FROM b x WHERE x.event_id = b.event_id)
    )

-- name: copies
-- Which rows of a batch the index holds to the letter.
SELECT u.ord - 1 AS place
FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::uuid[], $5::text[], $6::int[], $7::bytea[])
    WITH ORDINALITY AS u (position, stream, version, event_id, type, schema_id, data, ord)
JOIN @store.events e ON e.position = u.position
WHERE e.stream = u.stream AND e.version = u.version AND e.event_id = u.event_id AND e.type = u.type
    AND e.schema_id = u.schema_id AND e.data = u.data

-- name: repeated_positions
-- The same by position alone, for a table that has no other index yet.
WITH b AS MATERIALIZED (
    SELECT u.position, u.ord - 1 AS place
    FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::uuid[])
        WITH ORDINALITY AS u (position, stream, version, event_id, ord)
)
SELECT b.place FROM b
WHERE EXISTS (SELECT FROM @store.events e WHERE e.position = b.position)
    OR b.place > (SELECT min(x.place) FROM b x WHERE x.position = b.position)

-- name: claim_topics
-- The ids of topics that are read for the first time.
INSERT INTO @store.index_topics (topic, topic_id)
SELECT t.topic, t.topic_id FROM unnest($1::text[], $2::text[]) AS t (topic, topic_id)
ON CONFLICT (topic) DO NOTHING

-- name: known_topics
SELECT topic FROM @store.index_topics

-- name: other_topics
-- Topics that had another id when they were read for the first time.
SELECT t.topic FROM @store.index_topics t
JOIN unnest($1::text[], $2::text[]) AS n (topic, topic_id) ON n.topic = t.topic COLLATE "C"
WHERE t.topic_id <> n.topic_id ORDER BY t.topic

-- name: accept_topics
-- Topics that were made anew: the ids by which they are known from now on.
UPDATE @store.index_topics t SET topic_id = n.topic_id
FROM unnest($1::text[], $2::text[]) AS n (topic, topic_id)
WHERE t.topic = n.topic COLLATE "C" AND t.topic_id <> n.topic_id
RETURNING t.topic

-- name: forget_offsets
DELETE FROM @store.index_offsets WHERE topic = ANY ($1::text[])

-- name: set_offsets
INSERT INTO @store.index_offsets (topic, partition, next_offset, leader_epoch)
SELECT t.* FROM unnest($1::text[], $2::int[], $3::bigint[], $4::int[]) AS t (topic, partition, next_offset, leader_epoch)

-- name: status
SELECT f.position AS frontier,
    (SELECT coalesce(max(position), 0) FROM @store.events) AS highest,
    (SELECT count(*) FROM @store.unreadable_records WHERE resolved_at IS NULL) AS unreadable,
    (SELECT count(*) FROM pg_stat_activity a
     WHERE a.application_name = 'gatelog indexer' AND a.datname = current_database()) > 0 AS indexer_is_active
FROM @store.index_frontier f
