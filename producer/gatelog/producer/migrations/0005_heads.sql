-- What other parts may read of gate and relay: `gatelog verify` compares them with index and topics.
CREATE VIEW @store.stream_heads AS SELECT stream, version, closed FROM @store.streams;
CREATE VIEW @store.published AS SELECT position, pending_events FROM @store.relay;
