-- name: handover
-- One statement: rows and offsets of one snapshot. There is a row, without a topic, when no partition was indexed yet.
SELECT o.topic, o.partition, o.next_offset, o.topic_id, h.highest
FROM (SELECT coalesce(max(i.position), 0) AS highest FROM @store.indexed_events i) h
LEFT JOIN @store.indexed_offsets o ON true

-- name: published
-- The last position that can be in Kafka.
SELECT r.position + r.pending_events FROM @store.relay r
