-- The default registry: every version of every subject, one subject an event type. Ids never change.
CREATE TABLE @store.schemas (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subject text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    definition text NOT NULL,
    sha256 text NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (subject, version),
    UNIQUE (subject, sha256)
);

-- What is stored here and by other parts is never changed.
CREATE FUNCTION @store.refuse_change() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'gatelog: % on %.% is refused, its rows are immutable', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege', HINT = 'Append a compensating event instead.';
END
$$;

-- While a lost table of schemas was not filled again: a program would register its schemas under other ids than those that
-- stored events name.
CREATE FUNCTION @store.refuse_registration() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE 'the table of schemas was lost and made anew; bring its rows back first: gatelog schema copy --from'
        USING ERRCODE = 'GL001';
END
$$;

CREATE TRIGGER schemas_are_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON @store.schemas
    FOR EACH STATEMENT EXECUTE FUNCTION @store.refuse_change();
ALTER TABLE @store.schemas ENABLE ALWAYS TRIGGER schemas_are_immutable;  -- in a session that replicates, too
