-- Statements of a reconciliation. "indexed" is the index, wherever it is: see elsewhere/copying.sql.

-- name: lock
-- The relay's own lock: no relay is active while we have it. The lease stays as it is, so that no standby takes us for
-- a frozen relay and evicts us.
SELECT pg_try_advisory_lock(hashtextextended('@store:relay', 0))

-- name: holder
SELECT holder FROM @store.relay_lease

-- name: is_owner
-- Only an owner may switch off the triggers that keep events from being changed.
SELECT pg_has_role(c.relowner, 'USAGE') FROM pg_class c WHERE c.oid = '@store.outbox'::regclass

-- name: state
-- "is_anew": tables were lost and made anew, so that no stream's row and no id of the gate can be relied on.
SELECT r.*, @store.restored() AS restarted, s.awaits = 'reconcile --apply' AS is_anew
FROM @store.relay r, @store.outbox_state s

-- name: make_found
-- What Kafka holds and the index does not.
CREATE TEMP TABLE found (
    position bigint NOT NULL,
    stream text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    event_id uuid NOT NULL,
    type text COLLATE "C" NOT NULL,
    schema_id integer NOT NULL,
    recorded_at timestamptz NOT NULL,
    correlation_id uuid,
    causation_id uuid,
    traceparent text,
    metadata text,
    data bytea NOT NULL,
    nth bigint NOT NULL  -- in the order in which they were read
)

-- name: make_unread
-- The keys, which are streams, of records that cannot be read.
CREATE TEMP TABLE unread (key bytea NOT NULL)

-- name: tidy_found
-- Records that repeat another, or the index, to the letter are copies that somebody else wrote: the first one counts.
WITH gone AS (
    DELETE FROM found f
    WHERE EXISTS (
        SELECT FROM found x
        WHERE x.event_id = f.event_id AND x.position = f.position AND x.stream = f.stream AND x.version = f.version
            AND x.nth < f.nth
    ) OR EXISTS (
        SELECT FROM indexed i
        WHERE i.event_id = f.event_id AND i.position = f.position AND i.stream = f.stream AND i.version = f.version
    )
    RETURNING 1
)
SELECT count(*) FROM gone

-- name: clashes
-- Records that give a position, a version or an id a second time, and not as a copy.
SELECT f.position, f.stream, f.version, f.event_id, count(*) OVER () AS total
FROM found f
WHERE EXISTS (
    SELECT FROM found x
    WHERE x.nth <> f.nth AND (x.position = f.position OR x.event_id = f.event_id
        OR (x.stream = f.stream AND x.version = f.version))
) OR (NOT $1::boolean AND EXISTS (
    SELECT FROM indexed i
    WHERE i.position = f.position OR i.event_id = f.event_id OR (i.stream = f.stream AND i.version = f.version)
))
ORDER BY f.position, f.nth LIMIT 5

-- name: missing
-- Ranges of positions above $1, up to what was published ($2), that are held by neither Kafka nor the index; with $3 by
-- Kafka, whatever the index holds.
WITH held AS (
    SELECT f.position FROM found f WHERE f.position > $1::bigint
    UNION
    SELECT i.position FROM indexed i WHERE NOT $3::boolean AND i.position > $1
    UNION ALL
    SELECT greatest($2::bigint, (SELECT max(f.position) FROM found f)) + 1
), steps AS (
    SELECT h.position, lag(h.position, 1, $1) OVER (ORDER BY h.position) AS before FROM held h
)
SELECT s.before + 1 AS first, s.position - 1 AS last, sum(s.position - s.before - 1) OVER ()::bigint AS total
FROM steps s WHERE s.position - s.before > 1
ORDER BY s.position LIMIT 5

-- name: used_schemas
-- Schemas that Kafka's records were written with.
SELECT f.schema_id, f.type, count(*) AS events, min(f.position) AS position
FROM found f GROUP BY f.schema_id, f.type ORDER BY f.schema_id, f.type

-- name: unknown_schemas
-- Schemas that Kafka's records were written with and the registry lacks, or knows under another event type.
SELECT f.schema_id, f.type, count(*) AS events, min(f.position) AS position
FROM found f
WHERE NOT EXISTS (SELECT FROM @store.schemas s WHERE s.id = f.schema_id AND s.subject = f.type)
GROUP BY f.schema_id, f.type
ORDER BY f.schema_id, f.type

-- name: forget_judged
DROP TABLE IF EXISTS judged

