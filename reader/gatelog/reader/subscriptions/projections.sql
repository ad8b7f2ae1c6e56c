-- name: lock_builds
-- Whoever waits here reads, in its next statement, what the one before has decided.
SELECT pg_advisory_xact_lock(hashtextextended('@store:projection:' || $1, 0))

-- name: builds
SELECT build, version, state, since, changed_at FROM @store.projection_builds
WHERE projection = $1 COLLATE "C" ORDER BY build

-- name: add_build
INSERT INTO @store.projection_builds (projection, build, version, state)
SELECT $1, coalesce(max(b.build), 0) + 1, $2, $3 FROM @store.projection_builds b WHERE b.projection = $1 COLLATE "C"
RETURNING build

-- name: has_tables
SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1)

-- name: set_state
UPDATE @store.projection_builds SET state = $3, changed_at = now() WHERE projection = $1 COLLATE "C" AND build = $2

-- name: drop_build
WITH offsets AS (DELETE FROM @store.projection_offsets WHERE projection = $1 COLLATE "C" AND build = $2)
DELETE FROM @store.projection_builds WHERE projection = $1 COLLATE "C" AND build = $2

-- name: projections
-- Every projection with its builds, and how far each has come.
SELECT b.projection, b.build, b.version, b.state, b.since, b.changed_at, count(o.topic) AS partitions,
    coalesce(sum(o.events), 0)::bigint AS events, coalesce(max(o.position), 0) AS position, max(o.moved_at) AS moved_at,
    EXISTS (
        -- of other roles' sessions, only the number may be seen
        SELECT FROM @store.projection_partitions p JOIN pg_stat_activity a ON a.pid = p.pid
        WHERE p.projection = b.projection AND p.build = b.build
            AND coalesce(a.backend_start = p.session_since, true)
    ) AS is_active
FROM @store.projection_builds b
LEFT JOIN @store.projection_offsets o ON o.projection = b.projection AND o.build = b.build
WHERE $1::text IS NULL OR b.projection = $1 COLLATE "C"
GROUP BY b.projection, b.build ORDER BY b.projection, b.build

-- name: standing
-- Where those stand that somebody may read.
SELECT o.projection, o.build, o.topic, o.partition, o.position, o.next_offset
FROM @store.projection_offsets o
JOIN @store.projection_builds b ON b.projection = o.projection AND b.build = o.build AND b.state <> 'retired'

-- name: head
-- The last position that is known to be in Kafka. In the store's own database.
SELECT position FROM @store.relay

-- name: checkpoints
SELECT topic, partition, position, next_offset, events, moved_at FROM @store.projection_offsets
WHERE projection = $1 COLLATE "C" AND build = $2

-- name: checkpoint
-- How far the live build has come in one partition; nothing when it has not met it.
SELECT o.position FROM @store.projection_offsets o
JOIN @store.projection_builds b ON b.projection = o.projection AND b.build = o.build AND b.state = 'live'
WHERE o.projection = $1 COLLATE "C" AND o.topic = $2 COLLATE "C" AND o.partition = $3
ORDER BY o.position DESC LIMIT 1

-- name: is_in_state
-- Whether a build is what a member takes it for ($3). If so, it stays that until the transaction ends: a switch waits.
-- Schemas are found by name: who does not ask may write into the read model that has the name now.
SELECT true FROM @store.projection_builds WHERE projection = $1 COLLATE "C" AND build = $2 AND state = $3 FOR SHARE

-- name: meet
-- Partitions that were never met, and where to begin in them.
WITH new AS (
    INSERT INTO @store.projection_partitions (projection, build, topic, partition)
    SELECT $1, $2, a.topic, a.partition FROM unnest($3::text[], $4::int[]) AS a (topic, partition)
    ORDER BY a.topic COLLATE "C", a.partition
    ON CONFLICT DO NOTHING
    RETURNING topic, partition
)
INSERT INTO @store.projection_offsets (projection, build, topic, partition, position, next_offset, events)
SELECT $1, $2, topic, partition, $5, $6, 0 FROM new

-- name: claim
-- Waits for the batch of whoever had a partition before: what that one commits is seen by the next statement.
WITH wanted AS MATERIALIZED (
    SELECT p.topic, p.partition FROM @store.projection_partitions p
    JOIN unnest($3::text[], $4::int[]) AS a (topic, partition) ON p.topic = a.topic COLLATE "C" AND p.partition = a.partition
    WHERE p.projection = $1 COLLATE "C" AND p.build = $2
    ORDER BY p.topic, p.partition FOR NO KEY UPDATE OF p
)
UPDATE @store.projection_partitions p SET generation = p.generation + 1, pid = $5, session_since = $6
FROM wanted w
WHERE p.projection = $1 COLLATE "C" AND p.build = $2 AND p.topic = w.topic AND p.partition = w.partition
RETURNING p.topic, p.partition, p.generation

