-- name: frontier
-- Of one shard: it holds all of its own events up to here.
SELECT position FROM @store.index_frontier

-- name: held
-- The first $2 positions after $1 that a shard holds.
SELECT coalesce(array_agg(h.position), '{}') AS held
FROM (SELECT i.position FROM @store.indexed_events i WHERE i.position > $1 ORDER BY i.position LIMIT $2) h

-- name: raise_shard
SELECT @store.raise_frontier($1, $2)

-- name: raise_gate
SELECT setval('@store.index_frontier_seen', $1) FROM @store.index_frontier_seen WHERE last_value < $1
