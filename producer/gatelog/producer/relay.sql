-- name: session
-- The outbox is read in id order, from where the last tick ended, whatever statistics say: never as a whole.
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SET plan_cache_mode = force_generic_plan;
SET jit = off

-- name: try_lock
-- One active relay a store; standbys try again. A session lock: it ends with the connection. The first sign of life
-- comes with it, so that nobody who holds it can freeze before.
UPDATE @store.relay_lease SET holder = $1, pid = pg_backend_pid(), beat = beat + 1
WHERE pg_try_advisory_lock(hashtextextended('@store:relay', 0))
RETURNING holder

-- name: lease
SELECT holder, beat FROM @store.relay_lease

-- name: try_lease
-- Without a session there is no lock: who leads counts on, and $2 is where the count stood still. One who believes wrongly
-- that it leads, or is replaced by a relay that has the lock, finds out at its next sign of life; until then it is refused
-- by its epoch and by Kafka.
UPDATE @store.relay_lease SET holder = $1, pid = 0, beat = beat + 1 WHERE beat = $2 RETURNING holder

-- name: end_lease
UPDATE @store.relay_lease SET holder = '', beat = beat + 1 WHERE holder = $1

-- name: take_over
-- From here on, a relay of an older epoch can fix no tick. What it has fixed is read in a statement of its own, whose
-- snapshot is younger than the lock.
UPDATE @store.relay_leader SET epoch = epoch + 1

-- name: stand
-- Where the relay stands. "restarted": the rows were restored from a dump, transaction ids mean nothing any more.
SELECT *, @store.restored() AS restarted FROM @store.relay

-- name: beat
UPDATE @store.relay_lease SET beat = beat + 1 WHERE holder = $1 RETURNING holder

-- name: evict
-- End the session of an active relay whose count has stood still at $1 for too long. What it may still do when it wakes
-- up is refused by its epoch, and by Kafka.
WITH frozen AS MATERIALIZED (  -- first who it is: a planner may call a function before it has looked at all conditions
    SELECT r.holder, l.pid
    FROM @store.relay_lease r, pg_locks l
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
        AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
        AND ((l.classid::bigint << 32) | l.objid::bigint) = hashtextextended('@store:relay', 0)
        AND l.pid = r.pid AND r.beat = $1
)
SELECT f.holder FROM frozen f WHERE pg_terminate_backend(f.pid)

-- name: mark
-- "is_awaited": a rotation of the outbox waits to see stored that everything before it is published.
SELECT m.last_id, m.xid, m.snapshot, NOT pg_visible_in_snapshot(s.cut_xid, r.done_snapshot) AS is_awaited
FROM @store.mark() m, @store.outbox_state s, @store.relay r

-- name: due
-- The events of an interval in outbox id order: those after $1 up to $2, the first $3, and of these so many that the
-- payloads before each are below $4 bytes. "done" is $5 (id), $6 (xid), $7 (snapshot); "upto" is the snapshot $8.
--
-- What upto sees and done did not see is in transactions that began after done's own xid: their ids lie above done's
-- id, and are found here. Or in those that were, or may have been, running at done: see "late". So the cost follows
-- the interval, and not the age of the oldest open transaction. CASE: the condition is not for an index.
SELECT id, stream, category, type, version, event_id, recorded_at, correlation_id, causation_id, traceparent, metadata,
    value
FROM (
    SELECT o.*, sum(o.size) OVER (ORDER BY o.id ROWS UNBOUNDED PRECEDING) AS total
    FROM @store.outgoing o
    WHERE o.id > greatest($1::bigint, $5::bigint) AND o.id <= $2::bigint
        AND CASE WHEN o.txid > $6::xid8
            THEN NOT pg_visible_in_snapshot(o.txid, $7::pg_snapshot) AND pg_visible_in_snapshot(o.txid, $8::pg_snapshot)
            ELSE false END
    ORDER BY o.id LIMIT $3::bigint
) d
WHERE d.total - d.size < $4::bigint
ORDER BY d.id

-- name: late
-- The other events of the interval, those of transactions that were running at done: the ones that it lists, and the
-- ones between its xmax (the last *completed* xid plus one) and its own xid. Parameters as for "due", without
-- done's id.
SELECT id, stream, category, type, version, event_id, recorded_at, correlation_id, causation_id, traceparent, metadata,
    value
FROM (
    SELECT o.*, sum(o.size) OVER (ORDER BY o.id ROWS UNBOUNDED PRECEDING) AS total
    FROM (
        SELECT x.* FROM @store.outgoing x
        WHERE x.txid = ANY (ARRAY(SELECT pg_snapshot_xip($6::pg_snapshot))) AND x.txid <= $5::xid8
        UNION ALL
        SELECT x.* FROM @store.outgoing x
        WHERE x.txid >= pg_snapshot_xmax($6) AND x.txid <= $5
    ) o
    WHERE CASE WHEN o.id > $1::bigint AND o.id <= $2::bigint
        THEN pg_visible_in_snapshot(o.txid, $7::pg_snapshot) ELSE false END
    ORDER BY o.id LIMIT $3::bigint
) d
WHERE d.total - d.size < $4::bigint
ORDER BY d.id

-- name: fix
-- Store where the relay stands, a pending tick included, if no other relay has taken over, and the row that this one
-- replaces, $14, is there: commits may have been lost, and it with them.
WITH own AS MATERIALIZED (
    SELECT FROM @store.relay_leader WHERE epoch = $1 FOR NO KEY UPDATE
), replaced AS (
    DELETE FROM @store.relay_log WHERE revision = $14 AND EXISTS (SELECT FROM own) RETURNING revision
)
INSERT INTO @store.relay_log (tick, position, done_id, done_xid, done_snapshot, upto_id, upto_xid, upto_snapshot,
    after_id, pending_last_id, pending_events, pending_ends_interval)
SELECT $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13 FROM replaced
RETURNING revision

-- name: checked
-- Kafka was seen to hold exactly this position at these ends.
UPDATE @store.relay_leader SET checked_position = $2, checked_offsets = $3 WHERE epoch = $1

-- name: dismissed
-- In a database of the index: records that somebody has looked at, and that are not the store's.
SELECT topic, partition, "offset" FROM @store.kept_records WHERE is_dismissed

-- name: standing
SELECT r.done_id, r.position, f.position AS indexed FROM @store.relay r, @store.index_frontier f

-- name: raise_floor
-- Ids up to the floor wait for nothing any more.
SELECT setval('@store.outbox_floor', $1) FROM @store.outbox_floor WHERE last_value < $1

-- name: rotate
SELECT @store.rotate_outbox($1, $2)
