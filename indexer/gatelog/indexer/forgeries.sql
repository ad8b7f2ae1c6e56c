-- What the gate can say against records that claim to be the store's. For the gate's database.

-- name: witness
-- Up to which position the relay has given any, and how many of these ids ($1) wait in the outbox: all of them, where all
-- is well. "is_witness": a gate that is new, or was restored from a dump, may know less than Kafka, and says nothing.
SELECT p.position + p.pending_events AS upto, p.is_witness,
    (SELECT count(*) FROM @store.waiting_events e WHERE e.event_id = ANY ($1::uuid[])) AS waiting
FROM @store.published p

-- name: contradicted
-- Which of these records (counted from 0) cannot be the relay's, and why. $1 to $4: position, stream, version, id. $5: up
-- to which position any were given. Only what speaks against a record counts: an index that is filled anew reads events
-- that have left the outbox.
SELECT u.ord - 1 AS place, CASE
        WHEN u.position > $5 THEN 'its position was not given'
        WHEN o.event_id IS NOT NULL THEN 'its version in the stream is another event''s'
        WHEN i.event_id IS NOT NULL THEN 'its id is that of another event'
        ELSE 'the stream has not come to its version'
    END AS why
FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::uuid[])
    WITH ORDINALITY AS u (position, stream, version, event_id, ord)
LEFT JOIN LATERAL (
    SELECT x.event_id FROM @store.waiting_events x
    WHERE x.stream = u.stream COLLATE "C" AND x.version = u.version AND x.event_id <> u.event_id LIMIT 1
) o ON true
LEFT JOIN LATERAL (
    SELECT x.event_id FROM @store.waiting_events x
    WHERE x.event_id = u.event_id AND (x.stream <> u.stream COLLATE "C" OR x.version <> u.version) LIMIT 1
) i ON true
LEFT JOIN LATERAL (
    SELECT x.version FROM @store.stream_heads x WHERE x.stream = u.stream COLLATE "C" LIMIT 1
) h ON true
WHERE u.position > $5 OR o.event_id IS NOT NULL OR i.event_id IS NOT NULL OR u.version > coalesce(h.version, 0)
ORDER BY u.ord
