-- name: load
SELECT version, event_id, recorded_at, state FROM @store.snapshots
WHERE stream = $1 COLLATE "C" AND state_type = $2 COLLATE "C" AND fingerprint = $3 COLLATE "C"

-- name: save
-- A newer snapshot takes the place of an older one; $8: of any, because what was there proved wrong. Not waited for until
-- it is on disk: losing it loses nothing.
WITH unhurried AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
INSERT INTO @store.snapshots AS s (stream, state_type, fingerprint, version, event_id, recorded_at, state)
SELECT $1, $2, $3, $4, $5, $6, $7 FROM unhurried
ON CONFLICT (stream, state_type, fingerprint) DO UPDATE
SET version = excluded.version, event_id = excluded.event_id, recorded_at = excluded.recorded_at,
    state = excluded.state, taken_at = excluded.taken_at
WHERE s.version < excluded.version OR $8

-- name: clear
-- What other versions of the program left behind, and have not touched for long.
DELETE FROM @store.snapshots
WHERE stream = $1 COLLATE "C" AND state_type = $2 COLLATE "C" AND fingerprint <> $3 COLLATE "C"
    AND taken_at < now() - make_interval(days => $4)
