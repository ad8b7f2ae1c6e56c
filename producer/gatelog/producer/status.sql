-- name: status
SELECT r.epoch, r.tick, r.position, r.pending_events, s.last_value - f.last_value AS outbox_events_about,
    (SELECT count(*) FROM (SELECT FROM @store.outbox o WHERE o.id > f.last_value LIMIT 100001) counted) AS outbox_events,
    (SELECT extract(epoch FROM clock_timestamp() - o.recorded_at)
     FROM @store.outbox o WHERE o.id > f.last_value ORDER BY o.id LIMIT 1)::float8 AS oldest_s,
    (SELECT count(*) FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted
         AND l.objsubid = 1 AND ((l.classid::bigint << 32) | l.objid::bigint)
             = hashtextextended('@store:relay', 0)) > 0 AS relay_is_active,
    (SELECT w.awaits FROM @store.outbox_state w) AS awaits
FROM @store.relay r, @store.outbox_id s, @store.outbox_floor f
