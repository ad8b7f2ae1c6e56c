-- name: hold
-- Until the transaction ends, the outbox' segments do not change places.
LOCK TABLE @store.outbox IN ROW EXCLUSIVE MODE

-- name: pass
-- Bring streams from the version before a chunk to the one after it; count those that were there, and say which
-- segment of the outbox takes the events.
-- $1 to $3: streams, each once, sorted by their bytes, the version before, the number of events. $4: their ids, none
-- of which may be known. $5: the most that may wait in the outbox. See "plain" in append.sql.
WITH w AS MATERIALIZED (
    SELECT w.stream COLLATE "C" AS stream, w.before, w.count, w.ord
    FROM unnest($1::text[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS w (stream, before, count, ord)
    LEFT JOIN LATERAL (SELECT true AS hit FROM @store.streams x WHERE x.stream = w.stream COLLATE "C" LIMIT 1) s
        ON w.before > 0
    WHERE (w.before = 0 OR s.hit)
        AND NOT EXISTS (
            SELECT FROM unnest($4::uuid[]) AS e (id)
            WHERE EXISTS (SELECT FROM @store.indexed_events x WHERE x.event_id = e.id OFFSET 0)
                OR EXISTS (SELECT FROM @store.outbox x WHERE x.event_id = e.id OFFSET 0)
        )
        AND (
            SELECT s.last_value - f.last_value + cardinality($4) <= $5 AND t.emptied >= e.last_value
            FROM @store.outbox_id s, @store.outbox_floor f, @store.outbox_state t, @store.outbox_emptied e
        )
),
passed AS (
    INSERT INTO @store.streams AS s (stream, version, expected)
    SELECT w.stream, w.count, w.before FROM w ORDER BY w.ord
    ON CONFLICT (stream) DO UPDATE SET version = s.version + excluded.version, expected = excluded.expected
    WHERE NOT s.closed AND s.version = excluded.expected
    RETURNING s.stream
)
SELECT (SELECT count(*) FROM passed) AS streams, s.last_value AS segment FROM @store.outbox_segment s

-- name: stored
-- Which of these ids are stored, and where.
SELECT e.id AS event_id, coalesce(o.stream, i.stream) AS stream, coalesce(o.version, i.version) AS version
FROM unnest($1::uuid[]) AS e (id)
LEFT JOIN LATERAL (SELECT x.stream, x.version FROM @store.outbox x WHERE x.event_id = e.id LIMIT 1) o ON true
LEFT JOIN LATERAL (SELECT x.stream, x.version FROM @store.indexed_events x WHERE x.event_id = e.id LIMIT 1) i ON true
WHERE @store.check_snapshot() AND (o.version IS NOT NULL OR i.version IS NOT NULL)

-- name: state
SELECT stream, version, closed FROM @store.streams WHERE stream = ANY ($1::text[])
