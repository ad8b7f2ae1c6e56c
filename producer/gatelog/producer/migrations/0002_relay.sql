-- Where the relay stands. One row.
--
-- An interval is what became visible between two snapshots: "done" (published up to here) and "snapshot"
-- (S1, null when no interval is open). A tick is a slice of the open interval in outbox id order: the events
-- after after_id up to pending_last_id, pending_events of them (0: none pending). All of it is stored before
-- the first record of the tick is produced, so that a repeated tick is the same tick.
CREATE TABLE @store.relay (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch bigint NOT NULL DEFAULT 0,             -- a take-over bumps it; a relay of an older epoch is refused
    tick bigint NOT NULL DEFAULT 0,              -- number of the pending tick, or of the last one
    position bigint NOT NULL DEFAULT 0,          -- of the last published event
    done_snapshot pg_snapshot NOT NULL,
    done_xid xid8 NOT NULL,
    done_id bigint NOT NULL,
    snapshot pg_snapshot,
    snapshot_xid xid8,
    snapshot_id bigint,
    after_id bigint NOT NULL DEFAULT 0,
    pending_last_id bigint NOT NULL DEFAULT 0,
    pending_events integer NOT NULL DEFAULT 0,
    pending_ends_interval boolean NOT NULL DEFAULT false,
    checked_position bigint NOT NULL DEFAULT 0,  -- Kafka was seen to hold exactly this position…
    checked_offsets jsonb NOT NULL DEFAULT '{}'  -- …at these ends: {"topic": [next offset of each partition]}
);
INSERT INTO @store.relay (done_snapshot, done_xid, done_id) VALUES (pg_snapshot '1:1:', xid8 '0', 0);

-- due: the events of a snapshot interval in outbox id order, from after_id (exclusive) on, at most rows_max.
--
-- Two ranges, so that the cost follows the interval and not the age of the oldest transaction:
-- 1. Transactions with an id above done_xid: done_id was read before done_xid was assigned, and ids are drawn
--    after the transaction has its xid, so that all their events lie above done_id.
-- 2. Transactions that were, or may have been, running when done_snapshot was taken: those it lists, and those
--    between its xmax (which is the last *completed* xid plus one, not the next one) and done_xid.
CREATE FUNCTION @store.due(
    done pg_snapshot, done_xid xid8, done_id bigint, upto pg_snapshot, after_id bigint, last_id bigint, rows_max bigint
) RETURNS SETOF @store.outbox
LANGUAGE sql STABLE
SET enable_seqscan = off
SET jit = off
AS $$
    SELECT * FROM (
        (SELECT o.* FROM @store.outbox o
         WHERE o.id > greatest(after_id, done_id) AND o.id <= last_id
             AND o.txid > done_xid AND NOT pg_visible_in_snapshot(o.txid, done) AND pg_visible_in_snapshot(o.txid, upto)
         ORDER BY o.id LIMIT rows_max)
        UNION ALL
        (SELECT o.* FROM @store.outbox o
         WHERE o.id > after_id AND o.id <= last_id AND o.txid <= done_xid
             AND (o.txid = ANY (ARRAY(SELECT pg_snapshot_xip(done))) OR o.txid >= pg_snapshot_xmax(done))
             AND pg_visible_in_snapshot(o.txid, upto)
         ORDER BY o.id LIMIT rows_max)
    ) both_ranges
    ORDER BY id LIMIT rows_max
$$;