-- name: offsets
SELECT DISTINCT ON (o.topic, o.partition) o.topic, o.partition, o.position, o.next_offset, o.leader_epoch,
    o.topic_id
FROM @store.projection_offsets o
JOIN unnest($3::text[], $4::int[]) AS a (topic, partition) ON o.topic = a.topic COLLATE "C" AND o.partition = a.partition
WHERE o.projection = $1 COLLATE "C" AND o.build = $2
ORDER BY o.topic, o.partition, o.position DESC, o.next_offset DESC

-- name: topics_read
-- Topics of which a build has read something.
SELECT DISTINCT topic FROM @store.projection_offsets WHERE projection = $1 COLLATE "C" AND build = $2 AND next_offset > 0

-- name: evict
-- End the sessions of those who hold partitions, and a batch of theirs open, although the group has given them away.
SELECT pg_terminate_backend(a.pid)
FROM pg_stat_activity a
WHERE a.pid <> pg_backend_pid() AND (a.pid, a.backend_start) IN (
    SELECT p.pid, p.session_since FROM @store.projection_partitions p
    JOIN unnest($3::text[], $4::int[]) AS w (topic, partition) ON p.topic = w.topic COLLATE "C" AND p.partition = w.partition
    WHERE p.projection = $1 COLLATE "C" AND p.build = $2
)

-- name: advance
-- First in a batch's transaction. Only a member of a build that is in the state that it believes ($11: see is_in_state)
-- and who holds the newest generation of a partition moves it, and only from where it believes it to be. The rows of the
-- build and of the partitions stay locked until the batch is in.
WITH build AS MATERIALIZED (
    SELECT FROM @store.projection_builds WHERE projection = $1 COLLATE "C" AND build = $2 AND state = $11 FOR SHARE
), own AS MATERIALIZED (
    SELECT b.topic, b.partition, b.position, b.next_offset, b.upto_position, b.upto_offset, b.upto_epoch, b.upto_id,
        b.events
    FROM @store.projection_partitions p
    JOIN unnest($3::text[], $4::int[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[],
            $12::int[], $13::text[], $10::bigint[])
        AS b (topic, partition, generation, position, next_offset, upto_position, upto_offset, upto_epoch, upto_id, events)
        ON p.topic = b.topic COLLATE "C" AND p.partition = b.partition
    WHERE p.projection = $1 COLLATE "C" AND p.build = $2 AND p.generation = b.generation AND EXISTS (SELECT FROM build)
    ORDER BY p.topic, p.partition FOR NO KEY UPDATE OF p
), left_behind AS (
    DELETE FROM @store.projection_offsets o USING own
    WHERE o.projection = $1 COLLATE "C" AND o.build = $2 AND o.topic = own.topic COLLATE "C"
        AND o.partition = own.partition AND o.position = own.position AND o.next_offset = own.next_offset
    RETURNING o.topic, o.partition, own.upto_position, own.upto_offset, own.upto_epoch, own.upto_id,
        o.events + own.events AS events
)
INSERT INTO @store.projection_offsets (projection, build, topic, partition, position, next_offset, leader_epoch, topic_id,
    events)
SELECT $1, $2, topic, partition, upto_position, upto_offset, upto_epoch, upto_id, events FROM left_behind
RETURNING topic, pg_current_xact_id()::text AS transaction, current_setting('search_path') AS search_path

-- name: is_open
-- Whether this is the transaction that has moved the checkpoint. Postgres refuses to say so in one that has failed.
SELECT pg_current_xact_id_if_assigned()::text IS NOT DISTINCT FROM $1::text

-- name: freeze
-- No batch of a build commits from here until this transaction ends, and no partition is claimed: both ask is_in_state.
SELECT FROM @store.projection_builds WHERE projection = $1 COLLATE "C" AND build = $2 FOR UPDATE

-- name: dismiss
-- Whoever works on these builds is refused at its next batch, and looks which build is live.
UPDATE @store.projection_partitions SET generation = generation + 1
WHERE projection = $1 COLLATE "C" AND build = ANY ($2::int[])

-- name: session
SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()

-- name: leased
SELECT holder, beat FROM @store.projection_leases WHERE projection = $1 COLLATE "C" AND build = $2

-- name: lease
-- Renewed by whoever has it; taken from whoever has it where its count stood still, at $4.
INSERT INTO @store.projection_leases AS l (projection, build, holder) VALUES ($1, $2, $3)
ON CONFLICT (projection, build) DO UPDATE SET holder = $3, beat = l.beat + 1 WHERE l.holder = $3 OR l.beat = $4::bigint
RETURNING holder

-- name: release_lease
DELETE FROM @store.projection_leases WHERE projection = $1 COLLATE "C" AND build = $2 AND holder = $3
