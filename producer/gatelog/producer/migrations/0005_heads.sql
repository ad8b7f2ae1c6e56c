-- What other parts may read of gate and relay: `gatelog verify` compares them with index and topics.
CREATE VIEW @store.stream_heads AS SELECT stream, version, closed FROM @store.streams;
-- "is_witness": it can be told from the gate what the relay has published. A new one, whose store may come back from
-- Kafka, one that was restored from a dump, and one of which tables were lost know less.
CREATE VIEW @store.published AS
SELECT r.position, r.pending_events, r.position + r.pending_events > 0 AND EXISTS (
    SELECT FROM @store.restore_witness w WHERE w.xmin = w.xid::xid
) AND NOT EXISTS (
    SELECT FROM @store.outbox_state s WHERE s.awaits = 'reconcile --apply'
) AS is_witness
FROM @store.relay r;
