-- name: known
-- Where a subscription began.
SELECT start_position, start_time, start_offsets FROM @store.subscriptions WHERE name = $1

-- name: remember
-- The first member decides where the subscription begins.
INSERT INTO @store.subscriptions (name, categories, start_position, start_time, start_offsets)
VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING

-- name: published
-- The last position that is known to be in Kafka, or to have been.
SELECT position FROM @store.relay

-- name: indexed_after
-- What the index has of a category behind a position, and its last position there.
SELECT i.position, i.stream, i.recorded_at,
    (SELECT max(h.position) FROM @store.indexed_events h WHERE h.category = $1 COLLATE "C") AS highest
FROM @store.indexed_events i WHERE i.category = $1 COLLATE "C" AND i.position > $2 ORDER BY i.position LIMIT $3

-- name: all
-- Every subscription that has run.
SELECT name, categories, created_at, start_position, start_time FROM @store.subscriptions ORDER BY name

-- name: beat
-- A member says that it is alive, and how it is doing.
INSERT INTO @store.subscription_members AS m (subscription, member, host, pid, polled_s_ago, progressed_s_ago, facts)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (subscription, member) DO UPDATE SET
    beat_at = clock_timestamp(),
    polled_s_ago = excluded.polled_s_ago,
    progressed_s_ago = excluded.progressed_s_ago,
    facts = excluded.facts

-- name: bury
-- Members that died without a word long ago are of no interest any more.
DELETE FROM @store.subscription_members WHERE beat_at < clock_timestamp() - interval '1 day'

-- name: leave
DELETE FROM @store.subscription_members WHERE subscription = $1 AND member = $2

-- name: members
-- Who runs now, or was not heard of since.
SELECT subscription, member, host, pid, started_at, polled_s_ago, progressed_s_ago, facts,
    extract(epoch FROM clock_timestamp() - beat_at)::float8 AS beat_s_ago
FROM @store.subscription_members ORDER BY started_at

-- name: marks
-- Where a group has handled these partitions, as far as it was kept.
SELECT m.topic, m.partition, m.next_offset, m.position, m.leader_epoch, m.topic_id, m.settled, m.waits
FROM @store.group_marks m
JOIN unnest($2::text[], $3::int[]) AS a (topic, partition) ON m.topic = a.topic COLLATE "C" AND m.partition = a.partition
WHERE m.consumer_group = $1 COLLATE "C"

-- name: keep_marks
INSERT INTO @store.group_marks
    (consumer_group, topic, partition, next_offset, position, leader_epoch, topic_id, settled, waits)
SELECT $1, a.* FROM unnest($2::text[], $3::int[], $4::bigint[], $5::bigint[], $6::int[], $7::text[], $8::bigint[], $9::bool[])
    AS a (topic, partition, next_offset, position, leader_epoch, topic_id, settled, waits)
ON CONFLICT (consumer_group, topic, partition) DO UPDATE SET next_offset = excluded.next_offset,
    position = excluded.position, leader_epoch = excluded.leader_epoch, topic_id = excluded.topic_id,
    settled = excluded.settled, waits = excluded.waits