-- next_tick: mark the pending tick as done if done_tick names it, then fix the next tick and return its events.
-- No rows: nothing is due. A pending tick that is not done comes again, the same.
-- Needs READ COMMITTED (the relay's connection sets it). Error GL001: another relay has taken over.
CREATE FUNCTION @store.next_tick(my_epoch bigint, done_tick bigint, events_max bigint, bytes_max bigint)
RETURNS TABLE (
    tick bigint, "position" bigint, stream text, version bigint, event_id uuid, type text, schema_id integer,
    recorded_at timestamptz, correlation_id uuid, causation_id uuid, traceparent text, metadata text, data bytea
)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    r @store.relay;
    slice record;
    drawn bigint;
    is_new boolean;
BEGIN
    -- First the sequence, then an xid of our own (which the row lock assigns), then the snapshot. See "due".
    IF pg_current_xact_id_if_assigned() IS NOT NULL THEN
        RAISE EXCEPTION 'next_tick needs a transaction of its own';
    END IF;
    SELECT s.last_value INTO drawn FROM @store.outbox_id s;
    SELECT * INTO STRICT r FROM @store.relay FOR UPDATE;
    IF r.epoch <> my_epoch THEN
        RAISE EXCEPTION 'relay epoch % was taken over by %', my_epoch, r.epoch USING ERRCODE = 'GL001';
    END IF;

    IF r.pending_events > 0 AND r.tick = done_tick THEN
        r.position := r.position + r.pending_events;
        r.after_id := r.pending_last_id;
        r.pending_events := 0;
        IF r.pending_ends_interval THEN
            r.done_snapshot := r.snapshot;
            r.done_xid := r.snapshot_xid;
            r.done_id := r.snapshot_id;
            r.snapshot := NULL;
        END IF;
    END IF;

    WHILE r.pending_events = 0 LOOP
        is_new := r.snapshot IS NULL;
        IF is_new THEN
            r.snapshot_id := drawn;
            SELECT pg_current_xact_id() INTO r.snapshot_xid;
            SELECT pg_current_snapshot() INTO r.snapshot;
            r.after_id := 0;
        END IF;
        SELECT count(*) AS events, max(id) AS last_id,
               count(*) < events_max AND coalesce(max(total), 0) < bytes_max AS ends
        INTO slice
        FROM (
            SELECT d.id, octet_length(d.data) AS size, sum(octet_length(d.data)) OVER (ORDER BY d.id) AS total
            FROM @store.due(r.done_snapshot, r.done_xid, r.done_id, r.snapshot, r.after_id,
                            9223372036854775807, events_max) d
        ) sized
        WHERE sized.total - sized.size < bytes_max;  -- at least one event, whatever its size
        IF slice.events > 0 THEN
            r.tick := r.tick + 1;
            r.pending_events := slice.events;
            r.pending_last_id := slice.last_id;
            r.pending_ends_interval := slice.ends;
        ELSE
            r.done_snapshot := r.snapshot;
            r.done_xid := r.snapshot_xid;
            r.done_id := r.snapshot_id;
            r.snapshot := NULL;
            EXIT WHEN is_new;  -- otherwise nothing was left of an interval that was open: on to the next
        END IF;
    END LOOP;

    -- An idle relay writes nothing: only what a tick changed is stored.
    UPDATE @store.relay AS t
    SET tick = r.tick, position = r.position, done_snapshot = r.done_snapshot, done_xid = r.done_xid,
        done_id = r.done_id, snapshot = r.snapshot, snapshot_xid = r.snapshot_xid, snapshot_id = r.snapshot_id,
        after_id = r.after_id, pending_last_id = r.pending_last_id, pending_events = r.pending_events,
        pending_ends_interval = r.pending_ends_interval
    WHERE r.pending_events > 0 OR t.pending_events > 0;

    RETURN QUERY
    SELECT r.tick, r.position + row_number() OVER (ORDER BY d.id), d.stream, d.version, d.event_id, d.type,
        d.schema_id, d.recorded_at, d.correlation_id, d.causation_id, d.traceparent, d.metadata, d.data
    FROM @store.due(r.done_snapshot, r.done_xid, r.done_id, r.snapshot, r.after_id, r.pending_last_id,
                    r.pending_events) d
    WHERE r.pending_events > 0
    ORDER BY d.id;
END
$$;
