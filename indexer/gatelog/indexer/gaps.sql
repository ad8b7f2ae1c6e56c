-- Statements that tell whether an event is missing. The first one is for the gate's database, the others for each shard.

-- name: published
SELECT position, position + pending_events AS upto FROM @store.published

-- name: state
SELECT f.position AS frontier, (SELECT coalesce(max(e.position), 0) FROM @store.events e) AS highest
FROM @store.index_frontier f

-- name: positions
-- What the shard holds after position $1, up to $2, the first $3.
SELECT position FROM @store.events WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3

-- name: aside
-- Positions from $1 to $2 of records that were kept aside: the indexer has seen them.
SELECT k.text::bigint AS position
FROM (
    SELECT encode(decode(u.headers ->> 'ce_position', 'base64'), 'escape') AS text FROM @store.unreadable_records u
) k
WHERE CASE WHEN k.text ~ '^[0-9]{1,18}$' THEN k.text::bigint BETWEEN $1 AND $2 END
