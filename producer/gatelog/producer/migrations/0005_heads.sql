-- What other parts may read of gate and relay: `gatelog verify` compares them with index and topics.
CREATE VIEW @store.stream_heads AS SELECT stream, version, closed FROM @store.streams;
-- "is_witness": it can be told from the gate what the relay has published. A new one, whose store may come back from
-- Kafka, and one that was restored from a dump, know less.
CREATE VIEW @store.published AS
SELECT r.position, r.pending_events, r.position + r.pending_events > 0 AND EXISTS (
    SELECT FROM @store.restore_witness w WHERE w.xmin = w.xid::xid
) AS is_witness
FROM @store.relay r;
