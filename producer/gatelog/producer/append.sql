-- name: session
-- For connections of our own. The tables are empty when a plan is made and large when it is used. Before Postgres 18,
-- a plan that avoids what is switched off looks so expensive that it would be compiled, at 100 ms each time.
SET enable_seqscan = off;
SET jit = off;
SET plan_cache_mode = force_generic_plan;
SET lock_timeout = '200ms'

-- name: plain
-- Accept what is plainly right of a batch, each stream for itself, in one statement: the version is as expected
-- and no id is known. Answers the streams that it accepted, with their new version; "append" judges the others.
--
-- $1 to $12: the events, those of a stream together, streams sorted by their bytes (one lock order everywhere):
-- stream, what is expected of it, how many events it takes, place among these, id, type, schema, data, correlation,
-- causation, traceparent, metadata. $13: the most that may wait in the outbox.
--
-- The snapshot is older than the row locks. A version is safe from that, because ON CONFLICT judges the newest row;
-- and so are ids, because the outbox' constraint knows them, and a snapshot that is older than the last rotation
-- passes nothing. OFFSET 0: look each up by its index, whatever a planner thinks of a table
-- that was empty when it planned.
WITH e AS MATERIALIZED (
    SELECT u.stream COLLATE "C" AS at, u.*
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::uuid[], $6::text[], $7::int[], $8::bytea[],
            $9::uuid[], $10::uuid[], $11::text[], $12::text[])
        WITH ORDINALITY AS u (stream, expected, count, nth, id, type, schema, data, correlation, causation,
            traceparent, metadata, ord)
),
known AS MATERIALIZED (
    SELECT e.at FROM e
    WHERE EXISTS (SELECT FROM @store.indexed_events x WHERE x.event_id = e.id OFFSET 0)
        OR EXISTS (SELECT FROM @store.outbox x WHERE x.event_id = e.id OFFSET 0)
),
passed AS (
    INSERT INTO @store.streams AS s (stream, version, expected)
    SELECT e.at, e.count, e.expected
    FROM e
    WHERE e.nth = 1
        AND (e.expected IN (0, -1) OR EXISTS (SELECT FROM @store.streams x WHERE x.stream = e.at OFFSET 0))
        AND e.at NOT IN (SELECT k.at FROM known k)
        AND (
            SELECT s.last_value - f.last_value + cardinality($1) <= $13 AND t.emptied >= e.last_value
            FROM @store.outbox_id s, @store.outbox_floor f, @store.outbox_state t, @store.outbox_emptied e
        )
    ORDER BY e.ord
    ON CONFLICT (stream) DO UPDATE SET version = s.version + excluded.version, expected = excluded.expected
    WHERE NOT s.closed AND (s.version = excluded.expected OR excluded.expected < 0)
    RETURNING s.stream, s.version
),
written AS (
    -- Ids are drawn here, after the gate was passed, in event order.
    INSERT INTO @store.outbox (segment, id, stream, version, event_id, type, schema_id, recorded_at,
        correlation_id, causation_id, traceparent, metadata, data)
    SELECT (SELECT s.last_value FROM @store.outbox_segment s), nextval('@store.outbox_id'), q.at, q.version, q.id, q.type, q.schema, clock_timestamp(),
        q.correlation, q.causation, q.traceparent, q.metadata, q.data
    FROM (
        SELECT p.version - e.count + e.nth AS version, e.*
        FROM e JOIN passed p ON p.stream = e.at
        ORDER BY e.ord
    ) q
)
SELECT p.stream, p.version FROM passed p

-- name: plain_one
-- The same for one event, which a lone caller appends: no arrays, half the work. Answers the new version, or nothing.
WITH passed AS (
    INSERT INTO @store.streams AS s (stream, version, expected)
    SELECT $1::text, 1, $2::bigint
    WHERE ($2 IN (0, -1) OR EXISTS (SELECT FROM @store.streams x WHERE x.stream = $1 COLLATE "C"))
        AND NOT EXISTS (SELECT FROM @store.indexed_events x WHERE x.event_id = $3::uuid)
        AND NOT EXISTS (SELECT FROM @store.outbox x WHERE x.event_id = $3::uuid)
        AND (
            SELECT s.last_value - f.last_value < $11 AND t.emptied >= e.last_value
            FROM @store.outbox_id s, @store.outbox_floor f, @store.outbox_state t, @store.outbox_emptied e
        )
    ON CONFLICT (stream) DO UPDATE SET version = s.version + 1, expected = excluded.expected
    WHERE NOT s.closed AND (s.version = excluded.expected OR excluded.expected < 0)
    RETURNING s.stream, s.version
)
INSERT INTO @store.outbox (segment, id, stream, version, event_id, type, schema_id, recorded_at, data,
    correlation_id, causation_id, traceparent, metadata)
SELECT (SELECT s.last_value FROM @store.outbox_segment s), nextval('@store.outbox_id'), p.stream, p.version, $3, $4, $5, clock_timestamp(), $6, $7, $8, $9, $10
FROM passed p
RETURNING version

-- name: append
-- Judge a batch in full. See the function.
SELECT * FROM @store.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)

-- name: ring
-- Wake the relay. A NOTIFY has nothing to lose in a crash: it need not wait for the disk.
BEGIN;
SET LOCAL synchronous_commit = off;
NOTIFY "@channel";
COMMIT

-- name: unpublished
-- How many of these events wait to be published, or are on their way: neither before the relay's last whole interval, nor
-- in the part of the open one that is done. What is not in the outbox any more has been published, and indexed too.
SELECT count(*) FROM @store.outbox o, @store.relay r
WHERE o.event_id = ANY ($1::uuid[])
    AND NOT pg_visible_in_snapshot(o.txid, r.done_snapshot)
    AND NOT coalesce(o.id <= r.after_id AND pg_visible_in_snapshot(o.txid, r.upto_snapshot), false)
