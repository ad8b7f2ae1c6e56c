-- The gate: one row a stream. Its row lock serialises the appends to a stream; its version decides them.
CREATE TABLE @store.streams (
    stream text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL CHECK (version >= 0),
    expected bigint NOT NULL DEFAULT 0,  -- by the last append: one upsert can judge by it and bump the version
    closed boolean NOT NULL DEFAULT false
) WITH (fillfactor = 70);  -- room on the page, so that a version bump stays a heap-only update

-- CACHE 1: the relay's order rests on ids being drawn in real time, one by one.
CREATE SEQUENCE @store.outbox_id AS bigint CACHE 1;

-- Accepted events that are not in the index yet, and some that are: in two segments, one that takes the appends and
-- one that is drained and then emptied as a whole. Removing rows one by one would leave dead ones behind, which no
-- vacuum may remove while any transaction of the cluster is older.
--
-- No event id and no version is in both segments: see "rotate_outbox".
CREATE TABLE @store.outbox (
    segment smallint NOT NULL,
    id bigint NOT NULL DEFAULT nextval('@store.outbox_id'),
    txid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    stream text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    event_id uuid NOT NULL,
    type text NOT NULL,
    schema_id integer NOT NULL,
    recorded_at timestamptz NOT NULL,
    correlation_id uuid,
    causation_id uuid,
    traceparent text,
    metadata text,
    data bytea NOT NULL,
    -- What the relay could not make a record of would stop it, and all that comes after.
    CONSTRAINT outbox_recorded_at_check CHECK (recorded_at >= '0001-01-02 00:00+00' AND recorded_at < '9999-12-31 00:00+00'),
    CONSTRAINT outbox_category_check CHECK (octet_length(split_part(stream, '-', 1)) BETWEEN 1 AND 72),
    CONSTRAINT outbox_event_id_key UNIQUE (event_id, segment),
    CONSTRAINT outbox_stream_version_key UNIQUE (stream, version, segment)
) PARTITION BY LIST (segment);
CREATE INDEX outbox_id_idx ON @store.outbox (id);
CREATE INDEX outbox_txid_idx ON @store.outbox (txid);
ALTER TABLE @store.outbox ALTER COLUMN data SET STORAGE EXTERNAL;  -- Avro hardly compresses; do not try
CREATE TABLE @store.outbox_0 PARTITION OF @store.outbox (segment DEFAULT 0) FOR VALUES IN (0);
CREATE TABLE @store.outbox_1 PARTITION OF @store.outbox (segment DEFAULT 1) FOR VALUES IN (1);

-- Facts that every statement must see as they are now, however old its snapshot is: sequences are read so.
CREATE SEQUENCE @store.outbox_segment AS smallint MINVALUE 0 MAXVALUE 1;  -- last_value: the segment that takes the appends
CREATE SEQUENCE @store.outbox_emptied AS bigint MINVALUE 0;               -- last_value: how often a segment was emptied
CREATE SEQUENCE @store.outbox_floor AS bigint MINVALUE 0;                 -- last_value: ids up to it wait for nothing any more

-- Where the outbox stands. One row.
CREATE TABLE @store.outbox_state (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    segment smallint NOT NULL DEFAULT 0,   -- that takes the appends
    cut_id bigint NOT NULL DEFAULT 0,      -- the last outbox id before it did
    cut_xid xid8 NOT NULL DEFAULT '0',     -- who sees it sees all that is in the other segment; 0: nothing is
    drained_position bigint,               -- of the last event of the other segment, when that is known
    drained_at timestamptz,                -- since then, the index is known to hold all of it
    emptied bigint NOT NULL DEFAULT 0,     -- how often a segment was, or may be at any moment
    awaits text                            -- a table was lost, and this command has to be run before anything is read or
);                                         -- appended: until then "emptied" is negative, -1 minus what it was
INSERT INTO @store.outbox_state DEFAULT VALUES;

-- A snapshot that was taken before a segment was known to be drained sees these events neither in the index nor, when
-- the segment has been emptied, in the outbox. It knows an older count than the sequence has.
CREATE FUNCTION @store.check_rotation() RETURNS boolean STABLE LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF (SELECT greatest(s.emptied, -1 - s.emptied) FROM @store.outbox_state s)
        < (SELECT e.last_value FROM @store.outbox_emptied e)
    THEN
        RAISE 'this snapshot is older than the last rotation of the outbox'
            USING ERRCODE = '72000', HINT = 'Begin a new transaction.';
    END IF;
    RETURN true;
