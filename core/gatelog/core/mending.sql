-- What a schema holds of a store, told without the schema's name: it has to be the only one in the search path, so that
-- Postgres leaves it out. "ddl" makes an object, "undo" removes it before. A table has none: it is moved; nor has a column.

-- name: names
SELECT c.relname AS name FROM pg_class c WHERE c.relnamespace = to_regnamespace($1)
UNION ALL
SELECT p.proname FROM pg_proc p WHERE p.pronamespace = to_regnamespace($1)

-- name: owner
-- To whom what is made is to belong: who owns the store's tables, or, without any, its schema.
SELECT coalesce(
    (SELECT c.relowner FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p') ORDER BY c.oid LIMIT 1),
    n.nspowner)::regrole::text AS name
FROM pg_namespace n WHERE n.oid = to_regnamespace($1)

-- name: grantees
-- Roles that may do something with the schema and do not own it.
SELECT DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS role
FROM pg_namespace n, aclexplode(n.nspacl) a
WHERE n.oid = to_regnamespace($1) AND a.grantee <> n.nspowner ORDER BY 1

-- name: objects
-- All as bigint: where one is an oid, all would be, and a number that was made of one is too large for that in a server that
-- has given out two million.
WITH own AS (
    SELECT c.* FROM pg_class c WHERE c.relnamespace = to_regnamespace($1)
)
SELECT o.kind, o.name, o.parent, o.definition, o.ddl, o.undo
FROM (
    SELECT 0 AS rank, t.oid::bigint AS oid, 'table' AS kind, t.relname::text AS name,
        (SELECT i.inhparent::regclass::text FROM pg_inherits i WHERE i.inhrelid = t.oid AND t.relispartition) AS parent,
        concat_ws(' ', t.relkind, t.relpersistence, pg_get_partkeydef(t.oid)) AS definition,
        NULL AS ddl, NULL AS undo
    FROM own t WHERE t.relkind IN ('r', 'p')
    UNION ALL
    SELECT 1, a.attrelid::bigint * 2000 + a.attnum, 'column', format('%s.%s', t.relname, a.attname), t.relname,
        concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attcollation::regcollation,
            CASE WHEN a.attnotnull THEN 'NOT NULL' END, nullif(a.attidentity, ''), nullif(a.attgenerated, '')),
        NULL, NULL
    FROM own t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE t.relkind IN ('r', 'p') AND NOT t.relispartition
    UNION ALL
    -- One that belongs to a column comes and goes with that.
    SELECT 2, t.oid::bigint, 'sequence', t.relname, (
            SELECT d.refobjid::regclass::text FROM pg_depend d
            WHERE d.classid = 'pg_class'::regclass AND d.objid = t.oid AND d.deptype IN ('a', 'i')
        ), p.parameters, format('ALTER SEQUENCE %I %s', t.relname, p.parameters), NULL
    FROM own t JOIN pg_sequence s ON s.seqrelid = t.oid
    CROSS JOIN LATERAL (
        SELECT format('AS %s INCREMENT %s MINVALUE %s MAXVALUE %s START %s CACHE %s %s', s.seqtypid::regtype,
            s.seqincrement, s.seqmin, s.seqmax, s.seqstart, s.seqcache,
            CASE WHEN s.seqcycle THEN 'CYCLE' ELSE 'NO CYCLE' END) AS parameters
    ) p
    UNION ALL
    SELECT 3, p.oid::bigint, 'function', format('%s(%s)', p.proname, oidvectortypes(p.proargtypes)), NULL,
        d.text, d.text, NULL
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    CROSS JOIN LATERAL (
        SELECT replace(pg_get_functiondef(p.oid), format(' FUNCTION %I.', n.nspname), ' FUNCTION ') AS text
    ) d
    WHERE n.oid = to_regnamespace($1) AND p.prokind = 'f'
    UNION ALL
    SELECT 4, a.attrelid::bigint * 2000 + a.attnum, 'default', format('%s.%s', t.relname, a.attname), t.relname,
        pg_get_expr(d.adbin, d.adrelid),
        format('ALTER TABLE %I ALTER COLUMN %I SET DEFAULT %s', t.relname, a.attname, pg_get_expr(d.adbin, d.adrelid)),
        NULL
    FROM own t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attgenerated = ''
    JOIN pg_attrdef d ON d.adrelid = t.oid AND d.adnum = a.attnum
    WHERE t.relkind IN ('r', 'p')
    UNION ALL
    SELECT CASE k.contype WHEN 'f' THEN 6 ELSE 5 END, k.oid::bigint, 'constraint', format('%s.%s', t.relname, k.conname),
        t.relname, pg_get_constraintdef(k.oid),
        format('ALTER TABLE %I ADD CONSTRAINT %I %s', t.relname, k.conname, pg_get_constraintdef(k.oid)),
        format('ALTER TABLE %I DROP CONSTRAINT IF EXISTS %I', t.relname, k.conname)
    FROM own t JOIN pg_constraint k ON k.conrelid = t.oid
    WHERE k.contype IN ('p', 'u', 'c', 'f') AND k.conparentid = 0
    UNION ALL
    SELECT 7, t.oid::bigint, 'index', t.relname, x.indrelid::regclass::text,
        pg_get_indexdef(t.oid, 0, true) || CASE WHEN x.indisvalid THEN '' ELSE ' INVALID' END,
        replace(pg_get_indexdef(t.oid, 0, true), ' ON ONLY ', ' ON '), format('DROP INDEX IF EXISTS %I', t.relname)
    FROM own t JOIN pg_index x ON x.indexrelid = t.oid
    WHERE NOT t.relispartition AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = t.oid)
    UNION ALL
    SELECT 8, t.oid::bigint, 'partition', t.relname, i.inhparent::regclass::text, pg_get_expr(t.relpartbound, t.oid),
        format('ALTER TABLE %s ATTACH PARTITION %I %s', i.inhparent::regclass, t.relname,
            pg_get_expr(t.relpartbound, t.oid)),
        NULL
    FROM own t JOIN pg_inherits i ON i.inhrelid = t.oid
    WHERE t.relkind = 'r' AND t.relispartition
    UNION ALL
    SELECT 9, t.oid::bigint, 'view', t.relname, NULL, pg_get_viewdef(t.oid),
        format('CREATE OR REPLACE VIEW %I AS %s', t.relname, pg_get_viewdef(t.oid)), NULL
    FROM own t WHERE t.relkind = 'v'
    UNION ALL
    SELECT 10, g.oid::bigint, 'trigger', format('%s.%s', t.relname, g.tgname), t.relname,
        pg_get_triggerdef(g.oid, true) || g.tgenabled::text,
        pg_get_triggerdef(g.oid, true) || CASE g.tgenabled
            WHEN 'A' THEN format('; ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', t.relname, g.tgname) ELSE '' END,
        format('DROP TRIGGER IF EXISTS %I ON %I', g.tgname, t.relname)
    FROM own t JOIN pg_trigger g ON g.tgrelid = t.oid
    WHERE NOT g.tgisinternal AND g.tgparentid = 0
) o
ORDER BY o.rank, o.oid
