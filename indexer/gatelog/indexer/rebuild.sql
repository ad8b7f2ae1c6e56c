-- Statements of a rebuild. @fresh: the schema in which the new index grows; @retired: where the old one goes.
-- They are run with an empty search_path, so that Postgres writes every name in full.

-- name: lock
-- One rebuild a store at a time. A session lock: it ends with the connection.
SELECT pg_try_advisory_lock(hashtextextended('@store:rebuild', 0))

-- name: is_owner
SELECT pg_has_role(c.relowner, 'USAGE') FROM pg_class c WHERE c.oid = '@store.events'::regclass

-- name: state
-- What an earlier run has left.
SELECT to_regnamespace('@fresh') IS NOT NULL AS is_begun, to_regclass('@fresh.events') IS NOT NULL AS is_growing,
    to_regclass('@retired.events') IS NOT NULL AS is_switched

-- name: own
-- What is made for a rebuild belongs to whom the live table belongs to.
SELECT format('ALTER TABLE @fresh.events OWNER TO %s', c.relowner::regrole) AS ddl
FROM pg_class c WHERE c.oid = '@store.events'::regclass

-- name: spare
-- Drop what is faster to make at the end: every index but the one on positions.
SELECT CASE WHEN k.oid IS NULL THEN format('DROP INDEX %s', x.indexrelid::regclass)
    ELSE format('ALTER TABLE @fresh.events DROP CONSTRAINT %I', k.conname) END AS ddl
FROM pg_index x LEFT JOIN pg_constraint k ON k.conindid = x.indexrelid AND k.conrelid = x.indrelid
WHERE x.indrelid = '@fresh.events'::regclass AND NOT x.indisprimary

-- name: lacking_indexes
-- What the live table has and the fresh one has not, whoever made it.
SELECT i.relname AS name, CASE
    WHEN k.oid IS NULL THEN replace(
        pg_get_indexdef(x.indexrelid), format(' ON %s ', x.indrelid::regclass), ' ON @fresh.events ')
    ELSE format('ALTER TABLE @fresh.events ADD CONSTRAINT %I %s', k.conname, pg_get_constraintdef(k.oid)) END AS ddl
FROM pg_index x
JOIN pg_class i ON i.oid = x.indexrelid
LEFT JOIN pg_constraint k ON k.conindid = x.indexrelid AND k.conrelid = x.indrelid
WHERE x.indrelid = '@store.events'::regclass AND x.indisvalid AND NOT EXISTS (
    SELECT FROM pg_index y JOIN pg_class j ON j.oid = y.indexrelid
    WHERE y.indrelid = '@fresh.events'::regclass AND j.relname = i.relname
)
ORDER BY i.relname

-- name: offsets
SELECT topic, partition, max(next_offset) AS next_offset FROM @store.index_offsets GROUP BY topic, partition

-- name: frontier
SELECT position FROM @store.index_frontier

-- name: lacking
-- Ranges of positions above $1, up to $2, that the live index holds and the fresh one does not.
WITH lacking AS (
    SELECT l.position, l.position - row_number() OVER (ORDER BY l.position) AS island
    FROM @store.events l
    WHERE l.position > $1 AND ($2::bigint IS NULL OR l.position <= $2) AND NOT EXISTS (SELECT FROM @fresh.events f WHERE f.position = l.position)
)
SELECT min(position) AS first, max(position) AS last, sum(count(*)) OVER ()::bigint AS total
FROM lacking GROUP BY island ORDER BY 1 LIMIT 5

-- name: surplus
-- The lowest position above $1, up to $2, that the fresh index holds and the live one does not.
SELECT min(f.position) FROM @fresh.events f
WHERE f.position > $1 AND f.position <= $2 AND NOT EXISTS (SELECT FROM @store.events l WHERE l.position = f.position)

-- name: others
-- Which of these events (position $1, id $2, counted from 0) the live index has another one for.
SELECT u.ord - 1 AS place
FROM unnest($1::bigint[], $2::uuid[]) WITH ORDINALITY AS u (position, event_id, ord)
JOIN @store.events l ON l.position = u.position
WHERE l.event_id <> u.event_id

-- name: raise_fresh
INSERT INTO @fresh.index_frontier_log (position) SELECT $1::bigint WHERE $1 > (SELECT f.position FROM @fresh.index_frontier f)

-- name: highest
SELECT coalesce(max(position), 0) FROM @store.events

-- name: hold
-- Indexers wait from here on, readers do not. In the order in which indexers lock.
SET LOCAL lock_timeout = '5s';
SELECT pg_advisory_xact_lock(hashtextextended('@store:offsets', 0)),
    pg_advisory_xact_lock(hashtextextended('@store:frontier', 0));
LOCK TABLE @store.index_offsets, @store.events, @store.unreadable_records, @store.index_frontier_log
IN SHARE ROW EXCLUSIVE MODE

