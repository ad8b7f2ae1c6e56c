-- name: known
SELECT id FROM @store.identity

-- name: record
-- Whoever comes first decides; all read afterwards what was decided.
INSERT INTO @store.identity (id) VALUES ($1) ON CONFLICT DO NOTHING

-- name: comment
-- The same id is a comment on the schema: it is left when the table is lost, and a dump has it.
SELECT obj_description(to_regnamespace($1), 'pg_namespace')
