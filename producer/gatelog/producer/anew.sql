-- What has to follow when tables were lost and made anew, in the same transaction.

-- name: gate
-- Nothing of gate, outbox and relay can be relied on until `gatelog reconcile` has made them follow Kafka. Ids go on above
-- all that were drawn, or are thought to have been.
SELECT setval('@store.outbox_id', greatest(i.last_value, f.last_value, s.cut_id, r.done_id, coalesce(r.upto_id, 0),
    (SELECT coalesce(max(o.id), 0) FROM @store.outbox o)))
FROM @store.outbox_id i, @store.outbox_floor f, @store.outbox_state s, @store.relay r;
UPDATE @store.outbox_state s
SET awaits = 'reconcile --apply',
    emptied = least(s.emptied, -1 - s.emptied, (SELECT -1 - e.last_value FROM @store.outbox_emptied e))

-- name: index
-- What has left the outbox is nowhere to be found until the index is filled again.
UPDATE @store.outbox_state s
SET awaits = coalesce(s.awaits, 'index rebuild'),
    emptied = least(s.emptied, -1 - s.emptied, (SELECT -1 - e.last_value FROM @store.outbox_emptied e))

-- name: awaited
-- What has to be run, still.
SELECT awaits FROM @store.outbox_state

-- name: index_is_back
UPDATE @store.outbox_state SET awaits = NULL, emptied = -1 - emptied WHERE awaits = 'index rebuild'

-- name: schemas
-- Events that are stored name schemas by their ids.
SELECT EXISTS (SELECT FROM @store.relay r WHERE r.position > 0) OR EXISTS (SELECT FROM @store.streams)
    OR EXISTS (SELECT FROM @store.outbox) AS are_named
