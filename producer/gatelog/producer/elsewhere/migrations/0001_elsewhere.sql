-- The index is in other databases, which the gate's statements cannot ask. Here is what they need of it.

-- Events that have left the outbox: an id that was stored is known for ever, and where.
CREATE TABLE @store.stored_ids (
    event_id uuid PRIMARY KEY,
    version bigint NOT NULL,
    stream text COLLATE "C" NOT NULL
);
CREATE TRIGGER stored_ids_are_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON @store.stored_ids
    FOR EACH STATEMENT EXECUTE FUNCTION @store.refuse_change();
ALTER TABLE @store.stored_ids ENABLE ALWAYS TRIGGER stored_ids_are_immutable;
CREATE VIEW @store.indexed_events AS SELECT event_id, stream, version FROM @store.stored_ids;

-- All shards were seen to hold everything up to this position. A sequence: statements must see it as it is now. If a
-- crash sets it back, it is raised again.
CREATE SEQUENCE @store.index_frontier_seen AS bigint MINVALUE 0;
SELECT setval('@store.index_frontier_seen', 0);
CREATE VIEW @store.index_frontier AS SELECT last_value AS position FROM @store.index_frontier_seen;

-- remember_segment: in the transaction that says that a segment is drained. So a snapshot that does not see the ids here
-- is one that check_snapshot refuses once they are gone from the outbox.
CREATE OR REPLACE FUNCTION @store.remember_segment(drained smallint) RETURNS void LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO @store.stored_ids (event_id, version, stream)
    SELECT o.event_id, o.version, o.stream FROM @store.outbox o WHERE o.segment = drained ORDER BY o.id
$$;
