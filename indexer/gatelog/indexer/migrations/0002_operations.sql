-- A record that is kept aside has a number of its own: its offset may come again when a topic was made anew.
ALTER TABLE @store.unreadable_records
    DROP CONSTRAINT unreadable_records_pkey,
    ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ADD COLUMN resolved_at timestamptz,  -- since then it needs nobody any more…
    ADD COLUMN resolution text,          -- …because of this
    ADD CONSTRAINT unreadable_records_resolved_check CHECK ((resolved_at IS NULL) = (resolution IS NULL));
CREATE INDEX unreadable_records_open_idx ON @store.unreadable_records (id) WHERE resolved_at IS NULL;

-- The same for other parts: what waits for somebody to look at it, and what was found to be nobody's of ours.
CREATE VIEW @store.kept_records AS
SELECT topic, partition, "offset", resolved_at IS NOT NULL AS is_dismissed FROM @store.unreadable_records
WHERE resolved_at IS NULL OR resolution LIKE 'dismissed:%';

-- Events never change. One thing that follows from them may come late: the jsonb of a payload whose schema was missing.
CREATE FUNCTION @store.refuse_all_but_missing_json() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    unchanged record := NEW;
BEGIN
    unchanged.data_json := OLD.data_json;
    IF OLD.data_json IS NULL AND NEW.data_json IS NOT NULL AND unchanged IS NOT DISTINCT FROM OLD THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'gatelog: % on %.% is refused, its rows are immutable', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege', HINT = 'Append a compensating event instead.';
END
$$;
DROP TRIGGER events_are_immutable ON @store.events;
CREATE TRIGGER events_are_not_removed BEFORE DELETE OR TRUNCATE ON @store.events
    FOR EACH STATEMENT EXECUTE FUNCTION @store.refuse_change();
CREATE TRIGGER events_are_immutable BEFORE UPDATE ON @store.events
    FOR EACH ROW EXECUTE FUNCTION @store.refuse_all_but_missing_json();
-- In a session that replicates, too.
ALTER TABLE @store.events ENABLE ALWAYS TRIGGER events_are_not_removed, ENABLE ALWAYS TRIGGER events_are_immutable;
