-- name: try_lock
-- One active relay a store; standbys try again. A session lock: it ends with the connection.
SELECT pg_try_advisory_lock(hashtextextended('@store:relay', 0))

-- name: take_over
-- From here on, a relay of an older epoch is refused by next_tick.
UPDATE @store.relay SET epoch = epoch + 1
RETURNING epoch, tick, position, pending_events, checked_position, checked_offsets

-- name: next_tick
SELECT * FROM @store.next_tick($1, $2, $3, $4)

-- name: checked
-- Kafka was seen to hold exactly this position at these ends.
UPDATE @store.relay SET checked_position = $2, checked_offsets = $3 WHERE epoch = $1

-- name: release
-- Events that are in the index leave the outbox, oldest first; the floor says how far none is left.
--
-- Not while an append is under way whose snapshot is older than the event: it would find the event's id neither in
-- the index, which its snapshot does not show, nor in the outbox, whose constraint is what refuses ids twice.
WITH horizon AS (
    SELECT pg_current_xact_id()::text::bigint - coalesce(max(age(a.backend_xmin)), 0) AS xid
    FROM pg_stat_activity a
    WHERE a.backend_xmin IS NOT NULL AND a.application_name = 'gatelog producer' AND a.datname = current_database()
), oldest AS (
    SELECT o.id, o.event_id FROM @store.outbox o, horizon h
    WHERE o.txid < h.xid::text::xid8
    ORDER BY o.id LIMIT $1
), gone AS (
    DELETE FROM @store.outbox o
    USING oldest, @store.indexed_events e
    WHERE o.id = oldest.id AND e.event_id = oldest.event_id
    RETURNING o.id
)
SELECT (SELECT count(*) FROM gone) AS released,
       coalesce((SELECT min(id) - 1 FROM @store.outbox WHERE id NOT IN (SELECT id FROM gone)),
                (SELECT max(id) FROM gone)) AS floor

-- name: raise_floor
UPDATE @store.outbox_floor SET id = $1 WHERE id < $1
