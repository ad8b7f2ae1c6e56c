-- What has to follow when tables of the index were lost and made anew, in the same transaction.

-- name: events
-- An empty index begins at the first record; no indexer goes on where the lost one ended.
DELETE FROM @store.index_offsets;
DELETE FROM @store.index_topics;
DELETE FROM @store.index_frontier_log;
INSERT INTO @store.index_frontier_log VALUES (0)