-- name: older
-- Who reads under a snapshot from before $1, which does not see all of the fresh index. Who waits for us ($2) is a
-- writer, and takes a new snapshot when it gets its lock.
SELECT a.pid, a.application_name, a.xact_start FROM pg_stat_activity a
WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.backend_xmin IS NOT NULL
    AND a.pid <> ALL (ARRAY[pg_backend_pid(), $2]) AND a.xact_start < $1 AND $2 <> ALL (pg_blocking_pids(a.pid))
ORDER BY a.xact_start LIMIT 1

-- name: privileges
-- What others may do with the live table, said of the fresh one.
SELECT format('GRANT %s ON @fresh.events TO %s%s', a.privilege_type,
    CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
    CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) AS ddl
FROM pg_class c, aclexplode(c.relacl) a
WHERE c.oid = '@store.events'::regclass AND a.grantee <> c.relowner
UNION ALL
SELECT format('GRANT %s (%I) ON @fresh.events TO %s%s', a.privilege_type, t.attname,
    CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
    CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM pg_attribute t, aclexplode(t.attacl) a
WHERE t.attrelid = '@store.events'::regclass AND NOT t.attisdropped

-- name: triggers
-- Those of the live table; the fresh one has them under the same names, with functions of its own schema.
SELECT format('DROP TRIGGER IF EXISTS %I ON @fresh.events', t.tgname) AS drop, pg_get_triggerdef(t.oid)
    || CASE t.tgenabled WHEN 'A' THEN format('; ALTER TABLE @store.events ENABLE ALWAYS TRIGGER %I', t.tgname) ELSE '' END
    AS ddl
FROM pg_trigger t WHERE t.tgrelid = '@store.events'::regclass AND NOT t.tgisinternal

-- name: views
-- Views that read the live table, wherever they are.
SELECT DISTINCT format('CREATE OR REPLACE VIEW %s%s AS %s', v.oid::regclass,
    ' WITH (' || array_to_string(v.reloptions, ', ') || ')', pg_get_viewdef(v.oid)) AS ddl,
    format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', v.oid::regclass) AS lock
FROM pg_depend d
JOIN pg_rewrite r ON r.oid = d.objid
JOIN pg_class v ON v.oid = r.ev_class
WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
    AND d.refobjid = '@store.events'::regclass AND v.relkind = 'v'

-- name: statistics
-- They stay in their schema when a table leaves it.
SELECT format('DROP STATISTICS %I.%I', n.nspname, s.stxname) AS drop, pg_get_statisticsobjdef(s.oid) AS ddl
FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
WHERE s.stxrelid = '@store.events'::regclass

-- name: comments
SELECT format('COMMENT ON INDEX @store.%I IS %L', c.relname, obj_description(c.oid, 'pg_class')) AS ddl
FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid
WHERE x.indrelid = '@store.events'::regclass AND obj_description(c.oid, 'pg_class') IS NOT NULL

-- name: analyze
ANALYZE @store.events

-- name: swap
CREATE SCHEMA @retired;
ALTER TABLE @store.events SET SCHEMA @retired;
ALTER TABLE @fresh.events SET SCHEMA @store

-- name: take_over
-- Where the fresh index stands. The live one's offsets are at or below its.
DELETE FROM @store.index_offsets;
INSERT INTO @store.index_offsets SELECT * FROM @fresh.index_offsets;
DELETE FROM @store.index_topics;
INSERT INTO @store.index_topics (topic, topic_id) SELECT topic, topic_id FROM @fresh.index_topics;
DELETE FROM @store.index_frontier_log;
INSERT INTO @store.index_frontier_log SELECT position FROM @fresh.index_frontier

-- name: settle_unreadable
-- What could not be read before, and can now, is settled; what cannot be read is kept once, with what was said of it.
UPDATE @store.unreadable_records u SET resolved_at = now(), resolution = 'indexed by a rebuild'
WHERE u.resolved_at IS NULL
    AND EXISTS (
        SELECT FROM @fresh.index_offsets o
        WHERE o.topic = u.topic AND o.partition = u.partition AND o.next_offset > u."offset"
    )
    AND NOT EXISTS (
        SELECT FROM @fresh.unreadable_records f
        WHERE f.topic = u.topic AND f.partition = u.partition AND f."offset" = u."offset"
    );
INSERT INTO @store.unreadable_records (topic, partition, "offset", reason, key, value, headers, seen_at)
SELECT f.topic, f.partition, f."offset", f.reason, f.key, f.value, f.headers, f.seen_at
FROM @fresh.unreadable_records f
WHERE NOT EXISTS (
    SELECT FROM @store.unreadable_records u
    WHERE u.topic = f.topic AND u.partition = f.partition AND u."offset" = f."offset"
        AND u.value IS NOT DISTINCT FROM f.value
)
ORDER BY f.id

-- name: drop_retired
-- Not by cascade: whoever made something that depends on the old table decides about it.
DROP TABLE IF EXISTS @retired.events;
DROP SCHEMA IF EXISTS @retired

-- name: drop_fresh
DROP SCHEMA IF EXISTS @fresh CASCADE
