-- What has to follow when tables of projections were lost and made anew, in the same transaction.

-- name: projections
-- Without its checkpoints, a build would be given every event once more: none is in use any more, and no new one goes on
-- where an old one of its number ended.
UPDATE @store.projection_builds SET state = 'retired', changed_at = now() WHERE state <> 'retired';
DELETE FROM @store.projection_offsets
