-- name: append
SELECT * FROM @store.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)

-- name: ring
-- Wake the relay. The producer rings after its appends are committed, at most one ring at a time: a NOTIFY
-- inside the append would make every commit of the database queue up behind the notification lock.
SELECT pg_notify($1, '')
