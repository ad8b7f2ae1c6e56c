-- remember_segment: called when a segment is drained. The index holds its ids, and answers for them; where that is in
-- another database, part "elsewhere" puts another function in this one's place.
CREATE FUNCTION @store.remember_segment(drained smallint) RETURNS void LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS '';

-- rotate_outbox: take the next step of emptying the outbox, if one can be taken now. Answers which, or null.
--
-- "cut": the segments change places. It waits until every transaction that has written to the outbox has ended, while
-- new ones wait for it: so ids and versions, which are unique in a segment only, are unique, and whatever is in the
-- other segment was committed before.
-- "drained": the index holds all of the other segment. That is committed before the segment is emptied: a snapshot
-- that does not know of it is refused (check_snapshot).
-- "emptied": the other segment is truncated. Not while a snapshot of this database is older than "drained"; but after
-- snapshot_age_max nevertheless.
--
-- The session's lock_timeout bounds how long others wait behind it. A step that fails is taken again as a whole.
CREATE FUNCTION @store.rotate_outbox(segment_events bigint, snapshot_age_max interval) RETURNS text LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    state @store.outbox_state;
    relay @store.relay;
BEGIN
    SELECT * INTO state FROM @store.outbox_state FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN NULL;  -- somebody else is at it
    END IF;
    IF state.awaits IS NOT NULL OR @store.restored() THEN
        RETURN NULL;  -- what is written of transactions and segments may be another cluster's: `gatelog reconcile` first
    END IF;

    IF state.drained_at IS NOT NULL THEN
        IF state.drained_at > clock_timestamp() - snapshot_age_max AND EXISTS (
            SELECT FROM pg_stat_activity a
            WHERE a.datname = current_database() AND a.backend_xmin IS NOT NULL AND a.xact_start < state.drained_at
        ) THEN
            RETURN NULL;
        END IF;
        EXECUTE format('LOCK TABLE @store.outbox_%s IN ACCESS EXCLUSIVE MODE', 1 - state.segment);
        PERFORM setval('@store.outbox_emptied', state.emptied);
        EXECUTE format('TRUNCATE @store.outbox_%s', 1 - state.segment);
        UPDATE @store.outbox_state SET drained_position = NULL, drained_at = NULL;
        RETURN 'emptied';
    END IF;

    SELECT * INTO relay FROM @store.relay;
    IF state.cut_xid > '0' THEN
        -- The cut waited for every transaction that had written to this segment. Who sees the cut sees all of them, so
        -- all of them are published, at or below this position. The ids alone do not tell: a snapshot of a later
        -- transaction may have been taken while the cut still waited.
        IF state.drained_position IS NULL AND pg_visible_in_snapshot(state.cut_xid, relay.done_snapshot) THEN
            state.drained_position := relay.position;
            UPDATE @store.outbox_state SET drained_position = state.drained_position;
        END IF;
        IF (SELECT f.position FROM @store.index_frontier f) >= state.drained_position THEN
            PERFORM @store.remember_segment((1 - state.segment)::smallint);
            UPDATE @store.outbox_state SET cut_xid = '0', drained_at = clock_timestamp(), emptied = emptied + 1;
            RETURN 'drained';
        END IF;
        RETURN NULL;
    END IF;

    IF (SELECT s.last_value FROM @store.outbox_id s) - state.cut_id >= segment_events
        OR (SELECT s.last_value FROM @store.outbox_segment s) <> state.segment  -- a cut that was broken off
    THEN
        LOCK TABLE @store.outbox IN SHARE ROW EXCLUSIVE MODE;
        PERFORM setval('@store.outbox_segment', 1 - state.segment);
        UPDATE @store.outbox_state
        SET segment = 1 - state.segment, cut_xid = pg_current_xact_id(),
            cut_id = (SELECT s.last_value FROM @store.outbox_id s);
        RETURN 'cut';
    END IF;
    RETURN NULL;
END
$$;

-- Events are immutable, in the outbox too. A segment may be emptied as a whole, when it is known to be drained.
CREATE FUNCTION @store.refuse_early_truncate() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (
        SELECT FROM @store.outbox_state s
        WHERE s.drained_at IS NOT NULL AND TG_TABLE_NAME = 'outbox_' || (1 - s.segment)
    ) THEN
        RETURN NULL;
    END IF;
    RAISE 'events are immutable: % may be emptied only when the index holds all of it', TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER outbox_is_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON @store.outbox
    FOR EACH STATEMENT EXECUTE FUNCTION @store.refuse_change();
CREATE TRIGGER outbox_0_is_immutable BEFORE UPDATE OR DELETE ON @store.outbox_0
    FOR EACH STATEMENT EXECUTE FUNCTION @store.refuse_change();
CREATE TRIGGER outbox_1_is_immutable BEFORE UPDATE OR DELETE ON @store.outbox_1
    FOR EACH STATEMENT EXECUTE FUNCTION @store.refuse_change();
CREATE TRIGGER outbox_0_is_not_emptied_early BEFORE TRUNCATE ON @store.outbox_0
    FOR EACH STATEMENT EXECUTE FUNCTION @store.refuse_early_truncate();
CREATE TRIGGER outbox_1_is_not_emptied_early BEFORE TRUNCATE ON @store.outbox_1
    FOR EACH STATEMENT EXECUTE FUNCTION @store.refuse_early_truncate();
-- In a session that replicates, too.
ALTER TABLE @store.outbox ENABLE ALWAYS TRIGGER outbox_is_immutable;
ALTER TABLE @store.outbox_0 ENABLE ALWAYS TRIGGER outbox_0_is_immutable,
    ENABLE ALWAYS TRIGGER outbox_0_is_not_emptied_early;
ALTER TABLE @store.outbox_1 ENABLE ALWAYS TRIGGER outbox_1_is_immutable,
    ENABLE ALWAYS TRIGGER outbox_1_is_not_emptied_early;