-- name: judge
-- What is to become of each event of the outbox. "published": Kafka holds this very event. "conflicting": its version,
-- or its id, is taken in Kafka by another event, or the event before it is lost; or it follows such an event in its stream:
-- it was decided on a history that is not the stream's. "due": all others.
CREATE TEMP TABLE judged AS
WITH stored AS MATERIALIZED (
    SELECT o.id, o.txid, o.event_id, o.stream, o.version,
        EXISTS (SELECT FROM found f WHERE f.event_id = o.event_id AND f.stream = o.stream AND f.version = o.version)
            AS is_found,
        EXISTS (
            SELECT FROM indexed i
            WHERE i.event_id = o.event_id AND i.stream = o.stream AND i.version = o.version
        ) AS is_indexed
    FROM @store.outbox o
), clashes AS (
    SELECT s.stream, min(s.version) AS since
    FROM stored s
    WHERE NOT (s.is_found OR s.is_indexed) AND (
        EXISTS (SELECT FROM found f WHERE f.stream = s.stream AND f.version >= s.version)
        OR EXISTS (SELECT FROM found f WHERE f.event_id = s.event_id)
        OR EXISTS (SELECT FROM indexed i WHERE i.stream = s.stream AND i.version >= s.version)
        OR EXISTS (SELECT FROM indexed i WHERE i.event_id = s.event_id)
        OR (s.version > 1 AND @store.restored() AND NOT (  -- else commits were lost in their order, if any were
            EXISTS (SELECT FROM @store.outbox o WHERE o.stream = s.stream AND o.version = s.version - 1)
            OR EXISTS (SELECT FROM found f WHERE f.stream = s.stream AND f.version = s.version - 1)
            OR EXISTS (SELECT FROM indexed i WHERE i.stream = s.stream AND i.version = s.version - 1)
            OR EXISTS (SELECT FROM unread u WHERE u.key = convert_to(s.stream, 'UTF8'))
        ))
    )
    GROUP BY s.stream
)
SELECT s.id, s.txid, s.event_id, s.stream, s.version,
    CASE WHEN s.is_found OR s.is_indexed THEN 'published' WHEN s.version >= c.since THEN 'conflicting' ELSE 'due' END
        AS fate
FROM stored s LEFT JOIN clashes c USING (stream)

-- name: counts
-- "lost": events that Kafka holds and Postgres does not. "pending": what the outbox holds of the pending tick.
SELECT
    (SELECT coalesce(max(position), 0) FROM found) AS found_position,
    (SELECT count(*) FROM found f
     WHERE NOT EXISTS (SELECT FROM judged j WHERE j.event_id = f.event_id AND j.fate = 'published')
        AND NOT EXISTS (SELECT FROM indexed i WHERE i.event_id = f.event_id)) AS lost,
    (SELECT count(*) FROM judged WHERE fate = 'due') AS due,
    (SELECT count(*) FROM judged WHERE fate = 'conflicting') AS conflicting,
    (SELECT count(*) FROM judged j, @store.relay r
     WHERE j.fate <> 'published' AND j.id > r.after_id AND j.id <= r.pending_last_id
        AND pg_visible_in_snapshot(j.txid, r.upto_snapshot)) AS pending

-- name: lost_examples
SELECT f.stream, count(*) AS events, min(f.version) AS first, max(f.version) AS last
FROM found f
WHERE NOT EXISTS (SELECT FROM judged j WHERE j.event_id = f.event_id AND j.fate = 'published')
    AND NOT EXISTS (SELECT FROM indexed i WHERE i.event_id = f.event_id)
GROUP BY f.stream ORDER BY min(f.position) LIMIT 5

-- name: conflicting_examples
SELECT j.stream, count(*) AS events, min(j.version) AS first, max(j.version) AS last
FROM judged j WHERE j.fate = 'conflicting'
GROUP BY j.stream ORDER BY min(j.id) LIMIT 5

-- name: lock_tables
-- Wait for every transaction that has appended, and keep others from it: in the order in which appends lock. It keeps
-- the outbox from being rotated, too.
SET LOCAL lock_timeout = '10s';
LOCK TABLE @store.streams IN SHARE ROW EXCLUSIVE MODE;
LOCK TABLE @store.outbox IN SHARE ROW EXCLUSIVE MODE

-- name: conflicting
SELECT o.stream, o.version, o.event_id, o.type, o.recorded_at, o.correlation_id, o.causation_id, o.traceparent,
    o.metadata, o.schema_id, o.data
FROM @store.outbox o JOIN judged j USING (event_id) WHERE j.fate = 'conflicting'
ORDER BY o.xmin = o.txid::xid, o.id

-- name: take_due
-- Outbox ids repeat where rows were copied into a database that has taken appends of its own: these came later. A row is
-- its own if it was written by the transaction that it names: see "restored".
CREATE TEMP TABLE due ON COMMIT DROP AS
SELECT o.*, o.xmin = o.txid::xid AS is_own
FROM @store.outbox o JOIN judged j USING (event_id) WHERE j.fate = 'due'

-- name: raise_sequences
-- What copies rows leaves sequences where they were. Above all that is there, they give what nobody has.
SELECT setval('@store.outbox_id', greatest(s.last_value, t.cut_id, (SELECT max(o.id) FROM @store.outbox o)))
FROM @store.outbox_id s, @store.outbox_state t

-- name: raise_identities
DO $$
DECLARE
    found record;
