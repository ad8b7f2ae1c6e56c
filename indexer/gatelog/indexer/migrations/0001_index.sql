-- The index: every published event, once, by position. Rebuilt from Kafka at any time, never edited.
CREATE TABLE @store.events (
    position bigint NOT NULL,
    stream text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    event_id uuid NOT NULL,
    category text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    schema_id integer NOT NULL,
    recorded_at timestamptz NOT NULL,
    correlation_id uuid,
    causation_id uuid,
    traceparent text,
    metadata text,
    data bytea NOT NULL,   -- Avro, as written: what reads return
    data_json jsonb,       -- the same for SQL; null when switched off or not decodable
    CONSTRAINT events_pkey PRIMARY KEY (position),
    CONSTRAINT events_stream_version_key UNIQUE (stream, version),
    CONSTRAINT events_event_id_key UNIQUE (event_id)
);
CREATE INDEX events_category_position_idx ON @store.events (category, position);
CREATE INDEX events_type_position_idx ON @store.events (type, position);
CREATE INDEX events_recorded_at_idx ON @store.events (recorded_at, position);
CREATE INDEX events_correlation_idx ON @store.events (correlation_id, position) WHERE correlation_id IS NOT NULL;
ALTER TABLE @store.events ALTER COLUMN data SET STORAGE EXTERNAL;  -- Avro hardly compresses; do not try

CREATE TRIGGER events_are_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON @store.events
    FOR EACH STATEMENT EXECUTE FUNCTION @store.refuse_change();

-- payload_number, payload_text: a field of a payload, to compare it. Queries and the indexes on fields say it with these,
-- so that one fits the other; plain SQL of one expression, so that the planner looks through it, and RETURN, so that its
-- names mean what they mean now.
--
-- A number, which JSON holds as a number, or as text if it is a decimal. Null if it is none.
CREATE FUNCTION @store.payload_number(data jsonb, path text[]) RETURNS numeric
IMMUTABLE PARALLEL SAFE LANGUAGE sql
RETURN CASE jsonb_typeof(data #> path)
    WHEN 'number' THEN (data #> path)::numeric
    WHEN 'string' THEN
        CASE WHEN data #>> path ~ '^-?[0-9]{1,100}([.][0-9]{1,100})?$' THEN (data #>> path)::numeric END
END;
-- The beginning of a text: an entry of an index must fit into its page. Compare it under COLLATE "C".
CREATE FUNCTION @store.payload_text(data jsonb, path text[]) RETURNS text
IMMUTABLE PARALLEL SAFE LANGUAGE sql
RETURN left(data #>> path, 200);

-- What other parts may read of it.
CREATE VIEW @store.indexed_events AS SELECT * FROM @store.events;

-- For people, psql and BI tools: stable column names, the payload as jsonb.
CREATE VIEW @store.event_log AS
SELECT position, category, stream, version, type, recorded_at, event_id, correlation_id, causation_id,
    metadata::jsonb AS metadata, data_json AS data
FROM @store.events;

-- Where the indexer stands in each partition, stored with the rows: the group's offsets in Kafka are not trusted. One row
-- a partition; a step deletes it and adds the next. (A row that is updated leaves dead versions under one key, which
-- nothing removes while a transaction of the cluster is older, and every look at the row passes them all.)
CREATE TABLE @store.index_offsets (
    topic text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    next_offset bigint NOT NULL,
    leader_epoch integer,    -- of the record before it: Kafka tells by it whether that is there still; null: not known
    PRIMARY KEY (topic, partition, next_offset)
);

-- Which topic an offset is of: Kafka gives a topic that is deleted and made again another id.
CREATE TABLE @store.index_topics (
    topic text COLLATE "C" PRIMARY KEY,
    topic_id text NOT NULL
);

-- The same for other parts. An offset is committed together with the rows of everything before it.
CREATE VIEW @store.indexed_offsets AS
SELECT DISTINCT ON (o.topic, o.partition) o.topic, o.partition, o.next_offset, o.leader_epoch, t.topic_id
FROM @store.index_offsets o LEFT JOIN @store.index_topics t USING (topic)
ORDER BY o.topic, o.partition, o.next_offset DESC;

-- Records that claim to be of this store but cannot be read, kept whole and reported by `gatelog status`.
CREATE TABLE @store.unreadable_records (
    topic text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    reason text NOT NULL,
    key bytea,
    value bytea,
    headers jsonb NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, partition, "offset")
);

-- The frontier: the highest position below which nothing is missing. Reads of the whole log never pass it. One row, in
-- steps as the offsets.
CREATE TABLE @store.index_frontier_log (position bigint PRIMARY KEY);
INSERT INTO @store.index_frontier_log VALUES (0);
CREATE VIEW @store.index_frontier AS SELECT position FROM @store.index_frontier_log ORDER BY position DESC LIMIT 1;

-- advance_frontier: walk on while positions follow each other without a gap; steps double, so that a gap at the
-- front costs one short look. Waits for a session that advances at the same time: it may not have seen our rows.
CREATE FUNCTION @store.advance_frontier() RETURNS bigint LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    start bigint;
    front bigint;
    reached bigint;
    step integer := 64;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('@store:frontier', 0));
    SELECT f.position INTO start FROM @store.index_frontier f;
    front := start;
    LOOP
        SELECT max(w.position) INTO reached
        FROM (
            SELECT e.position, row_number() OVER (ORDER BY e.position) AS nth
            FROM @store.events e WHERE e.position > front ORDER BY e.position LIMIT step
        ) w
        WHERE w.position = front + w.nth;
        EXIT WHEN reached IS NULL;
        EXIT WHEN reached < front + step;
        front := reached;
        step := least(step * 2, 65536);
    END LOOP;
    front := greatest(front, reached);  -- greatest() passes over null
    IF front > start THEN
        PERFORM set_config('synchronous_commit', 'off', true);  -- derived: a crash only makes it walk again
        DELETE FROM @store.index_frontier_log f WHERE f.position = start;
        INSERT INTO @store.index_frontier_log VALUES (front);
    END IF;
    RETURN front;
END
$$;

-- What the cursors of pages are signed with: a random key of this index.
CREATE TABLE @store.cursor_key (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    key bytea NOT NULL DEFAULT uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
);
INSERT INTO @store.cursor_key DEFAULT VALUES;