END
$$;

-- The same; and while a lost table was not filled again, no snapshot sees all events.
CREATE FUNCTION @store.check_snapshot() RETURNS boolean STABLE LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF (SELECT s.emptied FROM @store.outbox_state s) < (SELECT e.last_value FROM @store.outbox_emptied e) THEN
        IF (SELECT s.awaits IS NOT NULL FROM @store.outbox_state s) THEN
            RAISE 'a table was lost and made anew; before anything is read or appended, run: gatelog %',
                (SELECT s.awaits FROM @store.outbox_state s) USING ERRCODE = 'GL001';
        END IF;
        RETURN @store.check_rotation();
    END IF;
    RETURN true;
END
$$;

-- What other parts may read of it.
CREATE VIEW @store.pending_events AS
SELECT stream, version, event_id, type, schema_id, recorded_at, correlation_id, causation_id, traceparent, metadata, data
FROM @store.outbox WHERE @store.check_snapshot();

-- The same for who fills an index: a lost one, too.
CREATE VIEW @store.waiting_events AS
SELECT stream, version, event_id FROM @store.outbox WHERE @store.check_rotation();

-- append: decide a batch of appends and write what is accepted, in one statement of the client.
--
-- A write is the part of an append that goes to one stream. Its events stand one behind the other in the
-- event arrays, from w_first (1-based) on, w_count of them. w_expected: n exact, -1 any, -2 stream exists.
-- w_closes: the stream takes no events after these. lock_timeout_ms: null leaves the session's.
-- Within one batch a stream takes several writes only when all of them expect "any" (the client sees to it).
--
-- Answers a row a write: accepted, known (all its ids are stored as this append: a retry), or the reason of
-- the refusal; the version of its first event, and the version that the stream had.
CREATE FUNCTION @store.append(
    w_append integer[], w_stream text[], w_expected bigint[], w_first integer[], w_count integer[],
    w_closes boolean[], e_write integer[], e_id uuid[], e_type text[], e_schema integer[], e_data bytea[],
    e_correlation uuid[], e_causation uuid[], e_traceparent text[], e_metadata text[],
    backlog_max bigint, lock_timeout_ms integer
) RETURNS TABLE (verdict text, first_version bigint, stream_version bigint, known bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp  -- a caller's session may have anything in it
-- The outbox may have been empty when the plan was cached: never let that mean a sequential scan later.
SET enable_seqscan = off
SET jit = off
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    -- A caller's transaction may hold on to a snapshot that is older than the segment it writes to, and would not see
    -- the ids that are in the other one.
    IF current_setting('transaction_isolation') <> 'read committed'
        AND (SELECT s.segment <> g.last_value FROM @store.outbox_state s, @store.outbox_segment g)
    THEN
        RAISE 'this snapshot is older than the last rotation of the outbox'
            USING ERRCODE = '72000', HINT = 'Begin a new transaction.';
    END IF;
    IF lock_timeout_ms IS NOT NULL THEN
        PERFORM set_config('lock_timeout', lock_timeout_ms || 'ms', true);
    END IF;
    IF (SELECT s.last_value - f.last_value FROM @store.outbox_id s, @store.outbox_floor f)
        + cardinality(e_id) > backlog_max
    THEN
        RETURN QUERY SELECT 'backlog', 0::bigint, 0::bigint, 0::bigint FROM unnest(w_stream);
        RETURN;
    END IF;

    -- First take the locks, in one order everywhere, so that two batches never wait for each other in a
    -- circle. WHERE false: an existing row is locked, not rewritten. A statement of its own, because what
    -- follows must have a snapshot that is younger than the locks.
    INSERT INTO @store.streams AS s (stream, version)
    SELECT DISTINCT w.stream COLLATE "C", 0 FROM unnest(w_stream) AS w (stream) ORDER BY 1
    ON CONFLICT (stream) DO UPDATE SET version = s.version WHERE false;

    RETURN QUERY
    WITH w AS MATERIALIZED (
        SELECT u.*, s.version AS at, s.closed
        FROM unnest(w_append, w_stream, w_expected, w_first, w_count, w_closes)
            WITH ORDINALITY AS u (append, stream, expected, first, count, closes, ord)
        JOIN @store.streams s ON s.stream = u.stream COLLATE "C"
    ),
    stored AS MATERIALIZED (
        SELECT e.write, e.ord, coalesce(o.stream, i.stream) AS stream, coalesce(o.version, i.version) AS version
        FROM unnest(e_write, e_id) WITH ORDINALITY AS e (write, id, ord)
        LEFT JOIN LATERAL (SELECT x.stream, x.version FROM @store.outbox x WHERE x.event_id = e.id LIMIT 1) o ON true
        LEFT JOIN LATERAL (SELECT x.stream, x.version FROM @store.indexed_events x WHERE x.event_id = e.id LIMIT 1) i ON true
        WHERE @store.check_snapshot() AND (o.version IS NOT NULL OR i.version IS NOT NULL)
    ),
    retried AS (
        SELECT s.write, count(*) AS known, min(s.version) AS first,
            count(*) = w.count AND bool_and(s.stream = w.stream AND s.version - s.ord = first.version - first.ord) AS same
        FROM stored s
        JOIN w ON w.ord = s.write
        LEFT JOIN stored first ON first.ord = w.first
        GROUP BY s.write, w.count
    ),
    judged AS MATERIALIZED (
        SELECT w.*, coalesce(r.known, 0) AS known, r.first AS known_first,
            CASE
                WHEN r.same THEN 'known'
                WHEN r.known > 0 THEN 'reused'
                WHEN w.closed THEN 'closed'
                WHEN w.expected = -1 OR w.expected = w.at OR (w.expected = -2 AND w.at > 0) THEN 'accepted'
                ELSE 'conflict'
            END AS verdict
        FROM w LEFT JOIN retried r ON r.write = w.ord
    ),
    -- An append is all or nothing over its streams.
    decided AS MATERIALIZED (
        SELECT j.*, bool_and(j.verdict = 'accepted') OVER (PARTITION BY j.append) AS passes FROM judged j
    ),
    placed AS MATERIALIZED (
        SELECT d.*, d.at + sum(CASE WHEN d.passes THEN d.count ELSE 0 END)
            OVER (PARTITION BY d.stream ORDER BY d.ord) - d.count + 1 AS base
        FROM decided d
    ),
    bumped AS (
        UPDATE @store.streams s SET version = s.version + t.count, closed = t.closes
        FROM (
            SELECT p.stream, sum(p.count) AS count, coalesce(bool_or(p.closes), false) AS closes
            FROM placed p WHERE p.passes GROUP BY p.stream
        ) t
        WHERE s.stream = t.stream COLLATE "C"
    ),
    written AS (
        -- Ids are drawn here, after the gate was passed, in event order.
        INSERT INTO @store.outbox (segment, id, stream, version, event_id, type, schema_id, recorded_at,
            correlation_id, causation_id, traceparent, metadata, data)
        SELECT (SELECT s.last_value FROM @store.outbox_segment s), nextval('@store.outbox_id'), q.stream, q.version, q.id, q.type, q.schema, clock_timestamp(),
            q.correlation, q.causation, q.traceparent, q.metadata, q.data
        FROM (
            SELECT e.*, p.stream, p.base + e.ord - p.first AS version
            FROM unnest(e_write, e_id, e_type, e_schema, e_data, e_correlation, e_causation, e_traceparent, e_metadata)
                WITH ORDINALITY AS e (write, id, type, schema, data, correlation, causation, traceparent, metadata, ord)
            JOIN placed p ON p.ord = e.write AND p.passes
            ORDER BY e.ord
        ) q
    )
    SELECT
        CASE WHEN p.verdict = 'accepted' AND NOT p.passes THEN 'held' ELSE p.verdict END,
        coalesce(p.known_first, p.base)::bigint, p.at, p.known::bigint
    FROM placed p ORDER BY p.ord;

    -- A refused append leaves no trace: the rows that the lock made for streams that still do not exist go.
    DELETE FROM @store.streams s WHERE s.stream = ANY (w_stream) AND s.version = 0;
END
$$;