BEGIN
    FOR found IN
        SELECT c.oid::regclass AS tab, a.attname AS col, pg_get_serial_sequence(c.oid::regclass::text, a.attname) AS seq
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relnamespace = '@store'::regnamespace AND a.attidentity <> '' AND NOT a.attisdropped
    LOOP
        EXECUTE format('SELECT setval(%L, greatest(max(%I), pg_sequence_last_value(%L))) FROM %s HAVING max(%I) > 0',
            found.seq, found.col, found.seq, found.tab, found.col);
    END LOOP;
END
$$

-- name: empty_outbox
-- By rows, so that a read under an older snapshot still finds them. The trigger refuses that to everybody else.
ALTER TABLE @store.outbox DISABLE TRIGGER outbox_is_immutable;
DELETE FROM @store.outbox;
ALTER TABLE @store.outbox ENABLE ALWAYS TRIGGER outbox_is_immutable

-- name: put_published
-- What Kafka holds and the index does not is in the outbox, so that streams are read whole and ids are known, whatever
-- the indexer does. As of a transaction that every snapshot from "done" ($1) on sees: no tick takes them.
INSERT INTO @store.outbox (segment, id, txid, stream, version, event_id, type, schema_id, recorded_at, correlation_id,
    causation_id, traceparent, metadata, data)
SELECT (SELECT s.last_value FROM @store.outbox_segment s), nextval('@store.outbox_id'),
    (pg_snapshot_xmin($1::pg_snapshot)::text::numeric - 1)::text::xid8, q.*
FROM (
    SELECT f.stream, f.version, f.event_id, f.type, f.schema_id, f.recorded_at, f.correlation_id, f.causation_id,
        f.traceparent, f.metadata, f.data
    FROM found f
    ORDER BY f.position
) q

-- name: put_due
-- As of this transaction, which "done" does not see, in their old order: the next tick takes them.
INSERT INTO @store.outbox (segment, id, txid, stream, version, event_id, type, schema_id, recorded_at, correlation_id,
    causation_id, traceparent, metadata, data)
SELECT (SELECT s.last_value FROM @store.outbox_segment s), nextval('@store.outbox_id'),
    pg_current_xact_id(), q.*
FROM (
    SELECT d.stream, d.version, d.event_id, d.type, d.schema_id, d.recorded_at, d.correlation_id, d.causation_id,
        d.traceparent, d.metadata, d.data
    FROM due d
    ORDER BY d.is_own, d.id
) q

-- name: set_gate
-- Streams that Kafka knows better, or that lost conflicting events, end where their last event is. So do those of events
-- past what Postgres says was published ($2): an index that was filled again, or an indexer that has gone on, is ahead of
-- a gate that was restored. And all there are ($3), if tables were lost.
WITH touched AS (
    SELECT stream FROM found
    UNION SELECT stream FROM judged WHERE fate = 'conflicting'
    UNION SELECT stream FROM indexed WHERE position > $2::bigint OR $3::boolean
    UNION SELECT stream FROM due WHERE $3
    UNION SELECT stream FROM @store.streams WHERE $3
), ends AS (
    SELECT DISTINCT ON (e.stream) e.stream, e.version, e.type
    FROM (
        SELECT stream, version, type FROM found
        UNION ALL
        SELECT stream, version, type FROM due
        UNION ALL
        SELECT t.stream, i.version, i.type FROM touched t
        CROSS JOIN LATERAL (
            SELECT x.version, x.type FROM indexed x
            WHERE x.stream = t.stream ORDER BY x.version DESC LIMIT 1
        ) i
    ) e
    WHERE e.stream IN (SELECT stream FROM touched)
    ORDER BY e.stream, e.version DESC
), gone AS (
    DELETE FROM @store.streams s
    WHERE s.stream IN (SELECT stream FROM touched) AND s.stream NOT IN (SELECT stream FROM ends)
)
INSERT INTO @store.streams AS s (stream, version, closed)
SELECT e.stream, e.version, e.type = $1 FROM ends e
ON CONFLICT (stream) DO UPDATE SET version = excluded.version, closed = excluded.closed

-- name: set_relay
-- $1: the position that Kafka has come to, at the ends $2. $3 to $5: a mark from before this transaction.
WITH leader AS (
    UPDATE @store.relay_leader SET epoch = epoch + 1, checked_position = $1, checked_offsets = $2
), replaced AS (
    DELETE FROM @store.relay_log RETURNING tick
)
INSERT INTO @store.relay_log (tick, position, done_id, done_xid, done_snapshot)
SELECT max(r.tick), $1, $3, $4, $5 FROM replaced r

-- name: set_rotation
-- All is in one segment, and nothing in the other: a rotation begins anew. Whatever was lost, gate and outbox follow
-- Kafka now.
UPDATE @store.outbox_state
SET segment = (SELECT s.last_value FROM @store.outbox_segment s), cut_xid = '0', drained_position = NULL,
    drained_at = NULL, cut_id = (SELECT s.last_value FROM @store.outbox_id s),
    emptied = greatest(emptied, -1 - emptied), awaits = NULL

-- name: set_witness
UPDATE @store.restore_witness SET xid = pg_current_xact_id()
