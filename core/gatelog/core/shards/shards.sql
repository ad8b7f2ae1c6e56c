-- name: has_place
SELECT to_regclass('@store.index_place') IS NOT NULL AS is_pinned, to_regclass('@store.events') IS NOT NULL AS has_index,
    to_regclass('@store.outbox') IS NOT NULL AS has_gate

-- name: place
SELECT store_key, shard, shards FROM @store.index_place

-- name: pin
-- Whoever comes first decides; all read afterwards what was decided.
INSERT INTO @store.index_place (store_key, shard, shards)
VALUES (coalesce($1::uuid, gen_random_uuid()), $2, $3)
ON CONFLICT DO NOTHING
