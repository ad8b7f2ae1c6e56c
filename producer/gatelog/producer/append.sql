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
-- $1 to $3: streams, each once, sorted by their bytes (one lock order everywhere), what is expected of them, and
-- how many events they take. $4 to $13: the events in order: stream, place within the stream's events, id, type,
-- schema, data, correlation, causation, traceparent, metadata. $14: the most that may wait in the outbox.
--
-- The snapshot is older than the row locks. A version is safe from that, because ON CONFLICT judges the newest row;
-- and so are ids, because an event leaves the outbox, whose constraint knows every id, only when no snapshot is
-- left that does not see it in the index.
WITH known AS MATERIALIZED (
    SELECT e.stream
    FROM unnest($4::text[], $6::uuid[]) AS e (stream, id)
    LEFT JOIN LATERAL (SELECT true AS hit FROM @store.indexed_events x WHERE x.event_id = e.id LIMIT 1) i ON true
    LEFT JOIN LATERAL (SELECT true AS hit FROM @store.outbox x WHERE x.event_id = e.id LIMIT 1) o ON true
    WHERE i.hit OR o.hit
),
w AS MATERIALIZED (
    SELECT w.stream COLLATE "C" AS stream, w.expected, w.count, w.ord
    FROM unnest($1::text[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS w (stream, expected, count, ord)
    LEFT JOIN LATERAL (SELECT true AS hit FROM @store.streams x WHERE x.stream = w.stream COLLATE "C" LIMIT 1) s
        ON w.expected NOT IN (0, -1)
    WHERE (w.expected IN (0, -1) OR s.hit)
        AND w.stream NOT IN (SELECT k.stream FROM known k)
        AND (SELECT s.last_value - f.id FROM @store.outbox_id s, @store.outbox_floor f) + cardinality($6) <= $14
),
passed AS (
    INSERT INTO @store.streams AS s (stream, version, expected)
    SELECT w.stream, w.count, w.expected FROM w ORDER BY w.ord
    ON CONFLICT (stream) DO UPDATE SET version = s.version + excluded.version, expected = excluded.expected
    WHERE NOT s.closed AND (s.version = excluded.expected OR excluded.expected < 0)
    RETURNING s.stream, s.version
),
written AS (
    -- Ids are drawn here, after the gate was passed, in event order.
    INSERT INTO @store.outbox (id, stream, version, event_id, type, schema_id, recorded_at,
        correlation_id, causation_id, traceparent, metadata, data)
    SELECT nextval('@store.outbox_id'), q.at, q.version, q.id, q.type, q.schema, clock_timestamp(),
        q.correlation, q.causation, q.traceparent, q.metadata, q.data
    FROM (
        SELECT p.stream AS at, p.version - w.count + e.nth AS version, e.*
        FROM unnest($4::text[], $5::int[], $6::uuid[], $7::text[], $8::int[], $9::bytea[],
                $10::uuid[], $11::uuid[], $12::text[], $13::text[])
            WITH ORDINALITY AS e (stream, nth, id, type, schema, data, correlation, causation, traceparent, metadata, ord)
        JOIN w ON w.stream = e.stream COLLATE "C"
        JOIN passed p ON p.stream = w.stream
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
        AND (SELECT s.last_value - f.id FROM @store.outbox_id s, @store.outbox_floor f) < $11
    ON CONFLICT (stream) DO UPDATE SET version = s.version + 1, expected = excluded.expected
    WHERE NOT s.closed AND (s.version = excluded.expected OR excluded.expected < 0)
    RETURNING s.stream, s.version
)
INSERT INTO @store.outbox (id, stream, version, event_id, type, schema_id, recorded_at, data,
    correlation_id, causation_id, traceparent, metadata)
SELECT nextval('@store.outbox_id'), p.stream, p.version, $3, $4, $5, clock_timestamp(), $6, $7, $8, $9, $10
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
