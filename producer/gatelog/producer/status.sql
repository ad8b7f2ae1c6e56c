-- name: status
SELECT r.epoch, r.tick, r.position, r.pending_events, s.last_value - f.id AS outbox_events_about,
    (SELECT count(*) FROM (SELECT FROM @store.outbox LIMIT 100001) counted) AS outbox_events,
    (SELECT extract(epoch FROM clock_timestamp() - min(o.recorded_at))
     FROM (SELECT recorded_at FROM @store.outbox ORDER BY id LIMIT 1) o)::float8 AS oldest_s,
    (SELECT count(*) FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted
         AND l.objsubid = 1 AND ((l.classid::bigint << 32) | l.objid::bigint)
             = hashtextextended('@store:relay', 0)) > 0 AS relay_is_active
FROM @store.relay r, @store.outbox_id s, @store.outbox_floor f
