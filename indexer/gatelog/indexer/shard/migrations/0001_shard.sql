-- raise_frontier: the frontier, as somebody knows it who sees more than this database: of several shards, each holds some
-- of the positions, and cannot walk past those of the others by itself. It walked from "since" on: if the frontier has gone
-- back meanwhile (a rebuild found it wrong), what it found says nothing.
CREATE FUNCTION @store.raise_frontier(since bigint, reached bigint) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    start bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('@store:frontier', 0));
    SELECT f.position INTO start FROM @store.index_frontier f;
    IF reached > start AND start >= since THEN
        DELETE FROM @store.index_frontier_log f WHERE f.position = start;
        INSERT INTO @store.index_frontier_log VALUES (reached);
    END IF;
END
$$;

-- The outbox is in the gate's database: here, nothing is pending. So the statements that read a stream are the same.
CREATE VIEW @store.pending_events AS
SELECT stream, version, event_id, type, schema_id, recorded_at, correlation_id, causation_id, traceparent, metadata, data
FROM @store.events WHERE false;
