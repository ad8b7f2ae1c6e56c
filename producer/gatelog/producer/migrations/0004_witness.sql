-- A row that tells whether its table was restored from a dump: whoever wrote it last also wrote down its own transaction
-- id, which Postgres keeps beside the row. What copies files keeps both (base backups, replicas, pg_upgrade); what
-- copies rows (dump and restore, logical replication) writes them with a transaction of its own.
--
-- Comparing the relay's transaction ids with the cluster's would not do: a cluster that began behind them, and took
-- appends, may have passed them before a relay looks.
CREATE TABLE @store.restore_witness (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id()
);
INSERT INTO @store.restore_witness DEFAULT VALUES;

-- restored: whether transaction ids in the store's rows are those of another cluster, or of another time; or whether
-- tables that the relay goes by were lost and made anew.
CREATE FUNCTION @store.restored() RETURNS boolean STABLE LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT NOT EXISTS (SELECT FROM @store.restore_witness w WHERE w.xmin = w.xid::xid)
        OR EXISTS (SELECT FROM @store.outbox_state s WHERE s.awaits = 'reconcile --apply');
$$;
