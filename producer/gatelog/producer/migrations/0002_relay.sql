-- Who leads, and what it has seen of Kafka. One row.
CREATE TABLE @store.relay_leader (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch bigint NOT NULL DEFAULT 0,             -- a take-over bumps it; a relay of an older epoch is refused
    checked_position bigint NOT NULL DEFAULT 0,  -- Kafka was seen to hold exactly this position…
    checked_offsets jsonb NOT NULL DEFAULT '{}'  -- …at these ends: {"topic": [[next offset, leader epoch, topic id, last position] of each partition]}
);
INSERT INTO @store.relay_leader DEFAULT VALUES;

-- Where the relay stands: the row with the highest revision. Each tick adds one and deletes the one before. (A row that
-- is updated leaves dead versions under one key. While a transaction of the cluster is older, nothing removes them, and
-- every look at the row passes them all.)
--
-- An interval is what became visible between two marks: "done" (published up to here) and "upto" (null when no
-- interval is open). A tick is a slice of the interval in outbox id order: the events after after_id up to
-- pending_last_id, pending_events of them (0: none pending). All of it is stored before the first record of the
-- tick is produced, so that a repeated tick is the same tick.
CREATE TABLE @store.relay_log (
    revision bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tick bigint NOT NULL DEFAULT 0,              -- number of the pending tick, or of the last one
    position bigint NOT NULL DEFAULT 0,          -- of the last published event
    done_snapshot pg_snapshot NOT NULL,
    done_xid xid8 NOT NULL,
    done_id bigint NOT NULL,
    upto_snapshot pg_snapshot,
    upto_xid xid8,
    upto_id bigint,
    after_id bigint NOT NULL DEFAULT 0,
    pending_last_id bigint NOT NULL DEFAULT 0,
    pending_events integer NOT NULL DEFAULT 0,
    pending_ends_interval boolean NOT NULL DEFAULT false
);
INSERT INTO @store.relay_log (done_snapshot, done_xid, done_id) VALUES (pg_snapshot '1:1:', xid8 '0', 0);

CREATE VIEW @store.relay AS
SELECT r.epoch, r.checked_position, r.checked_offsets, l.*
FROM @store.relay_leader r, LATERAL (SELECT * FROM @store.relay_log ORDER BY revision DESC LIMIT 1) l;

-- The active relay says here, every second, that it is alive: by counting on. How long a count stands still is measured by
-- who watches it: the clock of this server may be set. A lock is held by the frozen, too.
CREATE TABLE @store.relay_lease (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    holder text NOT NULL,                        -- host and process; '': nobody
    pid integer NOT NULL,                        -- of its session in Postgres
    beat bigint NOT NULL
);
INSERT INTO @store.relay_lease (holder, pid, beat) VALUES ('', 0, 0);

-- mark: a snapshot, and what is needed to find later what it did not see.
--
-- In this order: the last id of the sequence, then a transaction id of our own, then the snapshot. Ids are drawn
-- after a transaction has its xid: whatever transaction comes after ours has all its ids above last_id.
CREATE FUNCTION @store.mark(OUT last_id bigint, OUT xid xid8, OUT snapshot pg_snapshot) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF pg_current_xact_id_if_assigned() IS NOT NULL THEN
        RAISE EXCEPTION 'a mark needs a transaction of its own';
    END IF;
    SELECT s.last_value - CASE WHEN s.is_called THEN 0 ELSE 1 END INTO last_id FROM @store.outbox_id s;
    SELECT pg_current_xact_id() INTO xid;
    SELECT pg_current_snapshot() INTO snapshot;
END
$$;

-- The outbox as the relay takes it: texts for headers, the payload in Confluent wire format. Of its segments by name: one
-- that is detached or dropped is not to be missed by nobody, while what comes after it is published.
CREATE VIEW @store.outgoing AS
SELECT id, txid, octet_length(data) AS size, stream, split_part(stream, '-', 1) AS category, type,
    version::text AS version, event_id::text AS event_id, recorded_at, correlation_id::text AS correlation_id,
    causation_id::text AS causation_id, traceparent, metadata, '\x00'::bytea || int4send(schema_id) || data AS value
FROM (SELECT * FROM @store.outbox_0 UNION ALL SELECT * FROM @store.outbox_1) o;
